"""The prior learned from the source lines' heads: it finds how lines differ, and is sane where they cannot say."""

from __future__ import annotations

import numpy as np
import pytest

from models.fit import fit_map
from models.hierarchy import FLOOR, SHRINK, Hierarchy, fit_hierarchy, line_profiles

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def some_lines(
    lines: int = 12, per_line: int = 1500, d: int = 5, spread: float = 0.4, seed: int = 0, slope: np.ndarray | None = None
) -> tuple[Rows, np.ndarray]:
    """Rows (z, y, line) of lines whose true heads (M, d) lie N(0, spread²) around a common one, plus `slope` (M, d) of each line's own."""
    rng = np.random.default_rng(seed)
    common = np.append(rng.normal(size=d - 1) * 0.3, -2.0)
    heads = common + rng.normal(size=(lines, d)) * spread + (0.0 if slope is None else slope)
    line = np.repeat(np.arange(lines), per_line)
    z = np.concatenate([rng.normal(size=(len(line), d - 1)), np.ones((len(line), 1))], axis=1)
    y = (rng.random(len(line)) < 1 / (1 + np.exp(-(z * heads[line]).sum(axis=1)))).astype(np.float64)
    return (z, y, line), heads


@pytest.mark.parametrize("spread", [0.2, 0.4])
def test_mean_and_spread_of_the_lines_are_found(spread: float) -> None:
    """Twelve lines: μ and Σ0 are the true heads' mean and covariance, as far as 3 000 rows a line tell, and the heads are nearer than each line's own fit."""
    (z, y, line), truth = some_lines(per_line=3000, spread=spread)
    found = fit_hierarchy(z, y, line, lines=12, c=0.1)
    np.testing.assert_allclose(found.mu, truth.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(np.sqrt(np.diag(found.sigma0)), truth.std(axis=0), atol=0.05)
    correlation = np.corrcoef(truth.T) * (1 - SHRINK)
    np.fill_diagonal(correlation, 1.0)
    deviation = np.sqrt(np.diag(found.sigma0))
    np.testing.assert_allclose(found.sigma0 / np.outer(deviation, deviation), correlation, atol=0.3)
    alone = np.stack([fit_map(z[line == m], y[line == m], c=100.0).m for m in range(12)])
    assert ((found.heads - truth) ** 2).mean() < ((alone - truth) ** 2).mean()


def em_as_it_is_written(rows: Rows, lines: int, deff: float, rounds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """μ, Σ0 and b by plain loops: in each round every line's mode by Newton, then the formulas of the design."""
    z, y, line = rows
    d = z.shape[1]
    mu, sigma0 = np.zeros(d), np.eye(d)
    b, v = np.zeros((lines, d)), np.zeros((lines, d, d))
    for _ in range(rounds):
        for m in range(lines):
            zm, ym = z[line == m], y[line == m]
            for _ in range(8):
                p = 1 / (1 + np.exp(-zm @ b[m]))
                v[m] = np.linalg.inv(np.linalg.inv(sigma0) + sum(pi * (1 - pi) * np.outer(zi, zi) for pi, zi in zip(p, zm, strict=True)) / deff)
                b[m] = b[m] + v[m] @ (zm.T @ (ym - p) / deff - np.linalg.inv(sigma0) @ (b[m] - mu))
        mu = b.mean(axis=0)
        raw = sum(np.outer(b[m] - mu, b[m] - mu) + v[m] for m in range(lines)) / lines
        sigma0 = (1 - SHRINK) * raw + SHRINK * np.diag(np.diag(raw)) + FLOOR * np.eye(d)
    return mu, sigma0, b


def test_it_is_the_formula() -> None:
    """On four small lines μ, Σ0 and b equal those of the formulas, iterated plainly from another start."""
    rows, _ = some_lines(lines=4, per_line=60, d=2, spread=0.8, seed=3)
    found = fit_hierarchy(*rows, lines=4, c=0.1, deff=1.5)
    mu, sigma0, heads = em_as_it_is_written(rows, 4, 1.5, 120)
    np.testing.assert_allclose(found.mu, mu, atol=2e-3)
    np.testing.assert_allclose(found.sigma0, sigma0, atol=2e-3)
    np.testing.assert_allclose(found.heads, heads, atol=2e-3)


def test_the_order_of_lines_does_not_matter() -> None:
    """Renamed lines give the same prior, and the heads under their new names."""
    (z, y, line), _ = some_lines(lines=6, per_line=300)
    attributes = np.random.default_rng(1).normal(size=(6, 2))
    names = np.array([4, 2, 0, 5, 1, 3])
    moved = np.empty_like(attributes)
    moved[names] = attributes
    one = fit_hierarchy(z, y, line, lines=6, c=0.1, attributes=attributes)
    other = fit_hierarchy(z, y, names[line], lines=6, c=0.1, attributes=moved)
    np.testing.assert_allclose(other.b, one.b, atol=1e-8)
    np.testing.assert_allclose(other.sigma0, one.sigma0, atol=1e-8)
    np.testing.assert_allclose(other.heads[names], one.heads, atol=1e-8)


def test_attributes_that_tell_heads_bring_the_prior_nearer() -> None:
    """Where an attribute moves the slopes, the prior of a line never seen lies nearer to its truth, and Σ0 is narrower."""
    attributes = np.random.default_rng(5).normal(size=(13, 1))
    slope = attributes * np.array([0.5, -0.5, 0.5, -0.5, 0.5])
    (z, y, line), truth = some_lines(lines=13, spread=0.1, slope=slope, seed=5)
    seen = line < 12
    told = fit_hierarchy(z[seen], y[seen], line[seen], lines=12, c=0.1, attributes=attributes[:12])
    blind = fit_hierarchy(z[seen], y[seen], line[seen], lines=12, c=0.1)
    assert ((told.prior(attributes[12]).m - truth[12]) ** 2).sum() < 0.5 * ((blind.prior().m - truth[12]) ** 2).sum()
    assert np.trace(told.sigma0) < 0.5 * np.trace(blind.sigma0)


def test_useless_attributes_do_no_harm() -> None:
    """Attributes that have nothing to do with the heads cost the prior of lines never seen under a twentieth of its squared error."""
    told, blind = 0.0, 0.0
    for seed in range(12):
        (z, y, line), truth = some_lines(lines=13, per_line=400, seed=seed)
        attributes = np.random.default_rng(100 + seed).normal(size=(13, 3))
        seen = line < 12
        with_them = fit_hierarchy(z[seen], y[seen], line[seen], lines=12, c=0.1, attributes=attributes[:12])
        told += float(((with_them.prior(attributes[12]).m - truth[12]) ** 2).sum())
        blind += float(((fit_hierarchy(z[seen], y[seen], line[seen], lines=12, c=0.1).prior().m - truth[12]) ** 2).sum())
    assert told < 1.05 * blind


def test_a_new_line_starts_from_the_spread_of_lines() -> None:
    """The prior is N(B · attr, width · Σ0 (1 + 1/M)), its attributes held within what the sources have."""
    b, attributes = np.array([[2.0, 1.0], [0.0, -3.0]]), np.array([[0.0], [1.0], [2.0]])
    hierarchy = Hierarchy(b, np.array([[0.2, 0.1], [0.1, 0.5]]), np.zeros((3, 2)), attributes)
    wide = hierarchy.prior(np.array([0.5]), width=4.0)
    np.testing.assert_allclose(wide.m, [2.0, -3.0])
    np.testing.assert_allclose(wide.p, 4.0 * hierarchy.sigma0 * 4.0 / 3.0)
    np.testing.assert_allclose(hierarchy.prior(np.array([50.0])).m, [5.0, -3.0])
    np.testing.assert_allclose(hierarchy.prior().m, [3.0, -3.0])
    for bad in (np.array([np.nan]), np.array([1.0, 2.0])):
        with pytest.raises(ValueError, match="attributes"):
            hierarchy.prior(bad)


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_few_lines_fall_back_to_the_pooled_head(lines: int) -> None:
    """One to three lines cannot say how lines differ: the pooled MAP, a default Σ0, and each line's own head under it."""
    rows, truth = some_lines(lines=lines, per_line=2000)
    found = fit_hierarchy(*rows, lines=lines, c=0.1)
    np.testing.assert_allclose(found.mu, fit_map(rows[0], rows[1], c=0.1).m)
    np.testing.assert_allclose(np.diag(found.sigma0), np.array([0.1, 0.1, 0.1, 0.1, 1.0]) + FLOOR)
    np.testing.assert_allclose(found.heads, truth, atol=0.35)


def test_lines_without_conversions_or_rows_are_borne() -> None:
    """A line that never converts has a lower, finite level; one without rows has the prior's mean; the rest are found as before."""
    (z, y, line), truth = some_lines(lines=8, per_line=1500)
    y[line == 7] = 0.0
    found = fit_hierarchy(z, y, line, lines=9, c=0.1, attributes=np.arange(9.0)[:, None])
    assert np.isfinite(found.heads).all()
    assert np.linalg.eigvalsh(found.sigma0).min() > 0
    assert found.heads[7, -1] < found.heads[:7, -1].min()
    np.testing.assert_allclose(found.heads[8], found.b @ np.array([8.0, 1.0]), atol=1e-9)
    np.testing.assert_allclose(found.heads[:7], truth[:7], atol=0.4)


def test_no_conversions_at_all_give_a_finite_prior() -> None:
    """Without any order there is still a head: a low level, no slopes to speak of."""
    (z, _, line), _ = some_lines(lines=5, per_line=100)
    prior = fit_hierarchy(z, np.zeros(len(z)), line, lines=5, c=0.01).prior()
    assert np.isfinite(prior.m).all() and np.isfinite(prior.p).all()
    assert prior.m[-1] < -3.0
    assert np.abs(prior.m[:-1]).max() < 0.1


@pytest.mark.parametrize(("z", "attributes", "deff"), [(np.nan, 0.0, 1.0), (1.0, np.nan, 1.0), (1.0, 0.0, 0.5), (1.0, 0.0, np.nan)])
def test_what_is_not_finite_is_refused(z: float, attributes: float, deff: float) -> None:
    """NaN in the rows, in the attributes or in deff is a ValueError."""
    with pytest.raises(ValueError, match=r"finite|deff"):
        fit_hierarchy(
            np.full((4, 2), z), np.array([0.0, 1.0, 0.0, 1.0]), np.zeros(4, dtype=np.int64), lines=1, c=0.1, attributes=np.full((1, 1), attributes), deff=deff
        )


def test_the_nearest_lines_lend_their_heads() -> None:
    """The mean head of the k lines nearest by whitened profile; a line without rows is never near, a constant coordinate does not count."""
    z = np.array([[0.0, 0.0, 1.0], [0.2, 0.0, 1.0], [3.0, 0.0, 1.0], [0.0, 100.0, 1.0]])
    profiles = line_profiles(z, np.array([0, 0, 1, 2]), 4)
    np.testing.assert_allclose(profiles[:3], [[0.1, 0.0, 1.0], [3.0, 0.0, 1.0], [0.0, 100.0, 1.0]])
    heads = np.diag([1.0, 2.0, 3.0, 4.0])[:, :3]
    hierarchy = Hierarchy(np.array([[9.0], [9.0], [9.0]]), np.eye(3), heads, np.zeros((4, 0)))
    here, scale = np.array([0.0, 10.0, 7.0]), np.array([1.0, 1000.0, 0.0])
    np.testing.assert_allclose(hierarchy.nearest(here, profiles, 1, scale), heads[2])
    np.testing.assert_allclose(hierarchy.nearest(here, profiles, 2, scale), (heads[0] + heads[2]) / 2)
    np.testing.assert_allclose(hierarchy.nearest(here, profiles, 9, scale), heads[:3].mean(axis=0))
    np.testing.assert_allclose(hierarchy.nearest(here, np.full((4, 3), np.nan), 1, scale), [9.0, 9.0, 9.0])
    with pytest.raises(ValueError, match="finite"):
        hierarchy.nearest(np.array([0.0, np.nan, 1.0]), profiles, 1, scale)
