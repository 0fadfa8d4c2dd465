"""From a feature vector to the two maps that heads read, online: standardised raw features, and the trunk's z. No torch.

The trunk is trained in torch (`models.trunk`) and folded here into one kernel. A piecewise-linear encoding followed by a Linear layer is itself
piecewise linear in each feature, so a feature costs two rows of a table (the layer's response at the edges around its value) instead of a row for
each bin; one that lies at an edge costs one row, and at its lowest, as many counters do, nothing. Equal to torch to 1e-5; a row's bits do not depend on its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.kernel import aligned, kernel

CLIP = 6.0
NORM_EPSILON = 1e-5

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class TrunkArrays:
    """The trained trunk: scaler (F,) float64, edges of all features end to end, and float32 weights in (in, out) order."""

    mean: Float64
    std: Float64
    edges: Float32
    starts: NDArray[np.int64]
    w1: Float32
    b1: Float32
    gain: Float32
    shift: Float32
    w2: Float32
    b2: Float32
    w3: Float32
    b3: Float32

    @property
    def features(self) -> int:
        """F, the features that the trunk takes."""
        return len(self.mean)

    @property
    def width(self) -> int:
        """The trunk's outputs, without the constant."""
        return len(self.b3)

    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(getattr(self, name).size for name in ("w1", "b1", "gain", "shift", "w2", "b2", "w3", "b3"))

    def as_dict(self) -> dict[str, NDArray[np.generic]]:
        """Every array by its name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@kernel
def _standardise(x: Float32, mean: Float64, std: Float64, out: Float64) -> None:
    f = x.shape[1]
    for i in range(x.shape[0]):
        for j in range(f):
            u = (float(x[i, j]) - mean[j]) / std[j]
            out[i, j] = min(max(u, -6.0), 6.0) if u == u else 0.0
        out[i, f] = 1.0


@kernel
def _first_layer(
    x: Float64, steps: Float32, starts: NDArray[np.int32], edges: Float32, table: Float32,
    u: Float32, at: NDArray[np.int32], row: NDArray[np.int32], share: Float32, h: Float32,
) -> None:  # fmt: skip
    """Add the responses to one row's features to h, which holds the constant; `u`, `at`, `row` and `share` are room to work in.

    Each step goes over all features, so that it is one of vectors: a search of each feature by itself guesses wrong at every other turn. Then follows which rows
    of the table have a share in the sum, without guessing either: what has none is written over by the next.
    """
    f = starts.shape[0]
    lowest, highest = steps[0], steps[steps.shape[0] - 1]
    for j in range(f):
        u[j] = min(highest[j], max(lowest[j], np.float32(x[j])))
        at[j] = starts[j]
    for k in range(1, steps.shape[0] - 1):
        for j in range(f):
            at[j] += np.int32(1) if u[j] >= steps[k, j] else np.int32(0)
    zero, one = np.float32(0.0), np.float32(1.0)
    for j in range(f):
        low, is_above = at[j], u[j] > lowest[j]  # never, if it has no bins
        between = (u[j] - edges[low]) / (edges[low + 1] - edges[low])
        at[j], u[j] = (low, between) if is_above else (starts[j], zero)
    n = 0
    for j in range(f):
        row[n], share[n] = at[j], one - u[j]
        n += (at[j] > starts[j]) & (u[j] < one)  # the response at the lowest edge is zero
        row[n], share[n] = at[j] + 1, u[j]
        n += u[j] > zero
    begin = n - n % 8
    for i in range(0, begin, 8):  # so many at a time: a sum is written once for eight
        s0, s1, s2, s3, s4, s5, s6, s7 = share[i], share[i + 1], share[i + 2], share[i + 3], share[i + 4], share[i + 5], share[i + 6], share[i + 7]
        r0, r1, r2, r3 = table[row[i]], table[row[i + 1]], table[row[i + 2]], table[row[i + 3]]
        r4, r5, r6, r7 = table[row[i + 4]], table[row[i + 5]], table[row[i + 6]], table[row[i + 7]]
        for o in range(h.shape[0]):
            four = (((h[o] + s0 * r0[o]) + s1 * r1[o]) + s2 * r2[o]) + s3 * r3[o]
            h[o] = (((four + s4 * r4[o]) + s5 * r5[o]) + s6 * r6[o]) + s7 * r7[o]
    for i in range(begin, n):
        s0, r0 = share[i], table[row[i]]
        for o in range(h.shape[0]):
            h[o] += s0 * r0[o]


@kernel
def _sum(a: Float32) -> float:
    """The sum of a, which is used up: the second half is added to the first until one is left, whatever the machine's vectors are."""
    n = a.shape[0]
    while n > 1:
        half = (n + 1) // 2
        for o in range(n - half):
            a[o] += a[o + half]
        n = half
    return float(a[0])


@kernel
def _normalise(h: Float32, gain: Float32, shift: Float32, work: Float32) -> None:
    """ReLU and layer norm of h, in place."""
    n = h.shape[0]
    zero = np.float32(0.0)
    for o in range(n):
        h[o] = max(zero, h[o])
        work[o] = h[o]
    mean = np.float32(_sum(work) / n)
    for o in range(n):
        work[o] = (h[o] - mean) * (h[o] - mean)
    scale = np.float32(1.0 / math.sqrt(_sum(work) / n + 1e-5))
    for o in range(n):
        h[o] = (h[o] - mean) * scale * gain[o] + shift[o]


@kernel
def _layer(x: Float32, w: Float32, b: Float32, out: Float32) -> None:
    """out (4, O) of x (4, I): a linear layer of four rows, two inputs at a time: a row of weights is read once for four, a sum is written once for two."""
    inputs = x.shape[1]
    outputs = b.shape[0]
    for r in range(4):
        for o in range(outputs):
            out[r, o] = b[o]
    for pair in range(inputs // 2):
        k = 2 * pair
        a0, a1, a2, a3 = x[0, k], x[1, k], x[2, k], x[3, k]
        c0, c1, c2, c3 = x[0, k + 1], x[1, k + 1], x[2, k + 1], x[3, k + 1]
        for o in range(outputs):
            v = w[k, o]
            u = w[k + 1, o]
            out[0, o] = (out[0, o] + a0 * v) + c0 * u
            out[1, o] = (out[1, o] + a1 * v) + c1 * u
            out[2, o] = (out[2, o] + a2 * v) + c2 * u
            out[3, o] = (out[3, o] + a3 * v) + c3 * u
    for k in range(inputs - inputs % 2, inputs):
        for r in range(4):
            for o in range(outputs):
                out[r, o] += x[r, k] * w[k, o]


@kernel
def _bound(z: Float32, out: Float64) -> None:
    """z of one row, bounded: |z| < √D; and the constant."""
    n = z.shape[0]
    norm = 0.0
    for o in range(n):
        norm += float(z[o]) * float(z[o])
    scale = 1.0 / math.sqrt(1.0 + norm / n)
    for o in range(n):
        out[o] = z[o] * scale
    out[n] = 1.0


@kernel
def _encode(
    raw: Float64, steps: Float32, starts: NDArray[np.int32], edges: Float32, table: Float32, b1: Float32, gain: Float32, shift: Float32,
    w2: Float32, b2: Float32, w3: Float32, b3: Float32, out: Float64,
) -> None:  # fmt: skip
    f = starts.shape[0]
    n1 = b1.shape[0]
    zero = np.float32(0.0)
    u, at = np.empty(f, np.float32), np.empty(f, np.int32)
    row, share = np.empty(2 * f, np.int32), np.empty(2 * f, np.float32)
    h, work = np.zeros((4, n1), np.float32), np.empty(n1, np.float32)
    hidden, z = np.empty((4, b2.shape[0]), np.float32), np.empty((4, b3.shape[0]), np.float32)
    for begin in range(0, raw.shape[0], 4):  # what lies beyond the last row is computed and not read
        rows = min(4, raw.shape[0] - begin)
        for r in range(rows):
            for o in range(n1):
                h[r, o] = b1[o]
            _first_layer(raw[begin + r], steps, starts, edges, table, u, at, row, share, h[r])
            _normalise(h[r], gain, shift, work)
        _layer(h, w2, b2, hidden)
        for r in range(4):
            for o in range(hidden.shape[1]):
                hidden[r, o] = max(zero, hidden[r, o])
        _layer(hidden, w3, b3, z)
        for r in range(rows):
            _bound(z[r], out[begin + r])


def standardise(x: Float32, mean: Float64, std: Float64) -> Float64:
    """Return (N, F + 1) for x (N, F): (x - mean) / std clipped at ±6 (NaN → 0), and the constant 1 in the last column."""
    if x.ndim != 2 or x.shape[1] != len(mean):
        raise ValueError(f"x is {x.shape}, expected (N, {len(mean)})")
    out = np.empty((len(x), len(mean) + 1))
    _standardise(np.ascontiguousarray(x, dtype=np.float32), mean, std, out)
    return out


class Search(NamedTuple):
    """The edges as a row's features are looked up among them: all features take each step together.

    `steps` (S, F): the lowest edge of each feature, those in between in rising order, ∞ where it has fewer, and its highest; all ∞ for one without bins.
    `starts` (F,) int32: where each feature's edges begin in `edges`, which are those of all features end to end, and S beyond: all steps of a feature
    without bins are taken, and what is found there is not used.
    """

    steps: Float32
    starts: NDArray[np.int32]
    edges: Float32

    @classmethod
    def among(cls, arrays: TrunkArrays) -> Search:
        """That of a trunk."""
        several = [arrays.edges[a:b] for a, b in zip(arrays.starts[:-1], arrays.starts[1:], strict=True)]
        steps = np.full((max([2, *(len(edges) for edges in several)]), len(several)), np.inf, np.float32)
        for j, edges in enumerate(several):
            if len(edges) > 1:
                steps[: len(edges) - 1, j], steps[-1, j] = edges[:-1], edges[-1]
        return cls(steps, arrays.starts[:-1].astype(np.int32), np.append(arrays.edges, np.full(len(steps), np.inf, np.float32)))


class Layers(NamedTuple):
    """What the kernel reads of a trunk beside `Search`: `table` as `response_table` makes it, the rest as in `TrunkArrays`."""

    table: Float32
    b1: Float32
    gain: Float32
    shift: Float32
    w2: Float32
    b2: Float32
    w3: Float32
    b3: Float32


class Encoder:
    """The folded trunk, ready to run. Immutable."""

    def __init__(self, arrays: TrunkArrays) -> None:
        self._features, self._width = arrays.features, arrays.width
        self._search = Search.among(arrays)
        layers = (response_table(arrays), arrays.b1, arrays.gain, arrays.shift, arrays.w2, arrays.b2, arrays.w3, arrays.b3)
        self._layers = Layers(*[aligned(array) for array in layers])

    def encode(self, raw: Float64) -> Float64:
        """Standardised rows (N, F + 1), as `standardise` makes them, → z (N, D + 1), the last column the constant 1; |z| without it < √D."""
        if raw.ndim != 2 or raw.shape[1] != self._features + 1:
            raise ValueError(f"rows are {raw.shape}, expected (N, {self._features + 1})")
        out = np.empty((len(raw), self._width + 1))
        _encode(np.ascontiguousarray(raw), *self._search, *self._layers, out)
        return out


def response_table(arrays: TrunkArrays) -> Float32:
    """(edges, width of the first layer): the first layer's response to a feature at each of its edges; zero at its lowest."""
    table = np.zeros((len(arrays.edges), arrays.w1.shape[1]), dtype=np.float32)
    bin_from = 0
    for start, stop in zip(arrays.starts[:-1], arrays.starts[1:], strict=True):
        bins = max(0, int(stop - start) - 1)
        table[start + 1 : start + 1 + bins] = np.cumsum(arrays.w1[bin_from : bin_from + bins].astype(np.float64), axis=0)
        bin_from += bins
    return table
