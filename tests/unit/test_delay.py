"""Delay bins: edges that fit the window, a curve that leaves no bin empty, and counts that adapt it without haste."""

from __future__ import annotations

import math

import numpy as np
import pytest

from features.errors import InputError
from models import wire
from models.delay import DelayCounts, check_edges_s, default_edges_s, fit_curve

EDGES_S = np.array([0.0, 900.0, 7_200.0, 28_800.0, 86_400.0])
SOURCE = np.array([0.0, 0.4, 0.7, 0.9, 1.0])
TRUTH = np.array([0.0, 0.1, 0.3, 0.6, 1.0])
WINDOW_MS = 86_400_000


@pytest.mark.parametrize(("window_s", "bins"), [(600, (2, 2)), (6 * 3600, (2, 4)), (86_400, (4, 4)), (7 * 86_400, (6, 8)), (30 * 86_400, (8, 8))])
def test_default_edges_fit_the_window(window_s: float, bins: tuple[int, int]) -> None:
    """Four bins for a day, six to eight for a week, rising from 0 to the window."""
    edges = default_edges_s(window_s)
    check_edges_s(edges, window_s)
    assert bins[0] <= len(edges) - 1 <= bins[1]


@pytest.mark.parametrize("edges", [[0.0, 5.0], [1.0, 10.0], [0.0, 6.0, 6.0, 10.0], [0.0, 10.0, 5.0], [10.0]])
def test_edges_that_do_not_rise_to_the_window_are_refused(edges: list[float]) -> None:
    """InputError says what was expected and what came."""
    with pytest.raises(InputError, match="rise strictly from 0 to the window"):
        check_edges_s(np.array(edges), 10.0)


@pytest.mark.parametrize("window_s", [0.0, -5.0, math.nan, math.inf])
def test_a_window_that_is_none_is_refused(window_s: float) -> None:
    """InputError for a window that is not a positive number of seconds."""
    with pytest.raises(InputError, match="window"):
        default_edges_s(window_s)


def test_the_curve_is_the_share_that_has_come() -> None:
    """With many conversions F is their empirical distribution; a delay on an edge is in the bin that ends there."""
    edges = np.array([0.0, 10.0, 20.0, 40.0])
    curve = fit_curve(np.array([10.0] * 500 + [15.0] * 300 + [40.0] * 200 + [np.inf] * 900), edges)
    np.testing.assert_allclose(curve, [0.0, 0.5, 0.8, 1.0], atol=2e-3)


def test_no_bin_is_impossible() -> None:
    """Without conversions, or with all in one bin, every increment is still positive, and the ends are exact."""
    edges = default_edges_s(7 * 86_400)
    for delays in (np.array([]), np.full(1000, 5.0), np.full(5, np.inf)):
        curve = fit_curve(delays, edges)
        assert (np.diff(curve) > 0).all()
        assert curve[0] == 0.0
        assert curve[-1] == 1.0


def heard(exposures: int, until_ms: int, *, over_ms: int, seed: int = 0, truth: np.ndarray = TRUTH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin, close_ms and hit of all bins closed by `until_ms`, as they close; exposures come evenly over `over_ms`, one in five orders, by `truth`."""
    rng = np.random.default_rng(seed)
    rows = []
    for ts in np.sort(rng.integers(0, over_ms, exposures)):
        order = int(np.searchsorted(truth[1:], rng.random())) if rng.random() < 0.2 else len(truth)
        for k in range(min(order + 1, len(truth) - 1)):
            close = int(ts) + int(EDGES_S[k + 1]) * 1000
            if close <= until_ms:
                rows.append((close, k, k == order))
    close, k, hit = np.array(sorted(rows)).T
    return k, close, hit.astype(np.bool_)


def content(counts: DelayCounts) -> bytes:
    """Every bit of the counts."""
    return wire.pack("delay counts", counts.to_arrays())


def test_counts_come_to_the_true_curve() -> None:
    """Orders of ten days, with delays unlike the source's, give the true curve, up to what 60 orders of the source still weigh."""
    counts = DelayCounts.none(EDGES_S)
    counts.add(*heard(20_000, 10 * WINDOW_MS, over_ms=10 * WINDOW_MS))
    np.testing.assert_allclose(counts.curve(SOURCE, 10 * WINDOW_MS), TRUTH, atol=0.03)
    np.testing.assert_allclose(counts.curve(SOURCE, c=1e-6), TRUTH, atol=0.02)


def test_soon_after_the_start_the_curve_is_not_drawn_to_short_delays() -> None:
    """At three tenths of a window the naive share of quick orders is far too high; the counts give the truth where bins are closed, the source beyond."""
    now = int(0.3 * WINDOW_MS)
    k, close, hit = heard(20_000, now, over_ms=now, seed=1)
    counts = DelayCounts.none(EDGES_S)
    counts.add(k, close, hit)
    naive = np.append(0.0, np.cumsum(np.bincount(k[hit], minlength=4)) / hit.sum())
    assert naive[1] > 2.5 * TRUTH[1]
    assert naive[2] > 2.5 * TRUTH[2]
    found = counts.curve(SOURCE, now, c=1e-6)
    assert found[1] / found[2] == pytest.approx(TRUTH[1] / TRUTH[2], abs=0.04)
    assert found[2] / found[3] == pytest.approx(SOURCE[2] / SOURCE[3])
    assert found[3] == pytest.approx(SOURCE[3])
    right = DelayCounts.none(EDGES_S)
    right.add(*heard(20_000, now, over_ms=now, seed=1, truth=SOURCE))
    np.testing.assert_allclose(right.curve(SOURCE, now, c=1e-6), SOURCE, atol=0.04)


def test_the_curve_is_the_formula() -> None:
    """With counts small enough to do by hand: orders of a young exposure, or of a bucket still filling, do not count where the bin is still open."""
    counts = DelayCounts.none(EDGES_S)
    hour, now = 3_600_000, 30 * 3_600_000
    orders = [(0, 0), (0, 1), (hour, 1), (hour, 2), (2 * hour, 3), (29 * hour, 0), (29 * hour, 0), (28 * hour, 1)]  # exposure, bin
    k, close = np.array([k for _, k in orders]), np.array([ts + int(EDGES_S[k + 1]) * 1000 for ts, k in orders])
    counts.add(np.append(k, 0), np.append(close, now), np.append(np.ones(8, dtype=np.bool_), False))
    source = np.diff(SOURCE) / SOURCE[1:]
    r4 = (1 + 60 * source[3]) / (5 + 60)
    r3 = (1 + 60 * source[2]) / (4 + 60)
    r2 = (2 + 60 * source[1]) / (3 + 60)
    expected = [0.0, (1 - r4) * (1 - r3) * (1 - r2), (1 - r4) * (1 - r3), 1 - r4, 1.0]
    np.testing.assert_allclose(counts.curve(SOURCE, now), expected, rtol=1e-12)
    np.testing.assert_allclose(counts.curve(SOURCE), expected, rtol=1e-12)


def test_nothing_heard_is_the_source_curve() -> None:
    """Without counts the curve is the prior's; misses alone do not change it."""
    counts = DelayCounts.none(EDGES_S)
    np.testing.assert_allclose(counts.curve(SOURCE), SOURCE, rtol=1e-12)
    counts.add(np.array([0, 1]), np.array([10**12, 10**12 + 5]), np.zeros(2, dtype=np.bool_))
    counts.add(np.array([], dtype=np.int64), np.array([], dtype=np.int64), np.array([], dtype=np.bool_))
    np.testing.assert_allclose(counts.curve(SOURCE), SOURCE, rtol=1e-12)


def test_the_curve_rises_strictly_whatever_is_counted() -> None:
    """A million orders in one bin leave every increment positive and the ends exact."""
    for bin_ in range(4):
        counts = DelayCounts.none(EDGES_S)
        counts.settled[bin_] = 10**6
        curve = counts.curve(np.array([0.0, 1e-9, 2e-9, 1 - 1e-9, 1.0]))
        assert (np.diff(curve) > 0).all()
        assert (curve[0], curve[-1]) == (0.0, 1.0)


def test_the_order_of_outcomes_does_not_show_in_the_counts() -> None:
    """All at once, one by one, shuffled, or with a day's outcomes coming two days late: the same bits."""
    k, close, hit = heard(600, 3 * WINDOW_MS, over_ms=3 * WINDOW_MS)
    at_once, alone, shuffled, late = (DelayCounts.none(EDGES_S) for _ in range(4))
    at_once.add(k, close, hit)
    for i in range(len(k)):
        alone.add(k[i : i + 1], close[i : i + 1], hit[i : i + 1])
    for i in np.random.default_rng(3).permutation(len(k)):
        shuffled.add(k[i : i + 1], close[i : i + 1], hit[i : i + 1])
    early = close < WINDOW_MS
    late.add(k[~early], close[~early], hit[~early])
    late.add(k[early], close[early], hit[early])
    assert content(at_once) == content(alone) == content(shuffled) == content(late)
    assert int(at_once.settled.sum() + at_once.ring.sum()) == int(hit.sum())


def test_merging_is_adding_all() -> None:
    """Two workers' counts, one of them days behind, merge to the bits of one that has heard everything; the other is left as it was."""
    first, second = heard(500, 2 * WINDOW_MS, over_ms=2 * WINDOW_MS, seed=4), heard(500, 5 * WINDOW_MS, over_ms=5 * WINDOW_MS, seed=5)
    for one, other in ((first, second), (second, first)):
        left, right, whole = (DelayCounts.none(EDGES_S) for _ in range(3))
        left.add(*one)
        right.add(*other)
        before = content(right)
        left.merge(right)
        whole.add(*one)
        whole.add(*other)
        assert content(left) == content(whole)
        assert content(right) == before
    unheard = DelayCounts.none(EDGES_S)
    unheard.merge(right)
    assert content(unheard) == before
    with pytest.raises(ValueError, match="edges"):
        left.merge(DelayCounts.none(EDGES_S * 2))


def test_storage_and_copies_give_every_bit_back() -> None:
    """Stored and read, or copied, counts go on to the same bits, and a copy counts for itself; the bytes do not grow."""
    counts, empty = DelayCounts.none(EDGES_S), len(content(DelayCounts.none(EDGES_S)))
    counts.add(*heard(300, WINDOW_MS, over_ms=WINDOW_MS))
    before = content(counts)
    back, copied = DelayCounts.from_arrays(wire.unpack("delay counts", before)), counts.copy()
    for one in (back, copied):
        one.add(*heard(300, 3 * WINDOW_MS, over_ms=3 * WINDOW_MS, seed=2))
    assert content(counts) == before
    assert content(back) == content(copied) != before
    assert len(before) <= len(content(back)) <= empty + 8


@pytest.mark.parametrize("window_s", [1.0, 600.0, 86_399.0, 30 * 86_400.0])
def test_every_window_has_room_in_the_ring(window_s: float) -> None:
    """Whatever the window, the oldest and the youngest open exposure lie in different rows, and no order is lost."""
    edges = default_edges_s(window_s)
    counts = DelayCounts.none(edges)
    start = 1_700_000_000_123
    now = start + int(3 * window_s * 1000)
    times = np.linspace(start, now, 3000).astype(np.int64)
    bucket = times // counts.bucket_ms
    still_open = (bucket + 1) * counts.bucket_ms + counts.edges_ms[-1] > now
    closed = [times + edge <= now for edge in counts.edges_ms[1:]]
    for k, rows in enumerate(closed):
        counts.add(np.full(int(rows.sum()), k), times[rows] + counts.edges_ms[k + 1], np.ones(int(rows.sum()), dtype=np.bool_))
    counts.add(np.zeros(1, dtype=np.int64), np.array([now]), np.zeros(1, dtype=np.bool_))
    assert counts.settled.tolist() == [int((rows & ~still_open).sum()) for rows in closed]
    assert counts.ring.sum(axis=0).tolist() == [int((rows & still_open).sum()) for rows in closed]
    held = np.unique(bucket[closed[0] & still_open])
    assert len(np.unique(held % len(counts.ring))) == len(held)
    assert (counts.ring[held % len(counts.ring), 0] == [int((bucket[closed[0]] == b).sum()) for b in held]).all()


def test_outcomes_and_curves_that_make_no_sense_are_refused() -> None:
    """A bin out of range or arrays of unlike length count nothing; a prior curve that does not rise is a ValueError."""
    counts = DelayCounts.none(EDGES_S)
    before, yes = content(counts), np.ones(2, dtype=np.bool_)
    for k, close in ((np.array([0, 4]), np.array([5, 6])), (np.array([-1, 0]), np.array([5, 6])), (np.array([0, 1]), np.array([5]))):
        with pytest.raises(ValueError, match=r"refused|expected"):
            counts.add(k, close, yes)
    assert content(counts) == before
    for prior, c in ((SOURCE[:4], 60.0), (SOURCE * np.nan, 60.0), (np.array([0.0, 0.5, 0.5, 0.9, 1.0]), 60.0), (SOURCE, 0.0), (SOURCE, math.nan)):
        with pytest.raises(ValueError, match="prior curve"):
            counts.curve(prior, 0, c)
