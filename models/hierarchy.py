"""The prior of a new line's head, learned from the source lines' heads: θ_m ~ N(B · attr_m, Σ0), by EM (empirical Bayes for random effects).

Each line's likelihood is a quadratic around its own head θ_m with Hessian H_m; the posterior of its head is then N(b_m, V_m),

    V_m = (Σ0⁻¹ + H_m)⁻¹,   b_m = V_m (Σ0⁻¹ μ_m + H_m θ_m + g_m),   μ_m = B · attr_m,
    Σ0 = shrink(mean[(b_m − μ_m)(b_m − μ_m)ᵀ + V_m], 0.35 to its diagonal) + 1e-4 I.

g_m is the likelihood's gradient at θ_m: not zero, because θ_m is found under a weak prior that must not be counted twice. After each EM the quadratic
is laid anew at b_m. B is a ridge regression of the b_m; that the better-known lines count more follows from EM, since b_m is near μ_m for the others.
Offline, numpy, float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.fit import fit_map
from models.head import LOGIT_BOUND, Matrix, Posterior, Vector

SHRINK = 0.35
FLOOR = 1e-4
INTERCEPT_WIDTH = 1.0
"""Variance of a line's intercept around the pooled one, where the lines cannot say."""
FEWEST_LINES = 4
PASSES = 12
"""The quadratics are laid anew at most this often; in practice three to six times."""
TOLERANCE = 1e-6
RIDGES = (0.3, 1.0, 3.0, 10.0)
"""Weights of the ridge on B among which lines left out choose, in units of the number of lines; or no attributes at all."""
SURE = 1.5
"""With useless attributes (40 draws each of 2 of d = 8, 4 of 8, 3 of 33; 12 lines) a prior's squared error grew by under 1 %; useful ones are found."""


@dataclass(frozen=True)
class Hierarchy:
    """`b` (d, A + 1): a head from the line's A attributes and a constant 1, which is last; `sigma0` (d, d): how far heads lie from that;

    `heads` (M, d): each source line's own, b_m (of a line without rows: its μ_m); `attributes` (M, A): the source lines', A = 0 if there are none.
    """

    b: Matrix
    sigma0: Matrix
    heads: Matrix
    attributes: Matrix

    @property
    def mu(self) -> Vector:
        """(d,): the head of a line about which nothing is known, B · the mean attributes."""
        return np.asarray(self.b @ np.append(self.attributes.mean(axis=0), 1.0))

    def prior(self, attr: Vector | None = None, *, width: float = 1.0) -> Posterior:
        """A new line's head before its first outcome: N(B · attr, width · Σ0 (1 + 1/M)).

        `attr` (A,) is held within the range of the source lines': no extrapolation. ValueError if it is not finite or of another length.
        """
        if not width > 0.0:
            raise ValueError(f"width is {width}: it must be positive")
        mean = self.mu if attr is None else self.b @ np.append(self._within(attr), 1.0)
        return Posterior(mean, width * (1.0 + 1.0 / len(self.heads)) * self.sigma0)

    def nearest(self, profile: Vector, profiles: Matrix, k: int, scale: Vector) -> Vector:
        """The mean head (d,) of the k source lines whose profiles lie nearest; a profile is a line's mean z, see `line_profiles`.

        `profile` (d,), `profiles` (M, d), `scale` (d,): what each coordinate is divided by, its standard deviation over rows; where it is 0 the coordinate
        does not count. Lines without a profile (NaN) are passed over; equal distances go by the order of the lines; fewer than k lines: all of them.
        """
        if profiles.shape != self.heads.shape or profile.shape != scale.shape or profile.shape != profiles.shape[1:] or k < 1:
            raise ValueError(f"profile {profile.shape}, profiles {profiles.shape}, scale {scale.shape}, k {k}: expected the shape of {self.heads.shape}, k ≥ 1")
        if not np.isfinite(profile).all():
            raise ValueError("the profile is not finite")
        counts = scale > 0.0
        distance = (((profiles - profile)[:, counts] / scale[counts]) ** 2).sum(axis=1)
        known = np.flatnonzero(np.isfinite(distance))
        if not len(known):
            return self.mu
        return np.asarray(self.heads[known[np.argsort(distance[known], kind="stable")[:k]]].mean(axis=0))

    def _within(self, attr: Vector) -> Vector:
        attr = np.asarray(attr, dtype=np.float64)
        if attr.shape != self.attributes.shape[1:] or not np.isfinite(attr).all():
            raise ValueError(f"attributes {attr.shape} must be finite and ({self.attributes.shape[1]},)")
        return np.clip(attr, self.attributes.min(axis=0), self.attributes.max(axis=0))


def line_profiles(z: Matrix, line: NDArray[np.integer], lines: int) -> Matrix:
    """(M, d): the mean z of each line's rows, NaN for a line without rows."""
    out = np.full((lines, z.shape[1]), np.nan)
    for m in range(lines):
        rows = z[line == m]
        if len(rows):
            out[m] = rows.mean(axis=0)
    return out


def fit_hierarchy(
    z: Matrix, y: Vector, line: NDArray[np.integer], *, lines: int, c: float, attributes: Matrix | None = None, deff: float = 1.0, rounds: int = 300
) -> Hierarchy:
    """Learn the prior from N final rows of `lines` = M lines; z (N, d), its last column the constant 1; y (N,) in {0, 1}; line (N,) in 0..M-1.

    `c` is the variance of a pooled head's weights; `attributes` (M, A) finite; `deff` divides the evidence; `rounds` bounds each EM. With fewer than four
    lines that have orders, nothing can be said of how lines differ: the pooled MAP, and Σ0 = diag(c, …, c, 1). Attributes are used only if they
    foretell the heads of lines left out. ValueError for shapes that do not fit and for what is not finite.
    """
    z, y = np.ascontiguousarray(z, dtype=np.float64), np.asarray(y, dtype=np.float64)
    attr = np.zeros((lines, 0)) if attributes is None else np.asarray(attributes, dtype=np.float64)
    if line.shape != (len(z),) or lines < 1 or (len(line) and not 0 <= int(line.min()) <= int(line.max()) < lines):
        raise ValueError(f"line {line.shape} must index {len(z)} rows into {lines} lines")
    if attr.ndim != 2 or len(attr) != lines or not np.isfinite(attr).all():
        raise ValueError(f"attributes {attr.shape} must be finite and ({lines}, A)")
    if not deff >= 1.0:
        raise ValueError(f"deff is {deff}: it must be at least 1")
    d = z.shape[1]
    pooled = fit_map(z, y, c=c).m
    sigma0 = np.diag(np.append(np.full(d - 1, c), INTERCEPT_WIDTH)) + FLOOR * np.eye(d)
    rows = [np.flatnonzero(line == m) for m in range(lines)]
    present = np.array([m for m in range(lines) if len(rows[m])], dtype=np.int64)
    likelihoods = [_Likelihood(z[rows[m]], y[rows[m]], deff) for m in present]
    theta = np.array([likelihood.mode(pooled, sigma0) for likelihood in likelihoods]).reshape(len(present), d)
    ridge, b = np.inf, np.zeros((d, attr.shape[1] + 1))
    b[:, -1] = pooled
    if sum(bool(y[rows[m]].any()) for m in present) >= FEWEST_LINES:
        design = _Design(attr[present])
        for done in range(PASSES):
            before = theta
            theta, sigma0 = _em(likelihoods, before, sigma0, design, ridge, rounds)
            if done == 0 and attr.shape[1]:
                ridge = _choose_ridge(design, theta, sigma0)
            elif np.abs(theta - before).max() < 100 * TOLERANCE:
                break
        b = design.regress(theta, ridge)
    heads = np.concatenate([attr, np.ones((lines, 1))], axis=1) @ b.T
    heads[present] = theta
    return Hierarchy(b, sigma0, heads, attr)


class _Likelihood:
    """One line's rows; z (n, d), y (n,)."""

    def __init__(self, z: Matrix, y: Vector, deff: float) -> None:
        self._z, self._y, self._share = z, y, 1.0 / deff

    def value(self, theta: Vector) -> float:
        x = self._z @ theta
        return -self._share * float(np.logaddexp(0.0, np.where(self._y > 0, -x, x)).sum())

    def quadratic(self, theta: Vector) -> tuple[Vector, Matrix]:
        """The gradient (d,) and minus the second derivative H (d, d) at θ."""
        p = 1.0 / (1.0 + np.exp(-np.clip(self._z @ theta, -LOGIT_BOUND, LOGIT_BOUND)))
        return self._share * (self._z.T @ (self._y - p)), self._share * ((self._z.T * (p * (1.0 - p))) @ self._z)

    def mode(self, mean: Vector, covariance: Matrix, steps: int = 50) -> Vector:
        """The most likely head (d,) under the prior N(mean, covariance): Newton, with steps halved until they climb."""
        precision = np.linalg.inv(covariance)

        def height(theta: Vector) -> float:
            return self.value(theta) - 0.5 * float((theta - mean) @ precision @ (theta - mean))

        theta = mean.copy()
        for _ in range(steps):
            g, h = self.quadratic(theta)
            step = np.linalg.solve(precision + h, g - precision @ (theta - mean))
            while height(theta + step) < height(theta) - 1e-9 * abs(height(theta)) and np.abs(step).max() > 1e-8:
                step /= 2.0
            theta = theta + step
            if np.abs(step).max() < 1e-8:
                break
        return theta


class _Design:
    """The present lines' attributes, standardised over lines, (M, A); what is the same for all lines is left out by its zero."""

    def __init__(self, attr: Matrix) -> None:
        self._mean = attr.mean(axis=0)
        spread = attr.std(axis=0)
        spread[spread <= 1e-12 * np.abs(self._mean)] = np.inf
        self._spread = spread
        self._a = (attr - self._mean) / spread
        self.lines, self.wide = attr.shape

    def slopes(self, heads: Matrix, ridge: float) -> Matrix:
        """(A, d): ridge regression of heads (M, d) on the standardised attributes; `ridge` in units of M, infinite: zeros."""
        if not self.wide or np.isinf(ridge):
            return np.zeros((self.wide, heads.shape[1]))
        return np.asarray(np.linalg.solve(self._a.T @ self._a + ridge * self.lines * np.eye(self.wide), self._a.T @ (heads - heads.mean(axis=0))))

    def means(self, heads: Matrix, ridge: float) -> Matrix:
        """(M, d): μ_m."""
        return np.asarray(heads.mean(axis=0) + self._a @ self.slopes(heads, ridge))

    def regress(self, heads: Matrix, ridge: float) -> Matrix:
        """B (d, A + 1) for attributes in their own units, the constant last."""
        slopes = (self.slopes(heads, ridge).T / self._spread).reshape(heads.shape[1], self.wide)
        return np.concatenate([slopes, (heads.mean(axis=0) - slopes @ self._mean)[:, None]], axis=1)

    def left_out(self, heads: Matrix, ridge: float, precision: Matrix) -> Vector:
        """(M,): each line's squared distance to what the other lines foretell, in the metric of `precision`, per coordinate."""
        out = np.empty(self.lines)
        for m in range(self.lines):
            others = np.arange(self.lines) != m
            rest = _Design(self._a[others])
            residual = heads[m] - rest.regress(heads[others], ridge) @ np.append(self._a[m], 1.0)
            out[m] = float(residual @ precision @ residual) / heads.shape[1]
        return out


def _choose_ridge(design: _Design, heads: Matrix, sigma0: Matrix) -> float:
    """The ridge that foretells lines left out best; infinite (no attributes) unless it gains more than `SURE` standard errors of its gain."""
    precision = np.asarray(np.linalg.inv(sigma0), dtype=np.float64)
    without = design.left_out(heads, np.inf, precision)
    gains = [without - design.left_out(heads, ridge, precision) for ridge in RIDGES]
    best = int(np.argmax([gain.mean() for gain in gains]))
    gain = gains[best]
    return RIDGES[best] if gain.mean() > SURE * gain.std(ddof=1) / np.sqrt(len(gain)) else np.inf


def _em(likelihoods: list[_Likelihood], theta: Matrix, sigma0: Matrix, design: _Design, ridge: float, rounds: int) -> tuple[Matrix, Matrix]:
    """The lines' heads b (M, d) and Σ0 after EM on the quadratics at θ (M, d), from the given Σ0."""
    quadratics = [likelihood.quadratic(t) for likelihood, t in zip(likelihoods, theta, strict=True)]
    h = np.stack([hessian for _, hessian in quadratics])
    eta = np.stack([hessian @ t + g for (g, hessian), t in zip(quadratics, theta, strict=True)])
    heads = theta
    for _ in range(rounds):
        mu = design.means(heads, ridge)
        precision = np.linalg.inv(sigma0)
        v = np.linalg.inv(precision + h)
        found = np.einsum("mij,mj->mi", v, mu @ precision + eta)
        away = found - mu
        spread = (away.T @ away + v.sum(axis=0)) / len(found)
        spread = (1.0 - SHRINK) * spread + SHRINK * np.diag(np.diag(spread))
        spread = (spread + spread.T) / 2.0 + FLOOR * np.eye(len(spread))
        moved = max(float(np.abs(found - heads).max()), float(np.abs(spread - sigma0).max()))
        heads, sigma0 = found, spread
        if moved < TOLERANCE:
            break
    return heads, sigma0
