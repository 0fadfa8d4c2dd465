"""E-processes and confidence sequences: what their definitions demand, by brute force on small numbers and by repeated draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from models.sequential import concentration, log_e_binomial, normal_margin, share_interval


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_e_process_is_a_martingale(share: float) -> None:
    """Under its hypothesis its mean after the next draw is what it was: summed over all sequences of draws, the mean is 1."""
    c = concentration(share, 0.25)
    for hits, draws in itertools.product(range(6), range(6)):
        if hits <= draws:
            after = [math.exp(log_e_binomial(hits + more, draws + 1, share, prior=share, c=c)) for more in (0, 1)]
            assert (1 - share) * after[0] + share * after[1] == pytest.approx(math.exp(log_e_binomial(hits, draws, share, prior=share, c=c)))
    every = [
        math.exp(log_e_binomial(sum(seq), 8, share, prior=share, c=c)) * share ** sum(seq) * (1 - share) ** (8 - sum(seq))
        for seq in itertools.product((0, 1), repeat=8)
    ]
    assert math.fsum(every) == pytest.approx(1.0)


def test_it_agrees_with_the_product_of_predictions() -> None:
    """The mixture is the product, over the draws, of the predictive chance of each over the hypothesis's."""
    rng, share, c = np.random.default_rng(0), 0.8, 40.0
    hits, log_e = 0, 0.0
    for n, hit in enumerate(rng.random(200) < 0.7):
        predicted = (c * share + hits) / (c + n)
        log_e += math.log(predicted / share if hit else (1 - predicted) / (1 - share))
        hits += int(hit)
    assert log_e_binomial(hits, 200, share, prior=share, c=c) == pytest.approx(log_e)


def test_the_interval_holds_what_the_e_process_allows() -> None:
    """Its ends are where the e-process reaches 1/α; it holds the observed share, and is everything before the first draw."""
    hits, draws = np.array([0, 0, 5, 40, 7]), np.array([0, 9, 5, 80, 90])
    low, high = share_interval(hits, draws, prior=0.5, c=30.0, alpha=0.05)
    assert (low[0], high[0], low[1], high[2]) == (0.0, 1.0, 0.0, 1.0)
    assert ((low[1:] <= hits[1:] / draws[1:]) & (hits[1:] / draws[1:] <= high[1:])).all()
    for end in (low[3:], high[3:]):
        assert log_e_binomial(hits[3:], draws[3:], end, prior=0.5, c=30.0) == pytest.approx(math.log(20))


def test_the_interval_holds_the_truth_at_all_times_together() -> None:
    """In 400 streams of 2 000 draws, looked at after each, 95 % never lose the truth, which is not where the prior has its middle."""
    rng, truth = np.random.default_rng(1), 0.55
    hits = (rng.random((400, 2000)) < truth).cumsum(axis=1)
    lost = log_e_binomial(hits, np.arange(1, 2001), truth, prior=0.5, c=concentration(0.5, 0.25)) >= math.log(20)
    assert lost.any(axis=1).mean() <= 0.05
    wrong = log_e_binomial(hits, np.arange(1, 2001), 0.5, prior=0.5, c=concentration(0.5, 0.25)) >= math.log(20)
    assert wrong.any(axis=1).mean() > 0.9


def test_the_concentration_gives_the_asked_spread() -> None:
    """Draws of the prior have about the asked standard deviation of the log odds."""
    for share in (0.5, 0.9):
        c = concentration(share, 0.25)
        s = np.random.default_rng(2).beta(c * share, c * (1 - share), 100_000)
        assert np.std(np.log(s / (1 - s))) == pytest.approx(0.25, rel=0.05)


def test_the_normal_margin_is_the_mixtures_boundary() -> None:
    """At the margin the likelihood ratio of the normal mixture is 1/α; a single look's margin is smaller."""
    se, prior_sd, alpha = 0.01, 0.02, 0.05
    margin = float(normal_margin(se, prior_sd, alpha=alpha))

    def density(x: float, variance: float) -> float:
        return math.exp(-(x**2) / (2 * variance)) / math.sqrt(variance)

    assert density(margin, se**2 + prior_sd**2) / density(margin, se**2) == pytest.approx(1 / alpha)
    assert margin > 1.96 * se
