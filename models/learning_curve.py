"""How many of a launch's conversions it takes: what each model ranks worth after so many of them, on exposures that come later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.launch_head import MODELS, LaunchHead
from models.metrics import auc, precision_at
from models.model import Model
from models.rehearsal import rehearse
from models.rows import Rows
from models.shared_heads import SharedHeads

COUNTS = (0, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 300, 500)
LEARNED_SHARE = 0.6
"""The first part of the launch's exposures is learned, the rest judged on."""


@dataclass(frozen=True)
class LearningCurve:
    """`conversions` (C,): how many had been learned; `auc` and `precision` (at 5 %): each of `MODELS` → (C,) on the later exposures; the last entry is all."""

    conversions: tuple[int, ...]
    auc: dict[str, tuple[float, ...]]
    precision: dict[str, tuple[float, ...]]
    judged: int

    @property
    def full_auc(self) -> float:
        """The best AUC of any model with all of the learned part."""
        return max(values[-1] for values in self.auc.values())


def learning_curve(model: Model, rows: Rows, launch: int, *, at_ms: int, counts: Sequence[int] = COUNTS) -> LearningCurve | None:
    """Rehearse the launch on its first exposures and judge the states after `counts` conversions on the others; None if either part lacks orders.

    What closes after the last of the first exposures is not learned, neither of the launch nor of other lines.
    """
    ours = np.flatnonzero((rows.line == launch) & (rows.ts_ms >= at_ms))
    if len(ours) < 50:
        return None
    split_ms = int(np.sort(rows.ts_ms[ours])[int(LEARNED_SHARE * len(ours))])
    judged = rows.select(ours[rows.ts_ms[ours] >= split_ms])
    if not 0 < judged.ordered.sum() < len(judged):
        return None
    # As they were known then: a later order would be learned from one exposure and judged by another of the same shopper.
    found = rehearse(model, rows.select((rows.line != launch) | (rows.ts_ms < split_ms)), launch, at_ms=at_ms, keep_at=counts, until_ms=split_ms)
    if not found.head.hit.sum():
        return None
    states = [(0, LaunchHead.of(model), SharedHeads.of(model)), *(s for s in found.states if s[0] > 0), (int(found.head.hit.sum()), found.head, found.shared)]
    maps = model.maps(judged.x)
    auc_of: dict[str, list[float]] = {name: [] for name in MODELS}
    precision_of: dict[str, list[float]] = {name: [] for name in MODELS}
    for _, head, shared in states:
        for name, said in zip(MODELS, head.predict(model, shared, maps), strict=True):
            auc_of[name].append(auc(judged.ordered, said.score))
            precision_of[name].append(precision_at(0.05, judged.ordered, said.score))
    return LearningCurve(tuple(n for n, _, _ in states), {k: tuple(v) for k, v in auc_of.items()}, {k: tuple(v) for k, v in precision_of.items()}, len(judged))


def conversions_to(share: float, conversions: Sequence[float], values: Sequence[float], full: float) -> float | None:
    """Return the least count from which on every value is at least `share` of `full`; None if the last one is not."""
    reached = None
    for n, value in zip(reversed(conversions), reversed(values), strict=True):
        if math.isnan(value) or value < share * full:
            break
        reached = n
    return reached
