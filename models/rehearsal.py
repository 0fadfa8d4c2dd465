"""A launch rehearsed on rows: what every expert would have said, tick by tick, had a line been launched at a time. Arrays in, arrays out.

The streaming pipeline does the same with events (a test holds the two together); this is for what needs many launches: pseudo-launches of source
lines, from which the priors are learned, and benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.head import Matrix, Vector
from models.launch_head import MODELS, LaunchHead
from models.model import Model
from models.rows import Rows
from models.shared_heads import SharedHeads

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Outcomes:
    """N facts in order of close time: the row that each is about, its bin 0..K-1 or -1, y, final label or -1, and close time; (N,) int64 each."""

    row: NDArray[np.int64]
    bin_: NDArray[np.int64]
    y: NDArray[np.int64]
    final: NDArray[np.int64]
    close_ms: NDArray[np.int64]

    def part(self, chosen: NDArray[np.bool_] | slice) -> Outcomes:
        """Some of the facts."""
        return Outcomes(self.row[chosen], self.bin_[chosen], self.y[chosen], self.final[chosen], self.close_ms[chosen])


@dataclass(frozen=True)
class Rehearsed:
    """`index` (n,): the launch's rows in order of time; `score` and `probability` (n, 1 + K) of `MODELS`; `weights` (ticks, K) of the mixture at `tick_ms`."""

    index: NDArray[np.int64]
    score: Matrix
    probability: Matrix
    head: LaunchHead
    shared: SharedHeads
    tick_ms: NDArray[np.int64]
    weights: Matrix
    learned: NDArray[np.int64]
    """(ticks,): the launch's conversions that had been learned by then."""
    states: tuple[tuple[int, LaunchHead, SharedHeads], ...]
    """For each of the counts that were asked for and reached: conversions learned, and copies of the heads at that time."""


def outcomes(rows: Rows, edges_s: NDArray[np.float64]) -> Outcomes:
    """Return the facts that the pipeline would tell of final rows: a closed bin each up to the order's, and the label at the window's end."""
    edges_ms = np.round(1000.0 * edges_s[1:]).astype(np.int64)
    bins, n = len(edges_ms), len(rows)
    order_ms = np.where(np.isfinite(rows.order_delay_s), np.round(1000.0 * np.where(np.isfinite(rows.order_delay_s), rows.order_delay_s, 0.0)), -1)
    hit = np.where(order_ms < 0, bins, np.searchsorted(edges_ms, order_ms))  # the bin of the order; K if none
    row, k = np.divmod(np.arange(n * bins), bins)
    told = k <= hit[row]
    last = k == bins - 1
    kept = told | last
    row, k, told, last = row[kept], k[kept], told[kept], last[kept]
    close_ms = rows.ts_ms[row] + edges_ms[k]
    order = np.lexsort((k, row, close_ms))
    y, final = (k == hit[row]) & told, np.where(last, (hit[row] < bins).astype(np.int64), -1)
    return Outcomes(row[order], np.where(told, k, -1)[order], y[order].astype(np.int64), final[order], close_ms[order])


def rehearse(
    model: Model, rows: Rows, launch: int, *, at_ms: int, tick_ms: int = HOUR_MS, grace_ms: int = 0, keep_at: Sequence[int] = (), until_ms: int | None = None
) -> Rehearsed:  # fmt: skip
    """Launch line `launch` of the final rows at `at_ms`; the other lines keep the shared heads fresh with what closes after the end of training.

    A row is predicted with what had been learned before its tick. `keep_at`: counts of learned conversions at which copies are kept; what closes after
    `until_ms` is not learned. ValueError if the launch has no rows.
    """
    facts = outcomes(rows, model.edges_s)
    if until_ms is not None:
        facts = facts.part(facts.close_ms <= until_ms)
    ours = rows.line == launch
    index = np.flatnonzero(ours & (rows.ts_ms >= at_ms))
    if len(index) == 0:
        raise ValueError(f"line {rows.lines[launch]} has no rows from {at_ms} ms on")
    index = index[np.argsort(rows.ts_ms[index], kind="stable")]
    own = facts.part((ours & (rows.ts_ms >= at_ms))[facts.row])
    sources = facts.part(~ours[facts.row] & (facts.close_ms > model.artifact.trained_until_ms))
    place = np.zeros(len(rows), dtype=np.int64)
    place[index] = np.arange(len(index))
    maps = model.maps(rows.x[index])
    head, shared = LaunchHead.of(model), SharedHeads.of(model)
    score, probability = np.empty((len(index), len(MODELS))), np.empty((len(index), len(MODELS)))
    first, last = int(rows.ts_ms[index[0]]) // tick_ms, int(max(*own.close_ms[-1:], rows.ts_ms[index[-1]])) // tick_ms
    ends = (np.arange(first, last + 1) + 1) * tick_ms
    upto = np.searchsorted(rows.ts_ms[index], ends, side="left")
    own_upto, sources_upto = (np.searchsorted(f.close_ms, ends - grace_ms, side="right") for f in (own, sources))
    weights, learned, states = [], [], []
    wanted = sorted(set(keep_at))
    seen = own_seen = sources_seen = 0
    if len(sources.row):
        # What closed before the launch, but after the end of training, comes first.
        sources_seen = int(np.searchsorted(sources.close_ms, first * tick_ms - grace_ms, side="right"))
        _learn(shared, model, rows, sources.part(slice(0, sources_seen)))
    for to, own_to, sources_to in zip(upto.tolist(), own_upto.tolist(), sources_upto.tolist(), strict=True):
        if to > seen:
            for j, said in enumerate(head.predict(model, shared, maps.rows(slice(seen, to)))):
                score[seen:to, j], probability[seen:to, j] = said.score, said.probability
        if own_to > own_seen:
            now = own.part(slice(own_seen, own_to))
            head.learn_many(model, shared, rows.x[now.row], now.bin_, now.y, now.final, now.close_ms, probability[place[now.row], 1:])
        if sources_to > sources_seen:
            _learn(shared, model, rows, sources.part(slice(sources_seen, sources_to)))
        seen, own_seen, sources_seen = to, own_to, max(sources_to, sources_seen)
        weights.append(head.mixture.w.copy())
        learned.append(int(head.hit.sum()))
        while wanted and learned[-1] >= wanted[0]:
            states.append((wanted.pop(0), head.copy(), shared.copy()))
    return Rehearsed(index, score, probability, head, shared, ends, np.stack(weights), np.array(learned), tuple(states))


def _learn(shared: SharedHeads, model: Model, rows: Rows, now: Outcomes) -> None:
    shared.learn_many(model, rows.x[now.row], now.bin_, now.y, now.final, now.close_ms)


def logit(p: Vector) -> Vector:
    """Return ln(p / (1 − p)), (N,), for p held off 0 and 1."""
    held = np.clip(p, 1e-12, 1.0 - 1e-12)
    return np.asarray(np.log(held) - np.log1p(-held))
