"""A launch's own head: the formula, forgetting towards the prior by time, a change of prior, and bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from features.errors import Mismatch
from models import wire
from models.head import Posterior
from models.own_head import HOUR_MS, OwnHead

D = 6
CURVE = np.array([0.0, 0.3, 0.7, 1.0])
Outcomes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def some_prior(seed: int = 0, width: float = 0.2) -> Posterior:
    """A prior with correlated weights."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(D, D))
    p = width * (root @ root.T / D + 0.3 * np.eye(D))
    return Posterior(np.append(rng.normal(size=D - 1) * 0.3, -2.0), (p + p.T) / 2)


def some_outcomes(n: int, seed: int = 0, hours: float = 60.0) -> Outcomes:
    """z, F_prev, F_next, y, close_ms: closing times rise by jumps, and now and then one comes late."""
    rng = np.random.default_rng(seed)
    z = np.concatenate([rng.normal(size=(n, D - 1)), np.ones((n, 1))], axis=1)
    k = rng.integers(0, 3, n)
    close_ms = np.sort(rng.integers(0, int(hours * HOUR_MS), n)) - np.where(rng.random(n) < 0.1, 3 * HOUR_MS, 0)
    return z, CURVE[k], CURVE[k + 1], (rng.random(n) < 0.1).astype(np.float64), close_ms


def content(head: OwnHead) -> bytes:
    """Every bit of a head."""
    return wire.pack("own head", head.to_arrays())


def formulas_of_the_design(prior: Posterior, rows: Outcomes, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """M and P after the rows, row by row in plain numpy: forget in natural parameters if the hour is new, then the update as it is written down."""
    lam0 = np.linalg.inv(prior.p)
    m, p, hour = prior.m.copy(), prior.p.copy(), None
    for z, f0, f1, y, close_ms in zip(*rows, strict=True):
        now = math.floor(close_ms / 3.6e6)
        if hour is not None and now > hour:
            r = 1 - (1 - rho) ** ((now - hour) / 24)
            lam = np.linalg.inv(p)
            eta = (1 - r) * lam @ m + r * lam0 @ prior.m
            p = np.linalg.inv((1 - r) * lam + r * lam0)
            m = p @ eta
        hour = now if hour is None else max(hour, now)
        a = p @ z
        s2, x0 = z @ a, m @ z
        x = x0
        for _ in range(3):
            q = 1 / (1 + math.exp(-x))
            den = 1 - q * f0
            h, slope = q * (f1 - f0) / den, q * (1 - q) * (f1 - f0) / den**2
            g, curvature = (y - h) * slope / (h * (1 - h)), slope**2 / (h * (1 - h))
            x -= (x - x0 - s2 * g) / (1 + s2 * curvature)
        m, p = m + a * g, p - np.outer(a, a) * curvature / (1 + curvature * s2)
    return m, p


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_it_is_the_formula(rho: float) -> None:
    """Two hundred outcomes over sixty hours, late ones among them, agree with the plain formulas to 1e-9, with forgetting and without."""
    rows = some_outcomes(200)
    head = OwnHead.start(some_prior())
    head.learn_many(*rows, rho=rho)
    m, p = formulas_of_the_design(some_prior(), rows, rho)
    np.testing.assert_allclose(head.posterior.m, m, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(head.posterior.p, p, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_many_is_repeated_one_to_the_bit(rho: float) -> None:
    """A batch, its halves, and its rows one at a time leave the same bits and have said the same of each row; so does a second run."""
    rows = some_outcomes(150)
    together, again, halves, alone = (OwnHead.start(some_prior()) for _ in range(4))
    said = together.learn_many(*rows, rho=rho)
    again.learn_many(*rows, rho=rho)
    for part in (slice(0, 71), slice(71, 150), slice(150, 150)):
        halves.learn_many(*(a[part] for a in rows), rho=rho)
    one_by_one = []
    for i in range(150):
        one_by_one.append(alone.learn_many(*(a[i : i + 1] for a in rows), rho=rho)[0])
    assert content(together) == content(again) == content(halves) == content(alone)
    assert said.tobytes() == np.array(one_by_one).tobytes()


def test_what_it_says_before_a_row_is_its_prediction() -> None:
    """`learn_many` returns what `predict` would have said; and predicting changes nothing."""
    rows = some_outcomes(3)
    head = OwnHead.start(some_prior())
    head.learn_many(*rows)
    expected, before = head.predict(rows[0][:1]), content(head)
    assert content(head) == before
    assert head.learn_many(*(a[:1] for a in rows))[0] == pytest.approx(expected[0], rel=1e-12)


def test_without_outcomes_for_long_it_is_the_prior_again() -> None:
    """After a year of forgetting, an outcome that says nearly nothing finds the prior; without forgetting it finds the posterior."""
    head = OwnHead.start(some_prior())
    head.learn_many(*some_outcomes(300))
    learned, silent = head.posterior.copy(), (np.zeros((1, D)), np.zeros(1), np.ones(1), np.zeros(1), np.array([9000 * HOUR_MS]))
    kept = head.copy()
    kept.learn_many(*silent)
    assert kept.posterior.m.tobytes() == learned.m.tobytes()
    head.learn_many(*silent, rho=0.2)
    assert np.abs(learned.m - head.prior.m).max() > 0.1
    np.testing.assert_allclose(head.posterior.m, head.prior.m, atol=1e-9)
    np.testing.assert_allclose(head.posterior.p, head.prior.p, atol=1e-9)


def test_forgetting_takes_away_a_share_of_the_evidence_a_day() -> None:
    """Half a day at ρ = .36 leaves .8 of Λ − Λ0 and of η − η0, in one step as in twelve."""
    silent = np.zeros((1, D)), np.zeros(1), np.ones(1), np.zeros(1)
    head = OwnHead.start(some_prior())
    head.learn_many(*some_outcomes(300, hours=1.0))
    steps, lam0 = head.copy(), np.linalg.inv(head.prior.p)
    lam = np.linalg.inv(head.posterior.p)
    eta = lam @ head.posterior.m - lam0 @ head.prior.m
    start = head.hour
    head.learn_many(*silent, np.array([(start + 12) * HOUR_MS]), rho=0.36)
    for hour in range(1, 13):
        steps.learn_many(*silent, np.array([(start + hour) * HOUR_MS]), rho=0.36)
    for one in (head, steps):
        now = np.linalg.inv(one.posterior.p)
        np.testing.assert_allclose(now - lam0, 0.8 * (lam - lam0), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(now @ one.posterior.m - lam0 @ one.prior.m, 0.8 * eta, rtol=1e-8, atol=1e-8)


def test_another_prior_keeps_the_evidence() -> None:
    """Rebased, the head has the evidence it had: Λ − Λ0 and η − η0 stay, and back again is where it was; forgetting then goes to the new prior."""
    head, other = OwnHead.start(some_prior(0)), some_prior(1, width=0.5)
    head.learn_many(*some_outcomes(300))
    before, lam = head.posterior.copy(), np.linalg.inv(head.posterior.p)
    evidence = lam - np.linalg.inv(head.prior.p)
    eta = lam @ before.m - np.linalg.inv(head.prior.p) @ head.prior.m
    assert head.rebase(other)
    lam = np.linalg.inv(head.posterior.p)
    np.testing.assert_allclose(lam - np.linalg.inv(other.p), evidence, atol=1e-9)
    np.testing.assert_allclose(lam @ head.posterior.m - np.linalg.inv(other.p) @ other.m, eta, atol=1e-9)
    assert (head.posterior.p == head.posterior.p.T).all()
    forgetful = head.copy()
    forgetful.learn_many(np.zeros((1, D)), np.zeros(1), np.ones(1), np.zeros(1), np.array([9000 * HOUR_MS]), rho=0.5)
    np.testing.assert_allclose(forgetful.posterior.m, other.m, atol=1e-9)
    assert head.rebase(some_prior(0))
    np.testing.assert_allclose(head.posterior.m, before.m, atol=1e-9)


def test_an_unlearned_head_rebased_is_the_new_prior() -> None:
    """Without evidence the posterior becomes the new prior."""
    head, other = OwnHead.start(some_prior(0)), some_prior(1)
    assert head.rebase(other)
    np.testing.assert_allclose(head.posterior.m, other.m, atol=1e-12)
    np.testing.assert_allclose(head.posterior.p, other.p, atol=1e-12)


def test_a_rebase_that_gives_no_belief_leaves_the_new_prior() -> None:
    """Where Λ + Λ0' − Λ0 is not positive definite the evidence is given up, and the call says so; an improper prior is refused, the head unchanged."""
    prior = some_prior()
    head = OwnHead(Posterior(prior.m + 1.0, prior.p * 2.0), prior)  # a posterior wider than its prior: evidence that cannot be
    wide = Posterior(prior.m, prior.p * 100.0)
    assert not head.rebase(wide)
    assert head.posterior.m.tobytes() == wide.m.tobytes() and head.posterior.p.tobytes() == wide.p.tobytes()
    assert head.posterior is not wide and head.prior is wide
    before = content(head)
    for bad in (Posterior(prior.m * np.nan, prior.p), Posterior(prior.m, prior.p * np.nan), Posterior(prior.m, -prior.p)):
        with pytest.raises(ValueError, match="new prior"):
            head.rebase(bad)
    assert content(head) == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_whole(bad: float) -> None:
    """A bad number in a later row raises ValueError before anything, forgetting too, has happened."""
    head = OwnHead.start(some_prior())
    head.learn_many(*some_outcomes(20, hours=1.0))
    before = content(head)
    for position in range(4):
        arrays = [a.copy() for a in some_outcomes(40)]
        arrays[position][39] = bad
        with pytest.raises(ValueError, match="refused"):
            head.learn_many(arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], rho=0.3)
    for rho in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="rho"):
            head.learn_many(*some_outcomes(5), rho=rho)
    z, f0, f1, y, close_ms = some_outcomes(5)
    with pytest.raises(ValueError, match="takes"):
        head.learn_many(z, f0, f1, y, close_ms[:4])
    with pytest.raises(ValueError, match="takes"):
        head.learn_many(z[:, 1:], f0, f1, y, close_ms)
    assert content(head) == before


def test_memory_is_bounded() -> None:
    """Two thousand outcomes over a month leave as many bytes as none, and a belief that is still proper."""
    head = OwnHead.start(some_prior())
    before = len(content(head))
    head.learn_many(*some_outcomes(2000, hours=720.0), rho=0.1)
    assert len(content(head)) == before
    assert (head.posterior.p == head.posterior.p.T).all()
    assert np.linalg.eigvalsh(head.posterior.p).min() > 0


def test_a_copy_learns_for_itself_and_shares_the_prior() -> None:
    """The original does not change when its copy learns; the prior is one object and is never changed."""
    prior = some_prior()
    head = OwnHead.start(prior)
    before, prior_bits = content(head), prior.m.tobytes() + prior.p.tobytes()
    other = head.copy()
    other.learn_many(*some_outcomes(100), rho=0.3)
    assert content(head) == before
    assert content(other) != before
    assert other.prior is head.prior is prior
    assert prior.m.tobytes() + prior.p.tobytes() == prior_bits


@pytest.mark.parametrize("known", [True, False])
def test_storage_gives_every_bit_back(known: bool) -> None:
    """Stored and read, a head goes on to the same bits; where the model's own prior covariance is known it is not stored again."""
    model_prior = some_prior()
    own = Posterior(model_prior.m + 0.5, model_prior.p)
    head = OwnHead.start(own)
    head.learn_many(*some_outcomes(50), rho=0.2)
    lent = model_prior if known else None
    raw = wire.pack("own head", head.to_arrays(lent))
    assert (len(raw) < len(content(head))) == known
    back = OwnHead.from_arrays(wire.unpack("own head", raw), lent)
    for one in (head, back):
        one.learn_many(*some_outcomes(50, seed=9, hours=200.0), rho=0.2)
    assert content(back) == content(head)


def test_a_head_that_rests_on_another_prior_is_a_mismatch() -> None:
    """If the covariance was left out, a model with another one, or none, cannot read the head; a rebased head carries its own."""
    head = OwnHead.start(some_prior(0))
    arrays = head.to_arrays(some_prior(0))
    for known in (None, some_prior(1)):
        with pytest.raises(Mismatch, match="another prior"):
            OwnHead.from_arrays(arrays, known)
    head.rebase(some_prior(2))
    assert content(OwnHead.from_arrays(head.to_arrays(some_prior(0)), some_prior(1))) == content(head)
