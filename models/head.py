"""A head: a Gaussian belief N(m, P) over the weights of a logistic head, which learns one outcome at a time.

An outcome is (z, F_prev, F_next, y): "ordered in the delay bin (F_prev, F_next]" or "none before, and the bin is over". A final label is the
outcome of one bin from F = 0 to F = 1. With q = exp(-mᵀz) everything is free of cancellation: h = (F_next - F_prev) / (q + 1 - F_prev).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.kernel import kernel
from models import forecasts
from models.forecasts import Matrix as Matrix
from models.forecasts import Vector as Vector

LOGIT_BOUND = 30.0
MOVE_BOUND = 4.0
"""One outcome moves the logit of its own row by at most this: no outlier throws a wide head across the scale and back."""


@kernel
def _learn(z: Matrix, f_prev: Vector, f_next: Vector, y: Vector, m: Vector, p: Matrix, before: Vector) -> None:
    d = m.shape[0]
    a = np.empty(d)
    for i in range(z.shape[0]):
        x0 = 0.0
        a[:] = 0.0
        for j in range(d):
            zj = z[i, j]
            x0 += m[j] * zj
            if zj != 0.0:
                for k in range(d):
                    a[k] += zj * p[j, k]
        s2 = 0.0
        for k in range(d):
            s2 += z[i, k] * a[k]
        before[i] = x0 / math.sqrt(1.0 + math.pi * max(s2, 0.0) / 8.0)
        if not s2 > 0.0:
            continue
        x = x0
        g = 0.0
        curvature = 0.0
        rest_prev = 1.0 - f_prev[i]
        rest_next = 1.0 - f_next[i]
        for _ in range(3):
            q = math.exp(-min(max(x, -LOGIT_BOUND), LOGIT_BOUND))
            den = q + rest_prev
            h = (f_next[i] - f_prev[i]) / den
            slope = h * q / den
            ratio = q / (q + rest_next)
            g = (y[i] - h) * ratio
            curvature = slope * ratio
            step = (x - x0 - s2 * g) / (1.0 + s2 * curvature)
            x -= min(max(step, -MOVE_BOUND), MOVE_BOUND)
        g = min(max(g, -MOVE_BOUND / s2), MOVE_BOUND / s2)
        shrink = curvature / (1.0 + curvature * s2)
        for j in range(d):
            m[j] += a[j] * g
            for k in range(d):
                p[j, k] -= shrink * (a[j] * a[k])


@dataclass
class Posterior:
    """N(m, P): m (d,), P (d, d) exactly symmetric, float64, C-contiguous. Mutable: `learn` changes it in place; see `copy`."""

    m: Vector
    p: Matrix

    def __post_init__(self) -> None:
        self.m = np.ascontiguousarray(self.m, dtype=np.float64)
        self.p = np.ascontiguousarray(self.p, dtype=np.float64)
        if self.m.ndim != 1 or self.p.shape != (len(self.m), len(self.m)):
            raise ValueError(f"m is {self.m.shape} and P {self.p.shape}: expected (d,) and (d, d)")

    @classmethod
    def isotropic(cls, d: int, *, variance: float, intercept: float, intercept_variance: float) -> Posterior:
        """A head that has learned nothing: N(0, variance) for each weight; the intercept is the last of the d columns."""
        m, diagonal = np.zeros(d), np.full(d, variance)
        m[-1], diagonal[-1] = intercept, intercept_variance
        return cls(m, np.diag(diagonal))

    def copy(self) -> Posterior:
        """Another belief with the same content."""
        return Posterior(self.m.copy(), self.p.copy())

    def predict(self, z: Matrix) -> Vector:
        """Return s (N,) for z (N, d): the logit moderated by its own uncertainty: mᵀz / √(1 + π zᵀPz / 8)."""
        z = self._rows(z)
        s = np.empty(len(z))
        forecasts.predict(z, self.m, self.p, s)
        return s

    def learn_many(self, z: Matrix, f_prev: Vector, f_next: Vector, y: Vector) -> Vector:
        """Take in N outcomes in the given order; z (N, d), the rest (N,), y in {0, 1}. The same bits as N times `learn_many` of one row.

        Returns s (N,): what `predict` said of each row just before it was learned, to rounding.

        ValueError for anything not finite, F outside 0 ≤ F_prev < F_next ≤ 1, or another y; then nothing has been learned.
        """
        z = self._rows(z)
        f_prev, f_next, y = (np.ascontiguousarray(a, dtype=np.float64) for a in (f_prev, f_next, y))
        check_outcomes(len(z), f_prev, f_next, y)
        if not np.isfinite(z).all():
            raise ValueError("z is not finite: outcome refused")
        before = np.empty(len(z))
        _learn(z, f_prev, f_next, y, self.m, self.p, before)
        return before

    def _rows(self, z: Matrix) -> Matrix:
        if z.ndim != 2 or z.shape[1] != len(self.m):
            raise ValueError(f"rows are {z.shape}, the head takes (N, {len(self.m)})")
        return np.ascontiguousarray(z, dtype=np.float64)


def mean_prediction(heads: Sequence[Posterior], z: Sequence[Matrix]) -> Vector:
    """Return s (N,): the mean of what heads predict, each of its own rows (N, d); in one step, since for few rows a call costs more than what it computes.

    ValueError if one has more rows than another.
    """
    rows = tuple([head._rows(of_head) for head, of_head in zip(heads, z, strict=True)])
    if len({len(of_head) for of_head in rows}) != 1:
        raise ValueError(f"the heads are asked about {', '.join(str(len(of_head)) for of_head in rows)} rows")
    s = np.empty(len(rows[0]))
    forecasts.mean_prediction(rows, tuple([head.m for head in heads]), tuple([head.p for head in heads]), s)
    return s


def check_outcomes(n: int, f_prev: Vector, f_next: Vector, y: Vector) -> None:
    """ValueError unless all three are (n,), 0 ≤ F_prev < F_next ≤ 1, and y is 0 or 1."""
    if f_prev.shape != (n,) or f_next.shape != (n,) or y.shape != (n,):
        raise ValueError(f"F_prev {f_prev.shape}, F_next {f_next.shape}, y {y.shape}: expected ({n},) each")
    if not ((f_prev >= 0.0) & (f_prev < f_next) & (f_next <= 1.0)).all():  # NaN fails too
        raise ValueError("a delay bin must have 0 <= F_prev < F_next <= 1: outcome refused")
    if not ((y == 0.0) | (y == 1.0)).all():
        raise ValueError("y must be 0 or 1: outcome refused")
