"""Do probabilities mean what they say? Reliability in bins of equal counts, its error, predicted over observed, and both by day. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.head import Matrix, Vector
from models.intervals import redrawn, wilson
from models.metrics import log_loss

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Bin:
    """N rows of similar probability: what was said on average, what came, and the Wilson interval of what came."""

    n: int
    predicted: float
    observed: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """Predicted over observed conversions, and the interval of it; NaN without a conversion, `high` infinite where a resample may have none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Day:
    """The exposures of one day since the launch (0 is its first 24 h): how many, their conversions, and what each of K methods said of them."""

    day: int
    n: int
    observed: int
    predicted: tuple[float, ...]
    log_loss: tuple[float, ...]


def reliability(y: NDArray[np.generic], p: Vector, bins: int = 10, *, deff: float = 1.0, level: float = 0.95) -> list[Bin]:
    """Cut N rows by their probability into at most `bins` bins of about equal counts, the lowest first; y in {0, 1} and p, (N,) each.

    Rows of the same probability stay together, in the bin where their middle falls: so neither the order of the rows nor ties decide a bin, and
    there may be fewer of them. Wilson's interval (Wilson 1927) counts a row as 1 / `deff` of one, where rows of a user are not independent.
    """
    labels = _labels(y, p)
    if bins < 1 or deff < 1.0 or not 0.0 < level < 1.0:
        raise ValueError(f"{bins} bins, design effect {deff}, level {level}: expected at least 1 bin and 1.0, and a level between 0 and 1")
    if len(p) == 0:
        return []
    distinct, inverse, count = np.unique(p, return_inverse=True, return_counts=True)
    middle = count.cumsum() - count / 2.0
    place = np.minimum((middle * bins / len(p)).astype(np.int64), bins - 1)
    n = np.bincount(place, count, minlength=bins)
    said = np.bincount(place, count * distinct, minlength=bins)
    came = np.bincount(place, np.bincount(inverse, labels, minlength=len(distinct)), minlength=bins)
    found = []
    for k in np.flatnonzero(n).tolist():
        low, high = wilson(float(came[k] / n[k]), float(n[k]) / deff, level)
        found.append(Bin(int(n[k]), float(said[k] / n[k]), float(came[k] / n[k]), low, high))
    return found


def ece(y: NDArray[np.generic], p: Vector, bins: int = 10) -> float:
    """Expected calibration error over the bins of `reliability`: the mean of |predicted - observed|, a row a vote; NaN without rows.

    Adaptive bins, after Nixon et al. 2019 (Measuring Calibration in Deep Learning): bins of equal width would put nearly all rows of a rare event in one.
    """
    found = reliability(y, p, bins)
    if not found:
        return math.nan
    return math.fsum(b.n * abs(b.predicted - b.observed) for b in found) / sum(b.n for b in found)


def pcoc_intervals(
    y: NDArray[np.generic], predictions: Mapping[str, Vector], user: NDArray[np.generic], *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Ratio]:
    """Predicted over observed conversions of each method, with a bootstrap interval over users: y, p of each and user are (N,).

    Users are drawn again, not conversions (as a Poisson interval would): one user's orders come together, and a Poisson interval is too narrow for that.
    All methods share the draws. The percentiles are rounded outwards to a resample.
    """
    labels = np.asarray(y, np.float64)
    for p in predictions.values():
        _labels(y, p)  # or it raises
    if user.shape != y.shape:
        raise ValueError(f"user is {user.shape}, expected {y.shape}")
    if not labels.any():
        return {name: Ratio(math.nan, math.nan, math.nan) for name in predictions}
    who = np.unique(user, return_inverse=True)[1]
    said, users = {name: np.bincount(who, p) for name, p in predictions.items()}, int(who.max()) + 1
    spread: dict[str, list[NDArray[np.float64]]] = {name: [] for name in predictions}
    came = np.bincount(who, labels)
    for times in redrawn(users, resamples, seed=seed, rows=users):
        observed = times @ came
        for name, ratios in spread.items():
            ratios.append(np.where(observed > 0, times @ said[name] / np.where(observed > 0, observed, 1.0), np.inf))
    low, high = math.floor((1 - level) / 2 * (resamples - 1)), math.ceil((1 + level) / 2 * (resamples - 1))
    found = {}
    for name, p in predictions.items():
        ordered = np.sort(np.concatenate(spread[name]))
        found[name] = Ratio(math.fsum(p.tolist()) / float(labels.sum()), float(ordered[low]), float(ordered[high]))
    return found


def by_day(y: NDArray[np.generic], p: Matrix, ts_ms: NDArray[np.int64], *, at_ms: int) -> list[Day]:
    """Predicted and observed conversions, and log-loss, for each day since a launch at `at_ms` that had exposures; y (N,), ts_ms (N,), p (N, K) of K methods."""
    if p.ndim != 2 or ts_ms.shape != (len(p),):
        raise ValueError(f"p is {p.shape} and ts_ms {ts_ms.shape}: expected (N, K) and (N,)")
    labels = _labels(y, p[:, 0]) if p.shape[1] else np.asarray(y, dtype=np.float64)
    day = (ts_ms - at_ms) // DAY_MS
    found = []
    for d in np.unique(day).tolist():
        rows = day == d
        own = labels[rows]
        columns = [np.ascontiguousarray(column) for column in p[rows].T]
        said = tuple(math.fsum(column.tolist()) for column in columns)
        found.append(Day(int(d), int(rows.sum()), int(own.sum()), said, tuple(log_loss(own, column) for column in columns)))
    return found


def _labels(y: NDArray[np.generic], p: Vector) -> Vector:
    """y as float64; ValueError unless it is (N,) of 0 and 1 beside N probabilities."""
    labels = np.asarray(y, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != p.shape or not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"y is {labels.shape} and p {p.shape}: expected as many labels, 0 or 1, as probabilities")
    if not ((p >= 0.0) & (p <= 1.0)).all():  # NaN fails too
        raise ValueError("a probability is not between 0 and 1")
    return labels
