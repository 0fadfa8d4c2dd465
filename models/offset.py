"""The launch's own level: a belief over the offset b on a fixed grid, p = Σ_b w(b) σ(s + b).

Its prior is a spike with a heavy tail, Σ_j π_j N(0, σ_j²), so that most launches stay where the shared heads put them and an outlier can move.
π comes from the source lines, each launched in pretence (`offset_prior`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.kernel import kernel
from models.forecasts import mean_probability
from models.head import Vector, check_outcomes

GRID = np.linspace(-3.5, 3.5, 141)
SIGMAS = np.array([0.03, 0.1, 0.3, 1.0])
DEFAULT_PI = np.array([0.8, 0.1, 0.05, 0.05])
PI_PSEUDO_COUNT = 4.0
FEWEST_CURVES = 3
HALF_LIFE_MS = 24 * 3_600_000.0
NEVER_MS = -(2**62)
"""`last_ms` of an offset that has learned nothing."""

EXP_MINUS_B = np.array([math.exp(-b) for b in GRID.tolist()])


@kernel
def _weights(prior: Vector, evidence: Vector, w: Vector) -> None:
    best = -math.inf
    for g in range(w.shape[0]):
        best = max(best, prior[g] + evidence[g])
    total = 0.0
    for g in range(w.shape[0]):
        w[g] = math.exp(prior[g] + evidence[g] - best)
        total += w[g]
    for g in range(w.shape[0]):
        w[g] /= total


@kernel
def _learn(
    s: Vector, f_prev: Vector, f_next: Vector, y: Vector, close_ms: NDArray[np.int64], prior: Vector, exp_minus_b: Vector,
    share: float, half_life_ms: float, evidence: Vector, last_ms: NDArray[np.int64], before: Vector,
) -> None:  # fmt: skip
    n = evidence.shape[0]
    for i in range(s.shape[0]):
        q = math.exp(-min(max(s[i], -30.0), 30.0))
        best = -math.inf
        for g in range(n):
            best = max(best, prior[g] + evidence[g])
        total = 0.0
        mean = 0.0
        for g in range(n):
            w = math.exp(prior[g] + evidence[g] - best)
            total += w
            mean += w / (1.0 + q * exp_minus_b[g])
        before[i] = min(max(mean / total, 0.0), 1.0)
        if last_ms[0] > NEVER_MS and close_ms[i] > last_ms[0]:
            keep = math.exp(-math.log(2.0) * float(close_ms[i] - last_ms[0]) / half_life_ms)
            for g in range(n):
                evidence[g] *= keep
        last_ms[0] = max(last_ms[0], close_ms[i])
        rest_prev = 1.0 - f_prev[i]
        rest_next = 1.0 - f_next[i]
        width = f_next[i] - f_prev[i]
        best = -math.inf
        for g in range(n):
            r = q * exp_minus_b[g]
            if y[i] > 0.0:
                evidence[g] += share * math.log(width / (r + rest_prev))
            else:
                evidence[g] += share * math.log((r + rest_next) / (r + rest_prev))
            best = max(best, evidence[g])
        for g in range(n):
            evidence[g] -= best


def log_prior(pi: Vector) -> Vector:
    """The log prior (141,) of the offset on the grid for the mixture weights π (4,)."""
    return np.asarray(np.log(_components().T @ (pi / pi.sum())))


def _components() -> NDArray[np.float64]:
    """(4, 141): each N(0, σ_j²) on the grid, each row sums to 1, never quite 0."""
    density = np.exp(-0.5 * (GRID / SIGMAS[:, None]) ** 2) + 1e-30
    return np.asarray(density / density.sum(axis=1, keepdims=True))


@dataclass
class Offset:
    """What a launch has taught about its level: log evidence (141,), its maximum 0, and the event time up to which it has decayed. Mutable."""

    evidence: Vector
    last_ms: NDArray[np.int64]

    @classmethod
    def unlearned(cls) -> Offset:
        """The offset of a launch that has had no outcome."""
        return cls(np.zeros(len(GRID)), np.array([NEVER_MS], dtype=np.int64))

    def copy(self) -> Offset:
        """Another belief with the same content."""
        return Offset(self.evidence.copy(), self.last_ms.copy())

    def weights(self, prior: Vector) -> Vector:
        """The belief w (141,), summing to 1, given the log prior (141,)."""
        w = np.empty(len(GRID))
        _weights(prior, self.evidence, w)
        return w

    def probability(self, s: Vector, prior: Vector) -> Vector:
        """Return p (N,) for s (N,), given the log prior (141,)."""
        out = np.empty(len(s))
        mean_probability(np.ascontiguousarray(s, dtype=np.float64), self.weights(prior), EXP_MINUS_B, out)
        return out

    def learn_many(
        self, s: Vector, f_prev: Vector, f_next: Vector, y: Vector, close_ms: NDArray[np.int64],
        *, prior: Vector, deff: float, half_life_ms: float = HALF_LIFE_MS,
    ) -> Vector:  # fmt: skip
        """Take in N closed bins in the given order, (N,) each; `close_ms` is event time, and evidence halves in `half_life_ms` of it.

        Returns p (N,): what `probability` said of each row, with the log `prior` (141,), just before it was learned, to rounding. A close time before the last one
        decays nothing. ValueError as `Posterior.learn_many`; then nothing has been learned.
        """
        s, f_prev, f_next, y = (np.ascontiguousarray(a, dtype=np.float64) for a in (s, f_prev, f_next, y))
        close_ms = np.ascontiguousarray(close_ms, dtype=np.int64)
        check_outcomes(len(s), f_prev, f_next, y)
        if not np.isfinite(s).all() or close_ms.shape != s.shape:
            raise ValueError("s is not finite, or close_ms has another length: outcome refused")
        before = np.empty(len(s))
        _learn(s, f_prev, f_next, y, close_ms, prior, EXP_MINUS_B, 1.0 / deff, half_life_ms, self.evidence, self.last_ms, before)
        return before


def likelihood_curve(s: Vector, y: Vector, *, deff: float) -> Vector:
    """Return log P(final labels y | s + b) / deff on the grid; (N,), (N,) → (141,)."""
    x = s[:, None] + GRID
    return np.asarray(-np.logaddexp(0.0, np.where(y[:, None] > 0, -x, x)).sum(axis=0) / deff)


def offset_prior(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """π (4,) by EM from the pseudo-launches' likelihood curves (M, 141); the default with fewer than three.

    The shift that all lines share is drift, not difference: it is chosen with π, and removed. Dirichlet pseudo-counts 4 × the default.
    """
    if len(curves) < FEWEST_CURVES:
        return DEFAULT_PI.copy()
    components = _components()
    step = GRID[1] - GRID[0]
    best_value, best_pi = -math.inf, DEFAULT_PI
    for shift in range(-30, 31):
        at = GRID + shift * step
        moved = np.stack([_extended(curve, at) for curve in curves])
        marginal = np.exp(moved - moved.max(axis=1, keepdims=True)) @ components.T
        pi = DEFAULT_PI.copy()
        for _ in range(200):
            share = marginal * pi
            share /= share.sum(axis=1, keepdims=True)
            pi = share.sum(axis=0) + PI_PSEUDO_COUNT * DEFAULT_PI
            pi /= pi.sum()
        value = float((np.log(marginal @ pi) + moved.max(axis=1)).sum() + PI_PSEUDO_COUNT * (DEFAULT_PI * np.log(pi)).sum())
        if value > best_value:
            best_value, best_pi = value, pi
    return best_pi


def _extended(curve: Vector, at: Vector) -> Vector:
    """The curve at any offset, continued in a straight line beyond the grid."""
    left, right = curve[1] - curve[0], curve[-1] - curve[-2]
    step = GRID[1] - GRID[0]
    inside = np.interp(at, GRID, curve)
    return np.asarray(inside + np.minimum(at - GRID[0], 0.0) / step * left + np.maximum(at - GRID[-1], 0.0) / step * right)
