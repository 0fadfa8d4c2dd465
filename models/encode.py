"""From a feature vector to the two maps that heads read, online: standardised raw features, and the trunk's z. No torch.

The trunk is trained in torch (`models.trunk`) and folded here into one kernel. A piecewise-linear encoding followed by a Linear layer is itself
piecewise linear in each feature, so a feature costs two rows of a table (the layer's response at the edges around its value) instead of a row for
each bin; a feature that lies at its lowest edge, as most counters do, costs nothing. Equal to torch to 1e-5; a row's bits do not depend on its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from features.kernel import kernel

CLIP = 6.0
BLOCK = 32
"""Rows that go through the first layer together, feature by feature, so that its table is read from the nearest cache."""
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
def _encode(
    raw: Float64, edges: Float32, starts: NDArray[np.int64], table: Float32, b1: Float32, gain: Float32, shift: Float32,
    w2: Float32, b2: Float32, w3: Float32, b3: Float32, out: Float64,
) -> None:  # fmt: skip
    n1 = b1.shape[0]
    n2 = b2.shape[0]
    n3 = b3.shape[0]
    whole = n1 - n1 % 4
    most = min(BLOCK, (raw.shape[0] + 3) // 4 * 4)
    block = np.zeros((most, n1), np.float32)
    hidden = np.empty((most, n2), np.float32)
    h3 = np.empty(n3, np.float32)
    one = np.float32(1.0)
    for begin in range(0, raw.shape[0], BLOCK):
        rows = min(BLOCK, raw.shape[0] - begin)
        for i in range(rows):
            for o in range(n1):
                block[i, o] = b1[o]
        for j in range(starts.shape[0] - 1):
            first = starts[j]
            last = starts[j + 1] - 1
            if last <= first:
                continue
            for i in range(rows):
                h = block[i]
                u = np.float32(raw[begin + i, j])
                if u <= edges[first]:
                    continue
                if u >= edges[last]:
                    for o in range(n1):
                        h[o] += table[last, o]
                    continue
                low = first
                high = last
                while high - low > 1:
                    middle = (low + high) // 2
                    if u < edges[middle]:
                        high = middle
                    else:
                        low = middle
                part = (u - edges[low]) / (edges[high] - edges[low])
                if low == first:
                    for o in range(n1):
                        h[o] += part * table[high, o]
                else:
                    rest = one - part
                    for o in range(n1):
                        h[o] += rest * table[low, o] + part * table[high, o]
        for i in range(rows):
            h = block[i]
            for o in range(n1):
                if not h[o] > 0.0:
                    h[o] = 0.0
            # Four sums side by side: one would wait for itself at every step.
            t0 = t1 = t2 = t3 = 0.0
            for o in range(0, whole, 4):
                t0 += h[o]
                t1 += h[o + 1]
                t2 += h[o + 2]
                t3 += h[o + 3]
            for o in range(whole, n1):
                t0 += h[o]
            mean = ((t0 + t1) + (t2 + t3)) / n1
            t0 = t1 = t2 = t3 = 0.0
            for o in range(0, whole, 4):
                t0 += (h[o] - mean) * (h[o] - mean)
                t1 += (h[o + 1] - mean) * (h[o + 1] - mean)
                t2 += (h[o + 2] - mean) * (h[o + 2] - mean)
                t3 += (h[o + 3] - mean) * (h[o + 3] - mean)
            for o in range(whole, n1):
                t0 += (h[o] - mean) * (h[o] - mean)
            middle32 = np.float32(mean)
            scale = np.float32(1.0 / math.sqrt(((t0 + t1) + (t2 + t3)) / n1 + 1e-5))
            for k in range(n1):
                h[k] = (h[k] - middle32) * scale * gain[k] + shift[k]
        for i in range(0, rows, 4):  # four rows to each row of weights; what lies beyond the last row is computed and not read
            for r in range(4):
                for o in range(n2):
                    hidden[i + r, o] = b2[o]
            for k in range(n1):
                a0 = block[i, k]
                a1 = block[i + 1, k]
                a2 = block[i + 2, k]
                a3 = block[i + 3, k]
                for o in range(n2):
                    w = w2[k, o]
                    hidden[i, o] += a0 * w
                    hidden[i + 1, o] += a1 * w
                    hidden[i + 2, o] += a2 * w
                    hidden[i + 3, o] += a3 * w
        for i in range(rows):
            for o in range(n3):
                h3[o] = b3[o]
            for k in range(n2):
                a = hidden[i, k]
                if a > 0.0:
                    for o in range(n3):
                        h3[o] += a * w3[k, o]
            norm = 0.0
            for o in range(n3):
                norm += float(h3[o]) * float(h3[o])
            bound = 1.0 / math.sqrt(1.0 + norm / n3)
            for o in range(n3):
                out[begin + i, o] = h3[o] * bound
            out[begin + i, n3] = 1.0


def standardise(x: Float32, mean: Float64, std: Float64) -> Float64:
    """Return (N, F + 1) for x (N, F): (x - mean) / std clipped at ±6 (NaN → 0), and the constant 1 in the last column."""
    if x.ndim != 2 or x.shape[1] != len(mean):
        raise ValueError(f"x is {x.shape}, expected (N, {len(mean)})")
    out = np.empty((len(x), len(mean) + 1))
    _standardise(np.ascontiguousarray(x, dtype=np.float32), mean, std, out)
    return out


class Encoder:
    """The folded trunk, ready to run. Immutable."""

    def __init__(self, arrays: TrunkArrays) -> None:
        self._arrays = TrunkArrays(**{name: np.ascontiguousarray(a) for name, a in arrays.as_dict().items()})
        self._table = response_table(arrays)

    def encode(self, raw: Float64) -> Float64:
        """Standardised rows (N, F + 1), as `standardise` makes them, → z (N, D + 1), the last column the constant 1; |z| without it < √D."""
        a = self._arrays
        if raw.ndim != 2 or raw.shape[1] != a.features + 1:
            raise ValueError(f"rows are {raw.shape}, expected (N, {a.features + 1})")
        out = np.empty((len(raw), a.width + 1))
        _encode(np.ascontiguousarray(raw), a.edges, a.starts, self._table, a.b1, a.gain, a.shift, a.w2, a.b2, a.w3, a.b3, out)
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
