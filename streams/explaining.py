"""One score explained from what the store holds: the shopper's vector as a worker would make it, and the ledger of what it leads to. Reads, never writes.

The vector is that of an event which is thrown away: it goes through the workers' own kernel on copies of the records. With an event's id it is the
vector of that event's exposure, which is kept as long as the exposure is followed.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.advance import APPLIED, advance
from features.errors import InputError, Mismatch
from features.events import KINDS, Event
from features.exposures import Exposure, exposure_id
from features.intake import Arrived, LocalTime, rows
from features.store import Store, decoded
from models.checkpoint import Artifact
from models.explain import Ledger, ledger
from models.model import Model
from streams import launches, namespace
from streams.current import partition_with
from streams.feature_words import by_group, reasons
from streams.knowledge import Knowledge
from streams.partition import Partition, Rules
from streams.records import Launch
from streams.settings import Settings
from streams.trunks import Shelf

THROWN_AWAY = "\x1eexplain"
"""The id of the event that never was, and its product where none is given; no event of a shop may hold a control character."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Whose score, and for what: a launch, or a line; of an event of `kind` at `at_ms` (None: now), or of the exposure that `event` opened."""

    user: str
    launch: str | None = None
    line: str | None = None
    product: str | None = None
    category: str | None = None
    price: float | None = None
    kind: str = "browse"
    event: str | None = None
    at_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class Explained:
    """The ledger, and what it is about. `launch` None: the line is not being launched. `said`: the probability at the time of the event that was asked for."""

    asked: Asked
    launch: Launch | None
    line: str
    ts_ms: int
    arm: str | None
    window_s: float
    outcomes: int
    trunk: str
    x: NDArray[np.float32]
    ledger: Ledger
    said: float | None = None

    @property
    def steps(self) -> dict[str, float]:
        """The parts of the logit by name, without those that a line which is not being launched cannot have."""
        parts = self.ledger.parts
        return parts if self.launch is not None else {name: parts[name] for name in ("s0", "fresh")}


STEPS: Final = {
    "s0": "the old lines, when training ended",
    "fresh": "what the old lines have taught since",
    "level": "this product's own level",
    "mixed": "the other ways of transfer",
}
"""The parts of the ledger, in words and in order."""
HEADS_IN_WORDS: Final = {
    "raw_final": "features, learned from final labels",
    "raw_delay": "features, learned as orders come",
    "trunk_delay": "neural network",
    "trees_delay": "boosted trees",
}
EXPERTS_IN_WORDS: Final = {
    "shared": "old lines kept fresh, and this product's level",
    "frozen": "old lines as training left them",
    "deviation": "own slopes, near what is typical of lines",
    "deviation_wide": "own slopes, further from what is typical",
    "feature": "from nothing, on the network's features",
    "instance": "old lines' shoppers who are like this product's",
    "relation": "the most similar old lines",
    "scratch": "from nothing: this product alone",
}


async def explain(store: Store, settings: Settings, artifact: Artifact, asked: Asked, *, now_ms: int) -> Explained:
    """Explain one score. Raises InputError for whom or what the namespace does not know, Mismatch for a trunk or settings that are not the namespace's."""
    if asked.kind not in KINDS:
        raise InputError(f"--kind {asked.kind}: expected one of {', '.join(KINDS)}")
    held = await store.meta()
    if not held:
        raise InputError(f"namespace {settings.namespace!r} is empty: no worker has joined it yet")
    rules = _rules(settings, artifact, held)
    knowledge = await _knowledge(store, artifact, held, rules)
    pair = knowledge.pair
    assert pair is not None
    partition = await partition_with(store, asked.user, rules, now_ms)
    if partition is None:
        raise InputError(f"nothing is known of user {asked.user!r} in namespace {settings.namespace!r}: no event of theirs has arrived, or it was too long ago")
    # A replay's clock is its last tick; whoever comes next comes after it.
    at_ms = partition.cursor.tick_ms
    ts_ms = asked.at_ms if asked.at_ms is not None else now_ms if not rules.replay else at_ms
    launch, event = _event(knowledge, asked, ts_ms, at_ms)
    said = None
    if asked.event is None:
        x = await _vector(partition, knowledge, Arrived(event, KINDS.index(asked.kind), ts_ms, b""))
    else:
        exposure = await _exposure(store, partition, launch.id if launch else f"line:{event.line}", asked)
        x, ts_ms, told = np.frombuffer(exposure.x, np.float32), exposure.ts_ms, exposure.said()
        said = told[1] if told else None
    head = pair.head(launch.id) if launch is not None else None
    return Explained(
        asked=asked, launch=launch, line=event.line, ts_ms=ts_ms, arm=launch.arm(asked.user) if launch else None, window_s=artifact.window_s,
        outcomes=head.n_learned if head else 0, trunk=pair.trunk, x=x, ledger=ledger(pair.model, pair.shared, head, x), said=said,
    )  # fmt: skip


def _rules(settings: Settings, artifact: Artifact, held: dict[str, str]) -> Rules:
    """The namespace's rules; its partitions are what it says itself, the rest must be what the settings say, or the vector would be another."""
    clock = namespace.clock_of(held)
    rules = namespace.rules_of(settings, artifact, replay=clock != namespace.LIVE)
    wanted = namespace.description(settings, artifact, rules, clock=clock, broker={})
    namespace.compare(held, {name: wanted[name] for name in ("schema", "rules")}, f"namespace {settings.namespace!r}")
    partitions, outcome_partitions = namespace.sizes_of(held, settings.namespace)
    return replace(rules, partitions=partitions, outcome_partitions=outcome_partitions)


async def _knowledge(store: Store, artifact: Artifact, held: dict[str, str], rules: Rules) -> Knowledge:
    model, base = Model(artifact), held["trunk"]
    if rules.replay and base != artifact.sha256:
        raise Mismatch(f"the namespace's trunk is {base[:16]}, the given one {artifact.sha256[:16]}: give the one that it works with (--trunk)")
    knowledge = Knowledge(store, model, rules.outcome_partitions, shelf=None if rules.replay else Shelf(store, model, base))
    await knowledge.refresh()
    return knowledge


def _event(knowledge: Knowledge, asked: Asked, ts_ms: int, at_ms: int) -> tuple[Launch | None, Event]:
    """The launch that is asked about, None for a line that is not being launched, and the event that is thrown away."""
    known = {launch.id: launch for launch in knowledge.launches.all}
    launch: Launch | None = None
    if asked.launch is not None:
        if asked.launch not in known:
            raise launches.unknown(asked.launch, list(known))
        launch = known[asked.launch]
    elif asked.line is None:
        now_open = [held for held in known.values() if held.is_open(at_ms)]
        if len(now_open) != 1:
            raise InputError(f"say of what with --launch or --line; the open launches are: {', '.join(held.id for held in now_open) or 'none'}")
        launch = now_open[0]
    line = asked.line or (launch.line if launch else "")
    product = asked.product or (launch.products[0] if launch and launch.products else THROWN_AWAY)
    event = Event(event_id=THROWN_AWAY, user_id=asked.user, product_id=product, line=line, ts=ts_ms, category=asked.category, price=asked.price)
    if launch is None:
        touched = knowledge.launches.open_for(event, at_ms)
        if len(touched) > 1:
            raise InputError(f"line {line!r} is in several launches, say which with --launch: {', '.join(held.id for held in touched)}")
        launch = touched[0] if touched else None
    elif not launch.holds(product, line):
        holds = f"the products {', '.join(launch.products)}" if launch.products else f"line {launch.line!r}"
        raise InputError(f"launch {launch.id!r} holds {holds}, not {asked.product or line!r}")
    return launch, event


async def _vector(partition: Partition, knowledge: Knowledge, arrived: Arrived) -> NDArray[np.float32]:
    """(F,): the vector right after the event, as `streams.pipeline` makes it; what the event changes is forgotten."""
    event, rules = arrived.event, partition.rules
    user, line = await partition.place_users([event.user_id]), await partition.place_lines([event.user_id], event.line)
    users, lines = partition.users.rows[user], partition.lines.rows[line]
    last_ms = int(users["ref_ms"][0])
    if arrived.ts_ms - last_ms > rules.ttl_ms:
        raise InputError(f"user {event.user_id!r} was last seen {(arrived.ts_ms - last_ms) / 86_400_000:.0f} days ago: nothing is known of them any more")
    row = rows([arrived], LocalTime(rules.timezone))
    row["line_stats"], row["category_stats"] = knowledge.catalogue_rows([event])
    one = np.zeros(1, np.int64)
    x, fate, _ = advance(row, users, lines, one, np.array([0, 1]), knowledge.catalogue, at_ms=partition.cursor.tick_ms, ttl_ms=rules.ttl_ms)
    assert fate[0] == APPLIED
    return np.asarray(x[0])


async def _exposure(store: Store, partition: Partition, domain: str, asked: Asked) -> Exposure:
    assert asked.event is not None
    (value,) = await store.read_hash(str(partition.number), "pending", [exposure_id(domain, asked.user, asked.event)])
    if value is None:
        raise InputError(f"event {asked.event!r} of user {asked.user!r} opened no exposure of {domain.removeprefix('line:')!r} that is still followed")
    return decoded(value, Exposure, "an exposure")


def percent(p: float) -> str:
    """A probability as people read it."""
    return f"{p:.1%}" if 0.001 <= p <= 0.999 else f"{p:.2g}" if p < 0.5 else f"1 − {1.0 - p:.2g}"


def chance(logit: float) -> str:
    """The same of a logit."""
    return percent(1.0 / (1.0 + math.exp(-min(max(logit, -30.0), 30.0))))


def odds(part: float) -> str:
    """What a part of a logit does to the odds."""
    return f"× {math.exp(min(part, 30.0)):.2f}"


def as_json(told: Explained) -> dict[str, Any]:
    """Return everything as JSON can hold it. `parts`, and `features` with its start and residual, each sum to `logit`."""
    book = told.ledger
    attribution, found = book.features, reasons(book.feature_names, told.x.tolist(), book.features.shares.tolist())
    heads = {"s0": book.s0_heads, "fresh": book.fresh_heads}
    return {
        "user": told.asked.user,
        "launch": told.launch.id if told.launch else None,
        "line": told.line,
        "event": told.asked.event,
        "kind": told.asked.kind if told.asked.event is None else None,
        "ts": told.ts_ms,
        "arm": told.arm,
        "window_s": told.window_s,
        "trunk": told.trunk,
        "outcomes_learned": told.outcomes,
        "probability": book.probability,
        "score": book.score,
        "logit": book.logit,
        "probability_when_scored": told.said,
        "parts": [{"name": name, "meaning": STEPS[name], "logit": part, "heads": dict(heads.get(name, {}))} for name, part in book.parts.items()],
        "uncertainty": {"heads": dict(book.sd), "heads_together": book.heads_sd, "level": book.level_sd, "total": book.total_sd},
        "experts": [{"meaning": EXPERTS_IN_WORDS.get(expert.name, expert.name), **asdict(expert)} for expert in book.experts],
        "sources": {"approximate": True, "fit": book.sources.fit, "lines": [asdict(line) for line in book.sources.lines], "remainder": book.sources.remainder},
        "features": {
            "baseline": "the mean shopper of the old lines",
            "baseline_logit": attribution.start,
            "shares": [reason._asdict() for reason in found],
            "groups": by_group(found),
            "residual": attribution.residual,
            "steps": attribution.steps,
        },
        "vector": dict(zip(book.feature_names, told.x.tolist(), strict=True)),
    }
