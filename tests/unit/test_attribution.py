"""Integrated gradients by differences: exact where they can be, complete everywhere, and known answers."""

from __future__ import annotations

import numpy as np
import pytest

from models.attribution import FIRST_STEPS, TOLERANCE, Attribution, Function, integrated_gradients


def split(function: Function, x: list[float], baseline: list[float] | None = None, **more: float) -> Attribution:
    """The attribution of a function between two points; from 0 if no baseline is given."""
    start = np.zeros(len(x), np.float32) if baseline is None else np.array(baseline, np.float32)
    return integrated_gradients(function, start, np.array(x, np.float32), **more)  # type: ignore[arg-type]


def test_a_sum_of_one_feature_functions_is_split_exactly() -> None:
    """Lines, curves and steps of one feature each: its share is its own change, with nothing left, after the fewest steps."""

    def function(rows: np.ndarray) -> np.ndarray:
        wide = rows.astype(np.float64)
        return np.asarray(2 * wide[:, 0] + np.sin(5 * wide[:, 1]) + (wide[:, 2] > 0.3) + 7)

    found = split(function, [1.0, 1.5, 1.0, 4.0])
    np.testing.assert_allclose(found.shares, [2.0, np.sin(7.5), 1.0, 0.0], atol=1e-12)
    assert abs(found.residual) < 1e-12
    assert (found.start, found.steps) == (7.0, 2 * FIRST_STEPS)


def test_products_are_split_as_the_integral_says() -> None:
    """x·y from 0: half each; x·y² from 0: the integral gives 1/3 and 2/3."""
    np.testing.assert_allclose(split(lambda r: np.asarray(r[:, 0] * r[:, 1], np.float64), [2.0, 3.0]).shares, [3.0, 3.0], atol=1e-6)
    found = split(lambda r: np.asarray(r[:, 0] * r[:, 1] ** 2, np.float64), [1.0, 1.0])
    np.testing.assert_allclose(found.shares, [1 / 3, 2 / 3], atol=TOLERANCE)


def test_the_jump_of_a_tree_goes_to_the_feature_that_crosses() -> None:
    """A tree of two splits: the first threshold on the way, at .2, opens nothing yet; the second, at .6, brings the leaf's whole value."""
    found = split(lambda r: np.where((r[:, 0] > 0.2) & (r[:, 1] > 0.6), 5.0, 0.0), [1.0, 1.0])
    np.testing.assert_allclose(found.shares, [0.0, 5.0], atol=1e-12)


def test_what_is_left_is_a_part_of_its_own() -> None:
    """Two features that cross in one place cannot be told apart: whatever their shares are, start, shares and residual make the end."""
    found = split(lambda r: np.where((r[:, 0] > 0.49) & (r[:, 1] > 0.51) & (r[:, 2] > 0.501), 6.0, 1.0), [1.0, 1.0, 1.0], most_steps=16)
    assert found.steps == 32
    assert abs(found.residual) > TOLERANCE
    assert found.start + float(found.shares.sum()) + found.residual == pytest.approx(found.end, abs=1e-12)


def test_finer_steps_are_taken_until_the_tolerance_is_met() -> None:
    """A bent function needs more than the first steps; a coarse tolerance fewer than a fine one."""

    def bent(rows: np.ndarray) -> np.ndarray:
        return np.asarray(np.tanh(8 * rows.astype(np.float64).prod(axis=1)))

    coarse, fine = split(bent, [1.2, 1.1, 1.3], tolerance=0.05), split(bent, [1.2, 1.1, 1.3], tolerance=1e-5)
    assert coarse.steps < fine.steps
    assert abs(fine.residual) <= 1e-5


def test_features_that_stand_still_get_nothing() -> None:
    """A feature with the baseline's value gets exactly 0, however strong it is; without a moving one all is 0."""
    found = split(lambda r: np.asarray(r[:, 0] * r[:, 1] ** 3, np.float64), [2.0, 3.0], [1.0, 3.0])
    assert found.shares[1] == 0.0
    assert found.shares[0] == pytest.approx(27.0)
    still = split(lambda r: r[:, 0].astype(float), [2.0], [2.0])
    assert (still.shares.tolist(), still.residual, still.start, still.end) == ([0.0], 0.0, 2.0, 2.0)


@pytest.mark.parametrize(("x", "baseline"), [([np.nan], [0.0]), ([1.0], [np.inf]), ([1.0, 2.0], [0.0])])
def test_what_cannot_be_split_is_refused(x: list[float], baseline: list[float]) -> None:
    """Not finite, or of two lengths."""
    with pytest.raises(ValueError, match="must be finite and of one length"):
        split(lambda r: r[:, 0].astype(float), x, baseline)
