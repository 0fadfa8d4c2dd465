"""How well what a source line has learned carries over to other labels: LogME, H-score, and the agreement of preferences. Numpy, float64.

LogME and H-score read features; here the feature of a source line is the logit of its own head on the target's rows, since the features themselves
are the same for every source. Both are blind to sign: a line whose shoppers want the opposite explains the target's labels as well as one whose
shoppers want the same. `agreement` sees the sign, and is what the choice of sources goes by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.fit import fit_map
from models.head import Matrix, Vector
from models.rows import user_fold

FOLDS = 3
WIDE = 100.0
LEAST, MOST = 1e-9, 1e9


def logme(features: Matrix, y: NDArray[np.generic]) -> float:
    """The greatest mean log evidence of a Bayesian linear model of the labels, in nats a row (You, Liu, Wang, Long 2021: LogME).

    `features` (N, k), with a column of ones if the model is to have a level; `y` (N,) of any few classes. Mean over the classes' one-hot columns.
    Prior precision and noise precision are set to their maximum by the paper's fixed point. ValueError without rows, or for what is not finite.
    """
    f, labels = _checked(features, y)
    n, k = f.shape
    u, s, _ = np.linalg.svd(f, full_matrices=False)
    variance = s * s
    evidences = []
    for value in np.unique(labels):
        target = (labels == value).astype(np.float64)
        projected = u.T @ target
        outside = max(0.0, float(target @ target - projected @ projected))
        alpha, beta = 1.0, 1.0
        for _ in range(1000):
            size = alpha + beta * variance
            gamma = float((beta * variance / size).sum())
            weight = float(((beta * s * projected / size) ** 2).sum())
            residual = outside + float(((alpha * projected / size) ** 2).sum())
            last = (alpha, beta)
            alpha = float(np.clip(gamma / max(weight, 1e-300), LEAST, MOST))
            beta = float(np.clip((n - gamma) / max(residual, 1e-300), LEAST, MOST))
            if abs(math.log(alpha / last[0])) + abs(math.log(beta / last[1])) < 1e-10:
                break
        evidences.append(_evidence(alpha, beta, n, k, variance, s * projected, outside, projected))
    return float(math.fsum(evidences) / (n * len(evidences)))


def _evidence(alpha: float, beta: float, n: int, k: int, variance: Vector, moment: Vector, outside: float, projected: Vector) -> float:
    """The log of p(labels | features, α, β), in nats; `variance`, `moment` and `projected` belong to the singular directions."""
    size = alpha + beta * variance
    weight = float(((beta * moment / size) ** 2).sum())
    residual = outside + float(((alpha * projected / size) ** 2).sum())
    log_det = float(np.log(size).sum()) + (k - len(variance)) * math.log(alpha)
    return 0.5 * (k * math.log(alpha) + n * math.log(beta / (2 * math.pi)) - beta * residual - alpha * weight - log_det)


def h_score(features: Matrix, y: NDArray[np.generic]) -> float:
    """tr(cov(f)⁻¹ cov(E[f | y])) (Bao et al. 2019): 0 where the classes' means agree, at most min(k, classes - 1).

    For one feature it is the squared correlation with a binary label. `features` (N, k), `y` (N,); ValueError as `logme`.
    """
    f, labels = _checked(features, y)
    f = f - f.mean(axis=0)
    between = np.zeros((f.shape[1], f.shape[1]))
    for value in np.unique(labels):
        here = labels == value
        mean = f[here].mean(axis=0)
        between += here.mean() * np.outer(mean, mean)
    return float(np.trace(np.linalg.pinv(f.T @ f / len(f), hermitian=True) @ between))


def _checked(features: Matrix, y: NDArray[np.generic]) -> tuple[Matrix, NDArray[np.generic]]:
    f = np.asarray(features, dtype=np.float64)
    if f.ndim != 2 or len(f) == 0 or np.shape(y) != (len(f),):
        raise ValueError(f"features are {f.shape} and labels {np.shape(y)}: expected (N, k) and (N,) with N > 0")
    if not np.isfinite(f).all():
        raise ValueError("a feature is not finite")
    return f, np.asarray(y)


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error."""

    value: float
    se: float

    @property
    def clear(self) -> bool:
        """Whether it lies above 0 by two standard errors."""
        return self.value > 2.0 * self.se


def slope(logit: Vector, y: Vector, user: NDArray[np.int64], level: Vector | None = None) -> Estimate:
    """b of the logistic regression `y ~ a + b · logit (+ g · level)`: 1 where the logit is right, 0 where it says nothing, < 0 where it is upside down.

    All (N,); `level` is, for rows of several lines, the log odds of the row's line. The error is the larger of the model's and the one that is robust
    to users whose rows belong together (the sandwich).
    """
    columns = [logit, np.ones(len(logit))] if level is None else [logit, level, np.ones(len(logit))]
    z = np.stack(columns, axis=1)
    fitted = fit_map(z, y, c=WIDE)
    residual = y - 0.5 * (1.0 + np.tanh(0.5 * (z @ fitted.m)))
    groups = np.unique(user, return_inverse=True)[1].reshape(-1)
    pull = np.stack([np.bincount(groups, residual * column) for column in columns], axis=1)
    robust = fitted.p @ (pull.T @ pull) @ fitted.p
    return Estimate(float(fitted.m[0]), math.sqrt(max(float(fitted.p[0, 0]), float(robust[0, 0]))))


def held_out_head(z: Matrix, y: Vector, user: NDArray[np.int64], *, c: float) -> tuple[Vector, Vector]:
    """The logit of each row (N,) by a head that was fitted on other users, and the mean of those heads (d,); z (N, d), its last column the constant 1.

    The logit is less its mean over the fold's training rows: a fold without many orders leaves many to the others, and their higher level on it would look
    like a head that is upside down.
    The mean head is as shrunk as those behind the logits: a head fitted on all rows would be less so, and its slope elsewhere would look worse than at home.
    """
    fold = user_fold(user, FOLDS, salt=13)
    logit, heads = np.zeros(len(y)), []
    for k in range(FOLDS):
        test = fold == k
        if not test.all():
            heads.append(fit_map(z[~test], y[~test], c=c).m)
            logit[test] = (z[test] - z[~test].mean(axis=0)) @ heads[-1]
    return logit, np.mean(heads, axis=0) if heads else np.zeros(z.shape[1])


def agreement(there: Estimate, at_home: Estimate) -> Estimate:
    """The slope elsewhere over the slope on the line's own held-out users: 1 for the same preferences, 0 for unrelated, -1 for opposite ones.

    The home slope takes out that a head of few conversions is overconfident everywhere. ValueError unless the home slope is clear; the error is by the
    delta method.
    """
    if not at_home.clear:
        raise ValueError("the slope at home is not clear of zero")
    ratio = there.value / at_home.value
    return Estimate(ratio, math.hypot(there.se, ratio * at_home.se) / at_home.value)
