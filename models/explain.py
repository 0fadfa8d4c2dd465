"""The transfer ledger of one score: what of it comes from old lines, what from this product, how sure it is, and which features moved it.

    logit p = s0 + (s − s0) + (logit p_shared − s) + (logit p − logit p_shared)

s0 is the mean logit of the shared heads as pre-training left them, s the same now that the old lines have gone on teaching; p_shared is s with this
product's own level, and p the mixture with the other ways of transfer. The split of s0 and s − s0 by head is exact, since s is a mean. The split of the
last part by expert is exact too: p is linear in what the experts say, so along the straight line from p_shared to p each expert's Aumann–Shapley
share is in proportion to w_k (p_k − p_shared). All parts add up to the logit; none is estimated from another.

The split of s0 by source line is an approximation, and says so: the heads are fitted to all lines at once, and an artifact keeps no line's part in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.attribution import FIRST_STEPS, MOST_STEPS, Attribution, integrated_gradients
from models.experts import EXPERTS, Shared
from models.head import Matrix, Posterior, Vector
from models.launch_head import LaunchHead
from models.model import HEADS, Maps, Model, probability_of_source
from models.offset import GRID
from models.rehearsal import logit
from models.shared_heads import SharedHeads

SHARE_ROUNDS = 5000
EVEN = 1e-9
"""Where experts' forecasts lie closer together than this, the slope of the logit takes the place of its difference quotient."""


@dataclass(frozen=True)
class ExpertSaid:
    """One way of transfer: its weight in the mixture, what it says, and its share of the last part of the ledger, in logits."""

    name: str
    weight: float
    score: float
    probability: float
    part: float


@dataclass(frozen=True)
class Source:
    """One old line: its `share` in the trunk's head, the logit that its own head alone gives this shopper, and the product of the two."""

    line: str
    share: float
    alone: float
    part: float


@dataclass(frozen=True)
class Sources:
    """s0 by old line, approximately: Σ part + `remainder` = s0.

    A line's own head (from `models.hierarchy`, on the trunk's features) is known exactly; how much of it is in the pooled heads is not. The shares are
    those of a weighted mean of the lines' heads, weights ≥ 0 and Σ = 1, that comes near to the pooled head of the trunk over the artifact's sample of
    source rows; where many weights do so about equally well, they are nearly even. `fit` is the part of that head's variance which the mean explains
    (1: all). What the four heads say beyond the mean is `remainder`.
    """

    lines: tuple[Source, ...]
    remainder: float
    fit: float


@dataclass(frozen=True)
class Ledger:
    """One score, taken apart. Logits, unless a name says otherwise; a dict has an entry for each of `HEADS`.

    `s0 + fresh + level + mixed = logit`, and `s0` and `fresh` are the sums of their heads' parts. `sd`: the predictive standard deviation √(zᵀPz) of each
    head's logit; `level_sd`: that of the launch's level. `features` explains the same logit another way: from the sources' mean shopper to this one.
    """

    probability: float
    score: float
    logit: float
    s0_heads: Mapping[str, float]
    fresh_heads: Mapping[str, float]
    level: float
    experts: tuple[ExpertSaid, ...]
    sd: Mapping[str, float]
    level_sd: float
    sources: Sources
    features: Attribution
    feature_names: tuple[str, ...]

    @property
    def s0(self) -> float:
        """What the old lines said when pre-training ended."""
        return sum(self.s0_heads.values())

    @property
    def fresh(self) -> float:
        """What the old lines have taught since."""
        return sum(self.fresh_heads.values())

    @property
    def mixed(self) -> float:
        """What the mixture's other experts change."""
        return sum(expert.part for expert in self.experts)

    @property
    def parts(self) -> dict[str, float]:
        """The four parts; their sum is the logit."""
        return {"s0": self.s0, "fresh": self.fresh, "level": self.level, "mixed": self.mixed}

    @property
    def heads_sd(self) -> float:
        """The standard deviation of s as if the heads erred together, which they nearly do: they were taught by the same shoppers. Never too small."""
        return sum(self.sd.values()) / len(self.sd)

    @property
    def total_sd(self) -> float:
        """Heads and level, which err independently."""
        return math.hypot(self.heads_sd, self.level_sd)


def ledger(
    model: Model, shared: SharedHeads, head: LaunchHead | None, x: NDArray[np.float32], *, first_steps: int = FIRST_STEPS, most_steps: int = MOST_STEPS
) -> Ledger:
    """Take one score apart: the vector x (F,) in the launch of `head`; without a head, in a line that is not launched, where p = σ(s). Pure.

    The steps bound the work of the features' shares; with few, more of the change is left in `features.residual`. ValueError unless x is finite and as long as the model's features.
    """
    x = np.asarray(x, dtype=np.float32)
    if x.shape != (model.artifact.trunk.features,) or not np.isfinite(x).all():
        raise ValueError(f"x is {x.shape}: expected ({model.artifact.trunk.features},) finite numbers")

    def headstart(rows: NDArray[np.float32]) -> Vector:
        maps = model.maps(rows)
        return shared.logit(maps) if head is None else logit(head.predict(model, shared, maps)[0].probability)

    maps = model.maps(x[None])
    before, now = _by_head(model.heads, maps), _by_head(shared.heads, maps)
    total = float(headstart(x[None])[0])
    s = sum(now.values())
    level = level_sd = 0.0
    experts: tuple[ExpertSaid, ...] = ()
    if head is None:
        probability = score = float(probability_of_source(np.array([total]))[0])
    else:
        mixed, *said = head.predict(model, shared, maps)
        probability, score = float(mixed.probability[0]), float(mixed.score[0])
        p = np.array([expert.probability[0] for expert in said])
        with_level = float(logit(p[:1])[0])
        level, level_sd = with_level - s, _level_sd(model, head)
        parts = _expert_parts(head.mixture.w, p, total - with_level, probability)
        experts = tuple(
            ExpertSaid(name, float(w), float(told.score[0]), float(told.probability[0]), float(part))
            for name, w, told, part in zip(EXPERTS, head.mixture.w, said, parts, strict=True)
        )
    return Ledger(
        probability=probability,
        score=score,
        logit=total,
        s0_heads=before,
        fresh_heads={name: now[name] - before[name] for name in HEADS},
        level=level,
        experts=experts,
        sd={name: _sd(shared.heads[name], getattr(maps, reads)) for name, reads in HEADS.items()},
        level_sd=level_sd,
        sources=by_source(model, maps),
        features=integrated_gradients(headstart, model.artifact.trunk.mean.astype(np.float32), x, first_steps=first_steps, most_steps=most_steps),
        feature_names=model.artifact.feature_names,
    )


def by_source(model: Model, maps: Maps) -> Sources:
    """Return the approximate split of s0 by old line for one row; no lines, and all in the remainder, if the artifact does not say whose its heads are."""
    s0 = float(model.frozen_logit(maps)[0])
    own = _own_heads(model)
    if own is None:
        return Sources((), s0, 0.0)
    share, fit = _shares(model.artifact.sample_z.astype(np.float64), own, model.heads["trunk_delay"].m, model.artifact.hierarchy.sigma0)
    alone = own @ maps.z[0]
    lines = tuple(Source(line, float(a), float(b), float(a * b)) for line, a, b in zip(model.artifact.lines, share, alone, strict=True))
    return Sources(lines, s0 - sum(line.part for line in lines), fit)


def _by_head(heads: Mapping[str, Posterior], maps: Maps) -> dict[str, float]:
    """Each head's part of the mean logit of one row."""
    return {name: float(heads[name].predict(getattr(maps, reads))[0]) / len(HEADS) for name, reads in HEADS.items()}


def _sd(head: Posterior, z: Matrix) -> float:
    return math.sqrt(max(0.0, float(z[0] @ head.p @ z[0])))


def _level_sd(model: Model, head: LaunchHead) -> float:
    """The standard deviation of the belief over the launch's offset."""
    expert = head.experts[EXPERTS.index("shared")]
    assert isinstance(expert, Shared)
    w = expert.offset.weights(model.priors.offset)
    mean = float(w @ GRID)
    return math.sqrt(max(0.0, float(w @ (GRID - mean) ** 2)))


def _expert_parts(w: Vector, p: Vector, change: float, mixed: float) -> Vector:
    """(K,): the Aumann–Shapley shares of `change` = logit p − logit p_shared; `p` (K,) starts with p_shared, whose own share is 0."""
    pull = w * (p - p[0])
    if abs(float(pull.sum())) > EVEN:
        return np.asarray(pull * (change / pull.sum()))
    # The pulls cancel: each one's share is that of the slope, and what rounding leaves goes to the strongest.
    parts = np.asarray(pull / max(mixed * (1.0 - mixed), EVEN))
    parts[int(np.argmax(np.abs(pull)))] += change - parts.sum()
    return parts


def _own_heads(model: Model) -> Matrix | None:
    """(M, d): each old line's own head, in the order of the artifact's lines. A line that was left out of training has a head there but no profile."""
    artifact = model.artifact
    heads = artifact.hierarchy.heads
    if len(heads) != len(artifact.lines):
        heads = heads[np.isfinite(artifact.profiles).all(axis=1)]
    return heads if len(heads) == len(artifact.lines) and len(heads) and len(artifact.sample_z) else None


def _shares(z: Matrix, own: Matrix, pooled: Vector, sigma0: Matrix) -> tuple[Vector, float]:
    """The weights (M,) ≥ 0, Σ = 1, with which the lines' heads (M, d) come near to the pooled one (d,) on rows z (R, d), and the variance explained.

    Least squares by projected gradient, with a ridge towards even weights. The lines' heads are themselves estimates, whose errors the artifact does not
    keep; they are at most as large as `sigma0` (d, d), how far heads lie from each other, and the ridge is for errors of that size.
    """
    m = len(own)
    said, wanted = z @ own.T, z @ pooled
    gram = said.T @ said / len(z)
    ridge = max(float(np.einsum("ri,ij,rj->r", z, sigma0, z).mean()), 1e-12)
    gram += ridge * np.eye(m)
    target = said.T @ wanted / len(z) + ridge / m
    step = 1.0 / float(np.linalg.eigvalsh(gram)[-1])
    share = np.full(m, 1.0 / m)
    for _ in range(SHARE_ROUNDS):
        moved = _on_simplex(share - step * (gram @ share - target))
        still = float(np.abs(moved - share).max()) < 1e-10
        share = moved
        if still:
            break
    spread = float(((wanted - wanted.mean()) ** 2).sum())
    return share, max(0.0, 1.0 - float(((wanted - said @ share) ** 2).sum()) / spread) if spread > 0.0 else 0.0


def _on_simplex(v: Vector) -> Vector:
    """The nearest point (M,) with entries ≥ 0 that sum to 1 (Duchi et al. 2008)."""
    falling = np.sort(v)[::-1]
    over = (np.cumsum(falling) - 1.0) / np.arange(1, len(v) + 1)
    return np.asarray(np.maximum(v - over[np.flatnonzero(falling > over)[-1]], 0.0))
