"""Figures with confidence intervals: every method is judged on the same exposures, and users, not exposures, are drawn again.

A user's exposures are not independent, so a resample draws users with replacement and takes all of their rows, over all groups (lines); a row
then counts as often as its user was drawn. All methods share the draws, so that a gap's interval is that of paired differences (Efron and
Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13). Sorted once for each method and group; all resamples at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from models.head import Matrix, Vector
from models.metrics import LEAST_P, figures, pcoc

GROUP_FIGURES = ("auc", "pr_auc", "log_loss", "precision_at_5pct", "pcoc")
"""Means over the groups in which they are defined, each group weighing the same."""
POOLED = "pcoc_pooled"
"""Predicted over observed conversions of all rows together: what `pcoc` is when each group weighs by its conversions."""
FIGURES = (*GROUP_FIGURES, POOLED)
TOP = 0.05
MOST_WEIGHTS = 1_000_000
"""How many rows, or users, times resamples are held at once."""


@dataclass(frozen=True)
class Interval:
    """A figure, and the percentiles of its resamples that hold 95 % (or the asked share). NaN where it is undefined."""

    value: float
    low: float
    high: float


def wilson(rate: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a share that was `rate` of n (Wilson 1927); 0 and 1 of nothing."""
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    spread = z * math.sqrt(rate * (1.0 - rate) / n + z * z / (4.0 * n * n))
    middle, scale = rate + z * z / (2.0 * n), 1.0 + z * z / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


@dataclass(frozen=True)
class Judgement:
    """One method: its figures, and by how much they are above the reference's (method less reference); both by the names in `FIGURES`."""

    figures: dict[str, Interval]
    gaps: dict[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """Several methods on the same rows; `dataclasses.asdict` makes it plain."""

    reference: str
    rows: int
    conversions: int
    users: int
    groups: int
    resamples: int
    methods: dict[str, Judgement]


def paired_bootstrap(
    y: NDArray[np.generic], user: NDArray[np.generic], group: NDArray[np.generic], predictions: Mapping[str, tuple[Vector, Vector]],
    *, reference: str, resamples: int = 500, seed: int = 0, level: float = 0.95,
) -> Comparison:  # fmt: skip
    """Judge methods on N rows with labels `y`, users and groups, (N,) each; `predictions` has each method's (score, probability), (N,) each.

    Ranks are by the score, the rest by the probability. The values are those of `models.metrics` on the rows as they are. ValueError for
    predictions of another length or not finite, labels other than 0 and 1, an unknown reference, no rows, or resamples < 1.
    """
    labels = np.asarray(y, dtype=np.float64)
    n = len(labels)
    if reference not in predictions:
        raise ValueError(f"there is no method {reference!r} to compare with; there are {', '.join(predictions)}")
    if n == 0 or resamples < 1 or not 0.0 < level < 1.0:
        raise ValueError(f"{n} rows, {resamples} resamples, level {level}: expected at least one row and resample, and a level between 0 and 1")
    if any(a.shape != (n,) for a in (user, group, *(a for pair in predictions.values() for a in pair))):
        raise ValueError(f"users, groups, scores and probabilities must be ({n},), as the labels are")
    users, who = np.unique(user, return_inverse=True)
    groups = [np.flatnonzero(group == g) for g in np.unique(group)]
    resampled = {name: np.empty((len(groups), len(GROUP_FIGURES), resamples)) for name in predictions}
    ordered, foretold = np.bincount(who, labels), {name: np.bincount(who, probability) for name, (_, probability) in predictions.items()}
    pooled = {name: np.empty(resamples) for name in predictions}
    first = 0
    for counts in redrawn(len(users), resamples, seed=seed, rows=n):
        those = slice(first, first + len(counts))
        first += len(counts)
        for g, rows in enumerate(groups):
            weights = counts[:, who[rows]]
            for name, (score, probability) in predictions.items():
                found = weighted_figures(labels[rows], probability[rows], score[rows], weights)
                resampled[name][g, :, those] = [found[f] for f in GROUP_FIGURES]
        for name, into in pooled.items():
            into[those] = _ratio(counts @ foretold[name], counts @ ordered)
    points, spreads = {}, {}
    for name, (score, probability) in predictions.items():
        of_groups = [figures(labels[rows], probability[rows], score[rows]) for rows in groups]
        own = np.array([[found[f] for f in GROUP_FIGURES] for found in of_groups])[:, :, None]
        # A group that has lost its few conversions in a resample keeps its own figure there: else each mean would be over other groups than the value is.
        spread = _mean(np.where(np.isnan(resampled[name]), own, resampled[name]))
        points[name] = dict(zip(GROUP_FIGURES, _mean(own)[:, 0].tolist(), strict=True)) | {POOLED: pcoc(labels, probability)}
        spreads[name] = dict(zip(GROUP_FIGURES, spread, strict=True)) | {POOLED: pooled[name]}
    base, its = points[reference], spreads[reference]
    return Comparison(
        reference=reference,
        rows=n,
        conversions=int(labels.sum()),
        users=len(users),
        groups=len(groups),
        resamples=resamples,
        methods={
            name: Judgement(
                figures={f: _interval(points[name][f], spreads[name][f], level) for f in FIGURES},
                gaps={f: _interval(points[name][f] - base[f], spreads[name][f] - its[f], level) for f in FIGURES},
            )
            for name in predictions
        },
    )


def redrawn(users: int, resamples: int, *, seed: int, rows: int) -> Iterator[Matrix]:
    """Yield how often each of the users was drawn, (B, users), some resamples at a time: as many as can be judged on so many rows at once."""
    rng, step = np.random.default_rng(seed), max(1, MOST_WEIGHTS // rows)
    for first in range(0, resamples, step):
        yield rng.multinomial(users, np.full(users, 1.0 / users), size=min(step, resamples - first)).astype(np.float64)


def weighted_figures(y: Vector, probability: Vector, score: Vector, weights: Matrix) -> dict[str, Vector]:
    """Each of `GROUP_FIGURES` under each row of weights; y, probability, score (N,), weights (B, N) of at least 0 → (B,), NaN where undefined.

    A whole weight is the same as that many copies of the row. Rows of the same score share their rank.
    """
    order = np.argsort(-score, kind="stable")
    sorted_score, hit = score[order], y[order] > 0
    starts = np.flatnonzero(np.r_[True, sorted_score[1:] != sorted_score[:-1]])
    sorted_weights = weights[:, order]
    here, positives = sorted_weights, np.where(hit, sorted_weights, 0.0)
    if len(starts) < len(y):
        here, positives = np.add.reduceat(here, starts, axis=1), np.add.reduceat(positives, starts, axis=1)
    above, positives_above = here.cumsum(axis=1), positives.cumsum(axis=1)
    total, hits = above[:, -1], positives_above[:, -1]
    negatives = here - positives
    # Rows that beat a tie group's positives wrongly: the negatives above it, and half of those in it.
    beaten = ((above - positives_above - negatives / 2) * positives).sum(axis=1)
    budget = TOP * total
    share = np.clip(budget[:, None] - (above - here), 0.0, here) / np.where(here > 0, here, 1.0)
    p = np.clip(probability, LEAST_P, 1.0 - LEAST_P)
    loss = -np.where(y > 0, np.log(p), np.log1p(-p))
    return {
        "auc": 1.0 - _ratio(beaten, hits * (total - hits)),
        "pr_auc": _ratio((positives_above / np.where(above > 0, above, 1.0) * positives).sum(axis=1), hits),
        "log_loss": _ratio(weights @ loss, total),
        "precision_at_5pct": _ratio((share * positives).sum(axis=1), budget),
        "pcoc": _ratio(weights @ probability, hits),
    }


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotients, NaN over 0; both of one shape."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


def _mean(by_group: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means (..., B) over the groups of (G, ..., B) that are not NaN; NaN where all are."""
    known = ~np.isnan(by_group)
    return _ratio(np.where(known, by_group, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))


def _interval(value: float, spread: Vector, level: float) -> Interval:
    spread = spread[~np.isnan(spread)]
    if len(spread) == 0:
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.percentile(spread, [50.0 * (1.0 - level), 50.0 * (1.0 + level)])
    return Interval(float(value), float(low), float(high))
