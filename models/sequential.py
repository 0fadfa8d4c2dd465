"""Tests and intervals that stay valid however often, and whenever, somebody looks at them.

An e-process starts at 1 and, while its hypothesis is true, reaches 1/α at any time at all with a chance of at most α (Ville 1939). The values of a
parameter whose e-process is below 1/α form a confidence sequence: with a chance of 1 − α it holds the truth at all times together.

Binomial mixture: draws that are true with chance s, a Beta(c·s0, c·(1 − s0)) prior on s against one value of it. Exact for any number of draws
(Robbins 1970; for sample ratios and conversion counts Lindon and Malek 2022, Anytime-Valid Inference for Multinomial Count Data).
Normal mixture: an estimate with a standard error, a N(0, φ²) prior on what it estimates: the mSPRT (Robbins 1970; Johari, Pekelis and Walsh 2015), valid
for large numbers if the estimate's sums have uncorrelated increments (Waudby-Smith et al. 2021, Time-uniform central limit theory).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_lgamma = np.vectorize(math.lgamma, otypes=[np.float64])
HALVINGS = 60


def concentration(share: float, log_ratio_sd: float) -> float:
    """Return c of a Beta(c·share, c·(1 − share)) in which the log of the odds s/(1 − s) has about this standard deviation.

    The log odds of a Beta vary by about 1/(c·share·(1 − share)), so a small prior belongs to a large c.
    """
    return 1.0 / (share * (1.0 - share) * log_ratio_sd**2)


def log_e_binomial(hits: ArrayLike, draws: ArrayLike, share: ArrayLike, *, prior: float, c: float) -> Array:
    """Return log E against "a draw hits with chance `share`" after `hits` of `draws`; the shapes broadcast.

    The prior is Beta(c·prior, c·(1 − prior)), fixed before the first draw. Infinite where `share` is 0 or 1 and a draw was otherwise.
    """
    k, n, s = np.asarray(hits, np.float64), np.asarray(draws, np.float64), np.asarray(share, np.float64)
    return np.asarray(_log_mixture(k, n, prior, c) - _log_chance(k, n, s), np.float64)


def share_interval(hits: ArrayLike, draws: ArrayLike, *, prior: float, c: float, alpha: float) -> tuple[Array, Array]:
    """Return (low, high) of the chance of a hit: what `log_e_binomial` does not rule out at level alpha. Never empty; (0, 1) before the first draw."""
    k, n = np.broadcast_arrays(np.asarray(hits, np.float64), np.asarray(draws, np.float64))
    best = np.where(n > 0, k / np.maximum(n, 1.0), prior)
    mixture = _log_mixture(k, n, prior, c)

    def refused(share: Array) -> NDArray[np.bool_]:
        return np.asarray(mixture - _log_chance(k, n, share) >= -math.log(alpha), np.bool_)

    def end(out: Array) -> Array:
        # log E is convex in the share and at most 0 at the observed one: bisect between it and 0 or 1, unless even that is not refused.
        kept, lost = best.copy(), out
        for _ in range(HALVINGS):
            middle = (kept + lost) / 2.0
            too_far = refused(middle)
            kept, lost = np.where(too_far, kept, middle), np.where(too_far, middle, lost)
        return np.where(refused(out), lost, out)

    return end(np.zeros_like(best)), end(np.ones_like(best))


def normal_margin(se: ArrayLike, prior_sd: ArrayLike, *, alpha: float) -> Array:
    """Return by how much an estimate may differ from the truth at level alpha; standard errors and the prior's width, in the estimate's unit."""
    v, w = np.square(np.asarray(se, np.float64)), np.square(np.asarray(prior_sd, np.float64))
    return np.asarray(np.sqrt(2.0 * v * (v + w) / w * (0.5 * np.log1p(w / v) - math.log(alpha))), np.float64)


def _log_mixture(k: Array, n: Array, prior: float, c: float) -> Any:
    a, b = c * prior, c * (1.0 - prior)
    return _log_beta(a + k, b + n - k) - _log_beta(a, b)


def _log_chance(k: Array, n: Array, share: Array) -> Any:
    return _x_log(k, share) + _x_log(n - k, 1.0 - share)


def _log_beta(a: Any, b: Any) -> Any:
    return _lgamma(a) + _lgamma(b) - _lgamma(a + b)


def _x_log(x: Array, y: Array) -> Any:
    """x·log y, and 0 where x is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > 0, x * np.log(y), 0.0)
