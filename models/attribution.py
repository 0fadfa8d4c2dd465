"""Which features moved a prediction: integrated gradients along the straight line from a baseline to the row (Sundararajan, Taly, Yan 2017).

The model is a black box here. Each step of the path moves one feature from the step's beginning to its end while the others stand at its middle, so
a feature's share is the sum of differences that the model itself gives: no derivative is needed, kinks are crossed, and where trees jump the jump goes
to the feature that crossed the threshold. For a sum of functions of one feature each this is exact at any number of steps; for a smooth function it
tends to the integral with the square of the step. What is left between the shares and the whole change is `residual`, a part of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.head import Vector

TOLERANCE = 1e-3
"""In units of the function, logits: finer steps are taken until neither the residual nor any share moves by more, or `MOST_STEPS` are reached."""
FIRST_STEPS = 16
MOST_STEPS = 512

Function = Callable[[NDArray[np.float32]], Vector]
"""(N, F) float32 rows → (N,) values; a row's value does not depend on its batch."""


@dataclass(frozen=True)
class Attribution:
    """`start` + Σ `shares` (F,) + `residual` = `end`: the function at the baseline, what each feature adds, what is left, and the function at the row."""

    start: float
    end: float
    shares: Vector
    residual: float
    steps: int


def integrated_gradients(
    function: Function,
    baseline: NDArray[np.float32],
    x: NDArray[np.float32],
    *,
    tolerance: float = TOLERANCE,
    first_steps: int = FIRST_STEPS,
    most_steps: int = MOST_STEPS,
) -> Attribution:
    """Return how f(x) − f(baseline) splits over the features; baseline and x (F,) float32. ValueError unless both are finite and of one length.

    A feature that has the baseline's value gets exactly 0. Costs twice the number of moving features × steps evaluations.
    """
    baseline, x = np.asarray(baseline, dtype=np.float32), np.asarray(x, dtype=np.float32)
    if x.ndim != 1 or x.shape != baseline.shape or not np.isfinite(x).all() or not np.isfinite(baseline).all():
        raise ValueError(f"the baseline {baseline.shape} and the row {x.shape} must be finite and of one length")
    start, end = (float(v) for v in function(np.stack([baseline, x])))
    steps, before = first_steps, _shares(function, baseline, x, first_steps)
    while True:
        steps *= 2
        shares = _shares(function, baseline, x, steps)
        residual = (end - start) - float(shares.sum())
        if steps >= most_steps or max(abs(residual), float(np.abs(shares - before).max(initial=0.0))) <= tolerance:
            return Attribution(start, end, shares, residual, steps)
        before = shares


def _shares(function: Function, baseline: NDArray[np.float32], x: NDArray[np.float32], steps: int) -> Vector:
    """(F,): for each feature the sum over steps of what moving it alone changes, the others in the middle of the step."""
    edges, middles = _points(baseline, x, np.linspace(0.0, 1.0, steps + 1)), _points(baseline, x, (np.arange(steps) + 0.5) / steps)
    shares = np.zeros(len(x))
    for j in np.flatnonzero(x != baseline):
        rows = np.concatenate([middles, middles])
        rows[:steps, j], rows[steps:, j] = edges[:-1, j], edges[1:, j]
        values = function(rows)
        shares[j] = float((values[steps:] - values[:steps]).sum())
    return shares


def _points(baseline: NDArray[np.float32], x: NDArray[np.float32], t: Vector) -> NDArray[np.float32]:
    """(T, F): the points of the straight line at t (T,); at 0 and 1 the ends to the bit."""
    wide = baseline.astype(np.float64)
    points = (wide + t[:, None] * (x.astype(np.float64) - wide)).astype(np.float32)
    points[t == 1.0] = x
    return points
