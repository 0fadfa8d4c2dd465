"""The detectors of one domain, on the outcomes that the learner hears: what they have found, with the evidence, and since when.

| kind | what it watches | designed for |
| --- | --- | --- |
| `calibration` | the e-detector on closed delay bins, against what was said and the launch's own steady level: **the actuator** | one false alarm in 100 days |
| `early_funnel` | the same on clicks and carts in the first bin, against their steady rates | the same, both steps together |
| `shoppers` | PSI by feature and the domain classifier, of the last day against the domain's own first days under the trunk | diagnostic: resets nothing |
| `estimate` | AUC as it can be expected before labels (CBPE), of the last day against the domain's own first days | diagnostic |
| `confirmed` | river's ADWIN and PageHinkley on (y − p)/√(p(1 − p)) of final labels | confirmation, days later |
| `mixture_bound` | the mixture's loss against each expert's, by the theorem | a defect if it ever comes |

`shoppers`, `estimate` and `confirmed` are looked at when an event-time hour begins, `mixture_bound` with each batch that a head has learned (`streams.sight`). All of it is a function of the outcomes in their order, so a replay finds the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models import wire
from models.chronicle import HOUR_MS, Blocks, Facts, last_day
from models.covariates import WHO, psi, told_apart
from models.e_detector import DAYS_BETWEEN_FALSE_ALARMS, Alarm, EDetector, evidence_share, threshold
from models.head import Vector
from models.offset import DEFAULT_PI, Offset, log_prior
from models.river_drift import river_drift
from models.sketches import MILLION, auc

KIND: Final = "watch"
DAY_MS: Final = 24 * HOUR_MS
STEADY_HALF_LIFE_MS: Final = 28.0 * DAY_MS
"""The level that the e-detector holds the forecasts against forgets so slowly that a shift stands out; the launch's own forgets in a day."""
RATE_HALF_LIFE_MS: Final = 28.0 * DAY_MS
RATE_AFTER: Final = 1000
"""Exposures, before a steady rate of clicks or carts is trusted."""
FEWEST_NOW: Final = 300
PSI_LARGE: Final = 0.25
APART_LARGE: Final = 0.65
AUC_FALL: Final = 0.05
AGAIN_MS: Final = 7 * DAY_MS
"""A finding of the hourly kinds is not repeated within a week."""
BLOCK: Final = 8
MEANS_KEPT: Final = 512
ADWIN_DELTA: Final = 0.002
SHARED_OF: Final = 8
"""Of the old lines' exposures, which are many, one in so many is heard by the e-detector."""

_PRIOR = log_prior(DEFAULT_PI)
SOON: Final = ("click", "cart")


@dataclass(frozen=True)
class Finding:
    """One thing that a detector has found. `evidence`: its figures by name."""

    kind: str
    at_ms: int
    since_ms: int
    evidence: dict[str, Any]


@dataclass
class Watch:
    """Everything that the detectors remember. Mutable; see the module."""

    shift: EDetector = field(default_factory=EDetector.unlearned)
    level: Offset = field(default_factory=Offset.unlearned)
    soon: tuple[EDetector, EDetector] = field(default_factory=lambda: (EDetector.unlearned(), EDetector.unlearned()))
    rates: Vector = field(default_factory=lambda: np.zeros(4))  # decayed exposures, clicks and carts, and ms up to which
    means: Vector = field(default_factory=lambda: np.zeros(0))  # of (y − p)/√(p(1 − p)) over `BLOCK` final labels each
    means_ms: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    rest: Vector = field(default_factory=lambda: np.zeros(0))  # what is not a whole block yet
    hour: int = -1
    told_ms: dict[str, int] = field(default_factory=dict)

    def hear(self, facts: Facts, s: Vector, *, deff: float) -> list[Finding]:
        """Take in outcomes in order, (N,); `s` is the logit of what was said of each. Returns what the e-detectors find."""
        closes = facts.bin_ >= 0
        share = evidence_share(deff)
        at, f = facts.close_ms[closes], (facts.f_prev[closes], facts.f_next[closes])
        y = facts.y[closes].astype(np.float64)
        p = self.level.learn_many(s[closes], *f, y, at, prior=_PRIOR, deff=deff, half_life_ms=STEADY_HALF_LIFE_MS)
        found = _calibration(self.shift.learn_many(p, *f, y, at, facts.exposed_ms[closes], share=share))
        self._hear_soon(facts, share, found)
        self._hear_final(facts)
        return found

    def hear_said(self, facts: Facts, *, deff: float) -> list[Finding]:
        """As `hear`, against what was said alone: for domains whose heads have no level of their own."""
        closes = facts.bin_ >= 0
        share = evidence_share(deff)
        alarms = self.shift.learn_many(
            facts.said[closes, 0],
            facts.f_prev[closes],
            facts.f_next[closes],
            facts.y[closes].astype(np.float64),
            facts.close_ms[closes],
            facts.exposed_ms[closes],
            share=share,
        )
        self._hear_final(facts)
        return _calibration(alarms)

    def _hear_soon(self, facts: Facts, share: float, found: list[Finding]) -> None:
        first = facts.bin_ == 0
        n = int(first.sum())
        if not n:
            return
        at, exposed = facts.close_ms[first], facts.exposed_ms[first]
        came = [(facts.delay_ms[first, k] >= 0).astype(np.float64) for k in range(len(SOON))]
        seen, *hits = self.rates[:3].tolist()
        if seen >= RATE_AFTER:
            nothing, everything = np.zeros(n), np.ones(n)
            for name, detector, hit, y in zip(SOON, self.soon, hits, came, strict=True):
                rate = np.full(n, (hit + 1.0) / (seen + 2.0))
                each = len(SOON) * DAYS_BETWEEN_FALSE_ALARMS  # two detectors, one promise
                for a in detector.learn_many(rate, nothing, everything, y, at, exposed, share=share, days_between_false_alarms=each):
                    evidence = {"step": name, "usual_rate": float(rate[0]), "tilt": a.tilt, "direction": a.direction, "statistic": a.statistic}
                    found.append(Finding("early_funnel", a.at_ms, a.since_ms, evidence))
                    self.rates *= np.array([0.25, 0.25, 0.25, 1.0])  # what is usual is learned anew
        last_ms = int(at.max())
        if self.rates[3] and last_ms > self.rates[3]:
            self.rates[:3] *= 0.5 ** ((last_ms - self.rates[3]) / RATE_HALF_LIFE_MS)
        self.rates[:3] += [n, *(y.sum() for y in came)]
        self.rates[3] = max(self.rates[3], last_ms)

    def _hear_final(self, facts: Facts) -> None:
        final = facts.label >= 0
        if not final.any():
            return
        gaps = np.concatenate([self.rest, _surprise(facts.label[final], facts.said[final, 0])])
        at = np.concatenate([np.zeros(len(self.rest), np.int64), facts.close_ms[final]])
        whole = len(gaps) // BLOCK * BLOCK
        self.means = np.concatenate([self.means, gaps[:whole].reshape(-1, BLOCK).mean(axis=1)])[-MEANS_KEPT:]
        self.means_ms = np.concatenate([self.means_ms, at[BLOCK - 1 : whole : BLOCK]])[-MEANS_KEPT:]
        self.rest = gaps[whole:]

    def look(self, at_ms: int, blocks: Blocks, names: tuple[str, ...]) -> list[Finding]:
        """When an event-time hour has begun, look at shoppers, estimates and river's detectors; `names` (F,) of the features."""
        hour = at_ms // HOUR_MS
        if hour <= self.hour:
            return []
        self.hour = hour
        found = [f for f in (*self._shoppers(at_ms, blocks, names), *self._confirmed(at_ms)) if at_ms - self.told_ms.get(_key(f), -AGAIN_MS) >= AGAIN_MS]
        for finding in found:
            self.told_ms[_key(finding)] = at_ms
        return found

    def _shoppers(self, at_ms: int, blocks: Blocks, names: tuple[str, ...]) -> list[Finding]:
        then, until_ms = blocks.first()
        since_ms = last_day(at_ms)
        if not until_ms or since_ms < until_ms:
            return []
        now = blocks.between(since_ms)
        if now.moments.n < FEWEST_NOW:
            return []
        found: list[Finding] = []
        expected, before = (auc(block.scored.astype(np.float64), block.scored_p / MILLION) for block in (now, then))
        if math.isfinite(before) and expected < before - AUC_FALL:
            found.append(Finding("estimate", at_ms, since_ms, {"auc": expected, "auc_before": before}))
        if now.trunk != then.trunk or now.spread.shape != then.spread.shape:
            return found
        moved = {name: float(v) for name, v in zip(names, psi(now.spread, then.spread), strict=False) if name in WHO}
        large = {name: v for name, v in sorted(moved.items(), key=lambda item: -item[1]) if v >= PSI_LARGE}
        apart = told_apart(now.moments, then.moments)
        if large or apart >= APART_LARGE:
            told = dict(list(large.items())[:5])
            moved_sd = now.moments.z / now.moments.n - then.moments.z / then.moments.n
            sd = {name: float(moved_sd[WHO.index(name)]) for name in told if len(moved_sd)}
            found.append(Finding("shoppers", at_ms, since_ms, {"psi": told, "moved_sd": sd, "told_apart": apart, "exposures": now.moments.n}))
        return found

    def _confirmed(self, at_ms: int) -> list[Finding]:
        drift = river_drift()
        detectors: dict[str, Any] = {
            "ADWIN": drift.ADWIN(delta=ADWIN_DELTA, clock=4),
            "PageHinkley": drift.PageHinkley(min_instances=32, delta=0.05, threshold=20.0, alpha=1 - 1e-5),
        }
        found = []
        for name, detector in detectors.items():
            since = None
            for i, value in enumerate(self.means.tolist()):
                detector.update(value)
                if detector.drift_detected:
                    since = i
            if since is not None and at_ms - int(self.means_ms[since]) <= HOUR_MS * 2:
                found.append(Finding("confirmed", at_ms, int(self.means_ms[since]), {"by": name, "labels": BLOCK * len(self.means)}))
        return found

    def ease(self, keep: float) -> None:
        """After an alarm: keep this share of what is known of the level, so that the new one is learned soon."""
        self.level.evidence *= keep

    def to_bytes(self) -> bytes:
        """Every bit of it."""
        arrays: dict[str, NDArray[np.generic]] = {
            "level": self.level.evidence, "level.last_ms": self.level.last_ms, "rates": self.rates, "means": self.means, "means_ms": self.means_ms,
            "rest": self.rest, "hour": np.array([self.hour], np.int64),
        }  # fmt: skip
        for name, detector in zip(("shift", *SOON), (self.shift, *self.soon), strict=True):
            arrays |= {f"{name}.{part}": a for part, a in detector.to_arrays().items()}
        arrays |= {f"told.{name}": np.array([ms], np.int64) for name, ms in sorted(self.told_ms.items())}
        return wire.pack(KIND, arrays)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Watch:
        """Exactly what was stored."""
        a = wire.unpack(KIND, raw)
        shift, click, cart = (EDetector.from_arrays(wire.under(f"{name}.", a)) for name in ("shift", *SOON))
        vectors = {name: a[name].astype(np.float64) for name in ("rates", "means", "rest")}
        return cls(
            shift=shift, level=Offset(a["level"].astype(np.float64), a["level.last_ms"].astype(np.int64)), soon=(click, cart),
            means_ms=a["means_ms"].astype(np.int64), hour=int(a["hour"][0]), told_ms={name: int(v[0]) for name, v in wire.under("told.", a).items()}, **vectors,
        )  # fmt: skip

    @property
    def evidence(self) -> float:
        """The e-detector's statistic over its threshold: 1 is an alarm, if it is armed."""
        return self.shift.statistic / threshold()


def _calibration(alarms: Sequence[Alarm]) -> list[Finding]:
    return [
        Finding("calibration", a.at_ms, a.since_ms, {"tilt": a.tilt, "statistic": a.statistic, "threshold": threshold(), "direction": a.direction})
        for a in alarms
    ]


def _surprise(y: NDArray[np.int64], p: Vector) -> Vector:
    held = np.clip(p, 0.005, 0.995)
    return np.asarray((y - held) / np.sqrt(held * (1.0 - held)))


def _key(finding: Finding) -> str:
    return f"{finding.kind}:{finding.evidence['by']}" if "by" in finding.evidence else finding.kind


def said_logit(p: Vector) -> Vector:
    """Return the logit (N,) of what was said."""
    held = np.clip(p, 1e-9, 1.0 - 1e-9)
    return np.asarray(np.log(held / (1.0 - held)))
