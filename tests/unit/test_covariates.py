"""Who comes: no difference between two samples of one population, and the right feature named where there is one."""

from __future__ import annotations

import math

import numpy as np

from features.vector import NAMES
from models.covariates import WHO, Moments, Reference, psi, told_apart


def shoppers(n: int, seed: int, *, moved: float = 0.0, f: int = 6) -> np.ndarray:
    """Rows of a few features: one constant, one with many zeros, one that may be moved."""
    x = np.random.default_rng(seed).normal(size=(n, f)).astype(np.float32)
    x[:, 0] = 1.0
    x[:, 1] = np.maximum(x[:, 1], 0.0)
    x[:, 2] += moved
    return x


def counted(reference: Reference, x: np.ndarray) -> np.ndarray:
    """How rows fall into the reference's bins."""
    counts = np.zeros_like(reference.counts)
    reference.count(x, counts)
    return counts


def test_two_samples_of_one_population_show_about_nothing() -> None:
    """PSI is freed of what chance gives: small samples of the same shoppers stay far below .1, constant features at 0."""
    reference = Reference.of(shoppers(5000, 0))
    found = np.array([psi(counted(reference, shoppers(300, s)), counted(reference, shoppers(400, 100 + s))) for s in range(1, 20)])
    assert found.mean() < 0.03
    assert found.max() < 0.15
    assert (found[:, 0] == 0).all()


def test_the_feature_that_moved_is_named() -> None:
    """A shift by one standard deviation gives that feature alone a large PSI."""
    reference = Reference.of(shoppers(5000, 0))
    found = psi(counted(reference, shoppers(400, 1, moved=1.0)), counted(reference, shoppers(400, 2)))
    assert found[2] > 0.5
    assert np.delete(found, 2).max() < 0.15


def test_counts_add_up_and_every_row_is_in_one_bin() -> None:
    """Counting in two parts is counting at once, and each feature has every row exactly once."""
    x = shoppers(1000, 3)
    reference = Reference.of(x)
    assert (reference.counts.sum(axis=1) == 1000).all()
    assert np.array_equal(counted(reference, x[:400]) + counted(reference, x[400:]), reference.counts)
    assert not Reference.none().known


def test_the_classifier_knows_one_half_from_chance() -> None:
    """Of the same shoppers a half (on average, however few), and Φ(Δ/√2) of a known shift, within a few percent."""
    rng = np.random.default_rng(4)
    d = 20
    same = [told_apart(Moments.of(rng.normal(size=(150, d))), Moments.of(rng.normal(size=(200, d)))) for _ in range(20)]
    assert np.mean(same) < 0.56
    shift = np.zeros(d)
    shift[0] = 1.5
    told = told_apart(Moments.of(rng.normal(size=(2000, d)) + shift), Moments.of(rng.normal(size=(2000, d))))
    assert abs(told - 0.5 * math.erfc(-1.5 / 2.0)) < 0.03
    assert math.isnan(told_apart(Moments.none(d), Moments.of(rng.normal(size=(200, d)))))


def test_moments_add_up() -> None:
    """Merged moments are those of all rows together."""
    z = np.random.default_rng(5).normal(size=(100, 4))
    merged = Moments.of(z[:30])
    merged.merge(Moments.of(z[30:]))
    assert merged.n == 100
    assert np.allclose(merged.zz, Moments.of(z).zz)


def test_what_grows_by_itself_raises_no_alert() -> None:
    """The features that decide are of the shopper: none of a line's popularity, none that grows with the log."""
    assert set(WHO) < set(NAMES)
    assert not any(name.startswith(("line_", "lines_", "categories_")) or name in ("tenure", "user_visits", "user_order_7d", "hour_sin") for name in WHO)
    assert {"age", "female", "region", "price"} <= set(WHO)
