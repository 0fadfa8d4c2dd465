"""Delay bins: when, within the attribution window, a conversion comes. Read by head and offset, which learn one closed bin at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError

FIRST_EDGE_S = 900.0
DAY_S = 86_400.0


def default_edges_s(window_s: float, *, first_s: float = FIRST_EDGE_S) -> NDArray[np.float64]:
    """Edges (K+1,) 0 = τ_0 < … < τ_K = window in seconds, geometric: 4 bins for a day, 7 for a week; each bin costs an outcome."""
    if not (math.isfinite(window_s) and window_s >= 1.0):
        raise InputError(f"the attribution window is {window_s} s; it must be at least 1 s")
    if window_s <= 2 * first_s:
        return np.array([0.0, window_s / 4, window_s])
    up_to_a_day = 1 + 3 * math.log(window_s / first_s) / math.log(DAY_S / FIRST_EDGE_S)
    beyond = 4 + 3 * math.log(window_s / DAY_S) / math.log(7.0)
    inner = np.geomspace(first_s, window_s, min(8, max(2, round(max(up_to_a_day, beyond)))))
    # Whole seconds: bins close at instants that integer milliseconds can express.
    edges = np.concatenate([[0.0], np.round(inner)])
    edges[-1] = window_s
    return edges


def check_edges_s(edges_s: NDArray[np.float64], window_s: float) -> NDArray[np.float64]:
    """The edges as float64 (K+1,), or InputError unless they rise strictly from 0 to the window."""
    edges = np.asarray(edges_s, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or edges[0] != 0.0 or edges[-1] != window_s or not (np.diff(edges) > 0).all():
        raise InputError(f"delay bins must rise strictly from 0 to the window ({window_s:g} s); got {edges.tolist()}")
    return edges


def fit_curve(delays_s: NDArray[np.float64], edges_s: NDArray[np.float64], *, pseudo_count: float = 2.0) -> NDArray[np.float64]:
    """F (K+1,): the share of conversions that have come by each edge; F_0 = 0, F_K = 1, every increment > 0.

    `delays_s` (M,) are the converters' delays in seconds (non-finite ones are passed over; a delay counts in the bin whose upper edge is the first
    at or after it). Smoothed by `pseudo_count` conversions that are spread evenly over the bins.
    """
    delays = delays_s[np.isfinite(delays_s)]
    bins = len(edges_s) - 1
    counts = np.bincount(np.clip(np.searchsorted(edges_s, delays, side="left") - 1, 0, bins - 1), minlength=bins) + pseudo_count / bins
    curve = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    curve[-1] = 1.0
    return curve
