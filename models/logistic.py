"""The logistic function, one number at a time: np.exp's bits may depend on where in the array a number stands."""

from __future__ import annotations

import math

import numpy as np

from features.kernel import kernel
from models.head import Vector


@kernel
def _sigmoid(s: Vector, out: Vector) -> None:
    for i in range(s.shape[0]):
        out[i] = 1.0 / (1.0 + math.exp(-min(max(s[i], -30.0), 30.0)))


def sigmoid(s: Vector) -> Vector:
    """σ(s), (N,) → (N,)."""
    out = np.empty(len(s))
    _sigmoid(np.ascontiguousarray(s, dtype=np.float64), out)
    return out
