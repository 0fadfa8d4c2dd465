"""Who comes: are the shoppers still like those of a reference? Counts and moments that add up, and what two of them say when put side by side.

PSI tells by name which feature is spread otherwise. The domain classifier is Fisher's linear discriminant between two groups, on the standardised
features `WHO`, made from their means and covariances: how well it tells a shopper of one group from one of the other is Φ(Δ/√2) for groups that are normal with one
covariance, Δ being Mahalanobis' distance. Both are corrected for what few rows would show by chance, so that two samples of one population give about 0
and ½. Nothing here looks at orders: a change of shoppers alone does not make a score wrong, so it resets nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.kernel import kernel
from features.vector import NAMES
from models.head import Matrix, Vector

Counts = NDArray[np.int64]

BINS: Final = 10
RIDGE: Final = 0.05
"""Of the mean variance, added to the common covariance: features that hardly vary must not decide."""
WHO: Final = (
    "user_since_browse", "visit_depth", "visit_age", "visit_lines", "visit_gap", "is_click", "is_cart", "price", "price_known", "age", "female", "male", "level",
    "region",
)  # fmt: skip
"""Features that tell who comes and how they look around: what the classifier sees, and what raises an alert. The others are shown. Decayed counts, rates
and what is known of a user grow with the log whoever comes, and a line's, a category's or a product's popularity grows with the launch itself."""
PLACES: Final = np.array([NAMES.index(name) for name in WHO])


@dataclass(frozen=True)
class Reference:
    """The training rows by decile: `edges` (F, 9), each row rising and filled up with infinity, and how many rows fell into each bin (F, 10)."""

    edges: NDArray[np.float32]
    counts: Counts

    @classmethod
    def of(cls, x: NDArray[np.float32]) -> Reference:
        """The distinct deciles of N rows (N, F), and the rows between them."""
        edges = np.full((x.shape[1], BINS - 1), np.inf, np.float32)
        if len(x):
            for j, column in enumerate(np.quantile(x, np.arange(1, BINS) / BINS, axis=0, method="lower").T.astype(np.float32)):
                own = np.unique(column)
                edges[j, : len(own)] = own
        reference = cls(edges, np.zeros((x.shape[1], BINS), np.int64))
        reference.count(x, reference.counts)
        return reference

    @classmethod
    def none(cls) -> Reference:
        """Of an artifact that was trained before references were kept: it knows no feature."""
        return cls(np.zeros((0, BINS - 1), np.float32), np.zeros((0, BINS), np.int64))

    @property
    def known(self) -> bool:
        """Whether there is anything to compare with."""
        return len(self.edges) > 0

    def count(self, x: NDArray[np.float32], counts: Counts) -> None:
        """Add N rows (N, F) to counts (F, 10) of one's own, in place."""
        _count(np.ascontiguousarray(x, dtype=np.float32), self.edges, counts)


@kernel
def _count(x: NDArray[np.float32], edges: NDArray[np.float32], counts: Counts) -> None:
    for i in range(x.shape[0]):
        for j in range(edges.shape[0]):
            k = 0
            while k < edges.shape[1] and x[i, j] > edges[j, k]:
                k += 1
            counts[j, k] += 1


def psi(now: Counts, then: Counts) -> Vector:
    """Return the population stability index of each feature, (F, 10) against (F, 10) → (F,), less what chance alone gives; NaN without rows.

    Σ over bins of (p − q) ln(p / q), half a row added to each bin that either has (Yurdakul 2018: of two samples of one population its mean is about
    (bins − 1)(1/n + 1/m)). By the usual rule of thumb .1 is a change and .25 a large one.
    """
    n, m = now.sum(axis=1, dtype=np.float64), then.sum(axis=1, dtype=np.float64)
    used = (now + then) > 0
    bins = used.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = (now + 0.5 * used) / (n + 0.5 * bins)[:, None], (then + 0.5 * used) / (m + 0.5 * bins)[:, None]
        terms = np.where(used, (p - q) * np.log(np.where(used, p / q, 1.0)), 0.0)
        found = terms.sum(axis=1) - (bins - 1) * (1.0 / n + 1.0 / m)
    return np.asarray(np.where((n > 0) & (m > 0), np.maximum(found, 0.0), np.nan))


@dataclass
class Moments:
    """Sums over rows z (N, D), the features `WHO` standardised: how many, Σ z (D,), Σ zzᵀ (D, D). Mutable; they add up."""

    n: int
    z: Vector
    zz: Matrix

    @classmethod
    def none(cls, d: int) -> Moments:
        """Of no rows."""
        return cls(0, np.zeros(d), np.zeros((d, d)))

    @classmethod
    def of(cls, z: Matrix) -> Moments:
        """Of N rows (N, D)."""
        moments = cls.none(z.shape[1])
        moments.add(z)
        return moments

    def add(self, z: Matrix) -> None:
        """Take in N rows (N, D)."""
        self.n += len(z)
        self.z += z.sum(axis=0)
        self.zz += z.T @ z

    def merge(self, other: Moments) -> None:
        """Take in what another has seen."""
        self.n += other.n
        self.z += other.z
        self.zz += other.zz


def told_apart(now: Moments, then: Moments) -> float:
    """Return how often the discriminant is right about which of two shoppers, one of each group, is whose: ½ not at all, 1 always; NaN for few rows."""
    d, n, m = len(now.z), now.n, then.n
    free = n + m - 2
    if not d or min(n, m) <= d or free <= d + 1:
        return math.nan
    within = sum((one.zz - np.outer(one.z, one.z) / one.n for one in (now, then)), np.zeros((d, d))) / free
    within += RIDGE * max(float(np.trace(within)) / d, 1e-12) * np.eye(d)
    between = now.z / n - then.z / m
    distance = float(between @ np.linalg.solve(within, between))
    # Both are larger in small samples than in the population (Lachenbruch 1975).
    fair = max(0.0, distance * (free - d - 1) / free - d * (1.0 / n + 1.0 / m))
    return 0.5 * math.erfc(-math.sqrt(fair) / 2.0)
