"""What histograms of scores tell: AUC, Precision@K and reliability of labels that are final, and what to expect of those that are not.

A score or probability falls into one of `BINS` bins of .1 logit, so figures are those of scores that are rounded to that: bins count as ties, and all
sums are whole numbers, which add up in any order. Probabilities are summed in millionths.

Estimated before labels (CBPE, Kuberski and others 2022, "confidence-based performance estimation"): where probabilities are calibrated, Σ p of a bin is
how many of its shoppers will order. The estimate needs no label, follows a change of shoppers at once, and is blind to a change of their behaviour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.head import Vector
from models.intervals import wilson

LOW: Final = -9.0
STEP: Final = 0.1
BINS: Final = 120
MILLION: Final = 1_000_000

Histogram = NDArray[np.int64]


def bins_of(p: Vector) -> NDArray[np.int64]:
    """Return the bin (N,) of each probability or score (N,) in 0..1."""
    held = np.clip(p, 1e-9, 1.0 - 1e-9)
    return np.clip(np.floor((np.log(held / (1.0 - held)) - LOW) / STEP), 0, BINS - 1).astype(np.int64)


def centre(k: int) -> float:
    """Return the probability in the middle of a bin."""
    return 1.0 / (1.0 + math.exp(-(LOW + STEP * (k + 0.5))))


def millionths(p: Vector) -> NDArray[np.int64]:
    """Return probabilities (N,) as whole millionths."""
    return np.rint(p * MILLION).astype(np.int64)


def total(bins: NDArray[np.int64], values: NDArray[np.int64]) -> Histogram:
    """Return the sums of whole numbers (N,) by bin (N,), exact to 2^53."""
    return np.rint(np.bincount(bins, values, minlength=BINS)).astype(np.int64)


def auc(n: Vector, hits: Vector) -> float:
    """The chance that one who orders ranks above one who does not, by bins (B,) of the score, the lowest first; NaN unless there are both."""
    misses = n - hits
    if hits.sum() <= 0 or misses.sum() <= 0:
        return math.nan
    below = np.cumsum(misses) - misses / 2.0
    return float((below * hits).sum() / (hits.sum() * misses.sum()))


def precision_at(share: float, n: Vector, hits: Vector) -> float:
    """The share that orders among the best `share` of all, by bins (B,); a bin that is cut gives its mean. NaN without rows."""
    if n.sum() <= 0:
        return math.nan
    best_n, best_hits = n[::-1], hits[::-1]
    budget = share * float(n.sum())
    taken = np.clip(budget - (np.cumsum(best_n) - best_n), 0.0, best_n)
    return float((taken * np.divide(best_hits, best_n, out=np.zeros(len(n)), where=best_n > 0)).sum() / budget)


@dataclass(frozen=True)
class Group:
    """Exposures of similar probability: how many, what was said of them, what came, and between which bounds its true rate lies (95 %)."""

    n: int
    said: float
    came: float
    low: float
    high: float


def reliability(n: Histogram, hits: Histogram, said: Histogram, *, groups: int = 10, deff: float = 1.0, least: int = 20) -> list[Group]:
    """Return the reliability curve, the lowest first: bins (B,) joined to at most `groups` of about equal counts, of at least `least` exposures.

    `said` is Σ probability in millionths. The bounds are Wilson's (1927), with an exposure counting as 1/deff of one.
    """
    everything = int(n.sum())
    wanted = max(least, -(-everything // groups))
    found: list[Group] = []
    held = np.zeros(3, np.int64)
    left = everything
    for k in range(len(n)):
        held += (n[k], hits[k], said[k])
        left -= int(n[k])
        if held[0] >= wanted and (left >= least or left == 0):
            found.append(_group(held, deff))
            held[:] = 0
    if held[0]:
        found.append(_group(held, deff))
    return found


def _group(held: NDArray[np.int64], deff: float) -> Group:
    n, hits, said = (int(v) for v in held)
    low, high = wilson(hits / n, n / deff)
    return Group(n, said / MILLION / n, hits / n, low, high)


def ratio(observed: int, predicted: float, *, deff: float, level: float = 0.95) -> tuple[float, float, float]:
    """Return observed over predicted orders, and between which bounds that ratio lies by chance of the orders; NaN where nothing was predicted.

    Orders vary about what is true by √(deff × orders): users with several exposures make them vary more than a Poisson count. √x has a constant spread, so
    the interval of the square root is used: never below 0 orders.
    """
    if predicted <= 0:
        return math.nan, math.nan, math.nan
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    root, half = math.sqrt(observed), z * math.sqrt(deff) / 2.0
    return observed / predicted, max(0.0, root - half) ** 2 / predicted, (root + half) ** 2 / predicted
