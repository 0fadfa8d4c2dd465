"""What one outcome partition's learner writes for those who watch: rolling figures, the detectors' states and alerts, in the learner's own commit.

The learner calls `hear` with a domain's outcomes before its head learns them, `learned` after, and `count` with what partitions have seen; `changes`
is what its next commit writes. So figures are exactly-once in effect, as learning is, and a replay leaves the same ones.

Of the old lines, which are most of the outcomes, one exposure in `SHARED_OF` is heard, chosen by its id: their figures are those of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.exposures import NONE, Closed
from features.predictions import are, unpacked
from features.vector import NAMES, WIDTH
from models.chronicle import HOUR_MS, Blocks, Facts, Rows, counts_of
from models.covariates import PLACES
from models.encode import standardise
from models.experts import EXPERTS, Shared
from models.launch_head import MODELS, LaunchHead
from models.model import Model
from models.offset import GRID
from models.react import DONE, react
from models.shared_heads import SharedHeads
from models.watch import SHARED_OF, Finding, Watch, said_logit
from streams.alerts import KEPT, Alert, alert_of
from streams.records import SHOP, Counted, Example, Outgoing, Seen, encode_json
from streams.seen import MOST_EXAMPLES, SHOP_COLUMNS

ROWS: Final = "rows"
BLOCKS: Final = "blocks"
WATCHES: Final = "watches"
TRAFFIC: Final = "traffic"
EXAMPLES: Final = "examples"
ALERTS: Final = "alerts"
ALERTS_OUT: Final = "alerts_out"
ABOUT: Final = "about"
HASHES: Final = (ROWS, BLOCKS, WATCHES, TRAFFIC, EXAMPLES, ALERTS, ALERTS_OUT, ABOUT)
BETWEEN: Final = "\x1f"  # between a domain and the name of its row or block
NOTHING_DONE: Final = "nothing: the setting drift_actions is off"
ONLY_TOLD: Final = "nothing: this kind is told, never acted on"
REFUSED_SHARE, FEWEST_REFUSED, REFUSED_AGAIN_MS = 0.01, 20, 6 * HOUR_MS
FROZEN, SHARED_SCORE, SHARED_P = (2 * (1 + EXPERTS.index(name)) + probability for name, probability in (("frozen", 1), ("shared", 0), ("shared", 1)))
"""Where an exposure's predictions hold what was said; headstart's probability is at 1."""
SLACK_NATS: Final = -1e-6
_SAMPLED: Final = frozenset("0123456789abcdef"[: 16 // SHARED_OF])

encode_examples = msgspec.msgpack.Encoder().encode
decode_examples = msgspec.msgpack.Decoder(list[Example]).decode


class About(msgspec.Struct, array_like=True):
    """What readers must know of the trunk: (K + 1,) delay edges in s and the old lines' curve, features and how training rows were spread over them.

    `mean` and `std` (F,) are of the training rows: what turns a standardised mean back into the feature's units.
    """

    trunk: str
    window_s: float
    deff: float
    edges_s: list[float]
    curve: list[float]
    lines: list[str]
    trained_until_ms: int
    features: list[str]
    reference: list[list[int]]
    mean: list[float] = []
    std: list[float] = []


decode_about = msgspec.msgpack.Decoder(About).decode


class Sight:
    """The figures of one outcome partition. Made from what the store holds; `reacts`: whether alarms change heads (the setting drift_actions)."""

    def __init__(self, held: Mapping[str, Mapping[str, bytes]], *, reacts: bool) -> None:
        self._reacts = reacts
        self._rows = {domain: Rows(part) for domain, part in by_domain(held[ROWS]).items()}
        self._blocks = {domain: Blocks(part) for domain, part in by_domain(held[BLOCKS]).items()}
        self._watches = {domain: Watch.from_bytes(raw) for domain, raw in held[WATCHES].items()}
        self._traffic = {domain: Rows(part) for domain, part in by_domain(held[TRAFFIC]).items()}
        self._examples = {reason: decode_examples(raw) for reason, raw in held[EXAMPLES].items()}
        self._alerts = dict(held[ALERTS])
        self._unsent = dict(held[ALERTS_OUT])
        self._about = held[ABOUT].get(ABOUT, b"")
        self._tells_about = False
        self._noted: Model | None = None
        self._sent: list[str] = []
        self._fresh: list[Alert] = []
        self._touched: set[str] = set()  # watches
        self._told: set[str] = set()  # reasons with a new example
        self._heard: dict[str, tuple[Facts, list[Finding]]] = {}

    # What the learner calls.

    def hear(self, domain: str, rows: Sequence[Closed], model: Model, state: LaunchHead | SharedHeads) -> None:
        """Take in a domain's outcomes, in order, before its heads learn them."""
        shared = isinstance(state, SharedHeads)
        known = [c for c in rows if _is_heard(c, shared)]
        if not known:
            return
        self._note(model)
        facts, s = _facts(known, model, state)
        watch = self._watches.setdefault(domain, Watch())
        blocks = self._blocks.setdefault(domain, Blocks())
        deff = max(model.artifact.deff, 1.0)
        found = watch.look(int(facts.close_ms[0]), blocks, NAMES)
        found += watch.hear_said(facts, deff=deff) if shared else watch.hear(facts, s, deff=deff)
        blocks.see(facts, model.reference, model.artifact.sha256[:16])
        self._touched.add(domain)
        self._heard[domain] = facts, found

    def _note(self, model: Model) -> None:
        artifact = model.artifact
        if self._noted is not model:
            self._noted = model
            about = About(
                artifact.sha256[:16], artifact.window_s, artifact.deff, artifact.edges_s.tolist(), artifact.curve.tolist(), list(artifact.lines),
                artifact.trained_until_ms, list(artifact.feature_names), artifact.reference.counts.tolist(), artifact.trunk.mean.tolist(), artifact.trunk.std.tolist(),
            )  # fmt: skip
            raw = msgspec.msgpack.encode(about)
            self._tells_about = raw != self._about
            self._about = raw

    def learned(self, domain: str, model: Model, state: LaunchHead | SharedHeads) -> bool:
        """Note where the heads stand now, and act on what was found; whether the heads were changed."""
        if domain not in self._heard:
            return False
        facts, found = self._heard.pop(domain)
        gauges = [0.0, 0.0, self._watches[domain].evidence, *(0.0 for _ in EXPERTS)]
        changed = False
        if isinstance(state, LaunchHead):
            if float(state.mixture.slack(model.expert_pi).min()) < SLACK_NATS:
                at_ms = int(facts.close_ms[-1])
                if at_ms - self._watches[domain].told_ms.get("mixture_bound", -(2**62)) > REFUSED_AGAIN_MS:
                    self._watches[domain].told_ms["mixture_bound"] = at_ms
                    found.append(Finding("mixture_bound", at_ms, at_ms, {"slack": state.mixture.slack(model.expert_pi).tolist()}))
            for finding in found:
                if finding.kind == "calibration" and self._reacts:
                    react(state, model)
                    self._watches[domain].ease(0.3)
                    changed = True
            mean, sd = _level(state, model)
            gauges = [mean, sd, gauges[2], *state.mixture.w.tolist()]
        rows = self._rows.setdefault(domain, Rows())
        rows.add_many(counts_of(facts), gauges)
        acts = isinstance(state, LaunchHead)
        trunk = model.artifact.sha256[:16]
        for finding in found:
            done = ONLY_TOLD if finding.kind != "calibration" or not acts else DONE if self._reacts else NOTHING_DONE
            self._fresh.append(alert_of(domain, finding, done=done, trunk=trunk))
        return changed

    def count(self, counted: Sequence[Counted]) -> None:
        """Take in what partitions have seen: traffic by domain, refused records with examples."""
        for message in counted:
            if message.seen is not None:
                self._see(message.seen, message.tick_ms - 1)
        # Once for all of them, so that it does not depend on how many partitions there are.
        if (at_ms := max((m.tick_ms - 1 for m in counted if m.seen is not None and m.seen.refused), default=None)) is not None:
            self._check_quality(self._traffic[SHOP], at_ms)

    def _see(self, seen: Seen, at_ms: int) -> None:
        for domain, counts in seen.domains.items():
            self._traffic.setdefault(domain, Rows()).add(at_ms, counts)
        rows = self._traffic.setdefault(SHOP, Rows())
        rows.add(at_ms, [seen.read, *(seen.refused.get(reason, 0) for reason in SHOP_COLUMNS[1:])])
        for example in seen.examples:
            self._examples[example.reason] = [*self._examples.get(example.reason, []), example][-MOST_EXAMPLES:]
            self._told.add(example.reason)

    def _check_quality(self, rows: Rows, at_ms: int) -> None:
        """The quality gate: many records of this hour refused for one reason."""
        hour_ms = at_ms // HOUR_MS * HOUR_MS
        counts = next((row.counts for start, row in rows.series("h") if start == hour_ms), [])
        watch = self._watches.setdefault(SHOP, Watch())
        for reason, refused in zip(SHOP_COLUMNS[1:], counts[1:], strict=False):
            if refused >= FEWEST_REFUSED and refused >= REFUSED_SHARE * counts[0] and at_ms - watch.told_ms.get(reason, -(2**62)) >= REFUSED_AGAIN_MS:
                watch.told_ms[reason] = at_ms
                self._touched.add(SHOP)
                finding = Finding("quality", at_ms, hour_ms, {"reason": reason, "refused": refused, "read": counts[0]})
                self._fresh.append(alert_of(SHOP, finding, done=ONLY_TOLD, trunk=""))

    def changes(self) -> tuple[dict[str, dict[str, bytes]], dict[str, list[str]]]:
        """Return what the next commit puts and drops, by hash; call `committed` when it is done."""
        put: dict[str, dict[str, bytes]] = {name: {} for name in HASHES}
        drop: dict[str, list[str]] = {name: [] for name in HASHES}
        for name, parts in ((ROWS, self._rows), (BLOCKS, self._blocks), (TRAFFIC, self._traffic)):
            for domain, part in parts.items():
                for field in part.touched:
                    put[name][domain + BETWEEN + field] = part.held[field]
                drop[name] += [domain + BETWEEN + field for field in part.gone]
        put[WATCHES] = {domain: self._watches[domain].to_bytes() for domain in sorted(self._touched)}
        put[EXAMPLES] = {reason: encode_examples(self._examples[reason]) for reason in sorted(self._told)}
        put[ALERTS] = {alert.alert_id: encode_json(alert) for alert in self._fresh}
        put[ALERTS_OUT] = dict(put[ALERTS])
        drop[ALERTS] = sorted({**self._alerts, **put[ALERTS]})[:-KEPT]
        put[ALERTS] = {name: value for name, value in put[ALERTS].items() if name not in drop[ALERTS]}
        drop[ALERTS_OUT] = list(self._sent)
        put[ABOUT] = {ABOUT: self._about} if self._tells_about else {}
        return {name: part for name, part in put.items() if part}, {name: part for name, part in drop.items() if part}

    def committed(self) -> None:
        """The changes are in the store."""
        for parts in (self._rows, self._blocks, self._traffic):
            for part in parts.values():
                part.touched.clear()
                part.gone.clear()
        for name in self._sent:
            self._unsent.pop(name, None)
        for alert in self._fresh:
            self._alerts[alert.alert_id] = self._unsent[alert.alert_id] = encode_json(alert)
        for name in sorted(self._alerts)[:-KEPT]:
            del self._alerts[name]
        self._touched, self._told, self._fresh, self._sent, self._tells_about = set(), set(), [], [], False

    def unsent(self) -> list[Outgoing]:
        """Return the committed alerts that are not known to be on Kafka."""
        waiting = [(name, value) for name, value in sorted(self._unsent.items()) if name not in self._sent]
        return [Outgoing("alerts", msgspec.json.decode(value)["launch_id"].encode(), value) for name, value in waiting]

    def mark_sent(self) -> None:
        """Note that all of `unsent` is on Kafka; the next commit trims it."""
        self._sent = sorted(self._unsent)


def by_domain(held: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Return the parts of each domain out of a hash that holds those of all."""
    parts: dict[str, dict[str, bytes]] = {}
    for name, value in held.items():
        domain, _, field = name.rpartition(BETWEEN)
        parts.setdefault(domain, {})[field] = value
    return parts


def _is_heard(closed: Closed, shared: bool) -> bool:
    exposure = closed.exposure
    if shared:
        return exposure.id[0] in _SAMPLED and are(exposure.predictions, 2)
    return are(exposure.predictions, 2 * len(MODELS))


def _facts(rows: Sequence[Closed], model: Model, state: LaunchHead | SharedHeads) -> tuple[Facts, NDArray[np.float64]]:
    """The outcomes as arrays, and the logit (N,) of the probability that had been said of each."""
    n, launch = len(rows), isinstance(state, LaunchHead)
    # `fromiter` takes half the time of `array`, and what only some outcomes need is looked up for those.
    told = ((c.close_ms, c.bin - 1, c.y, c.label, *c.exposure.delay_ms, c.exposure.ts_ms) for c in rows)
    columns = np.fromiter(chain.from_iterable(told), np.int64, 8 * n).reshape(n, 8)
    every = unpacked([c.exposure.predictions for c in rows], 2 * len(MODELS) if launch else 2)
    bin_, label, curve = columns[:, 1], np.where(columns[:, 3] == NONE, -1, columns[:, 3]), state.delay.in_use
    first, final = np.flatnonzero(bin_ == 0), np.flatnonzero(label >= 0)
    said = np.full((n, 1 + len(EXPERTS)), np.nan)
    said[:, 0] = every[:, 1]
    if launch:
        said[final] = every[final, 1::2]
    x, z, parts = np.zeros((n, WIDTH), np.float32), np.zeros((n, len(PLACES) if launch else 0)), np.zeros((n, 4), np.int64)
    if len(first):
        x[first] = np.frombuffer(b"".join([rows[i].exposure.x for i in first.tolist()]), np.float32).reshape(-1, WIDTH)
        parts[first] = _parts(every[first])
        if launch:
            z[first] = standardise(x[first], model.artifact.trunk.mean, model.artifact.trunk.std)[:, PLACES]
    facts = Facts(
        close_ms=np.ascontiguousarray(columns[:, 0]), exposed_ms=columns[:, 7], bin_=bin_, y=columns[:, 2], label=label, score=every[:, 0], said=said, delay_ms=columns[:, 4:7],
        f_prev=np.where(bin_ >= 0, curve[np.maximum(bin_, 0)], 0.0), f_next=np.where(bin_ >= 0, curve[np.maximum(bin_, 0) + 1], 0.0),
        parts=parts, x=x, z=z,
    )  # fmt: skip
    return facts, said_logit(every[:, 1])


def _parts(said: NDArray[np.float64]) -> NDArray[np.int64]:
    """The ledger (N, 4) of what was said, as `models.explain` has it: old lines then and since, own level, other ways; zeros but for the first in a line."""
    if said.shape[1] == 2:
        steps = [said_logit(said[:, 1])]
    else:
        steps = [said_logit(said[:, k]) for k in (FROZEN, SHARED_SCORE, SHARED_P, 1)]
    told = np.diff(np.stack([np.zeros(len(said)), *steps], axis=1), axis=1)
    return np.rint(1e6 * np.pad(told, ((0, 0), (0, 4 - len(steps))))).astype(np.int64)


def _level(head: LaunchHead, model: Model) -> tuple[float, float]:
    """Mean and standard deviation of the launch's own level, in logit."""
    shared = head.experts[EXPERTS.index("shared")]
    assert isinstance(shared, Shared)
    w = shared.offset.weights(model.priors.offset)
    mean = float(w @ GRID)
    return mean, float(np.sqrt(max(0.0, float(w @ (GRID - mean) ** 2))))
