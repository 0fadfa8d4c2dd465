"""What one launch has taught: every expert's belief, and the mixture that weighs them. `headstart` is the mixture's forecast."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models import launch_scoring, wire
from models.delay_curve import DelayCurve
from models.experts import EXPERTS, Arrays, Expert, Facts, Prediction, View, fresh_experts, restored_experts
from models.head import Matrix, Vector
from models.launch_scoring import LaunchScorer
from models.mixture import Mixture
from models.model import Maps, Model, checked_outcomes
from models.shared_heads import SharedHeads

KIND = "launch head"
MODELS = ("headstart", *EXPERTS)
"""Whose predictions are recorded with every exposure of a launch."""


@dataclass
class LaunchHead:
    """The experts in the order of `EXPERTS`, their mixture, the launch's delay curve, and orders hit among outcomes tried in each bin (K,). Mutable."""

    experts: tuple[Expert, ...]
    mixture: Mixture
    delay: DelayCurve
    tried: NDArray[np.int64]
    hit: NDArray[np.int64]
    n_learned: int = 0
    _scorer: LaunchScorer | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, model: Model) -> LaunchHead:
        """A launch that has learned nothing."""
        none = np.zeros(model.bins, dtype=np.int64)
        mixture = Mixture.unlearned(model.expert_pi)
        return cls(fresh_experts(model.priors), mixture, DelayCurve.of(model.curve, model.edges_s), none, none.copy())

    def copy(self) -> LaunchHead:
        """Another state with the same content."""
        experts = tuple(expert.copy() for expert in self.experts)
        return LaunchHead(experts, self.mixture.copy(), self.delay.copy(), self.tried.copy(), self.hit.copy(), self.n_learned)

    def predict(self, model: Model, shared: SharedHeads, maps: Maps) -> tuple[Prediction, ...]:
        """Return what each of `MODELS` says of N rows. Finite whatever x held."""
        said = self.score(model, view_of(model, shared, maps), np.arange(len(maps.raw))).T.copy()
        return tuple(Prediction(said[2 * k], said[2 * k + 1]) for k in range(len(MODELS)))

    def score(self, model: Model, view: View, rows: NDArray[np.int64]) -> Matrix:
        """Return score and probability of each of `MODELS` in turn, (n, 2 · models), for some rows (n,) of a view."""
        return launch_scoring.score([self.scorer(model)], view, rows, np.zeros(len(rows), np.int64))

    def scorer(self, model: Model) -> LaunchScorer:
        """What is believed now, as it is asked of many launches at once (`models.launch_scoring.score`)."""
        if (laid := self._scorer) is None:
            laid = self._scorer = LaunchScorer.of(self.experts, self.mixture.w, model.priors)
        return laid

    def changed(self) -> None:
        """Hear that an expert was changed: what was laid down of what is believed is no longer true."""
        self._scorer = None

    def learn_many(
        self, model: Model, shared: SharedHeads, x: NDArray[np.float32],
        bin_: NDArray[np.int64], y: NDArray[np.int64], final: NDArray[np.int64], close_ms: NDArray[np.int64], said: Matrix | None = None,
    ) -> None:  # fmt: skip
        """Take in N outcomes of this launch, in the given order; the same bits as N calls with one row.

        The arrays are those of `models.model.checked_outcomes`; ValueError as there, then nothing has been learned. The shared heads are read as
        given and do not change; rows without a bin teach nothing (their bins did). `said` (N, K): the probability that each expert gave when the
        exposure was scored, by which the mixture judges it; where it is not known (NaN), what the expert says now, before it learns. The two differ:
        a head that learns fast foretells a shopper's second outcome from the first, which came after both had been scored.
        """
        checked_outcomes(model, x, bin_, y, final, close_ms)
        if said is not None and said.shape != (len(x), len(EXPERTS)):
            raise ValueError(f"said is {said.shape}, expected ({len(x)}, {len(EXPERTS)})")
        self.changed()
        closed = bin_ >= 0
        k, label, at_ms = bin_[closed], y[closed].astype(np.float64), close_ms[closed]
        view = view_of(model, shared, model.maps(x[closed]))
        then = np.full((len(k), len(EXPERTS)), np.nan) if said is None else said[closed]
        for rows in self.delay.parts(at_ms, shared.delay.in_use):
            facts = Facts(self.delay.in_use[k[rows]], self.delay.in_use[k[rows] + 1], label[rows], at_ms[rows])
            part = view.part(rows)
            now = np.stack([expert.learn_many(model.priors, part, facts) for expert in self.experts], axis=1)
            self.mixture.learn_many(np.where(np.isfinite(then[rows]), then[rows], now), *facts, prior=model.expert_pi)
            self.delay.counts.add(k[rows], at_ms[rows], facts.y > 0)
        self.tried += np.bincount(k, minlength=model.bins)
        self.hit += np.bincount(k[label > 0], minlength=model.bins)
        self.n_learned += int(closed.sum())

    def means(self) -> dict[str, Vector]:
        """Return what an audit keeps of the experts, by name: a head's means, or the log evidence on the level's grid."""
        parts = {name: expert.to_arrays() for name, expert in zip(EXPERTS, self.experts, strict=True)}
        return {name: np.asarray(a["evidence" if "evidence" in a else "m"], dtype=np.float64) for name, a in parts.items() if a}

    def to_bytes(self) -> bytes:
        """Every bit of the state; equal states give equal bytes."""
        mixture = self.mixture
        arrays: Arrays = {
            "n_learned": np.array([self.n_learned]), "tried": self.tried, "hit": self.hit,
            "mixture.w": mixture.w, "mixture.losses": mixture.losses, "mixture.own": mixture.own, "mixture.last_ms": mixture.last_ms,
        }  # fmt: skip
        arrays |= {f"delay.{name}": a for name, a in self.delay.to_arrays().items()}
        for name, expert in zip(EXPERTS, self.experts, strict=True):
            arrays |= {f"{name}.{part}": a for part, a in expert.to_arrays().items()}
        return wire.pack(KIND, arrays)

    @classmethod
    def from_bytes(cls, raw: bytes) -> LaunchHead:
        """Exactly what was stored. Mismatch if the bytes are something else."""
        a = wire.unpack(KIND, raw)
        with wire.restoring(KIND):
            own = {name: array.astype(np.float64) for name, array in wire.under("mixture.", a).items() if name != "last_ms"}
            mixture = Mixture(own["w"], own["losses"], own["own"], a["mixture.last_ms"].astype(np.int64))
            experts = restored_experts({name: wire.under(f"{name}.", a) for name in EXPERTS})
            return cls(
                experts, mixture, DelayCurve.from_arrays(wire.under("delay.", a)),
                a["tried"].astype(np.int64), a["hit"].astype(np.int64), int(a["n_learned"][0]),
            )  # fmt: skip


def view_of(model: Model, shared: SharedHeads, maps: Maps) -> View:
    """Return rows (N,) as experts see them; one view serves every launch."""
    return View(maps.raw, maps.z, shared.logit(maps), model.frozen_logit(maps))
