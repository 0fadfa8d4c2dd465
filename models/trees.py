"""Boosted trees online: a sum of small trees on standardised raw features, as a logit. No LightGBM (`models.boosting` trains).

A tree walks without branches: the right child stands beside the left one, and a leaf is its own child behind the threshold ∞, so every row takes
the same number of steps. Equal to LightGBM's raw score to 1e-9; a row's bits do not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from features.kernel import kernel

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class TreeArrays:
    """T trees with M nodes in all. Rows with x[feature] <= threshold go to node `left`, the others to `left + 1`.

    `roots` (T,) int64; `feature` and `left` (M,) int32; `threshold` and `value` (M,) float64. A leaf has left = itself, feature 0, threshold ∞, and the
    value that it adds to the logit; an inner node has value 0. ValueError unless every walk stays in the arrays and ends.
    """

    roots: Int64
    feature: Int32
    threshold: Float64
    left: Int32
    value: Float64

    def __post_init__(self) -> None:
        m = len(self.left)
        if self.roots.ndim != 1 or any(getattr(self, name).shape != (m,) for name in ("feature", "threshold", "left", "value")):
            raise ValueError("roots must be (T,), and feature, threshold, left and value (M,)")
        node = np.arange(m)
        leaf = self.left == node
        if ((self.roots < 0) | (self.roots >= m)).any() or (~leaf & ((self.left <= node) | (self.left + 1 >= m))).any() or (self.feature < 0).any():
            raise ValueError("a root or child lies outside the trees")
        if not (np.isposinf(self.threshold[leaf]).all() and np.isfinite(self.threshold[~leaf]).all() and np.isfinite(self.value).all()):
            raise ValueError("a threshold or value is not finite")

    @classmethod
    def empty(cls) -> TreeArrays:
        """No trees: logit 0 everywhere."""
        return cls.leaves(np.zeros(0))

    @classmethod
    def leaves(cls, value: Float64) -> TreeArrays:
        """Trees of a single leaf each, (T,): their sum is everywhere the logit."""
        t = len(value)
        return cls(np.arange(t), np.zeros(t, np.int32), np.full(t, np.inf), np.arange(t, dtype=np.int32), np.asarray(value, dtype=np.float64))

    @property
    def features(self) -> int:
        """The least number of features that a row must have."""
        inner = self.left != np.arange(len(self.left))
        return int(self.feature[inner].max()) + 1 if inner.any() else 0

    @property
    def depth(self) -> int:
        """The steps from a root to the farthest leaf."""
        below = [0] * len(self.left)
        for node in reversed(range(len(below))):  # children stand behind their parents
            if (child := int(self.left[node])) != node:
                below[node] = 1 + max(below[child], below[child + 1])
        return max(below, default=0)

    def parameters(self) -> int:
        """How many numbers were trained: a feature and a threshold for each split, a value for each leaf."""
        inner = int((self.left != np.arange(len(self.left))).sum())
        return 2 * inner + len(self.left) - inner

    def as_dict(self) -> dict[str, NDArray[np.generic]]:
        """Every array by its name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@kernel
def _logit(raw: Float64, roots: Int64, feature: Int32, threshold: Float64, left: Int32, value: Float64, depth: int, out: Float64) -> None:
    four = raw.shape[0] - raw.shape[0] % 4
    for i in range(0, four, 4):  # four rows side by side: a walk waits for itself at every step
        t0 = t1 = t2 = t3 = 0.0
        for t in range(roots.shape[0]):
            n0 = n1 = n2 = n3 = roots[t]
            for _ in range(depth):
                n0 = left[n0] + (raw[i, feature[n0]] > threshold[n0])
                n1 = left[n1] + (raw[i + 1, feature[n1]] > threshold[n1])
                n2 = left[n2] + (raw[i + 2, feature[n2]] > threshold[n2])
                n3 = left[n3] + (raw[i + 3, feature[n3]] > threshold[n3])
            t0 += value[n0]
            t1 += value[n1]
            t2 += value[n2]
            t3 += value[n3]
        out[i], out[i + 1], out[i + 2], out[i + 3] = t0, t1, t2, t3
    for i in range(four, raw.shape[0]):
        total = 0.0
        for t in range(roots.shape[0]):
            node = roots[t]
            for _ in range(depth):
                node = left[node] + (raw[i, feature[node]] > threshold[node])
            total += value[node]
        out[i] = total


class Trees:
    """The trees, ready to run. Immutable."""

    def __init__(self, arrays: TreeArrays) -> None:
        self._arrays = TreeArrays(**{name: np.ascontiguousarray(a) for name, a in arrays.as_dict().items()})
        self._features, self._depth = arrays.features, arrays.depth

    def logit(self, raw: Float64) -> Float64:
        """Standardised rows (N, F + 1), as `standardise` makes them (no NaN), → logit (N,). The constant in the last column is ignored."""
        if raw.ndim != 2 or raw.shape[1] <= self._features:
            raise ValueError(f"rows are {raw.shape}, expected (N, {self._features + 1}) or wider")
        a = self._arrays
        out = np.empty(len(raw))
        _logit(np.ascontiguousarray(raw, dtype=np.float64), a.roots, a.feature, a.threshold, a.left, a.value, self._depth, out)
        return out
