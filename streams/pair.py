"""A trunk and the heads that belong to it, as they were at one time: what is believed of vectors. Never changed; `streams.knowledge` takes another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import launch_scoring
from models.experts import View
from models.head import Matrix, Vector
from models.launch_head import LaunchHead
from models.model import Model, probability_of_source
from models.shared_heads import SharedHeads
from streams.domains import Launches
from streams.launched import Launched


class Said(NamedTuple):
    """What is believed of a batch: `in_line` (B,) of each event in its line, where score and probability are one; `in_launch` (M, 2 · models) of each event in
    each of its launches (`streams.launched`), score and probability of each of `MODELS` in turn.
    """

    in_line: Vector
    in_launch: Matrix


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

    def view(self, x: NDArray[np.float32], launched: NDArray[np.int64]) -> View:
        """Return vectors (N, F) as the heads see them; what the shared heads said before, `s0`, is asked of the `launched` rows alone, and NaN elsewhere."""
        maps, s0 = self.model.maps(x), np.full(len(x), np.nan)
        if len(launched):
            s0[launched] = self.model.frozen_logit(maps.rows(launched))
        return View(maps.raw, maps.z, self.shared.logit(maps), s0)

    def of(self, x: NDArray[np.float32], launched: Launched) -> Said:
        """Return what is believed of a batch's vectors x (B, F) in their lines, and in the launches of `launched`."""
        view = self.view(x, np.fromiter(launched.by_event, np.int64))
        names = [launch.id for launch in launched.launches]
        return Said(probability_of_source(view.s), self.of_launches(names, view, launched.event, launched.launch))

    def head(self, launch: str) -> LaunchHead:
        """Return a launch's head; one that has learned nothing if there is none."""
        return self.heads.get(launch) or self._fresh

    @cached_property
    def _fresh(self) -> LaunchHead:
        return LaunchHead.of(self.model)

    def of_launches(self, launches: Sequence[str], view: View, rows: NDArray[np.int64], of: NDArray[np.int64]) -> Matrix:
        """Return what headstart and each of its experts believe of some rows (M,), each in the launch whose number is in `of` (M,): score and probability of
        each of `MODELS`, (M, 2 · models).
        """
        return launch_scoring.score([self.head(launch).scorer(self.model) for launch in launches], view, rows, of)


def is_source(line: str, pair: Pair | None, launches: Launches, at_ms: int) -> bool:
    """Whether a line's outcomes feed the shared heads: the trunk was trained on it, and it is not being launched."""
    if pair is not None and line not in pair.model.artifact.lines:
        return False
    return not launches.launches_line(line, at_ms)
