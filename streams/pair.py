"""A trunk and the heads that belong to it, as they were at one time: what is believed of vectors. Never changed; `streams.knowledge` takes another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.experts import View
from models.launch_head import LaunchHead
from models.model import Model, probability_of_source
from models.shared_heads import SharedHeads
from streams.domains import Launches

Belief = tuple[float, ...]
"""The predictions for one event in one domain: score and probability of headstart, and in a launch also those of each of its experts."""


@dataclass(frozen=True)
class Pair:
    """A trunk, the shared heads, and those of launches that have learned something, by id."""

    model: Model
    shared: SharedHeads
    heads: Mapping[str, LaunchHead] = field(default_factory=dict)

    @classmethod
    def untaught(cls, model: Model) -> Pair:
        """What the artifact says, before anybody has learned."""
        return cls(model, SharedHeads.of(model))

    @property
    def trunk(self) -> str:
        """The first 16 digits of its SHA-256."""
        return self.model.artifact.sha256[:16]

    def view(self, x: NDArray[np.float32], launched: Sequence[int]) -> View:
        """Return vectors (N, F) as the heads see them; what the shared heads said before, `s0`, is asked of the `launched` rows alone, and NaN elsewhere."""
        maps, s0 = self.model.maps(x), np.full(len(x), np.nan)
        if launched:
            rows = np.array(launched, np.int64)
            s0[rows] = self.model.frozen_logit(maps.rows(rows))
        return View(maps.raw, maps.z, self.shared.logit(maps), s0)

    def of_lines(self, view: View) -> list[float]:
        """Return what the shared heads believe of N rows: score and probability in one."""
        p: list[float] = probability_of_source(view.s).tolist()
        return p

    def head(self, launch: str) -> LaunchHead:
        """Return a launch's head; one that has learned nothing if there is none."""
        return self.heads.get(launch) or self._fresh

    @cached_property
    def _fresh(self) -> LaunchHead:
        return LaunchHead.of(self.model)

    def of_launch(self, launch: str, view: View, rows: Sequence[int]) -> list[Belief]:
        """Return what headstart and each of its experts believe of some rows in a launch: score and probability of each of `MODELS`, in a row."""
        said = self.head(launch).score(self.model, view, np.array(rows, np.int64))
        return list(map(tuple, said.tolist()))


def is_source(line: str, pair: Pair | None, launches: Launches, at_ms: int) -> bool:
    """Whether a line's outcomes feed the shared heads: the trunk was trained on it, and it is not being launched."""
    if pair is not None and line not in pair.model.artifact.lines:
        return False
    return not launches.launches_line(line, at_ms)
