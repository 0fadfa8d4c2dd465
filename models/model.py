"""An artifact, ready to score: what heads read of a vector, and what experts believe before a launch. Immutable, and the same for every launch. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.errors import Mismatch
from models.checkpoint import Artifact
from models.encode import Encoder, standardise
from models.experts import Priors
from models.head import Matrix, Posterior, Vector, mean_prediction
from models.instances import Sample
from models.logistic import sigmoid
from models.offset import HALF_LIFE_MS, log_prior
from models.trees import Trees

HEADS: Mapping[str, str] = {"raw_final": "raw", "raw_delay": "raw", "trunk_delay": "z", "trees_delay": "trees"}
"""The shared heads, each with the map that it reads; `_final` learns final labels, `_delay` delay bins."""

WIDE = 4.0
GLIDE = 0.0
NOTHING_VARIANCE = {"raw": 0.01, "z": 0.1}
NOTHING_INTERCEPT = -3.0
NOTHING_INTERCEPT_VARIANCE = 1.0
"""A head from nothing knows that about one exposure in twenty converts, give or take a factor of e; nothing of the sources."""


class Maps(NamedTuple):
    """What the heads read: `raw` (N, F + 1), standardised and clipped, `z` (N, D + 1), the trunk's, and `trees` (N, 2), their logit; the constant 1 last."""

    raw: Matrix
    z: Matrix
    trees: Matrix

    def rows(self, chosen: slice | list[int] | NDArray[np.int64]) -> Maps:
        """Some of the rows."""
        return Maps(self.raw[chosen], self.z[chosen], self.trees[chosen])


class Model:
    """An artifact, ready to score."""

    def __init__(self, artifact: Artifact, *, half_life_ms: float = HALF_LIFE_MS) -> None:
        self.artifact = artifact
        self.edges_s = artifact.edges_s
        self.curve = artifact.curve
        if len(self.curve) != len(self.edges_s):
            raise Mismatch(f"the artifact has {len(self.edges_s)} delay edges and a curve of {len(self.curve)}")
        self.heads = {name: artifact.heads[name].copy() for name in HEADS}
        self.expert_pi = artifact.expert_pi
        self.reference = artifact.reference
        self._encoder = Encoder(artifact.trunk)
        self._trees = Trees(artifact.trees)
        hierarchy = artifact.hierarchy
        sample = Sample(artifact.sample_z.astype(np.float64), artifact.sample_y, artifact.c_trunk, artifact.deff)
        self.priors = Priors(
            offset=log_prior(artifact.offset_pi),
            deff=artifact.deff,
            half_life_ms=half_life_ms,
            deviation=hierarchy.prior(),
            deviation_wide=hierarchy.prior(width=WIDE),
            feature=_nothing("z", artifact.trunk.width + 1),
            scratch=_nothing("raw", artifact.trunk.features + 1),
            source=self.heads["trunk_delay"],
            hierarchy=hierarchy,
            profiles=artifact.profiles,
            scale=sample.z.std(axis=0),
            sample=sample,
            glide=GLIDE,
        )

    @property
    def bins(self) -> int:
        """K, the number of delay bins."""
        return len(self.edges_s) - 1

    def maps(self, x: NDArray[np.float32]) -> Maps:
        """All maps of x (N, F) float32. NaN reads as the feature's mean; a row's bits do not depend on its batch."""
        raw = standardise(x, self.artifact.trunk.mean, self.artifact.trunk.std)
        trees = np.empty((len(raw), 2))
        trees[:, 0], trees[:, 1] = self._trees.logit(raw), 1.0
        return Maps(raw, self._encoder.encode(raw), trees)

    def frozen_logit(self, maps: Maps) -> Vector:
        """Return s0 (N,): what the shared heads said when pre-training had ended."""
        return mean_logit(self.heads, maps)


def mean_logit(heads: Mapping[str, Posterior], maps: Maps) -> Vector:
    """Return s (N,), the mean of the shared heads' moderated logits."""
    return mean_prediction([heads[name] for name in HEADS], [getattr(maps, reads) for reads in HEADS.values()])


def checked_outcomes(
    model: Model, x: NDArray[np.float32], bin_: NDArray[np.int64], y: NDArray[np.int64], final: NDArray[np.int64], close_ms: NDArray[np.int64]
) -> None:
    """ValueError for outcomes (N,) that are out of range or not finite, before anything has been learned.

    `bin_`: the delay bin 0..K-1 that closed, -1 if none; `y`: 1 if the order fell into it; `final`: 1 or 0 when the label became final with this
    row, else -1; `close_ms`: the event time at which it closed.
    """
    n = len(x)
    if bin_.shape != (n,) or y.shape != (n,) or final.shape != (n,) or close_ms.shape != (n,):
        raise ValueError(f"x has {n} rows; bin {bin_.shape}, y {y.shape}, final {final.shape}, close_ms {close_ms.shape}")
    if not np.isfinite(x).all():
        raise ValueError("x is not finite: outcome refused")
    closed = bin_ >= 0
    if n and (int(bin_.min()) < -1 or int(bin_.max()) >= model.bins or not np.isin(final, (-1, 0, 1)).all() or not np.isin(y[closed], (0, 1)).all()):
        raise ValueError(f"bin must be -1..{model.bins - 1}, final -1, 0 or 1, y 0 or 1: outcome refused")


def probability_of_source(s: Vector) -> Vector:
    """Return p (N,) for rows that belong to no launch: σ(s) is both their score and their probability."""
    return sigmoid(s)


def _nothing(reads: str, d: int) -> Posterior:
    return Posterior.isotropic(d, variance=NOTHING_VARIANCE[reads], intercept=NOTHING_INTERCEPT, intercept_variance=NOTHING_INTERCEPT_VARIANCE)
