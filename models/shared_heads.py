"""The shared heads: four views of the same shoppers, which the source lines' outcomes keep fresh. Their mean logit s ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import wire
from models.delay_curve import DelayCurve
from models.head import Posterior, Vector
from models.model import HEADS, Maps, Model, checked_outcomes, mean_logit

KIND = "shared heads"


@dataclass
class SharedHeads:
    """One posterior for each of `HEADS`, and the sources' delay curve. Mutable: `learn_many` changes it in place; see `copy`."""

    heads: dict[str, Posterior]
    delay: DelayCurve
    n_learned: int = 0

    @classmethod
    def of(cls, model: Model) -> SharedHeads:
        """The heads as pre-training left them; a copy of its own."""
        return cls({name: model.heads[name].copy() for name in HEADS}, DelayCurve.of(model.curve, model.edges_s))

    def copy(self) -> SharedHeads:
        """Another state with the same content."""
        return SharedHeads({name: head.copy() for name, head in self.heads.items()}, self.delay.copy(), self.n_learned)

    def logit(self, maps: Maps) -> Vector:
        """Return s (N,), the mean of the heads' moderated logits. Finite whatever x held."""
        return mean_logit(self.heads, maps)

    def learn_many(
        self, model: Model, x: NDArray[np.float32], bin_: NDArray[np.int64], y: NDArray[np.int64], final: NDArray[np.int64], close_ms: NDArray[np.int64]
    ) -> None:
        """Take in N outcomes of source lines, in the given order; the same bits as N calls with one row.

        The arrays are those of `models.model.checked_outcomes`. ValueError as there; then nothing has been learned.
        """
        checked_outcomes(model, x, bin_, y, final, close_ms)
        maps = model.maps(x)
        edges_ms = np.round(1000.0 * model.edges_s).astype(np.int64)
        for rows in self.delay.parts(close_ms, model.curve):
            k, label = bin_[rows], final[rows]
            closed, settled = k >= 0, label >= 0
            of_bins = (self.delay.in_use[k[closed]], self.delay.in_use[k[closed] + 1], y[rows][closed].astype(np.float64))
            of_labels = (np.zeros(int(settled.sum())), np.ones(int(settled.sum())), label[settled].astype(np.float64))
            for name, reads in HEADS.items():
                z = getattr(maps, reads)[rows]
                if name.endswith("_final"):
                    self.heads[name].learn_many(z[settled], *of_labels)
                else:
                    self.heads[name].learn_many(z[closed], *of_bins)
            # Of an exposure from before the end of training the early bins were not heard here: counting the late ones would slow the curve.
            whole = closed & (close_ms[rows] - edges_ms[k + 1] >= model.artifact.trained_until_ms)
            self.delay.counts.add(k[whole], close_ms[rows][whole], y[rows][whole] > 0)
        self.n_learned += int(((bin_ >= 0) | (final >= 0)).sum())

    def to_bytes(self) -> bytes:
        """Every bit of the state; equal states give equal bytes."""
        arrays: dict[str, NDArray[np.generic]] = {"n_learned": np.array([self.n_learned])}
        for name, head in self.heads.items():
            arrays |= {f"{name}.m": head.m, f"{name}.p": wire.triangle(head.p)}
        arrays |= {f"delay.{name}": a for name, a in self.delay.to_arrays().items()}
        return wire.pack(KIND, arrays)

    @classmethod
    def from_bytes(cls, raw: bytes) -> SharedHeads:
        """Exactly what was stored. Mismatch if the bytes are something else."""
        a = wire.unpack(KIND, raw)
        with wire.restoring(KIND):
            heads = {}
            for name in HEADS:
                m = a[f"{name}.m"].astype(np.float64)
                heads[name] = Posterior(m, wire.square(a[f"{name}.p"].astype(np.float64), len(m)))
            return cls(heads, DelayCurve.from_arrays(wire.under("delay.", a)), int(a["n_learned"][0]))
