"""Figures from histograms are those of scores rounded to a tenth of a logit; estimates need no label; intervals hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models import metrics
from models.sketches import BINS, MILLION, auc, bins_of, centre, millionths, precision_at, ratio, reliability, total


def drawn(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities and the orders that they foretell."""
    rng = np.random.default_rng(seed)
    p = 1.0 / (1.0 + np.exp(-rng.normal(-3.0, 1.0, n)))
    return p, (rng.random(n) < p).astype(np.int64)


def test_figures_equal_those_of_rounded_scores() -> None:
    """AUC and Precision@K of the histograms are, exactly, the metrics of scores that are replaced by their bin's middle."""
    p, y = drawn(3000)
    bins = bins_of(p)
    rounded = np.array([centre(k) for k in bins.tolist()])
    n, hits = total(bins, np.ones(len(p), np.int64)).astype(float), total(bins, y).astype(float)
    assert auc(n, hits) == pytest.approx(metrics.auc(y.astype(float), rounded), abs=1e-12)
    assert precision_at(0.05, n, hits) == pytest.approx(metrics.precision_at(0.05, y.astype(float), rounded), abs=1e-12)
    assert auc(n, hits) == pytest.approx(metrics.auc(y.astype(float), p), abs=0.005)


def test_estimates_before_labels_come_true_where_probabilities_are_right() -> None:
    """Σ p in place of orders foretells the AUC that labels then give, and does not when all are scaled alike: it is blind to calibration."""
    p, y = drawn(60_000, seed=1)
    bins = bins_of(p)
    n = np.bincount(bins, minlength=BINS).astype(float)
    foretold = auc(n, total(bins, millionths(p)) / MILLION)
    assert foretold == pytest.approx(metrics.auc(y.astype(float), p), abs=0.01)


def test_reliability_groups_are_even_and_their_ranges_hold_the_truth() -> None:
    """Groups have about equal counts and at least the least; nearly all ranges hold what was said when it is true."""
    p, y = drawn(20_000, seed=2)
    bins = bins_of(p)
    groups = reliability(np.bincount(bins, minlength=BINS), total(bins, y), total(bins, millionths(p)), groups=10)
    assert sum(g.n for g in groups) == 20_000
    assert max(g.n for g in groups) < 3.2 * min(g.n for g in groups)
    assert sum(g.low <= g.said <= g.high for g in groups) >= len(groups) - 1
    assert reliability(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)) == []


@pytest.mark.parametrize("deff", [1.0, 2.5])
def test_the_ratios_interval_covers(deff: float) -> None:
    """Of 400 launches with known rates, the interval of observed over predicted holds 1 in about 95 %, orders coming in clumps too."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        clumps = rng.poisson(60.0 / deff)
        low, high = ratio(round(clumps * deff), 60.0, deff=deff)[1:]
        held += low <= 1.0 <= high
    assert 0.92 <= held / 400 <= 0.985


def test_no_order_bounds_the_ratio_from_above() -> None:
    """Without an order the ratio is 0, and bounded from above; where nothing was foretold it is unknown."""
    value, low, high = ratio(0, 5.0, deff=1.0)
    assert value == low == 0.0
    assert 0.0 < high < 1.0
    assert all(math.isnan(v) for v in ratio(0, 0.0, deff=1.0))
