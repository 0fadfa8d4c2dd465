"""One launch fed in other ways than `models.rehearsal` feeds it: labels only when the window is over, or at the exposure, or with a delay curve that stays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.delay_curve import DelayCurve
from models.launch_head import MODELS, LaunchHead
from models.model import Model
from models.rehearsal import HOUR_MS, Outcomes, outcomes
from models.rows import Rows
from models.shared_heads import SharedHeads

NEVER_AGAIN = 2**60


@dataclass(frozen=True)
class Fed:
    """`index` (n,): the launch's rows in order of time; `score` and `probability` (n, 1 + K) of `MODELS`; `curves` (ticks, bins + 1): F in use at `tick_ms`."""

    index: NDArray[np.int64]
    score: NDArray[np.float64]
    probability: NDArray[np.float64]
    tick_ms: NDArray[np.int64]
    curves: NDArray[np.float64]
    head: LaunchHead


def bins(model: Model, rows: Rows, launch: int) -> Outcomes:
    """The launch's outcomes as headstart hears them: a delay bin when it closes."""
    return _own(outcomes(rows, model.edges_s), rows, launch)


def waited(rows: Rows, launch: int) -> Outcomes:
    """Labels alone, each when its window is over: one bin."""
    return _own(outcomes(rows, np.array([0.0, rows.window_s])), rows, launch)


def told(rows: Rows, launch: int) -> Outcomes:
    """Labels alone, each at its exposure, which nobody can know: the oracle's."""
    late = waited(rows, launch)
    order = np.argsort(rows.ts_ms[late.row], kind="stable")
    return replace(late.part(order), close_ms=rows.ts_ms[late.row][order])  # type: ignore[arg-type]


def of_one_bin(model: Model) -> Model:
    """The same model, for a launch whose only bin is the window."""
    return Model(replace(model.artifact, edges_s=model.edges_s[[0, -1]], curve=np.array([0.0, 1.0])))


def feed(model: Model, rows: Rows, launch: int, own: Outcomes, *, head_model: Model | None = None, frozen_curve: bool = False) -> Fed:
    """Rehearse a launch, hour by hour, with the outcomes `own`; the shared heads learn the sources' delay bins as ever.

    `head_model`: what the launch's head is made from, if its bins are not the sources'. `frozen_curve`: the launch reads its outcomes with the sources'
    delay curve, and its own orders never change that. With `bins(…)` and neither, this is `models.rehearsal.rehearse`.
    """
    head_model = head_model or model
    facts = outcomes(rows, model.edges_s)
    ours = rows.line == launch
    sources = facts.part(~ours[facts.row] & (facts.close_ms > model.artifact.trained_until_ms))
    index = np.flatnonzero(ours)
    index = index[np.argsort(rows.ts_ms[index], kind="stable")]
    place = np.zeros(len(rows), dtype=np.int64)
    place[index] = np.arange(len(index))
    maps = model.maps(rows.x[index])
    head, shared = LaunchHead.of(head_model), SharedHeads.of(model)
    if frozen_curve:
        head.delay.hour[0] = NEVER_AGAIN
    seen_by_head = shared if head_model is model else SharedHeads(shared.heads, DelayCurve.of(head_model.curve, head_model.edges_s))
    score, probability = np.empty((len(index), len(MODELS))), np.empty((len(index), len(MODELS)))
    first, last = int(rows.ts_ms[index[0]]) // HOUR_MS, int(max(own.close_ms[-1], rows.ts_ms[index[-1]])) // HOUR_MS
    ends = (np.arange(first, last + 1) + 1) * HOUR_MS
    rows_to = np.searchsorted(rows.ts_ms[index], ends, side="left")
    own_to, sources_to = (np.searchsorted(f.close_ms, ends, side="right") for f in (own, sources))
    curves = []
    _learn(shared, model, rows, sources.part(slice(0, start := int(np.searchsorted(sources.close_ms, first * HOUR_MS, side="right")))))
    done = (0, 0, start)
    for upto in zip(rows_to.tolist(), own_to.tolist(), np.maximum(sources_to, start).tolist(), strict=True):
        now, taught, fresh = (slice(a, b) for a, b in zip(done, upto, strict=True))
        for j, said in enumerate(head.predict(head_model, seen_by_head, maps.rows(now))):
            score[now, j], probability[now, j] = said.score, said.probability
        mine = own.part(taught)
        head.learn_many(head_model, seen_by_head, rows.x[mine.row], mine.bin_, mine.y, mine.final, mine.close_ms, probability[place[mine.row], 1:])
        _learn(shared, model, rows, sources.part(fresh))
        curves.append(head.delay.in_use.copy())
        done = upto
    return Fed(index, score, probability, ends, np.stack(curves), head)


def _own(facts: Outcomes, rows: Rows, launch: int) -> Outcomes:
    return facts.part(rows.line[facts.row] == launch)


def _learn(shared: SharedHeads, model: Model, rows: Rows, now: Outcomes) -> None:
    shared.learn_many(model, rows.x[now.row], now.bin_, now.y, now.final, now.close_ms)
