"""The delay curve at work: a state's counts of delays, and the curve that its outcomes are read with, made anew when an event-time hour begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.delay import DelayCounts
from models.head import Vector

HOUR_MS = 3_600_000


@dataclass
class DelayCurve:
    """`counts` of orders by bin, the curve F (K + 1,) in use, and the event-time hour (1,) in which it was made. Mutable."""

    counts: DelayCounts
    in_use: Vector
    hour: NDArray[np.int64]

    @classmethod
    def of(cls, prior: Vector, edges_s: NDArray[np.float64]) -> DelayCurve:
        """The prior's curve, with nothing counted."""
        return cls(DelayCounts.none(edges_s), prior.copy(), np.array([-1], dtype=np.int64))

    def copy(self) -> DelayCurve:
        """Another curve with the same content."""
        return DelayCurve(self.counts.copy(), self.in_use.copy(), self.hour.copy())

    def parts(self, close_ms: NDArray[np.int64], prior: Vector) -> Iterator[slice]:
        """Yield the rows (N,) of each hour in turn; the curve is brought up to date before each, so the same rows one at a time meet the same curve.

        An hour never goes back: rows that close in an earlier hour than one before them are read with the later curve.
        """
        if len(close_ms) == 0:
            return
        hours = np.maximum.accumulate(np.maximum(close_ms // HOUR_MS, self.hour[0]))
        starts = np.flatnonzero(np.r_[True, hours[1:] != hours[:-1]]).tolist()
        for start, stop in zip(starts, [*starts[1:], len(hours)], strict=True):
            if hours[start] > self.hour[0]:
                self.hour[0] = hours[start]
                self.in_use = self.counts.curve(prior, int(hours[start]) * HOUR_MS)
            yield slice(start, stop)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Every bit of the state."""
        return {**self.counts.to_arrays(), "in_use": self.in_use, "hour": self.hour}

    @classmethod
    def from_arrays(cls, a: dict[str, NDArray[np.generic]]) -> DelayCurve:
        """The inverse of `to_arrays`."""
        return cls(DelayCounts.from_arrays(a), a["in_use"].astype(np.float64), a["hour"].astype(np.int64))
