"""The belief at work: an immutable `Model` made from an artifact, and the two states that learn, `SharedHeads` and `LaunchHead`.

The shared heads are three (raw features on final labels, raw features on delay bins, trunk outputs on delay bins), fed by the source lines' outcomes;
their mean logit s ranks shoppers. A launch adds its own level (`models.offset`) to price them, and keeps a head from scratch beside it for comparison.
States are mutable; `learn_*` changes them in place, `copy` makes another. Pure otherwise: arrays in, arrays out. No torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.errors import Mismatch
from models import wire
from models.checkpoint import HEADS, Artifact
from models.encode import Encoder, standardise
from models.head import Posterior, Vector
from models.offset import HALF_LIFE_MS, Offset, log_prior

EXPERTS = ("headstart", "frozen", "scratch")
SCRATCH_VARIANCE = 0.01
SCRATCH_INTERCEPT = -3.0
SCRATCH_INTERCEPT_VARIANCE = 1.0
"""A head from scratch knows that about one exposure in twenty converts, give or take a factor of e; nothing of the sources."""


class Maps(NamedTuple):
    """What the heads read: `raw` (N, F + 1), standardised and clipped, and `z` (N, D + 1), the trunk's; each with the constant 1 last."""

    raw: NDArray[np.float64]
    z: NDArray[np.float64]


class Prediction(NamedTuple):
    """One expert's view of N rows: `score` ranks, `probability` counts; (N,) each, in [0, 1]."""

    score: Vector
    probability: Vector


class Predictions(NamedTuple):
    """Every expert's view, in the order of `EXPERTS`."""

    headstart: Prediction
    frozen: Prediction
    scratch: Prediction


@dataclass
class SharedHeads:
    """The heads that the source lines keep fresh. Mutable."""

    raw_final: Posterior
    raw_delay: Posterior
    trunk_delay: Posterior
    n_learned: int = 0

    def copy(self) -> SharedHeads:
        """Another state with the same content."""
        return SharedHeads(self.raw_final.copy(), self.raw_delay.copy(), self.trunk_delay.copy(), self.n_learned)

    def to_bytes(self) -> bytes:
        """Every bit of the state; equal states give equal bytes."""
        arrays: dict[str, NDArray[np.generic]] = {"n_learned": np.array([self.n_learned])}
        for name in HEADS:
            head: Posterior = getattr(self, name)
            arrays |= {f"{name}.m": head.m, f"{name}.p": wire.triangle(head.p)}
        return wire.pack("shared heads", arrays)

    @classmethod
    def from_bytes(cls, raw: bytes) -> SharedHeads:
        """Exactly what was stored. Mismatch if the bytes are something else."""
        a = wire.unpack("shared heads", raw)
        final, delay, trunk = (_posterior(a, name) for name in HEADS)
        return cls(final, delay, trunk, int(a["n_learned"][0]))


@dataclass
class LaunchHead:
    """What one launch has taught: its offset, its head from scratch, orders hit among outcomes tried per delay bin (K,) int64. Mutable."""

    offset: Offset
    scratch: Posterior
    tried: NDArray[np.int64]
    hit: NDArray[np.int64]
    n_learned: int = 0

    def copy(self) -> LaunchHead:
        """Another state with the same content."""
        return LaunchHead(self.offset.copy(), self.scratch.copy(), self.tried.copy(), self.hit.copy(), self.n_learned)

    def to_bytes(self) -> bytes:
        """Every bit of the state; equal states give equal bytes."""
        return wire.pack(
            "launch head",
            {
                "n_learned": np.array([self.n_learned]),
                "evidence": self.offset.evidence,
                "last_ms": self.offset.last_ms,
                "tried": self.tried,
                "hit": self.hit,
                "scratch.m": self.scratch.m,
                "scratch.p": wire.triangle(self.scratch.p),
            },
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> LaunchHead:
        """Exactly what was stored. Mismatch if the bytes are something else."""
        a = wire.unpack("launch head", raw)
        offset = Offset(a["evidence"].astype(np.float64), a["last_ms"].astype(np.int64))
        return cls(offset, _posterior(a, "scratch"), a["tried"].astype(np.int64), a["hit"].astype(np.int64), int(a["n_learned"][0]))


def _posterior(arrays: dict[str, NDArray[np.generic]], name: str) -> Posterior:
    m = arrays[f"{name}.m"].astype(np.float64)
    return Posterior(m, wire.square(arrays[f"{name}.p"].astype(np.float64), len(m)))


class Model:
    """An artifact, ready to score. Immutable, and the same for every launch."""

    def __init__(self, artifact: Artifact, *, half_life_ms: float = HALF_LIFE_MS) -> None:
        self.artifact = artifact
        self.edges_s = artifact.edges_s
        self.curve = artifact.curve
        self.deff = artifact.deff
        self.half_life_ms = half_life_ms
        self.offset_prior = log_prior(artifact.offset_pi)
        final, delay, trunk = (artifact.heads[name].copy() for name in HEADS)
        self.frozen = SharedHeads(final, delay, trunk)
        self._encoder = Encoder(artifact.trunk)
        if len(self.curve) != len(self.edges_s):
            raise Mismatch(f"the artifact has {len(self.edges_s)} delay edges and a curve of {len(self.curve)}")

    @property
    def bins(self) -> int:
        """K, the number of delay bins."""
        return len(self.edges_s) - 1

    def maps(self, x: NDArray[np.float32]) -> Maps:
        """Both maps of x (N, F) float32. NaN reads as the feature's mean; a row's bits do not depend on its batch."""
        raw = standardise(x, self.artifact.trunk.mean, self.artifact.trunk.std)
        return Maps(raw, self._encoder.encode(raw))

    def shared(self) -> SharedHeads:
        """The shared heads as pre-training left them; a copy of its own."""
        return self.frozen.copy()

    def launch(self) -> LaunchHead:
        """A launch that has learned nothing."""
        scratch = Posterior.isotropic(
            self.artifact.trunk.features + 1, variance=SCRATCH_VARIANCE, intercept=SCRATCH_INTERCEPT, intercept_variance=SCRATCH_INTERCEPT_VARIANCE
        )
        return LaunchHead(Offset.unlearned(), scratch, np.zeros(self.bins, dtype=np.int64), np.zeros(self.bins, dtype=np.int64))


def predict_shared(model: Model, shared: SharedHeads, x: NDArray[np.float32] | Maps) -> Vector:
    """Return s (N,), the mean of the three heads' moderated logits. `x` (N, F) float32, or its maps if they are at hand."""
    raw, z = x if isinstance(x, Maps) else model.maps(x)
    return (shared.raw_final.predict(raw) + shared.raw_delay.predict(raw) + shared.trunk_delay.predict(z)) / 3.0


def predict_source(model: Model, shared: SharedHeads, x: NDArray[np.float32] | Maps) -> Prediction:
    """The prediction for rows that belong to no launch: σ(s) is both score and probability."""
    p = sigmoid(predict_shared(model, shared, x))
    return Prediction(p, p)


def predict_launch(model: Model, launch: LaunchHead, shared: SharedHeads, x: NDArray[np.float32] | Maps) -> Predictions:
    """Headstart, the frozen source heads and the head from scratch on N rows. Finite whatever x holds."""
    maps = x if isinstance(x, Maps) else model.maps(x)
    s = predict_shared(model, shared, maps)
    frozen = sigmoid(predict_shared(model, model.frozen, maps))
    scratch = sigmoid(launch.scratch.predict(maps.raw))
    return Predictions(Prediction(sigmoid(s), launch.offset.probability(s, model.offset_prior)), Prediction(frozen, frozen), Prediction(scratch, scratch))


def learn_shared(model: Model, shared: SharedHeads, x: NDArray[np.float32], bin_: NDArray[np.int64], y: NDArray[np.int64], final: NDArray[np.int64]) -> None:
    """Take in N outcomes of source lines, in the given order; the same bits as N calls with one row.

    `bin_` (N,): the delay bin 0..K-1 that closed, -1 if none; `y` (N,): 1 if the order fell into it; `final` (N,): 1 or 0 when the label became
    final with this row, else -1. ValueError for anything out of range or not finite; then nothing has been learned.
    """
    f_prev, f_next, labels = _checked(model, x, bin_, y, final)
    closed, settled = bin_ >= 0, final >= 0
    maps = model.maps(x)
    shared.raw_final.learn_many(maps.raw[settled], np.zeros(int(settled.sum())), np.ones(int(settled.sum())), final[settled].astype(np.float64))
    shared.raw_delay.learn_many(maps.raw[closed], f_prev, f_next, labels)
    shared.trunk_delay.learn_many(maps.z[closed], f_prev, f_next, labels)
    shared.n_learned += int((closed | settled).sum())


def learn_launch(
    model: Model,
    launch: LaunchHead,
    shared: SharedHeads,
    x: NDArray[np.float32],
    bin_: NDArray[np.int64],
    y: NDArray[np.int64],
    final: NDArray[np.int64],
    close_ms: NDArray[np.int64],
) -> None:
    """Take in N outcomes of this launch, as `learn_shared`; `close_ms` (N,) is the event time at which each bin closed.

    The offset learns against the shared heads as given, which do not change; rows without a bin teach nothing (their bins did).
    """
    f_prev, f_next, labels = _checked(model, x, bin_, y, final)
    closed = bin_ >= 0
    maps = model.maps(x[closed])
    s = predict_shared(model, shared, maps)
    launch.offset.learn_many(s, f_prev, f_next, labels, close_ms[closed], deff=model.deff, half_life_ms=model.half_life_ms)
    launch.scratch.learn_many(maps.raw, f_prev, f_next, labels)
    launch.tried += np.bincount(bin_[closed], minlength=model.bins)
    launch.hit += np.bincount(bin_[closed][labels > 0], minlength=model.bins)
    launch.n_learned += int(closed.sum())


def _checked(model: Model, x: NDArray[np.float32], bin_: NDArray[np.int64], y: NDArray[np.int64], final: NDArray[np.int64]) -> tuple[Vector, Vector, Vector]:
    """F_prev, F_next and y of the rows with a bin; ValueError before anything has been learned."""
    n = len(x)
    if bin_.shape != (n,) or y.shape != (n,) or final.shape != (n,):
        raise ValueError(f"x has {n} rows; bin {bin_.shape}, y {y.shape}, final {final.shape}")
    if not np.isfinite(x).all():
        raise ValueError("x is not finite: outcome refused")
    closed = bin_ >= 0
    if n and (int(bin_.min()) < -1 or int(bin_.max()) >= model.bins or not np.isin(final, (-1, 0, 1)).all() or not np.isin(y[closed], (0, 1)).all()):
        raise ValueError(f"bin must be -1..{model.bins - 1}, final -1, 0 or 1, y 0 or 1: outcome refused")
    k = bin_[closed].astype(np.int64)
    return model.curve[k], model.curve[k + 1], y[closed].astype(np.float64)


def sigmoid(s: Vector) -> Vector:
    """σ(s), (N,) → (N,), by `math.exp` one at a time: np.exp's bits may depend on where in the array a number stands."""
    return np.array([1.0 / (1.0 + math.exp(-min(max(a, -30.0), 30.0))) for a in s.tolist()], dtype=np.float64)
