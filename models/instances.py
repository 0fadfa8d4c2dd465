"""Instance-based transfer: source rows, weighted by how much they look like the launch's, teach a head anew.

The density ratio comes from a linear discriminant between the sources' z and the launch's, with the sources' covariance (Fisher 1936; for the
weights, Sugiyama et al. 2008): it needs only the launch's mean z, so no row of the launch is kept. Ratios are clipped and flattened (Shimodaira
2000), and if too few rows would carry them the head is not refitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.fit import fit_map
from models.head import Matrix, Posterior, Vector

MOST_ROWS = 4_000
CLIP = 10.0
FLATTEN = 0.5
LEAST_SHARE = 0.05
RIDGE = 1e-3
PRIOR_ROWS = 50.0
"""The launch's mean is believed as if so many exposures of the sources were among it."""


@dataclass(frozen=True)
class Sample:
    """Final rows of the sources: z (R, D + 1) with the constant last, their labels y (R,), and the prior variance of the head that they teach."""

    z: Matrix
    y: Vector
    c: float
    deff: float

    @cached_property
    def centre(self) -> Vector:
        """The mean of z without the constant, (D,)."""
        return np.asarray(self.z[:, :-1].mean(axis=0))

    @cached_property
    def precision(self) -> Matrix:
        """The inverse covariance of z without the constant, (D, D), slightly regularised."""
        spread = np.cov(self.z[:, :-1], rowvar=False)
        return np.asarray(np.linalg.inv(spread + RIDGE * np.trace(spread) / len(spread) * np.eye(len(spread))))


def density_ratio(sample: Sample, mean: Vector, n: int) -> Vector:
    """Return the weights (R,) of the sample's rows, mean 1, for a launch whose `n` exposures have the mean z `mean` (D + 1,)."""
    shift = (mean[:-1] - sample.centre) * (n / (n + PRIOR_ROWS))
    direction = sample.precision @ shift
    logit = (sample.z[:, :-1] - sample.centre) @ direction - 0.5 * float(shift @ direction)
    ratio = np.minimum(np.exp(FLATTEN * np.minimum(logit, 30.0)), CLIP)
    return np.asarray(ratio / ratio.mean())


def effective_share(weight: NDArray[np.float64]) -> float:
    """Return the effective sample size of weights (R,) as a share of R (Kish 1965)."""
    return float(weight.sum() ** 2 / (len(weight) * (weight * weight).sum()))


def refit(sample: Sample, mean: Vector, n: int) -> Posterior | None:
    """Return the head that the weighted rows teach; None if under 5 % of the rows would carry it, or nothing was ordered among them."""
    if len(sample.y) < 2 or not 0 < sample.y.sum() < len(sample.y):
        return None
    weight = density_ratio(sample, mean, n)
    if effective_share(weight) < LEAST_SHARE:
        return None
    return fit_map(sample.z, sample.y, c=sample.c, weight=weight / sample.deff)
