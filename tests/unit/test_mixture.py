"""The mixture is bounded on every sequence, follows a switch, and gives the same bits however its rows are cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mixture import LEAST_PRIOR, Mixture, floored, prior_from_losses

HOUR_MS = 3_600_000
PRIOR = floored(np.array([0.9, 0.05, 0.04, 0.01]))


def sequence(seed: int, n: int = 400, k: int = 4) -> tuple[np.ndarray, ...]:
    """Forecasts (N, K) of every quality, bins, outcomes and close times."""
    rng = np.random.default_rng(seed)
    edges = np.array([0.0, 0.3, 0.7, 1.0])
    bin_ = rng.integers(0, 3, n)
    y = (rng.random(n) < rng.choice([0.02, 0.5, 0.95])).astype(np.float64)
    p = rng.choice([0.0, 1e-12, 0.03, 0.5, 0.97, 1.0], (n, k)) * rng.choice([1.0, 0.9], (n, k))
    close_ms = np.cumsum(rng.integers(0, 3 * HOUR_MS, n)).astype(np.int64)
    return p, edges[bin_], edges[bin_ + 1], y, close_ms


def reference(p: np.ndarray, f_prev: np.ndarray, f_next: np.ndarray, y: np.ndarray, close_ms: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and loss by the formulas, one row at a time in plain numpy."""
    w, loss, last = prior.copy(), 0.0, None
    for row, f0, f1, label, at in zip(p, f_prev, f_next, y, close_ms, strict=True):
        if last is not None:
            keep = (1 - 0.02) ** (max(0, at - last) / 86_400_000)
            w = keep * w + (1 - keep) * prior
        last = at if last is None else max(last, at)
        q = np.clip(row, 1e-9, 1 - 1e-9)
        hazard = q * (f1 - f0) / (1 - q * f0)
        chance = hazard if label else 1 - hazard
        loss -= math.log(w @ chance)
        w = w * chance / (w @ chance)
    return w, loss


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_bound_holds_on_every_sequence(seed: int) -> None:
    """Whatever the experts say and whatever comes, the mixture loses no more than ln(1/π) and the cost of sharing to any of them."""
    mixture = Mixture.unlearned(PRIOR)
    mixture.learn_many(*sequence(seed), prior=PRIOR)
    assert mixture.slack(PRIOR).min() >= -1e-6
    assert mixture.w.sum() == pytest.approx(1.0)


def test_bound_is_tight() -> None:
    """When one expert alone is right, the mixture pays it its whole prior: the bound is no loose promise."""
    n = 60
    p = np.full((n, 4), 0.001)
    p[:, 3] = 0.999
    mixture = Mixture.unlearned(PRIOR)
    mixture.learn_many(p, np.zeros(n), np.ones(n), np.ones(n), np.zeros(n, dtype=np.int64), prior=PRIOR)
    assert mixture.own[0] - mixture.losses[3] == pytest.approx(-math.log(PRIOR[3]), abs=1e-2)
    assert mixture.slack(PRIOR)[3] == pytest.approx(0.0, abs=1e-2)


def test_equals_float64_reference() -> None:
    """Kernel and formulas agree."""
    p, f_prev, f_next, y, close_ms = sequence(5)
    mixture = Mixture.unlearned(PRIOR)
    mixture.learn_many(p, f_prev, f_next, y, close_ms, prior=PRIOR)
    w, loss = reference(p, f_prev, f_next, y, close_ms, PRIOR)
    np.testing.assert_allclose(mixture.w, w, atol=1e-9)
    assert mixture.own[0] == pytest.approx(loss, rel=1e-9)


def test_many_is_repeated_one() -> None:
    """However the rows are cut, the bits are the same."""
    rows = sequence(6)
    whole, parts = Mixture.unlearned(PRIOR), Mixture.unlearned(PRIOR)
    whole.learn_many(*rows, prior=PRIOR)
    for start in (*range(20), 20, 100):
        stop = start + 1 if start < 20 else {20: 100, 100: 400}[start]
        parts.learn_many(*(a[start:stop] for a in rows), prior=PRIOR)
    for mine, other in zip((whole.w, whole.losses, whole.own, whole.last_ms), (parts.w, parts.losses, parts.own, parts.last_ms), strict=True):
        assert mine.tobytes() == other.tobytes()


def test_follows_a_switch() -> None:
    """An expert that was wrong for a month and is right from then on gets the weight within some outcomes, because a share went back to it."""
    n = 300
    close_ms = np.arange(2 * n, dtype=np.int64) * 3 * HOUR_MS
    p = np.tile([0.9, 0.1, 0.1, 0.1], (2 * n, 1))
    y = np.r_[np.ones(n), np.zeros(n)]
    mixture = Mixture.unlearned(PRIOR)
    mixture.learn_many(p[:n], np.zeros(n), np.ones(n), y[:n], close_ms[:n], prior=PRIOR)
    assert mixture.w[0] > 0.99
    mixture.learn_many(p[n : n + 12], np.zeros(12), np.ones(12), y[n : n + 12], close_ms[n : n + 12], prior=PRIOR)
    assert mixture.w[0] < 0.01


def test_a_bin_that_closed_before_the_last_one_shares_no_weight() -> None:
    """Neither forth nor back: it is learned as if it had closed with that."""
    late, together = Mixture.unlearned(PRIOR), Mixture.unlearned(PRIOR)
    p, none, every, y = np.tile([0.2, 0.6, 0.2, 0.2], (2, 1)), np.zeros(2), np.ones(2), np.array([1.0, 0.0])
    late.learn_many(p, none, every, y, np.array([2 * HOUR_MS, 3 * HOUR_MS // 2]), prior=PRIOR)
    together.learn_many(p, none, every, y, np.array([2 * HOUR_MS, 2 * HOUR_MS]), prior=PRIOR)
    assert np.array_equal(late.w, together.w)
    assert np.array_equal(late.own, together.own)


@pytest.mark.parametrize("pi", [[1.0, 0.0, 0.0], [0.5, 0.495, 0.005], [1e-9, 1e-9, 1.0], [0.015, 0.005, 0.98]])
def test_prior_is_floored(pi: list[float]) -> None:
    """No expert starts with less than one part in a hundred, and the weights sum to 1."""
    found = floored(np.array(pi))
    assert found.min() >= LEAST_PRIOR - 1e-15
    assert found.sum() == pytest.approx(1.0)
    assert (np.argsort(found, kind="stable")[-1:] == np.argsort(pi, kind="stable")[-1:]).all()


def test_prior_is_learned_from_launches() -> None:
    """Without launches the base stands; launches in which another expert was better by nats shift weight to it, the more the more there are."""
    base = PRIOR
    none, few, many = (prior_from_losses(np.tile([5.0, 5.0, 0.0, 5.0], (m, 1)), base) for m in (0, 2, 20))
    np.testing.assert_allclose(none, base)
    assert base[2] < few[2] < many[2]
    assert many[2] > 0.5
    assert many.min() >= LEAST_PRIOR - 1e-15
