"""Rows with a known truth, for the tests of models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.rows import Rows

WINDOW_S = 86_400.0


def make_rows(n: int = 3000, features: int = 12, *, lines: int = 4, seed: int = 0, shift: float = 0.0, base: float = -2.2) -> Rows:
    """Counters with many zeros; the logit of an order is linear in three features with a bend in a fourth; delays are exponential."""
    rng = np.random.default_rng(seed)
    users = max(10, n // 6)
    user = rng.integers(0, users, n)
    taste = rng.normal(size=(users, features))[user]
    x = np.log1p(np.maximum(0.0, rng.normal(size=(n, features)) + 0.7 * taste)).astype(np.float32)
    x[:, 0] = rng.integers(0, 3, n)
    logit = base + shift + 1.2 * (x[:, 1] - 0.4) - 0.9 * (x[:, 2] - 0.4) + 0.8 * (x[:, 3] - 0.4) + 1.5 * (np.abs(x[:, 4] - 0.5) - 0.3)
    p = 1 / (1 + np.exp(-logit[:, None] - np.array([1.5, 0.7, 0.0])))
    happened = rng.random((n, 3)) < p
    delay = np.minimum(rng.exponential(15_000, (n, 3)), WINDOW_S - 1)
    return Rows(
        x=x,
        line=rng.integers(0, lines, n).astype(np.int32),
        lines=tuple(f"line-{k}" for k in range(lines)),
        user=user.astype(np.int64),
        ts_ms=np.sort(rng.integers(0, 10 * 86_400_000, n)).astype(np.int64),
        delay_s=np.where(happened, delay, np.inf),
        window_s=WINDOW_S,
        feature_names=tuple(f"feature_{k}" for k in range(features)),
    )


def bins_of(delay_s: NDArray[np.float64], edges_s: NDArray[np.float64]) -> list[tuple[int, int, int]]:
    """(row, bin, y) for each bin until the order, row by row."""
    out = []
    for row, delay in enumerate(delay_s):
        for k in range(len(edges_s) - 1):
            y = int(delay <= edges_s[k + 1])
            out.append((row, k, y))
            if y:
                break
    return out
