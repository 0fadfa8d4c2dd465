"""A Shiryaev–Roberts e-detector on closed delay bins: does the forecast still count conversions rightly, or has the level shifted?

For a tilt δ an outcome y with forecast hazard h counts L = q(y) / h(y), q = σ(logit h + δ), which is 1 on average while the forecast holds, whatever
came before. Every six hours of event time a shift may begin: M_b, the product of L over the outcomes of exposures since b, is the evidence for it, a
martingale from 1. Outcomes of earlier exposures, which go on closing for a whole window, say nothing about it and do not dilute it. SR = Σ_b M_b less the
number of beginnings is a martingale too, and so is the weighted mean over tilts; an alarm at SR ≥ c therefore comes falsely no more often than once in c beginnings
on average, with no knowledge of delays, traffic or the size of the shift (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential
change detection", NEJSDS 2024). Beginnings of almost four days ago and more are kept as one sum, to which every outcome counts from then on.

Outcomes of one user are not independent, which that proof needs: evidence is raised to a power `share` below 1 for it. With share = 1 / deff, the design
effect, the mean stays at most 1 where all rows of a user close together. They do not: a detector that finds shifts in a day or two sees only some of
them, and `evidence_share` takes more, as much as kept the promise on streams of dependent rows (`bench/detection.py`), and finds shifts sooner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.kernel import kernel
from models.head import Vector, check_outcomes

TILTS: Final = np.array([-0.6, -0.3, 0.3, 0.6])
WEIGHTS: Final = np.array([0.7, 0.2, 0.03, 0.07])
"""Of the tilts in the statistic. Where orders are rare, those that stay away tell less than as many that come: so decreases weigh more, and both are found about as soon."""
SHARE_POWER: Final = 0.47
"""Measured on streams with a design effect of 2.3, see docs/drift.md."""
DAYS_BETWEEN_FALSE_ALARMS: Final = 100.0
ARMED_AFTER: Final = 50
"""Conversions, since the start and again after each alarm: a level that has hardly been learned is no news."""
BEGINNING_MS: Final = 6 * 3_600_000
"""A shift may begin this often."""
KEPT: Final = 16
"""Sums that are kept: of the beginnings of almost four days, and, in the first one, of all older ones."""
NEVER: Final = -(2**62)

_A_DAY: Final = 86_400_000 / BEGINNING_MS
_FACTORS = np.expm1(TILTS)


def evidence_share(deff: float) -> float:
    """The power to which evidence is raised where final labels have the design effect `deff` ≥ 1: deff^−.47."""
    return float(max(deff, 1.0) ** -SHARE_POWER)


@kernel
def _learn(
    p: Vector, f_prev: Vector, f_next: Vector, y: Vector, close_ms: NDArray[np.int64], exposed_ms: NDArray[np.int64], share: float, reach: float,
    tilts: Vector, factors: Vector, weights: Vector, sr: NDArray[np.float64], present: NDArray[np.int64], last_ms: NDArray[np.int64], seen: Vector,
    raised: NDArray[np.float64], times: NDArray[np.int64],
) -> int:  # fmt: skip
    kept, n = sr.shape
    count = 0
    for i in range(p.shape[0]):
        now = close_ms[i] // BEGINNING_MS
        if present[0] == NEVER:
            present[0] = now
            for g in range(n):
                sr[kept - 1, g] = 1.0
        for _ in range(min(max(now - present[0], 0), kept)):  # a long silence counts as few beginnings
            for g in range(n):
                oldest = sr[0, g]
                for b in range(kept - 1):
                    sr[b, g] = sr[b + 1, g]
                sr[0, g] = min(sr[0, g] + oldest, 1e250)
                sr[kept - 1, g] = 1.0
        present[0] = max(present[0], now)
        last_ms[0] = max(last_ms[0], close_ms[i])
        held = min(max(p[i], 1e-9), 1.0 - 1e-9)
        h = held * (f_next[i] - f_prev[i]) / (1.0 - held * f_prev[i])
        last = min(max(exposed_ms[i] // BEGINNING_MS - present[0] + kept - 1, 0), kept - 1)
        seen[0] += y[i]
        total = 0.0
        for g in range(n):
            ratio = math.exp(share * (y[i] * tilts[g] - math.log1p(h * factors[g])))
            for b in range(last + 1):
                sr[b, g] = min(sr[b, g] * ratio, 1e250)
            for b in range(kept):
                total += weights[g] * sr[b, g]
        if seen[0] >= ARMED_AFTER and total >= reach:
            lead, of = 0, 0
            for g in range(n):
                for b in range(kept):
                    if weights[g] * sr[b, g] > weights[lead] * sr[of, lead]:
                        lead, of = g, b
            raised[count, 0] = total
            raised[count, 1] = tilts[lead]
            times[count, 0] = last_ms[0]
            times[count, 1] = (present[0] - kept + 1 + of) * BEGINNING_MS
            count += 1
            seen[0] = 0.0
            for g in range(n):
                for b in range(kept):
                    sr[b, g] = 0.0
    return count


@dataclass(frozen=True)
class Alarm:
    """The forecast no longer counts rightly for exposures since about `since_ms`, the likeliest beginning; heard at `at_ms` (event times).

    Where the beginning is the oldest that is kept, almost four days ago, it may be earlier.

    `tilt`: the logit shift, among `TILTS`, for which the evidence is greatest; `statistic`: that evidence, a weighted mean over tilts, to which a beginning of
    which nothing is known adds 1.
    """

    at_ms: int
    since_ms: int
    tilt: float
    statistic: float

    @property
    def direction(self) -> int:
        """1: more conversions than forecast; -1: fewer."""
        return 1 if self.tilt > 0.0 else -1


@dataclass
class EDetector:
    """What has been heard of one launch's outcomes. Mutable.

    `sr` (KEPT, 4): the sums of the beginnings, by six hours up to the `present` (1,) ones, and tilt; the first row holds all older ones. `last_ms` (1,):
    the latest close. `seen` (1,): conversions since the start or the last alarm.
    """

    sr: NDArray[np.float64]
    present: NDArray[np.int64]
    last_ms: NDArray[np.int64]
    seen: Vector
    alarm: Alarm | None = None
    """The last alarm that was raised."""

    @classmethod
    def unlearned(cls) -> EDetector:
        """A detector that has heard nothing."""
        return cls(np.zeros((KEPT, len(TILTS))), np.array([NEVER], np.int64), np.array([NEVER], np.int64), np.zeros(1))

    def copy(self) -> EDetector:
        """Another detector with the same content."""
        return EDetector(self.sr.copy(), self.present.copy(), self.last_ms.copy(), self.seen.copy(), self.alarm)

    @property
    def statistic(self) -> float:
        """The evidence for a shift: the weighted mean of the sums over the tilts."""
        return float(self.sr.sum(axis=0) @ WEIGHTS)

    @property
    def armed(self) -> bool:
        """Whether enough conversions have come for an alarm to be raised."""
        return bool(self.seen[0] >= ARMED_AFTER)

    def learn_many(
        self, p: Vector, f_prev: Vector, f_next: Vector, y: Vector, close_ms: NDArray[np.int64], exposed_ms: NDArray[np.int64],
        *, share: float = 1.0, days_between_false_alarms: float = DAYS_BETWEEN_FALSE_ALARMS,
    ) -> tuple[Alarm, ...]:  # fmt: skip
        """Take in N closed bins in the given order, (N,) each, and return the alarms that they raise; the same bits as one at a time.

        `p`: the final conversion probabilities that were forecast before these outcomes were learned; `exposed_ms`: when the exposures were; `share`: see
        `evidence_share`. An alarm makes the detector start anew, with exposures from the next beginning on. ValueError for p outside 0..1, a share outside 0 < share ≤ 1,
        or bins as in `Posterior.learn_many`; then nothing has been heard.
        """
        p, f_prev, f_next, y = (np.ascontiguousarray(a, dtype=np.float64) for a in (p, f_prev, f_next, y))
        close_ms, exposed_ms = (np.ascontiguousarray(a, dtype=np.int64) for a in (close_ms, exposed_ms))
        if p.ndim != 1 or close_ms.shape != p.shape or exposed_ms.shape != p.shape:
            raise ValueError(f"p is {p.shape}, close_ms {close_ms.shape}, exposed_ms {exposed_ms.shape}: expected (N,) each")
        check_outcomes(len(p), f_prev, f_next, y)
        if not ((p >= 0.0) & (p <= 1.0)).all():  # NaN fails too
            raise ValueError("p must lie in 0..1: outcome refused")
        if not (0.0 < share <= 1.0 and 0.0 < days_between_false_alarms < math.inf):
            raise ValueError(f"share is {share} and days_between_false_alarms {days_between_false_alarms}: expected 0 < share <= 1, and days above 0")
        most = 1 + (int(self.seen[0]) + int(y.sum())) // ARMED_AFTER
        raised, times = np.empty((most, 2)), np.empty((most, 2), np.int64)
        count = _learn(
            p, f_prev, f_next, y, close_ms, exposed_ms, share, threshold(days_between_false_alarms), TILTS, _FACTORS, WEIGHTS,
            self.sr, self.present, self.last_ms, self.seen, raised, times,
        )  # fmt: skip
        alarms = tuple(Alarm(int(times[j, 0]), int(times[j, 1]), float(raised[j, 1]), float(raised[j, 0])) for j in range(count))
        if alarms:
            self.alarm = alarms[-1]
        return alarms

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Every bit of the state."""
        a = self.alarm
        return {
            "sr": self.sr,
            "present": self.present,
            "last_ms": self.last_ms,
            "seen": self.seen,
            "alarm_ms": np.array([a.at_ms, a.since_ms] if a else [], dtype=np.int64),
            "alarm": np.array([a.tilt, a.statistic] if a else [], dtype=np.float64),
        }

    @classmethod
    def from_arrays(cls, a: dict[str, NDArray[np.generic]]) -> EDetector:
        """Exactly what was stored; a state whose sums begin at outcomes, as they did once, begins anew but for conversions and last alarm."""
        ms, how = a["alarm_ms"], a["alarm"].astype(np.float64)
        alarm = Alarm(int(ms[0]), int(ms[1]), float(how[0]), float(how[1])) if len(ms) else None
        if "present" not in a:
            new = cls.unlearned()
            new.seen[0], new.alarm = float(a["seen"][0]), alarm
            return new
        present, last_ms = (a[name].astype(np.int64) for name in ("present", "last_ms"))
        return cls(a["sr"].astype(np.float64), present, last_ms, a["seen"].astype(np.float64), alarm)


def threshold(days: float = DAYS_BETWEEN_FALSE_ALARMS) -> float:
    """Return what the statistic must reach for an alarm: the beginnings in so many days."""
    return days * _A_DAY
