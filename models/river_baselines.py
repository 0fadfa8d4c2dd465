"""Two learners of river that start at the launch with nothing: AdPredictor, and logistic regression by FTRL-Proximal.

They learn a row when its window is over, one row at a time. Of the sources they know how features are scaled and spread, and no label: both begin with the
belief that one exposure in twenty converts, and their intercepts are free to leave it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from river.linear_model import AdPredictor, LogisticRegression
from river.optim import FTRLProximal

from models.head import Matrix, Vector

START_RATE = 0.05
"""What a baseline that has learned nothing believes."""
BUCKETS = 8
BETA = 20.0
"""AdPredictor's noise. river fixes the prior of a weight at N(0, 1), so this is how many times wider than a weight's prior the noise is."""
ALPHA, L2, INTERCEPT_RATE = 0.1, 300.0, 0.01
"""FTRL's. These and `BETA` were the best of some twenty each on six simulated shops, between AUC and log-loss; with its default `beta` AdPredictor loses to the base rate there."""

Features = dict[int, float]


class _Classifier(Protocol):
    def learn_one(self, x: Features, y: bool) -> None: ...

    def predict_proba_one(self, x: Features) -> dict[bool, float]: ...


def adpredictor(sources: Matrix, raw: Matrix, y: Vector, known: NDArray[np.int64]) -> Vector:
    """Return the probability (N,) of each row when the first `known` (N,) rows have been learned; raw (N, F + 1) in the order of time, y (N,).

    Bayesian probit regression (Graepel et al. 2010, Web-Scale Bayesian Click-Through Rate Prediction, ICML) on indicators: it takes none but binary
    features, so each column is cut at the octiles of `sources` (M, F + 1), those that differ. No forgetting.
    """
    columns = []
    base = 0
    for j in range(raw.shape[1] - 1):
        cuts = np.unique(np.quantile(sources[:, j], np.arange(1, BUCKETS) / BUCKETS))
        columns.append(base + np.searchsorted(cuts, raw[:, j], side="left"))
        base += len(cuts) + 1
    active: list[Features] = [dict.fromkeys(row, 1.0) for row in np.stack(columns, axis=1).tolist()]
    return _prequential(AdPredictor(beta=BETA, prior_probability=START_RATE, epsilon=0.0), active, y, known)


def ftrl(raw: Matrix, y: Vector, known: NDArray[np.int64]) -> Vector:
    """Return the probability (N,) of each row when the first `known` (N,) rows have been learned; raw (N, F + 1) in the order of time, y (N,).

    Logistic regression by FTRL-Proximal (McMahan et al. 2013, Ad Click Prediction: a View from the Trenches, KDD) on standardised features.
    """
    rows: list[Features] = [dict(enumerate(row[:-1])) for row in raw.tolist()]
    optimizer = FTRLProximal(alpha=ALPHA, l1=0.0, l2=L2)
    start = math.log(START_RATE / (1.0 - START_RATE))
    return _prequential(LogisticRegression(optimizer, intercept_init=start, intercept_lr=INTERCEPT_RATE), rows, y, known)


def _prequential(classifier: _Classifier, rows: Sequence[Features], y: Vector, known: NDArray[np.int64]) -> Vector:
    found = np.empty(len(rows))
    learned = 0
    for i, (row, upto) in enumerate(zip(rows, known.tolist(), strict=True)):
        while learned < upto:
            classifier.learn_one(rows[learned], bool(y[learned] > 0))
            learned += 1
        found[i] = classifier.predict_proba_one(row)[True]
    return found
