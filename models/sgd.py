"""Delayed feedback by one pass of stochastic gradient descent: the methods that delay bins are compared with.

All of them start from a logistic head that was fitted on the sources and learn from the launch's exposures. They differ in how long an exposure is
waited for before it counts as a negative, and in what is then done about the orders that come later:

| method | waits | |
| --- | --- | --- |
| `wait_sgd` | the whole window | the label is final, and old |
| `es_dfm_sgd` | an elapsed time e | elapsed-time sampling (Yang et al. 2021, Capturing Delayed Feedback in Conversion Rate Prediction via Elapsed-Time Sampling, AAAI) |
| `fnw_sgd` | not at all | fake negative weighted (Ktena et al. 2019, Addressing Delayed Feedback for Continuous Training with Neural Networks in CTR prediction, RecSys) |
| `oracle_sgd` | not at all | is told the final label at once: a bound for the others, and no method |

An exposure is learned at ts + e with the label that it has by then; an order that comes later is learned once more, as a positive, when it comes. Weights
make the expected gradient that of the true labels, with p the head's own probability (no gradient goes through it) and F = P(delay ≤ e | order):

    a positive      1 + p (1 - F)
    a negative     (1 + p (1 - F)) (1 - p) / (1 - p F)

These are ES-DFM's, its two auxiliary models written out: p_dp = p (1 - F), an order that is still to come, and p_rn = (1 - p) / (1 - p F), a negative that
stays one. There they are two more networks, trained on history; here p is the head's and F is the sources' delay curve, the same for all exposures: the
simplest form. With e = 0, so F = 0, they are FNW's (1 + p and (1 - p)(1 + p)); with e = the window, so F = 1, they are 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.kernel import kernel
from models.head import Matrix, Vector

METHODS = ("wait_sgd", "fnw_sgd", "es_dfm_sgd", "oracle_sgd")
NEVER_MS = 2**62
"""When an order comes that never comes."""
RATE = 0.02
"""AdaGrad's rate: the least log-loss of all four on six simulated shops, of .003 to 1; a faster intercept gained nothing there."""


@kernel
def _run(z: Matrix, row: NDArray[np.int64], y: Vector, known: NDArray[np.int64], come_by: float, rate: float, m: Vector, squares: Vector, s: Vector) -> None:
    d = m.shape[0]
    k = 0
    for i in range(s.shape[0]):
        while k < known[i]:
            r = row[k]
            x = 0.0
            for j in range(d):
                x += m[j] * z[r, j]
            p = 1.0 / (1.0 + np.exp(-min(max(x, -30.0), 30.0)))
            weight = 1.0 + p * (1.0 - come_by)
            if not y[k] > 0.0:
                weight *= (1.0 - p) / (1.0 - p * come_by)
            for j in range(d):
                g = weight * (p - y[k]) * z[r, j]
                if g != 0.0:
                    squares[j] += g * g
                    m[j] -= rate * g / np.sqrt(squares[j])
            k += 1
        x = 0.0
        for j in range(d):
            x += m[j] * z[i, j]
        s[i] = x


def rehearse_sgd(
    method: str, z: Matrix, ts_ms: NDArray[np.int64], order_ms: NDArray[np.int64], now_ms: NDArray[np.int64],
    *, window_ms: int, elapsed_ms: int, come_by: float, start: Vector, squares: Vector, rate: float = RATE,
) -> Vector:  # fmt: skip
    """Return the logit (N,) that a method gives to each of N exposures in the order of time; z (N, d), the rest (N,), `order_ms` NEVER_MS if none.

    A row is predicted with what had happened by `now_ms`, which never falls. `start` (d,): the sources' head. `squares` (d,): the sums of squared gradients
    of the rows that it was fitted on, with which AdaGrad's rates begin (Duchi et al. 2011), as if those rows had been learned so too. `elapsed_ms` and
    `come_by` (F at that time) are ES-DFM's; the others' follow from their names. ValueError for an unknown method.
    """
    n = len(z)
    rows = np.arange(n, dtype=np.int64)
    waits = {"wait_sgd": (window_ms, 1.0), "fnw_sgd": (0, 0.0), "es_dfm_sgd": (elapsed_ms, come_by), "oracle_sgd": (0, 1.0)}
    if method not in waits:
        raise ValueError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    wait_ms, share = waits[method]
    ordered = order_ms < NEVER_MS
    seen_ms = ts_ms + wait_ms
    told = ordered if method == "oracle_sgd" else order_ms <= seen_ms
    late = np.flatnonzero(ordered & ~told)
    fact_ms = np.concatenate([seen_ms, order_ms[late]])
    fact_row, fact_y = np.concatenate([rows, late]), np.concatenate([told.astype(np.float64), np.ones(len(late))])
    order = np.argsort(fact_ms, kind="stable")
    known = np.searchsorted(fact_ms[order], now_ms, side="right").astype(np.int64)
    s = np.empty(n)
    _run(np.ascontiguousarray(z), fact_row[order], fact_y[order], known, share, rate, start.copy(), squares + 1e-12, s)
    return s
