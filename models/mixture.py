"""The mixture of experts: an insurance, so that no way of transfer can hurt by more than a bound that holds on every sequence of outcomes.

Each closed delay bin is forecast by K experts; the mixture's forecast is Σ w_k P_k(outcome), and w_k ∝ w_k · P_k(outcome) afterwards. Log-loss is
mixable with rate 1 (Vovk 1998), so the mixture's total loss exceeds expert k's by at most ln(1/π_k); a fixed share of the weight goes back to the
prior with time, so that a switch of the best expert is followed, and costs Σ −ln(1 − share of the step) more (Herbster and Warmuth 1998).
`slack` is what is left of that bound: it is checked with every batch, and a negative one is a defect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.kernel import kernel
from models.head import Matrix, Vector

DAY_MS = 86_400_000.0
SHARE_PER_DAY = 0.02
LEAST_PRIOR = 0.01
NEVER_MS = -(2**62)
LEAST_P = 1e-9
"""Forecasts are held this far from 0 and 1, so that no expert's loss is infinite."""


@kernel
def _learn(
    p: Matrix, f_prev: Vector, f_next: Vector, y: Vector, close_ms: NDArray[np.int64], prior: Vector, log_keep_per_ms: float,
    w: Vector, losses: Vector, own: Vector, last_ms: NDArray[np.int64],
) -> None:  # fmt: skip
    n = w.shape[0]
    chance = np.empty(n)
    for i in range(p.shape[0]):
        if last_ms[0] > NEVER_MS and close_ms[i] > last_ms[0]:
            log_keep = log_keep_per_ms * float(close_ms[i] - last_ms[0])
            keep = math.exp(log_keep)
            for k in range(n):
                w[k] = keep * w[k] + (1.0 - keep) * prior[k]
            own[1] -= log_keep
        last_ms[0] = max(last_ms[0], close_ms[i])
        total = 0.0
        for k in range(n):
            q = min(max(p[i, k], LEAST_P), 1.0 - LEAST_P)
            reached = 1.0 - q * f_prev[i]
            if y[i] > 0.0:
                chance[k] = q * (f_next[i] - f_prev[i]) / reached
            else:
                chance[k] = (1.0 - q * f_next[i]) / reached
            total += w[k] * chance[k]
        own[0] -= math.log(total)
        for k in range(n):
            losses[k] -= math.log(chance[k])
            w[k] *= chance[k] / total


@dataclass
class Mixture:
    """The belief over K experts. Mutable.

    `w` (K,) sums to 1; `losses` (K,) are the experts' total losses in nats; `own` (2,): the mixture's loss, and what sharing may have cost so far;
    `last_ms` (1,): the event time up to which weight has been shared.
    """

    w: Vector
    losses: Vector
    own: Vector
    last_ms: NDArray[np.int64]

    @classmethod
    def unlearned(cls, prior: Vector) -> Mixture:
        """A mixture that has seen nothing: its weights are the prior π (K,), which sums to 1."""
        return cls(prior.copy(), np.zeros(len(prior)), np.zeros(2), np.array([NEVER_MS], dtype=np.int64))

    def copy(self) -> Mixture:
        """Another belief with the same content."""
        return Mixture(self.w.copy(), self.losses.copy(), self.own.copy(), self.last_ms.copy())

    def learn_many(
        self, p: Matrix, f_prev: Vector, f_next: Vector, y: Vector, close_ms: NDArray[np.int64], *, prior: Vector, share_per_day: float = SHARE_PER_DAY
    ) -> None:
        """Take in N closed bins in the given order: `p` (N, K) are the final conversion probabilities that the experts gave just before each."""
        keep = math.log1p(-share_per_day) / DAY_MS
        close_ms = np.ascontiguousarray(close_ms, dtype=np.int64)
        _learn(np.ascontiguousarray(p), f_prev, f_next, y, close_ms, prior, keep, self.w, self.losses, self.own, self.last_ms)

    def slack(self, prior: Vector) -> Vector:
        """Return what is left of the bound, (K,) nats: ln(1/π_k) + the cost of sharing − (the mixture's loss − expert k's). Never negative."""
        return np.asarray(-np.log(prior) + self.own[1] - (self.own[0] - self.losses))


def floored(pi: Vector, least: float = LEAST_PRIOR) -> Vector:
    """Return prior weights (K,) that sum to 1, each at least `least`, in the given proportions."""
    pi = np.asarray(pi, dtype=np.float64) / np.sum(pi)
    low = pi < least
    while low.any():
        free = 1.0 - least * int(low.sum())
        fixed = np.where(low, least, pi / pi[~low].sum() * free)
        if not ((fixed < least) & ~low).any():
            return fixed
        low |= fixed < least
    return pi


def prior_from_losses(losses: Matrix, base: Vector, *, pseudo_count: float = 8.0, rounds: int = 200) -> Vector:
    """π (K,) by EM from past launches: `losses` (M, K) are the experts' total losses there in nats (divided by the design effect), `base` (K,) the
    Dirichlet's mean with `pseudo_count` launches behind it. Without launches: the base. Each weight at least `LEAST_PRIOR`.
    """
    pi = floored(base)
    if len(losses) == 0:
        return pi
    likelihood = np.exp(-(losses - losses.min(axis=1, keepdims=True)))
    start = pi
    for _ in range(rounds):
        share = likelihood * pi
        share /= share.sum(axis=1, keepdims=True)
        pi = share.sum(axis=0) + pseudo_count * start
        pi /= pi.sum()
    return floored(pi)
