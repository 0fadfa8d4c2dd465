"""Delay bins: edges that fit the window, and a curve that leaves no bin empty."""

from __future__ import annotations

import math

import numpy as np
import pytest

from features.errors import InputError
from models.delay import check_edges_s, default_edges_s, fit_curve


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
