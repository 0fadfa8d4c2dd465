"""The kernels that say something of rows: what a head says, a mean of heads, a level, and everything that is believed of a launch.

They stand together because a kernel must not call one of another file (`features.kernel`), and because what a launch's experts say in one step must have the
bits of what each says by itself.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from features.kernel import kernel

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


@kernel
def _moderated(z: Vector, m: Vector, p: Matrix, a: Vector) -> float:
    """mᵀz / √(1 + π zᵀPz / 8) of one row; `a` is room to work in.

    P is symmetric, so zᵀPz takes its lower triangle twice and its diagonal once; four rows of P at a time, and what sticks out of them by itself.
    """
    d = m.shape[0]
    whole = d - d % 4
    x = 0.0
    for k in range(d):
        a[k] = 0.0
    for j in range(0, whole, 4):
        z0, z1, z2, z3 = z[j], z[j + 1], z[j + 2], z[j + 3]
        x = (((x + m[j] * z0) + m[j + 1] * z1) + m[j + 2] * z2) + m[j + 3] * z3
        for k in range(j):
            a[k] = (((a[k] + z0 * p[j, k]) + z1 * p[j + 1, k]) + z2 * p[j + 2, k]) + z3 * p[j + 3, k]
        a[j] += (z1 * p[j + 1, j] + z2 * p[j + 2, j]) + z3 * p[j + 3, j]
        a[j + 1] += z2 * p[j + 2, j + 1] + z3 * p[j + 3, j + 1]
        a[j + 2] += z3 * p[j + 3, j + 2]
    for j in range(whole, d):
        x += m[j] * z[j]
        for k in range(j):
            a[k] += z[j] * p[j, k]
    v = 0.0
    for k in range(d):
        v += z[k] * (2.0 * a[k] + z[k] * p[k, k])
    return x / math.sqrt(1.0 + math.pi * max(v, 0.0) / 8.0)


@kernel
def predict(z: Matrix, m: Vector, p: Matrix, s: Vector) -> None:
    """What a head N(m, P) says of rows z (N, d): moderated logits s (N,)."""
    a = np.empty(m.shape[0])
    for i in range(z.shape[0]):
        s[i] = _moderated(z[i], m, p, a)


@kernel
def mean_prediction(z: tuple[Matrix, ...], m: tuple[Vector, ...], p: tuple[Matrix, ...], s: Vector) -> None:
    """The mean s (N,) of what heads say, each of its own rows."""
    a = np.empty(max([len(w) for w in m]))
    s[:] = 0.0
    for h in range(len(m)):  # head by head: what is read of one P stays in the nearest cache
        for i in range(s.shape[0]):
            s[i] += _moderated(z[h][i], m[h], p[h], a)
    s /= len(m)


@kernel
def _at_level(s: float, w: Vector, exp_minus_b: Vector, part: Vector) -> float:
    """Σ_b w(b) σ(s + b) of one row; `part` is room to work in. Four sums side by side: one would wait for itself at every step."""
    n = w.shape[0]
    whole = n - n % 4
    q = math.exp(-min(max(s, -30.0), 30.0))
    for g in range(n):
        part[g] = w[g] / (1.0 + q * exp_minus_b[g])
    t0 = t1 = t2 = t3 = 0.0
    for g in range(0, whole, 4):
        t0 += part[g]
        t1 += part[g + 1]
        t2 += part[g + 2]
        t3 += part[g + 3]
    for g in range(whole, n):
        t0 += part[g]
    return min(max((t0 + t1) + (t2 + t3), 0.0), 1.0)


@kernel
def mean_probability(s: Vector, w: Vector, exp_minus_b: Vector, out: Vector) -> None:
    """Σ_b w(b) σ(s + b) of rows s (N,)."""
    part = np.empty(w.shape[0])
    for i in range(s.shape[0]):
        out[i] = _at_level(s[i], w, exp_minus_b, part)


@kernel
def _sigmoid(s: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(s, -30.0), 30.0)))


@kernel
def score_launch(
    raw: Matrix, z: Matrix, s: Vector, s0: Vector, rows: NDArray[np.int64], level: Vector, exp_minus_b: Vector,
    z_m: Matrix, z_p: NDArray[np.float64], raw_m: Vector, raw_p: Matrix, weights: Vector, out: Matrix,
) -> None:  # fmt: skip
    """Score and probability of the mixture and of each expert, of some rows (n,): out (n, 2 + 2 K). The arguments are those of `models.launch_scoring.LaunchScorer`."""
    experts = weights.shape[0]
    a, part = np.empty(max(z_m.shape[1], raw_m.shape[0])), np.empty(level.shape[0])
    for n in range(rows.shape[0]):
        i = rows[n]
        out[n, 2] = _sigmoid(s[i])
        out[n, 3] = _at_level(s[i], level, exp_minus_b, part)
        out[n, 4] = _sigmoid(s0[i])
        for e in range(z_m.shape[0]):
            out[n, 6 + 2 * e] = _sigmoid(_moderated(z[i], z_m[e], z_p[e], a))
        out[n, 2 * experts] = _sigmoid(_moderated(raw[i], raw_m, raw_p, a))
        for k in range(1, experts):
            out[n, 3 + 2 * k] = out[n, 2 + 2 * k]
        score = 0.0
        probability = 0.0
        for k in range(experts):
            score += weights[k] * out[n, 2 + 2 * k]
            probability += weights[k] * out[n, 3 + 2 * k]
        out[n, 0] = min(score, 1.0)
        out[n, 1] = min(probability, 1.0)
