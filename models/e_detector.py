"""A Shiryaev–Roberts e-detector on closed delay bins: does the forecast still count conversions rightly, or has the level shifted?

For a tilt δ an outcome y with forecast hazard h counts L = q(y) / h(y), q = σ(logit h + δ), which is 1 on average while the forecast holds, whatever
came before. `SR ← (1 + SR) L` adds up the evidence of every possible beginning of a shift, and SR less the number of outcomes is a martingale; so is
the mean over tilts. An alarm at SR ≥ c therefore comes falsely no more often than once in c outcomes on average, with no knowledge of delays, traffic or
the size of the shift (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", NEJSDS 2024).

Outcomes of one user are not independent, which that proof needs: evidence is raised to a power `share` below 1 for it. With share = 1 / deff, the design
effect, the mean stays at most 1 where all rows of a user close together. They do not: a detector that finds shifts in a day or two sees only some of
them, and `evidence_share` takes 1 / √deff, which kept the promise on every kind of stream in `bench/detection.py` and finds shifts sooner.
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
DAYS_BETWEEN_FALSE_ALARMS: Final = 100.0
ARMED_AFTER: Final = 50
"""Conversions, since the start and again after each alarm: a level that has hardly been learned is no news."""
RATE_HALF_LIFE_MS: Final = 7 * 86_400_000.0
"""Of the count of outcomes a day: whole weeks weigh alike, and a launch's slow start is forgotten."""
SHORTEST_MS: Final = 3_600_000.0
NEVER_MS: Final = -(2**62)

_DAY_MS = 86_400_000.0
_FACTORS = np.expm1(TILTS)


def evidence_share(deff: float) -> float:
    """The power to which evidence is raised where final labels have the design effect `deff` ≥ 1: 1 / √deff."""
    return 1.0 / math.sqrt(max(deff, 1.0))


@kernel
def _learn(
    p: Vector, f_prev: Vector, f_next: Vector, y: Vector, close_ms: NDArray[np.int64], share: float, days: float, tilts: Vector, factors: Vector,
    sr: Vector, rise: Vector, since_ms: NDArray[np.int64], seen: Vector, last_ms: NDArray[np.int64], raised: NDArray[np.float64], times: NDArray[np.int64],
) -> int:  # fmt: skip
    n = tilts.shape[0]
    count = 0
    for i in range(p.shape[0]):
        held = min(max(p[i], 1e-9), 1.0 - 1e-9)
        h = held * (f_next[i] - f_prev[i]) / (1.0 - held * f_prev[i])
        if last_ms[0] > NEVER_MS and close_ms[i] > last_ms[0]:
            passed = float(close_ms[i] - last_ms[0])
            faded = -math.expm1(-math.log(2.0) * passed / RATE_HALF_LIFE_MS)
            seen[1] -= faded * seen[1]
            seen[2] += faded * (RATE_HALF_LIFE_MS / math.log(2.0) - seen[2])
        last_ms[0] = max(last_ms[0], close_ms[i])
        seen[0] += y[i]
        seen[1] += 1.0
        total = 0.0
        for g in range(n):
            log_l = share * (y[i] * tilts[g] - math.log1p(h * factors[g]))
            sr[g] = min((1.0 + sr[g]) * math.exp(log_l), 1e250)
            total += sr[g]
            if rise[g] <= 0.0:
                rise[g] = 0.0
                since_ms[g] = close_ms[i]
            rise[g] += log_l
        per_day = seen[1] * _DAY_MS / max(seen[2], SHORTEST_MS)
        if seen[0] >= ARMED_AFTER and total >= n * per_day * days:
            lead = 0
            for g in range(1, n):
                if sr[g] > sr[lead]:
                    lead = g
            raised[count, 0] = total / n
            raised[count, 1] = tilts[lead]
            times[count, 0] = last_ms[0]
            times[count, 1] = since_ms[lead]
            count += 1
            seen[0] = 0.0
            for g in range(n):
                sr[g] = 0.0
                rise[g] = 0.0
    return count


@dataclass(frozen=True)
class Alarm:
    """The forecast no longer counts rightly: since about `since_ms`, heard at `at_ms` (event times).

    `tilt`: the logit shift, among `TILTS`, for which the evidence is greatest; `statistic`: that evidence, a mean over tilts, in units of one outcome's.
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

    `sr` (4,): Shiryaev–Roberts sums by tilt. `rise` and `since_ms` (4,): the log evidence since it was last no more than 0, and when that was. `seen`
    (3,): conversions since the start or the last alarm, and outcomes and ms, both halved every `RATE_HALF_LIFE_MS`; `last_ms` (1,): the latest close.
    """

    sr: Vector
    rise: Vector
    since_ms: NDArray[np.int64]
    seen: Vector
    last_ms: NDArray[np.int64]
    alarm: Alarm | None = None
    """The last alarm that was raised."""

    @classmethod
    def unlearned(cls) -> EDetector:
        """A detector that has heard nothing."""
        n = len(TILTS)
        return cls(np.zeros(n), np.zeros(n), np.full(n, NEVER_MS, np.int64), np.zeros(3), np.array([NEVER_MS], np.int64))

    def copy(self) -> EDetector:
        """Another detector with the same content."""
        return EDetector(self.sr.copy(), self.rise.copy(), self.since_ms.copy(), self.seen.copy(), self.last_ms.copy(), self.alarm)

    @property
    def statistic(self) -> float:
        """The evidence for a shift: the mean of `sr` over the tilts."""
        return float(self.sr.mean())

    @property
    def outcomes_per_day(self) -> float:
        """How many bins close in a day of event time, the last week weighing most; 0 if none did."""
        return float(self.seen[1] * _DAY_MS / max(self.seen[2], SHORTEST_MS))

    def threshold(self, days: float = DAYS_BETWEEN_FALSE_ALARMS) -> float:
        """What the statistic must reach for an alarm."""
        return self.outcomes_per_day * days

    @property
    def armed(self) -> bool:
        """Whether enough conversions have come for an alarm to be raised."""
        return bool(self.seen[0] >= ARMED_AFTER)

    def learn_many(
        self, p: Vector, f_prev: Vector, f_next: Vector, y: Vector, close_ms: NDArray[np.int64],
        *, share: float = 1.0, days_between_false_alarms: float = DAYS_BETWEEN_FALSE_ALARMS,
    ) -> tuple[Alarm, ...]:  # fmt: skip
        """Take in N closed bins in the given order, (N,) each, and return the alarms that they raise; the same bits as one at a time.

        `p`: the final conversion probabilities that were forecast before these outcomes were learned; `share`: see `evidence_share`. An alarm makes the
        detector start anew, except for what it knows of the outcomes a day. ValueError for p outside 0..1, a share outside 0 < share ≤ 1, or bins as in
        `Posterior.learn_many`; then nothing has been heard.
        """
        p, f_prev, f_next, y = (np.ascontiguousarray(a, dtype=np.float64) for a in (p, f_prev, f_next, y))
        close_ms = np.ascontiguousarray(close_ms, dtype=np.int64)
        if p.ndim != 1 or close_ms.shape != p.shape:
            raise ValueError(f"p is {p.shape}, close_ms {close_ms.shape}: expected (N,) both")
        check_outcomes(len(p), f_prev, f_next, y)
        if not ((p >= 0.0) & (p <= 1.0)).all():  # NaN fails too
            raise ValueError("p must lie in 0..1: outcome refused")
        if not (0.0 < share <= 1.0 and 0.0 < days_between_false_alarms < math.inf):
            raise ValueError(f"share is {share} and days_between_false_alarms {days_between_false_alarms}: expected 0 < share <= 1, and days above 0")
        most = 1 + (int(self.seen[0]) + int(y.sum())) // ARMED_AFTER
        raised, times = np.empty((most, 2)), np.empty((most, 2), np.int64)
        count = _learn(
            p, f_prev, f_next, y, close_ms, share, days_between_false_alarms, TILTS, _FACTORS,
            self.sr, self.rise, self.since_ms, self.seen, self.last_ms, raised, times,
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
            "rise": self.rise,
            "since_ms": self.since_ms,
            "seen": self.seen,
            "last_ms": self.last_ms,
            "alarm_ms": np.array([a.at_ms, a.since_ms] if a else [], dtype=np.int64),
            "alarm": np.array([a.tilt, a.statistic] if a else [], dtype=np.float64),
        }

    @classmethod
    def from_arrays(cls, a: dict[str, NDArray[np.generic]]) -> EDetector:
        """Exactly what was stored."""
        ms, how = a["alarm_ms"], a["alarm"].astype(np.float64)
        sr, rise, seen = (a[name].astype(np.float64) for name in ("sr", "rise", "seen"))
        alarm = Alarm(int(ms[0]), int(ms[1]), float(how[0]), float(how[1])) if len(ms) else None
        return cls(sr, rise, a["since_ms"].astype(np.int64), seen, a["last_ms"].astype(np.int64), alarm)
