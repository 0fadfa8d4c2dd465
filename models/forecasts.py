"""The kernels that say something of rows: what a head says, a mean of heads, a level, and everything that is believed of a launch.

They stand together because a kernel must not call one of another file (`features.kernel`), and because what a launch's experts say in one step must have the
bits of what each says by itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from features.kernel import kernel

BESIDE_Z = 3
"""How many of a launch's experts have no head on the trunk's features: shared, frozen and scratch."""

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


@kernel
def _moderated(z: Vector, m: Vector, p: Vector, rows: NDArray[np.int64], a: Vector) -> float:
    """mᵀz / √(1 + π zᵀPz / 8) of one row; row j of P begins at `p[rows[j]]`, as far as its diagonal at least; `a` is room to work in.

    P is symmetric, so zᵀPz takes its lower triangle twice and its diagonal once; four rows of P at a time, and what sticks out of them by itself.
    """
    d = m.shape[0]
    whole = d - d % 4
    x = 0.0
    for k in range(d):
        a[k] = 0.0
    for j in range(0, whole, 4):
        z0, z1, z2, z3 = z[j], z[j + 1], z[j + 2], z[j + 3]
        p0, p1, p2, p3 = p[rows[j] :], p[rows[j + 1] :], p[rows[j + 2] :], p[rows[j + 3] :]
        x = (((x + m[j] * z0) + m[j + 1] * z1) + m[j + 2] * z2) + m[j + 3] * z3
        for k in range(j):
            a[k] = (((a[k] + z0 * p0[k]) + z1 * p1[k]) + z2 * p2[k]) + z3 * p3[k]
        a[j] += (z1 * p1[j] + z2 * p2[j]) + z3 * p3[j]
        a[j + 1] += z2 * p2[j + 1] + z3 * p3[j + 1]
        a[j + 2] += z3 * p3[j + 2]
    for j in range(whole, d):
        last = p[rows[j] :]
        x += m[j] * z[j]
        for k in range(j):
            a[k] += z[j] * last[k]
    v = 0.0
    for k in range(d):
        v += z[k] * (2.0 * a[k] + z[k] * p[rows[k] + k])
    return x / math.sqrt(1.0 + math.pi * max(v, 0.0) / 8.0)


@kernel
def predict(z: Matrix, m: Vector, p: Matrix, s: Vector) -> None:
    """What a head N(m, P) says of rows z (N, d): moderated logits s (N,)."""
    d = m.shape[0]
    a, whole, rows = np.empty(d), p.reshape(d * d), np.arange(d) * d
    for i in range(z.shape[0]):
        s[i] = _moderated(z[i], m, whole, rows, a)


@kernel
def mean_prediction(z: tuple[Matrix, ...], m: tuple[Vector, ...], p: tuple[Matrix, ...], s: Vector) -> None:
    """The mean s (N,) of what heads say, each of its own rows."""
    a = np.empty(max([len(w) for w in m]))
    s[:] = 0.0
    for h in range(len(m)):  # head by head: what is read of one P stays in the nearest cache
        d = len(m[h])
        whole, rows = p[h].reshape(d * d), np.arange(d) * d
        for i in range(s.shape[0]):
            s[i] += _moderated(z[h][i], m[h], whole, rows, a)
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


def _as_pointer(_context: Any, _address: Any) -> Any:
    return types.voidptr(types.int64), lambda _context, builder, _signature, given: builder.inttoptr(given[0], cgutils.voidptr_t)


_pointer: Any = intrinsic(_as_pointer)
"""An address (int64) as a pointer. A batch can have as many arrays as launches, and to hand each over costs more than what is computed of it."""


@kernel
def score_launches(
    raw: Matrix, z: Matrix, s: Vector, s0: Vector, rows: NDArray[np.int64], of: NDArray[np.int64], addresses: NDArray[np.int64],
    exp_minus_b: Vector, on_z: int, out: Matrix,
) -> None:  # fmt: skip
    """Score and probability of the mixture and of each expert, of rows (n,), each in the launch `of` (n,): out (n, 2 + 2 K).

    What is believed of a launch lies at its address, as `models.launch_scoring.LaunchScorer` has it. IndexError for what is not there.
    """
    levels, experts, d_raw, d_z = exp_minus_b.shape[0], on_z + BESIDE_Z, raw.shape[1], z.shape[1]
    p_raw, p_z = d_raw * (d_raw + 1) // 2, d_z * (d_z + 1) // 2
    size = levels + experts + d_raw + p_raw + on_z * (d_z + p_z)
    a, part, triangle = np.empty(max(d_raw, d_z)), np.empty(levels), np.zeros(max(d_raw, d_z), np.int64)
    for j in range(1, triangle.shape[0]):
        triangle[j] = triangle[j - 1] + j
    first = np.zeros(addresses.shape[0] + 1, np.int64)
    for n in range(rows.shape[0]):
        if not (0 <= of[n] < addresses.shape[0] and 0 <= rows[n] < raw.shape[0]):
            raise IndexError("a row or a launch that is not there")
        first[of[n] + 1] += 1
    for n in range(addresses.shape[0]):
        first[n + 1] += first[n]
    order, so_far = np.empty(rows.shape[0], np.int64), first.copy()
    for n in range(rows.shape[0]):
        order[so_far[of[n]]] = n
        so_far[of[n]] += 1
    for launch in range(addresses.shape[0]):  # one after the other: what is read of one stays in the nearest cache
        believed = carray(_pointer(addresses[launch]), (size,), np.float64)
        level, weights, of_raw = believed[:levels], believed[levels : levels + experts], believed[levels + experts :]
        of_z = of_raw[d_raw + p_raw :]
        for n in order[first[launch] : first[launch + 1]]:
            i = rows[n]
            out[n, 2] = _sigmoid(s[i])
            out[n, 3] = _at_level(s[i], level, exp_minus_b, part)
            out[n, 4] = _sigmoid(s0[i])
            for e in range(on_z):
                own = of_z[e * (d_z + p_z) :]
                out[n, 6 + 2 * e] = _sigmoid(_moderated(z[i], own[:d_z], own[d_z:], triangle, a))
            out[n, 2 * experts] = _sigmoid(_moderated(raw[i], of_raw[:d_raw], of_raw[d_raw:], triangle, a))
            for k in range(1, experts):
                out[n, 3 + 2 * k] = out[n, 2 + 2 * k]
            score = 0.0
            probability = 0.0
            for k in range(experts):
                score += weights[k] * out[n, 2 + 2 * k]
                probability += weights[k] * out[n, 3 + 2 * k]
            out[n, 0] = min(score, 1.0)
            out[n, 1] = min(probability, 1.0)
