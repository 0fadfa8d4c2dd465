"""The batch fit of a head: MAP and inverse Hessian on final rows, the width of its prior, and the design effect. Offline, numpy, float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.head import LOGIT_BOUND, Matrix, Posterior, Vector, check_outcomes
from models.rows import user_fold

INTERCEPT_VARIANCE = 100.0
C_GRID = (0.003, 0.01, 0.03, 0.1, 0.3)


def _derivatives(x: Vector, f_prev: Vector, f_next: Vector, y: Vector, times: Vector) -> tuple[Vector, Vector, float]:
    """Gradient and Fisher information of each row's logit, (N,) each, and the log-likelihood of all; each row counts `times` (N,)."""
    q = np.exp(-np.clip(x, -LOGIT_BOUND, LOGIT_BOUND))
    den, rest = q + (1.0 - f_prev), q + (1.0 - f_next)
    h = (f_next - f_prev) / den
    ratio = q / rest
    return times * (y - h) * ratio, times * h * q / den * ratio, float((times * np.where(y > 0, np.log(h), np.log(rest / den))).sum())


def fit_map(
    z: Matrix, y: Vector, f_prev: Vector | float = 0.0, f_next: Vector | float = 1.0,
    *, c: float, weight: Vector | None = None, start: Vector | None = None, steps: int = 50,
) -> Posterior:  # fmt: skip
    """MAP and inverse Hessian of the logistic head on N outcomes; z (N, d), its last column the constant 1.

    Prior N(0, c) on each weight, N(0, 100) on the intercept. Final labels: F from 0 to 1. Delay bins: one row for each bin until the order; if every
    bin of every row is final, that likelihood equals the final labels' (a test shows it). ValueError as `Posterior.learn_many`.
    """
    z = np.ascontiguousarray(z, dtype=np.float64)
    n, d = z.shape
    y = np.asarray(y, dtype=np.float64)
    prev, following = np.broadcast_to(np.asarray(f_prev, dtype=np.float64), (n,)), np.broadcast_to(np.asarray(f_next, dtype=np.float64), (n,))
    check_outcomes(n, prev, following, y)
    if not np.isfinite(z).all():
        raise ValueError("z is not finite")
    times = np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64)
    if times.shape != (n,) or not (times >= 0.0).all() or not np.isfinite(times).all():
        raise ValueError(f"weight is {times.shape}: expected ({n},) finite numbers, none below 0")
    precision = np.full(d, 1.0 / c)
    precision[-1] = 1.0 / INTERCEPT_VARIANCE
    if start is None:
        m = np.zeros(d)
        rate = (float(times @ y) + 0.5) / (float(times.sum()) + 1.0)
        m[-1] = np.log(rate / (1.0 - rate))
    else:
        m = start.copy()
    g, info, likelihood = _derivatives(z @ m, prev, following, y, times)
    value = likelihood - 0.5 * float(precision @ (m * m))
    for _ in range(steps):
        hessian = (z.T * info) @ z + np.diag(precision)
        step = np.linalg.solve(hessian, z.T @ g - precision * m)
        scale = 1.0
        while True:
            trial = m + scale * step
            trial_g, trial_info, likelihood = _derivatives(z @ trial, prev, following, y, times)
            trial_value = likelihood - 0.5 * float(precision @ (trial * trial))
            if trial_value >= value - 1e-9 * abs(value) or scale < 1e-6:
                break
            scale /= 2.0
        m, g, info, value = trial, trial_g, trial_info, trial_value
        if np.abs(scale * step).max() < 1e-8:
            break
    p = np.linalg.inv((z.T * info) @ z + np.diag(precision))
    return Posterior(m, (p + p.T) / 2.0)


def held_out_loss(z: Matrix, y: Vector, user: NDArray[np.int64], c: float, *, folds: int = 3, starts: list[Vector | None] | None = None) -> float:
    """Mean log-loss in nats on users that the fit has not seen."""
    fold = user_fold(user, folds, salt=7)
    total = 0.0
    for k in range(folds):
        train, test = fold != k, fold == k
        head = fit_map(z[train], y[train], c=c, start=starts[k] if starts else None)
        if starts:
            starts[k] = head.m
        s = head.predict(z[test])
        total += float(np.logaddexp(0.0, np.where(y[test] > 0, -s, s)).sum())
    return total / len(y)


def choose_c(z: Matrix, y: Vector, user: NDArray[np.int64], *, grid: Sequence[float] = C_GRID, folds: int = 3, most_rows: int = 40_000) -> float:
    """The prior variance with the least log-loss on users held out; z (N, d), y (N,), user (N,). A tie goes to the narrower prior."""
    share = min(1.0, most_rows / max(1, len(y)))
    kept = user_fold(user, 10_000, salt=11) < share * 10_000
    z, y, user = z[kept], y[kept], user[kept]
    starts: list[Vector | None] = [None] * folds
    losses = [held_out_loss(z, y, user, c, folds=folds, starts=starts) for c in grid]
    return float(grid[int(np.argmin(losses))])


def design_effect(y: Vector, p: Vector, user: NDArray[np.int64], line: NDArray[np.int32]) -> float:
    """Σ over user × line of (Σ (y - p))², over Σ (y - p)²: how many rows count as one. At least 1; all arrays (N,)."""
    residual = y - p
    groups = np.unique(np.stack([user, line.astype(np.int64)], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    within = float((residual * residual).sum())
    return max(1.0, float((np.bincount(groups, residual) ** 2).sum()) / within) if within > 0 else 1.0
