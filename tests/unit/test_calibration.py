"""Calibration against hand-made bins and textbook intervals, with ties, and where there is nothing to judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from models import intervals
from models.calibration import DAY_MS, Bin, Ratio, by_day, ece, pcoc_intervals, reliability
from models.head import Vector
from models.metrics import log_loss, pcoc


def made(n: int = 5000, seed: int = 0, *, users: int = 300) -> tuple[Vector, Vector, NDArray[np.int64]]:
    """y, p and user; p is the true probability, and a user's rows have one."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, n)
    p = (1 / (1 + np.exp(2.2 - rng.normal(size=users))))[user]
    return (rng.random(n) < p).astype(np.float64), p, user


def interval_of(y: NDArray[np.generic], p: Vector, user: NDArray[np.generic]) -> Ratio:
    """That of one method."""
    return pcoc_intervals(y, {"one": p}, user)["one"]


def test_bins_by_hand() -> None:
    """Eight rows in four bins, the lowest first, each with its own means."""
    p = np.array([0.8, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    y = np.array([1.0, 0, 0, 0, 1, 1, 0, 1])
    found = reliability(y, p, 4)
    assert [b.n for b in found] == [2, 2, 2, 2]
    assert [b.predicted for b in found] == pytest.approx([0.15, 0.35, 0.55, 0.75])
    assert [b.observed for b in found] == pytest.approx([0.0, 0.5, 0.5, 1.0])
    assert ece(y, p, 4) == pytest.approx((0.15 + 0.15 + 0.05 + 0.25) / 4)


def test_wilsons_interval_is_the_textbooks() -> None:
    """3 of 10 lie between .1078 and .6032 at 95 % (Newcombe 1998 gives such tables); none of 10 between 0 and .2775; a design effect of 2 halves the rows."""
    p = np.full(10, 0.3)
    three = reliability((np.arange(10) < 3).astype(float), p, 1)[0]
    none = reliability(np.zeros(10), p, 1)[0]
    assert (three.low, three.high) == pytest.approx((0.1078, 0.6032), abs=5e-5)
    assert (none.low, none.high) == pytest.approx((0.0, 0.2775), abs=5e-5)
    twice = np.repeat(np.arange(10) < 3, 2).astype(float)
    halved = reliability(twice, np.full(20, 0.3), 1, deff=2.0)[0]
    assert (halved.low, halved.high) == pytest.approx((three.low, three.high))


def test_ties_stay_together_and_no_order_shows() -> None:
    """Rows of one probability share a bin however they are shuffled, empty bins are left out, and no row is lost."""
    y, p, _ = made()
    p = np.round(p, 1)
    found = reliability(y, p, 10)
    assert len(found) <= len(np.unique(p))
    assert sum(b.n for b in found) == len(p)
    assert sum(b.n * b.observed for b in found) == pytest.approx(y.sum())
    shuffled = np.random.default_rng(1).permutation(len(p))
    assert reliability(y[shuffled], p[shuffled], 10) == found
    assert reliability(y, np.full(len(y), 0.5), 10)[0].n == len(y)


def test_bins_are_of_about_equal_counts() -> None:
    """Without ties each of ten bins has a tenth of the rows, however skewed the probabilities are."""
    p = np.random.default_rng(0).random(1000) ** 6
    assert {b.n for b in reliability(np.zeros(1000), p, 10)} == {100}


def test_the_error_shows_what_is_wrong() -> None:
    """The true probability has an error of chance only; one half again too high has an error of half the rate; the observed rate for all has none."""
    y, p, _ = made(20_000)
    assert ece(y, p) < 0.012
    assert ece(y, np.minimum(1.0, 1.5 * p)) == pytest.approx(0.5 * y.mean(), rel=0.12)
    assert ece(y, np.full(len(y), y.mean())) == pytest.approx(0.0, abs=1e-12)
    inside = [b.low <= b.predicted <= b.high for b in reliability(y, p, 20)]
    assert sum(inside) >= 17


def test_predicted_over_observed_is_between_its_bounds() -> None:
    """The value is that of the figures; the true probability's interval holds 1, and one that is half again too high does not."""
    y, p, user = made()
    true, high = interval_of(y, p, user), interval_of(y, 1.5 * p.clip(0, 0.6), user)
    assert true.value == pcoc(y, p)
    assert true.low < 1.0 < true.high
    assert 1.0 < high.low < high.value < high.high
    assert interval_of(y, p, user) == true


def test_how_many_resamples_are_held_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of many users is drawn again a few resamples at a time, with the draws of all at once; methods share them."""
    y, p, user = made(500, users=40)
    both = pcoc_intervals(y, {"one": p, "other": p**2}, user)
    monkeypatch.setattr(intervals, "MOST_WEIGHTS", 7 * 40)
    few = pcoc_intervals(y, {"one": p, "other": p**2}, user)
    for name in both:
        assert [few[name].low, few[name].high] == pytest.approx([both[name].low, both[name].high], rel=1e-12)
    assert interval_of(y, p, user).value == both["one"].value


def test_users_who_order_together_widen_the_interval() -> None:
    """The same rows ten times, by the same users, are no more certain; as other users' they are."""
    y, p, user = made(800, users=100)
    once = interval_of(y, p, user)
    tenfold = interval_of(np.tile(y, 10), np.tile(p, 10), np.tile(user, 10))
    apart = interval_of(np.tile(y, 10), np.tile(p, 10), np.tile(user, 10) + 1000 * np.repeat(np.arange(10), 800))
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low)
    assert apart.high - apart.low < 0.5 * (once.high - once.low)


def test_few_conversions_have_no_upper_bound() -> None:
    """One user with the only order is missing in a third of the resamples: the ratio may be anything above."""
    y = np.array([1.0, 0, 0, 0, 0, 0])
    found = interval_of(y, np.full(6, 0.2), np.arange(6))
    assert found.value == pytest.approx(1.2)
    assert 0 < found.low < 1.2
    assert found.high == math.inf


def test_days_since_the_launch() -> None:
    """Counts and sums by day, for two methods; the last ms of a day is in it, and a day without exposures is left out."""
    ts = np.array([0, DAY_MS - 1, DAY_MS, 3 * DAY_MS], dtype=np.int64) + 500
    y = np.array([1, 0, 1, 0])
    p = np.array([[0.5, 0.1], [0.25, 0.2], [0.5, 0.3], [0.125, 0.4]])
    days = by_day(y, p, ts, at_ms=500)
    assert [(d.day, d.n, d.observed) for d in days] == [(0, 2, 1), (1, 1, 1), (3, 1, 0)]
    assert days[0].predicted == pytest.approx((0.75, 0.3))
    assert days[0].log_loss == (log_loss(y[:2].astype(float), p[:2, 0]), log_loss(y[:2].astype(float), p[:2, 1]))
    assert sum(d.predicted[1] for d in days) == pytest.approx(1.0)


def test_nothing_to_judge() -> None:
    """No rows: no bins, NaN, no days; no conversion: no ratio. And no warning."""
    none = np.zeros(0)
    assert reliability(none, none) == []
    assert math.isnan(ece(none, none))
    assert by_day(none, none.reshape(0, 2), none.astype(np.int64), at_ms=0) == []
    ratio = interval_of(np.zeros(3), np.full(3, 0.1), np.arange(3))
    assert all(math.isnan(a) for a in (ratio.value, ratio.low, ratio.high))
    only = reliability(np.array([1.0]), np.array([1.0]))[0]
    assert only == Bin(1, 1.0, 1.0, only.low, 1.0)
    assert only.low == pytest.approx(0.2065, abs=1e-4)


def test_what_is_no_probability_is_refused() -> None:
    """NaN, more than 1, a label of 2, other lengths, and settings without meaning."""
    y, p = np.array([0.0, 1.0]), np.array([0.1, 0.9])
    for labels, said in ((y, np.array([np.nan, 0.5])), (y, np.array([0.5, 1.5])), (2 * y, p), (y, p[:1])):
        with pytest.raises(ValueError, match="expected as many|not between"):
            reliability(labels, said)
    with pytest.raises(ValueError, match="at least 1 bin"):
        reliability(y, p, 0)
    with pytest.raises(ValueError, match="user is"):
        interval_of(y, p, np.zeros(1))
    with pytest.raises(ValueError, match="expected"):
        by_day(y, p, np.zeros(2, np.int64), at_ms=0)
