"""The launch's level: it stays without evidence, moves with it, glides back, and its prior is learned from pseudo-launches."""

from __future__ import annotations

import numpy as np
import pytest

from models.offset import DEFAULT_PI, GRID, HALF_LIFE_MS, Offset, likelihood_curve, log_prior, offset_prior

PRIOR = log_prior(DEFAULT_PI)


def outcomes(n: int, shift: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Final outcomes of a launch whose true logit is s + shift: s, F_prev, F_next, y, close_ms."""
    rng = np.random.default_rng(seed)
    s = rng.normal(-2.5, 0.7, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-s - shift))).astype(np.float64)
    return s, np.zeros(n), np.ones(n), y, np.arange(n, dtype=np.int64) * 1000


def mean(offset: Offset) -> float:
    """The expected offset."""
    return float(offset.weights(PRIOR) @ GRID)


def test_nothing_learned_is_the_shared_score() -> None:
    """Before the first outcome the probability is the shared heads', up to the prior's own spread."""
    s = np.array([-4.0, -2.0, 0.0])
    np.testing.assert_allclose(Offset.unlearned().probability(s, PRIOR), 1 / (1 + np.exp(-s)), rtol=0.1)
    assert mean(Offset.unlearned()) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.2])
def test_the_level_is_found(shift: float) -> None:
    """1 500 outcomes find a shift to .2, and the probabilities then count as many conversions as there are."""
    offset = Offset.unlearned()
    s, f0, f1, y, at = outcomes(1500, shift)
    offset.learn_many(s, f0, f1, y, at, prior=PRIOR, deff=1.0)
    assert mean(offset) == pytest.approx(shift, abs=0.2)
    assert offset.probability(s, PRIOR).sum() / y.sum() == pytest.approx(1.0, abs=0.1)


def test_the_belief_is_bayes_rule() -> None:
    """Weights after two delay bins equal prior × likelihood^(1 / deff), computed anew."""
    offset = Offset.unlearned()
    s, f0, f1, y = np.array([-1.0, -2.0]), np.array([0.0, 0.3]), np.array([0.3, 0.8]), np.array([0.0, 1.0])
    offset.learn_many(s, f0, f1, y, np.zeros(2, dtype=np.int64), prior=PRIOR, deff=2.0)
    p = 1 / (1 + np.exp(-s[:, None] - GRID))
    h = p * (f1 - f0)[:, None] / (1 - p * f0[:, None])
    expected = np.exp(PRIOR) * np.sqrt((1 - h[0]) * h[1])
    np.testing.assert_allclose(offset.weights(PRIOR), expected / expected.sum(), rtol=1e-9)


def test_many_is_repeated_one_to_the_bit() -> None:
    """A batch of outcomes and the same outcomes one at a time leave the same bits."""
    together, alone = Offset.unlearned(), Offset.unlearned()
    rows = outcomes(100, 0.5)
    together.learn_many(*rows, prior=PRIOR, deff=2.3)
    for i in range(100):
        alone.learn_many(*(a[i : i + 1] for a in rows), prior=PRIOR, deff=2.3)
    assert together.evidence.tobytes() == alone.evidence.tobytes()
    assert together.last_ms[0] == alone.last_ms[0]


def test_evidence_halves_in_a_half_life() -> None:
    """An outcome a half-life later finds half of the evidence; a late one, closed before, decays nothing."""
    offset = Offset.unlearned()
    offset.learn_many(*outcomes(400, 1.0), prior=PRIOR, deff=1.0)
    before, last = offset.evidence.copy(), int(offset.last_ms[0])
    surprise_free = np.array([-29.0]), np.zeros(1), np.ones(1), np.zeros(1)
    late = offset.copy()
    late.learn_many(*surprise_free, np.array([last - 5000]), prior=PRIOR, deff=1.0)
    np.testing.assert_allclose(late.evidence, before, atol=1e-9)
    assert late.last_ms[0] == last
    offset.learn_many(*surprise_free, np.array([last + int(HALF_LIFE_MS)]), prior=PRIOR, deff=1.0)
    np.testing.assert_allclose(offset.evidence, before / 2, atol=1e-9)


def test_a_bad_outcome_teaches_nothing() -> None:
    """NaN in s raises ValueError and leaves the evidence as it was."""
    offset = Offset.unlearned()
    with pytest.raises(ValueError, match="refused"):
        offset.learn_many(np.array([np.nan]), np.zeros(1), np.ones(1), np.ones(1), np.zeros(1, dtype=np.int64), prior=PRIOR, deff=1.0)
    assert not offset.evidence.any()


def test_extreme_logits_stay_probabilities() -> None:
    """Whatever s and however one-sided the evidence, p lies in [0, 1] and is finite."""
    offset = Offset.unlearned()
    n = 2000
    offset.learn_many(np.full(n, -40.0), np.zeros(n), np.ones(n), np.ones(n), np.arange(n), prior=PRIOR, deff=1.0)
    p = offset.probability(np.array([-1e9, -40.0, 0.0, 40.0, 1e9]), PRIOR)
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) >= 0).all()


def curves_with(shifts: np.ndarray) -> np.ndarray:
    """The likelihood curves of pseudo-launches with these true shifts."""
    found = []
    for seed, shift in enumerate(shifts):
        s, _, _, y, _ = outcomes(3000, float(shift), seed)
        found.append(likelihood_curve(s, y, deff=1.0))
    return np.stack(found)


def test_alike_lines_keep_the_spike_and_unlike_lines_widen_it() -> None:
    """Lines that share one drift put most weight on the spike (the drift is no difference); lines that differ do not."""
    alike = offset_prior(curves_with(np.full(8, 0.4)))
    unlike = offset_prior(curves_with(np.array([-1.2, 1.0, -0.6, 0.5, 1.3, -1.0, 0.2, -0.3])))
    assert alike[0] > 0.75
    assert unlike[0] < 0.5
    assert alike.sum() == pytest.approx(1.0)


def test_too_few_lines_give_the_default() -> None:
    """With fewer than three pseudo-launches the prior is the default mixture."""
    assert (offset_prior(np.zeros((2, 141))) == DEFAULT_PI).all()
