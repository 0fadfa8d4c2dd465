"""Figures against plain definitions, with ties, and without what they need."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.metrics import auc, figures, log_loss, pcoc, pr_auc, precision_at


def tied_rows(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores with many ties."""
    rng = np.random.default_rng(seed)
    return (rng.random(n) < 0.2).astype(np.float64), rng.integers(1, 12, n) / 12


def test_auc_is_the_share_of_pairs() -> None:
    """Every pair of a positive and a negative, ties counting half."""
    y, s = tied_rows()
    pairs = [(a > b) + 0.5 * (a == b) for a in s[y == 1] for b in s[y == 0]]
    assert auc(y, s) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auc(np.array([0.0, 1.0]), np.array([0.1, 0.9])) == 1.0


def test_ties_share_the_last_places() -> None:
    """Ten rows, the best half wanted: two sure ones, then three of four tied rows of which one is positive."""
    s = np.array([9, 8, 7, 7, 7, 7, 1, 1, 1, 1.0])
    y = np.array([1, 0, 1, 0, 0, 0, 1, 0, 0, 0.0])
    assert precision_at(0.5, y, s) == pytest.approx((1 + 0.75) / 5)


def test_one_score_for_all_ranks_nobody() -> None:
    """A constant score has AUC one half, and the base rate as precision and PR-AUC."""
    y = np.array([1.0, 0, 0, 0, 1, 0, 0, 0])
    s = np.full(8, 0.3)
    assert (auc(y, s), precision_at(0.05, y, s), pr_auc(y, s)) == pytest.approx((0.5, 0.25, 0.25))


def test_log_loss_and_calibration() -> None:
    """Mean nats per row; predicted over observed; a sure mistake costs much but is finite."""
    y, p = np.array([1.0, 0.0]), np.array([0.25, 0.5])
    assert log_loss(y, p) == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert pcoc(y, p) == pytest.approx(0.75)
    assert math.isfinite(log_loss(y, np.array([0.0, 1.0])))


def test_the_order_of_rows_never_shows() -> None:
    """Shuffled rows give the same figures to the bit."""
    y, s = tied_rows()
    order = np.random.default_rng(1).permutation(len(y))
    assert figures(y, s, s) == figures(y[order], s[order], s[order])


def test_what_is_undefined_is_nan() -> None:
    """No rows, or no conversion: NaN where a figure has no meaning, and no error."""
    empty = figures(np.array([]), np.array([]), np.array([]))
    assert empty["n"] == 0
    assert all(math.isnan(empty[k]) for k in ("auc", "pr_auc", "log_loss", "precision_at_5pct", "pcoc"))
    none = figures(np.zeros(5), np.full(5, 0.1), np.full(5, 0.1))
    assert [math.isnan(none[k]) for k in ("auc", "pr_auc", "pcoc", "log_loss", "precision_at_5pct")] == [True, True, True, False, False]


def test_a_score_that_is_no_number_is_an_error() -> None:
    """NaN among the scores raises, instead of a figure that means nothing."""
    with pytest.raises(ValueError, match="finite"):
        figures(np.array([1, 0]), np.array([0.1, np.nan]), np.array([0.1, 0.2]))
