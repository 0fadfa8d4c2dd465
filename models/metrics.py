"""The figures by which models are judged. Sums are exact (fsum), so the order of the rows never shows in a figure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
LEAST_P = 1e-12


def _groups(y: Vector, score: Vector) -> tuple[Vector, Vector]:
    """Positives and negatives (G,) at each distinct score, the highest first."""
    order = np.argsort(-score, kind="stable")
    y, score = y[order], score[order]
    starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
    return np.add.reduceat(y, starts), np.add.reduceat(1.0 - y, starts)


def auc(y: Vector, score: Vector) -> float:
    """The chance that a positive ranks above a negative; ties count half. y (N,) in {0, 1}; NaN unless both kinds are there."""
    n, hits = len(y), float(np.sum(y))
    if not 0 < hits < n:
        return math.nan
    positives, negatives = _groups(y, score)
    return 1.0 - float(((negatives.cumsum() - negatives / 2) * positives).sum()) / (hits * (n - hits))


def pr_auc(y: Vector, score: Vector) -> float:
    """Average precision; tied rows share their rank. NaN without a positive."""
    hits = float(np.sum(y))
    if hits == 0:
        return math.nan
    positives, negatives = _groups(y, score)
    above = positives.cumsum()
    return math.fsum(above / (above + negatives.cumsum()) * positives) / hits


def precision_at(fraction: float, y: Vector, score: Vector) -> float:
    """The share of positives among the best `fraction` of the rows (not rounded to whole rows); tied rows share the last places. NaN without rows."""
    if len(y) == 0:
        return math.nan
    positives, negatives = _groups(y, score)
    here = positives + negatives
    budget = fraction * len(y)
    taken = np.clip(budget - (here.cumsum() - here), 0.0, here)
    return math.fsum(taken * positives / here) / budget


def log_loss(y: Vector, probability: Vector) -> float:
    """Mean negative log-likelihood in nats; NaN without rows."""
    if len(y) == 0:
        return math.nan
    p = np.clip(probability, LEAST_P, 1.0 - LEAST_P).tolist()
    return -math.fsum(math.log(a) if b else math.log1p(-a) for a, b in zip(p, y.tolist(), strict=True)) / len(p)


def pcoc(y: Vector, probability: Vector) -> float:
    """Predicted over observed conversions; NaN without a conversion."""
    hits = float(np.sum(y))
    return math.fsum(probability.tolist()) / hits if hits else math.nan


def figures(y: NDArray[np.generic], probability: Vector, score: Vector) -> dict[str, float]:
    """All of them for N rows: ranks are by the score, the rest by the probability. NaN where a figure is undefined."""
    if not (np.isfinite(probability).all() and np.isfinite(score).all()):
        raise ValueError("a probability or score is not finite")
    labels = np.asarray(y, dtype=np.float64)
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 0 or 1")
    return {
        "n": len(labels),
        "conversions": int(labels.sum()),
        "auc": auc(labels, score),
        "pr_auc": pr_auc(labels, score),
        "log_loss": log_loss(labels, probability),
        "precision_at_5pct": precision_at(0.05, labels, score),
        "pcoc": pcoc(labels, probability),
    }
