"""Decayed counters that do not mind the order of events.

A counter c is kept as of a reference time r. An event at t adds 2^(-(r' - t) / half-life) with r' = max(r, t), so a late event
lands with the weight that it would have had on time. Values are float32 between events; the arithmetic is float64.
"""

from __future__ import annotations

import math

import numba as nb

LN2 = math.log(2.0)


@nb.njit(cache=True)
def weight(age_ms: float, half_life_s: float) -> float:
    """Return 2^(-age / half-life) for an age >= 0 in milliseconds."""
    return math.exp(-LN2 * age_ms / (1000.0 * half_life_s))


@nb.njit(cache=True)
def log1p_s(age_ms: float) -> float:
    """Return ln(1 + age in seconds), with a negative age (a late event) read as 0."""
    return math.log1p(max(age_ms, 0.0) / 1000.0)
