"""How far two samples of rows lie apart: PSI, MMD², proxy A-distance, log odds and delay curves. Numpy, float64, deterministic; what follows from them
is `models.similarity`'s.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.delay import fit_curve
from models.head import Matrix, Vector
from models.rows import user_fold
from models.transferability import Estimate

PSI_BINS = 10
RIDGE = 10.0


def psi(a: Matrix, b: Matrix, reference: Matrix, *, bins: int = PSI_BINS) -> float:
    """Population stability index of (N, F) against (M, F): Σ over bins of (p - q) ln(p / q), mean over the features.

    Bins end at the quantiles of the `reference` rows (those that differ: many zeros are one bin); half a row is added to each bin.
    """
    cells, starts = cells_of(np.concatenate([a, b]), quantile_edges(reference, bins))
    side = np.r_[np.ones(len(a)), np.zeros(len(b))][:, None]
    return float(psi_of_sides(cells, starts, side)[0])


def quantile_edges(reference: Matrix, bins: int = PSI_BINS) -> list[Vector]:
    """The inner ends of each feature's bins (F arrays): the distinct quantiles of the reference rows (N, F)."""
    inner = np.quantile(reference, np.arange(1, bins) / bins, axis=0)
    return [np.unique(column) for column in inner.T]


def cells_of(x: Matrix, edges: list[Vector]) -> tuple[Matrix, NDArray[np.int64]]:
    """One-hot bins of every feature side by side, (N, ΣB), and where each feature's begin (F,)."""
    columns = [np.eye(len(e) + 1)[np.searchsorted(e, x[:, j], side="left")] for j, e in enumerate(edges)]
    widths = np.array([len(e) + 1 for e in edges], dtype=np.int64)
    return np.concatenate(columns, axis=1), np.cumsum(widths) - widths


def psi_of_sides(cells: Matrix, starts: NDArray[np.int64], side: Matrix) -> Vector:
    """PSI (R,) for each way (N, R) of calling the rows a (1) or b (0)."""
    counts_a = cells.T @ side
    counts_b = cells.sum(axis=0)[:, None] - counts_a
    width = np.diff(np.r_[starts, len(cells.T)])
    half = 0.5 * np.repeat(width, width)[:, None]
    p = (counts_a + 0.5) / (side.sum(axis=0) + half)
    q = (counts_b + 0.5) / ((1.0 - side).sum(axis=0) + half)
    total: Vector = ((p - q) * np.log(p / q)).sum(axis=0) / len(starts)
    return total


def median_scale(x: Matrix) -> float:
    """The median of the squared distances between the rows of x (N, F), above 0: the kernel's scale."""
    distances = _squared_distances(x)[np.triu_indices(len(x), 1)]
    middle = float(np.median(distances)) if len(distances) else 0.0
    return middle if middle > 0 else 1.0


def mmd2(a: Matrix, b: Matrix, *, scale: float) -> float:
    """The squared maximum mean discrepancy of (N, F) and (M, F), unbiased (Gretton et al. 2012): 0 on average for one population, at most about 2.

    Kernel exp(-|u - v|² / scale). ValueError for fewer than two rows on a side.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("MMD needs two rows on each side")
    return float(mmd2_of_sides(kernel(np.concatenate([a, b]), scale), np.r_[np.ones(len(a)), np.zeros(len(b))][:, None])[0])


def _squared_distances(x: Matrix) -> Matrix:
    square = (x * x).sum(axis=1)
    distances: Matrix = np.maximum(0.0, square[:, None] + square - 2.0 * (x @ x.T))
    return distances


def kernel(x: Matrix, scale: float) -> Matrix:
    """exp(-|u - v|² / scale), its diagonal 0: a row is not compared with itself."""
    k: Matrix = np.exp(-_squared_distances(x) / scale)
    np.fill_diagonal(k, 0.0)
    return k


def mmd2_of_sides(k: Matrix, side: Matrix) -> Vector:
    """MMD² (R,) for each way (N, R) of calling the rows a (1) or b (0)."""
    n = side.sum(axis=0)
    m = len(k) - n
    ks = k @ side
    within_a = (side * ks).sum(axis=0)
    across = ks.sum(axis=0) - within_a
    within_b = k.sum() - within_a - 2.0 * across
    value: Vector = within_a / (n * (n - 1.0)) + within_b / (m * (m - 1.0)) - 2.0 * across / (n * m)
    return value


def proxy_a_distance(a: Matrix, b: Matrix, user_a: NDArray[np.int64], user_b: NDArray[np.int64], *, folds: int = 5) -> Estimate:
    """2 (1 - 2 error) of a classifier that tells (N, F) from (M, F) (Ben-David et al. 2007): 0 if it cannot, towards 2 if it always can.

    Ridge regression with both sides weighing the same, each user judged by a classifier that was trained on other users. The error is the mean of both sides',
    half a mistake added to each: it never reaches 0, and neither does the standard error, which holds a user's rows together. Below 0 by chance.
    """
    z = np.concatenate([np.concatenate([a, b]), np.ones((len(a) + len(b), 1))], axis=1)
    side = np.r_[np.ones(len(a)), -np.ones(len(b))]
    user = np.r_[user_a, user_b]
    weight = np.where(side > 0, 0.5 / max(1, len(a)), 0.5 / max(1, len(b))) * len(side)
    fold = user_fold(user, folds, salt=3)
    wrong = np.full(len(side), 0.5)
    for k in range(folds):
        train, test = fold != k, fold == k
        if not test.any() or len(np.unique(side[train])) < 2:
            continue
        weighted = z[train].T * weight[train]
        told = z[test] @ np.linalg.solve(weighted @ z[train] + RIDGE * np.eye(z.shape[1]), weighted @ side[train])
        wrong[test] = np.where(told == 0, 0.5, told * side[test] < 0)
    errors = [share_of(wrong[side > 0], user_a), share_of(wrong[side < 0], user_b)]
    return Estimate(2.0 - 2.0 * (errors[0].value + errors[1].value), 2.0 * math.hypot(errors[0].se, errors[1].se))


def share_of(y: Vector, user: NDArray[np.int64]) -> Estimate:
    """The mean of y (N,) in 0..1 with half a success and half a failure added, and its error: the larger of the binomial one and the users'."""
    n = len(y)
    share = (float(y.sum()) + 0.5) / (n + 1.0)
    groups = np.unique(user, return_inverse=True)[1].reshape(-1)
    by_user = float((np.bincount(groups, y - y.mean()) ** 2).sum()) / n**2
    return Estimate(share, math.sqrt(max(by_user, share * (1.0 - share) / (n + 1.0))))


def log_odds_difference(a: Vector, b: Vector, user_a: NDArray[np.int64], user_b: NDArray[np.int64]) -> Estimate:
    """ln odds of a (N,) less those of b (M,), both in {0, 1}, half a success and half a failure added; a user's rows are held together in the error."""
    shares = [share_of(a, user_a), share_of(b, user_b)]
    logits = [math.log(s.value / (1.0 - s.value)) for s in shares]
    errors = [s.se / (s.value * (1.0 - s.value)) for s in shares]
    return Estimate(logits[0] - logits[1], math.hypot(*errors))


def delay_distance(a_s: Vector, b_s: Vector, edges_s: Vector) -> float:
    """The greatest |F_a - F_b| at the edges (K+1,) of the delay bins; a (N,), b (M,) are seconds to the order, inf if none. ValueError without orders."""
    if not (np.isfinite(a_s).any() and np.isfinite(b_s).any()):
        raise ValueError("a delay curve needs an order on both sides")
    return float(np.abs(fit_curve(a_s, edges_s, pseudo_count=0.0) - fit_curve(b_s, edges_s, pseudo_count=0.0)).max())
