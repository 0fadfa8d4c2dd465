"""A head's promises: exact updates, the batch fit as its limit, and no outcome that can break it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.fit import choose_c, design_effect, fit_map
from models.head import Posterior, mean_prediction
from tests.unit.synthetic_rows import bins_of, make_rows

EDGES = np.array([0.0, 3_600.0, 14_400.0, 86_400.0])
CURVE = np.array([0.0, 0.3, 0.7, 1.0])


def some_rows(n: int, d: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, d) with the constant last, and labels from a known head."""
    rng = np.random.default_rng(seed)
    z = np.concatenate([rng.normal(size=(n, d - 1)), np.ones((n, 1))], axis=1)
    truth = np.concatenate([rng.normal(size=d - 1) * 0.3, [-2.0]])
    return z, (rng.random(n) < 1 / (1 + np.exp(-z @ truth))).astype(np.float64)


def some_outcomes(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows and outcomes of delay bins."""
    z, y = some_rows(n, seed=seed)
    k = np.random.default_rng(seed).integers(0, 3, n)
    return z, CURVE[k], CURVE[k + 1], y


def formula_of_the_design(m: np.ndarray, p: np.ndarray, z: np.ndarray, f0: float, f1: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """One update as it is written down, in plain numpy."""
    a = p @ z
    s2, x0 = z @ a, m @ z
    x = x0
    for _ in range(3):
        q = 1 / (1 + math.exp(-x))
        den = 1 - q * f0
        h = q * (f1 - f0) / den
        slope = q * (1 - q) * (f1 - f0) / den**2
        g, curvature = (y - h) * slope / (h * (1 - h)), slope**2 / (h * (1 - h))
        x -= (x - x0 - s2 * g) / (1 + s2 * curvature)
    return m + a * g, p - np.outer(a, a) * curvature / (1 + curvature * s2)


def test_an_update_is_the_formula() -> None:
    """The kernel and the formula of the design agree to 1e-10 over a hundred outcomes."""
    z, f0, f1, y = some_outcomes(100)
    head = Posterior.isotropic(8, variance=0.1, intercept=-2.0, intercept_variance=0.5)
    m, p = head.m.copy(), head.p.copy()
    for i in range(100):
        m, p = formula_of_the_design(m, p, z[i], f0[i], f1[i], y[i])
    head.learn_many(z, f0, f1, y)
    np.testing.assert_allclose(head.m, m, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(head.p, p, rtol=1e-10, atol=1e-12)


def test_many_is_repeated_one_to_the_bit() -> None:
    """A batch of outcomes and the same outcomes one at a time leave the same bits."""
    z, f0, f1, y = some_outcomes(200)
    together = Posterior.isotropic(8, variance=0.1, intercept=-2.0, intercept_variance=0.5)
    alone = together.copy()
    together.learn_many(z, f0, f1, y)
    for i in range(200):
        alone.learn_many(z[i : i + 1], f0[i : i + 1], f1[i : i + 1], y[i : i + 1])
    assert together.m.tobytes() == alone.m.tobytes()
    assert together.p.tobytes() == alone.p.tobytes()


def test_online_learning_comes_to_the_batch_fit() -> None:
    """A fit of 1 500 rows that learns 1 500 more one by one is within a fifth of a posterior deviation of the fit of all, with its covariance."""
    z, y = some_rows(3000)
    batch = fit_map(z, y, c=0.1)
    online = fit_map(z[:1500], y[:1500], c=0.1)
    online.learn_many(z[1500:], np.zeros(1500), np.ones(1500), y[1500:])
    deviation = np.sqrt(np.diag(batch.p))
    assert np.abs((online.m - batch.m) / deviation).max() < 0.2
    assert np.abs(np.sqrt(np.diag(online.p)) / deviation - 1).max() < 0.05


def test_the_fit_is_a_maximum() -> None:
    """At the MAP the gradient of the penalised log-likelihood vanishes, and P is the inverse of its curvature."""
    z, y = some_rows(500)
    head = fit_map(z, y, c=0.05)
    precision = np.array([20.0] * 7 + [0.01])
    p = 1 / (1 + np.exp(-z @ head.m))
    np.testing.assert_allclose(z.T @ (y - p), precision * head.m, atol=1e-5)
    np.testing.assert_allclose(np.linalg.inv(head.p), (z.T * (p * (1 - p))) @ z + np.diag(precision), rtol=1e-6)


def test_complete_delay_bins_say_what_final_labels_say() -> None:
    """Fitted on every bin of every row until the order, the MAP equals that of the final labels."""
    rows = make_rows(800, 6)
    z = np.concatenate([rows.x.astype(np.float64), np.ones((800, 1))], axis=1)
    row, k, y = np.array(bins_of(rows.order_delay_s, EDGES)).T
    by_bins = fit_map(z[row], y, CURVE[k], CURVE[k + 1], c=0.1)
    by_labels = fit_map(z, rows.ordered, c=0.1)
    np.testing.assert_allclose(by_bins.m, by_labels.m, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_whole(bad: float) -> None:
    """A batch with one bad number anywhere raises ValueError and teaches nothing, its good rows neither."""
    z, f0, f1, y = some_outcomes(5)
    head = Posterior.isotropic(8, variance=0.1, intercept=-2.0, intercept_variance=0.5)
    before = head.m.tobytes() + head.p.tobytes()
    for position in range(4):
        arrays = [z.copy(), f0.copy(), f1.copy(), y.copy()]
        arrays[position][3] = bad
        with pytest.raises(ValueError, match="refused"):
            head.learn_many(arrays[0], arrays[1], arrays[2], arrays[3])
    assert head.m.tobytes() + head.p.tobytes() == before


def test_a_row_of_another_width_is_refused() -> None:
    """A kernel never reads beyond its rows: a wrong width is a ValueError."""
    head = Posterior.isotropic(8, variance=0.1, intercept=-2.0, intercept_variance=0.5)
    with pytest.raises(ValueError, match="takes"):
        head.predict(np.zeros((3, 7)))


def test_outliers_cannot_blow_up_a_wide_head() -> None:
    """Surprising outcomes at the edge of the scale leave a wide head finite, symmetric, positive definite, and no logit moves by more than the bound."""
    rng = np.random.default_rng(1)
    head = Posterior(np.append(np.zeros(60), -10.0), np.eye(61))
    for i in range(300):
        z = np.append(np.where(rng.random(60) < 0.5, -6.0, 6.0), 1.0)[None]
        before = float(z[0] @ head.m)
        head.learn_many(z, np.zeros(1), np.ones(1), np.array([float(i % 2)]))
        assert abs(float(z[0] @ head.m) - before) < 4.0 + 1e-6
    assert np.isfinite(head.m).all()
    assert (head.p == head.p.T).all()
    assert np.linalg.eigvalsh(head.p).min() > 0


@pytest.mark.parametrize("d", range(1, 12))
def test_a_prediction_is_the_formula(d: int) -> None:
    """mᵀz / √(1 + π zᵀPz / 8) to 1e-12 at every width, for a P that holds doubt about every pair of weights; many rows have the bits of one."""
    rng = np.random.default_rng(d)
    root, m, z = rng.normal(size=(d, d)), rng.normal(size=d), rng.normal(size=(7, d))
    head = Posterior(m, root @ root.T)
    s = head.predict(z)
    np.testing.assert_allclose(s, z @ m / np.sqrt(1 + np.pi * np.einsum("ni,ij,nj->n", z, head.p, z) / 8), rtol=1e-12)
    assert np.concatenate([head.predict(z[i : i + 1]) for i in range(7)]).tobytes() == s.tobytes()


def test_a_mean_over_heads_wants_the_same_rows_of_each() -> None:
    """The mean of what each says by itself; another number of rows is refused, not read beyond its end."""
    heads = [Posterior.isotropic(d, variance=0.5, intercept=-1.0, intercept_variance=1.0) for d in (3, 6)]
    rows = [some_rows(5, d)[0] for d in (3, 6)]
    np.testing.assert_allclose(mean_prediction(heads, rows), (heads[0].predict(rows[0]) + heads[1].predict(rows[1])) / 2, rtol=1e-14)
    with pytest.raises(ValueError, match="5, 1 rows"):
        mean_prediction(heads, [rows[0], rows[1][:1]])


def test_predictions_are_moderated_by_doubt() -> None:
    """S is mᵀz / √(1 + π zᵀPz / 8)."""
    z, _ = some_rows(20)
    head = Posterior.isotropic(8, variance=0.4, intercept=-2.0, intercept_variance=0.5)
    v = np.einsum("ni,ij,nj->n", z, head.p, z)
    np.testing.assert_allclose(head.predict(z), z @ head.m / np.sqrt(1 + np.pi * v / 8), rtol=1e-12)


def test_held_out_users_prefer_a_narrow_prior_for_noise() -> None:
    """With labels that depend on nothing the narrowest prior wins; with a strong truth it does not."""
    z, y = some_rows(1500)
    user = np.arange(1500) // 3
    noise = (np.random.default_rng(5).random(1500) < 0.1).astype(np.float64)
    assert choose_c(z, noise, user, grid=(0.001, 0.03, 1.0)) == 0.001
    assert choose_c(z, y, user, grid=(0.0001, 0.1)) == 0.1


def test_copied_rows_count_once() -> None:
    """Rows that a user repeats three times have a design effect of about three; independent ones of about one."""
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < 0.2).astype(np.float64)
    p, line = np.full(6000, y.mean()), np.zeros(6000, dtype=np.int32)
    assert design_effect(np.repeat(y, 3), p, np.repeat(np.arange(2000), 3), line) == pytest.approx(3.0)
    assert design_effect(y, p[:2000], np.arange(2000) // 4, line[:2000]) < 1.2
