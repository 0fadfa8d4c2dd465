"""What headstart is compared with: twelve baselines on the exposures of a launch, prequentially, by the same rules.

Event time is cut into ticks. An exposure is predicted by what was final when its tick began: that it happened (at ts), that its order came (at ts + delay),
that its window is over (at ts + window). Nothing else of a row is known before.

| baseline | learns from | |
| --- | --- | --- |
| `base_rate` | the launch | its rate of orders so far, and nothing about shoppers |
| `adpredictor`, `ftrl` | the launch | from nothing, a row when its window is over: `models.river_baselines` |
| `lightgbm_scratch` | the launch | trees, refitted daily; its rate until it has had ten orders |
| `lr_frozen`, `lightgbm_frozen` | the sources | fitted once, on what was final by the end of training |
| `lr_pooled`, `lightgbm_pooled` | sources and launch | refitted daily on all that is final |
| `wait_sgd`, `fnw_sgd`, `es_dfm_sgd`, `oracle_sgd` | the launch | gradient descent that begins at `lr_frozen`: `models.sgd` |

The logistic regressions are MAP with the prior width that held-out users of the sources choose; the trees (LightGBM: Ke et al. 2017) those of
`models.boosting`. Features are standardised by the sources. No baseline that starts from nothing sees a label of the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.boosting import fit_trees
from models.delay import check_edges_s, fit_curve
from models.encode import standardise
from models.fit import choose_c, fit_map
from models.head import Matrix, Vector
from models.logistic import sigmoid
from models.pretrain import fit_scaler
from models.river_baselines import START_RATE, adpredictor, ftrl
from models.rows import Rows, need_rows
from models.sgd import METHODS as SGD
from models.sgd import NEVER_MS, rehearse_sgd
from models.trees import Trees

BASELINES = ("base_rate", "adpredictor", "ftrl", "lightgbm_scratch", "lr_frozen", "lightgbm_frozen", "lr_pooled", "lightgbm_pooled", *SGD)
START_WEIGHT = 20.0
"""How many exposures the belief in `START_RATE` counts for: as many as make the rate's logit certain to ± 1."""
FEWEST_ORDERS = 10
DAY_MS = 86_400_000
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are over, and how many there are at most."""


def rehearse_baselines(
    rows: Rows, launch: int, *, at_ms: int, trained_until_ms: int, edges_s: NDArray[np.float64], tick_ms: int,
    names: Sequence[str] = BASELINES, progress: Progress | None = None, seed: int = 0,
) -> dict[str, Vector]:  # fmt: skip
    """Return what each baseline says of each row of the launched line, {name: probability (n,)}, in the order of `rows[rows.line == launch]`.

    `rows` are the final exposures of all lines, in any order; `launch` indexes `rows.lines` and begins at `at_ms`. The frozen ones and the start of the others
    are trained on the sources' rows whose window ended by `trained_until_ms`, which is at most `at_ms`. `edges_s` (K+1,): the delay bins; the first is
    the time that `es_dfm_sgd` waits. InputError if the sources' rows cannot teach anything; ValueError for an unknown name, a launch's row before
    `at_ms`, or training that ends after it. Deterministic for rows and seed.
    """
    if unknown := [name for name in names if name not in BASELINES]:
        raise ValueError(f"there is no baseline {unknown[0]!r}; there are {', '.join(BASELINES)}")
    if trained_until_ms > at_ms:
        raise ValueError(f"training ends at {trained_until_ms} ms, after the launch at {at_ms} ms")
    own = np.flatnonzero(rows.line == launch)
    own = own[np.argsort(rows.ts_ms[own], kind="stable")]
    if len(own) and rows.ts_ms[own[0]] < at_ms:
        raise ValueError(f"the launch has a row at {rows.ts_ms[own[0]]} ms, before it began at {at_ms} ms")
    stage = _stage(rows, launch, own, at_ms, trained_until_ms, edges_s, tick_ms, seed)
    place = np.searchsorted(np.sort(own), own)
    found = {}
    for done, name in enumerate(names):
        if progress:
            progress("rehearsing the baselines", done, len(names))
        found[name] = np.empty(len(own))
        found[name][place] = _rehearse(name, stage)
    if progress:
        progress("rehearsing the baselines", len(names), len(names))
    return found


@dataclass(frozen=True)
class _Stage:
    """The sources' M rows, and the launch's N in the order of time, each with when it is final; `now_ms` is when the tick of a row began."""

    sources: Matrix
    sources_y: Vector
    sources_final_ms: NDArray[np.int64]
    trained: NDArray[np.bool_]
    raw: Matrix
    y: Vector
    ts_ms: NDArray[np.int64]
    order_ms: NDArray[np.int64]
    final_ms: NDArray[np.int64]
    now_ms: NDArray[np.int64]
    start_ms: int
    window_ms: int
    elapsed_ms: int
    come_by: float
    c: float
    head: Vector
    seed: int

    @property
    def known(self) -> NDArray[np.int64]:
        """How many of the launch's rows were final when a row's tick began, (N,)."""
        return np.searchsorted(self.final_ms, self.now_ms, side="right").astype(np.int64)


def _stage(
    rows: Rows, launch: int, own: NDArray[np.int64], at_ms: int, trained_until_ms: int, edges_s: NDArray[np.float64], tick_ms: int, seed: int
) -> _Stage:  # fmt: skip
    edges = check_edges_s(edges_s, rows.window_s)
    window_ms = round(1000 * rows.window_s)
    sources = rows.select(np.flatnonzero(rows.line != launch))
    final_ms = sources.ts_ms + window_ms
    trained = final_ms <= trained_until_ms
    taught = sources.select(trained)
    need_rows(taught)
    mean, std = fit_scaler(taught.x)
    raw_sources, raw = standardise(sources.x, mean, std), standardise(rows.x[own], mean, std)
    c = choose_c(raw_sources[trained], taught.ordered, taught.user)
    ts_ms = rows.ts_ms[own]
    delay_s = rows.order_delay_s[own]
    ordered = np.isfinite(delay_s)
    start_ms = at_ms // tick_ms * tick_ms
    return _Stage(
        sources=raw_sources,
        sources_y=sources.ordered,
        sources_final_ms=final_ms,
        trained=trained,
        raw=raw,
        y=rows.ordered[own],
        ts_ms=ts_ms,
        order_ms=np.where(ordered, ts_ms + np.round(1000 * np.where(ordered, delay_s, 0.0)).astype(np.int64), NEVER_MS),
        final_ms=ts_ms + window_ms,
        now_ms=ts_ms // tick_ms * tick_ms,
        start_ms=start_ms,
        window_ms=window_ms,
        elapsed_ms=round(1000 * float(edges[1])),
        come_by=float(fit_curve(taught.order_delay_s, edges)[1]),
        c=c,
        head=fit_map(raw_sources[trained], taught.ordered, c=c).m,
        seed=seed,
    )


def _rehearse(name: str, stage: _Stage) -> Vector:
    """The probabilities (N,) of one baseline, in the order of time."""
    if name == "base_rate":
        return _rate(stage)
    if name == "adpredictor":
        return adpredictor(stage.sources[stage.trained], stage.raw, stage.y, stage.known)
    if name == "ftrl":
        return ftrl(stage.raw, stage.y, stage.known)
    if name == "lr_frozen":
        return sigmoid(stage.raw @ stage.head)
    if name == "lr_pooled":
        return _refitted_daily(stage, lambda now_ms: _pooled_logistic(stage, now_ms))
    if name == "lightgbm_frozen":
        return sigmoid(_trees(stage, stage.sources[stage.trained], stage.sources_y[stage.trained])(stage.raw))
    if name == "lightgbm_pooled":
        return _refitted_daily(stage, lambda now_ms: _trees(stage, *_pooled(stage, now_ms)))
    if name == "lightgbm_scratch":
        return _scratch_trees(stage)
    p = sigmoid(stage.sources[stage.trained] @ stage.head)
    squares = ((p - stage.sources_y[stage.trained]) ** 2) @ stage.sources[stage.trained] ** 2
    return sigmoid(
        rehearse_sgd(
            name, stage.raw, stage.ts_ms, stage.order_ms, stage.now_ms, window_ms=stage.window_ms,
            elapsed_ms=stage.elapsed_ms, come_by=stage.come_by, start=stage.head, squares=squares,
        )
    )  # fmt: skip


def _rate(stage: _Stage) -> Vector:
    orders = np.concatenate([[0.0], stage.y.cumsum()])[stage.known]
    return np.asarray((orders + START_WEIGHT * START_RATE) / (stage.known + START_WEIGHT))


def _pooled(stage: _Stage, now_ms: int) -> tuple[Matrix, Vector]:
    """All rows that are final by a time, of sources and launch."""
    theirs, ours = stage.sources_final_ms <= now_ms, stage.final_ms <= now_ms
    return np.concatenate([stage.sources[theirs], stage.raw[ours]]), np.concatenate([stage.sources_y[theirs], stage.y[ours]])


def _pooled_logistic(stage: _Stage, now_ms: int) -> Callable[[Matrix], Vector]:
    raw, y = _pooled(stage, now_ms)
    m = fit_map(raw, y, c=stage.c, start=stage.head).m
    return lambda rows: np.asarray(rows @ m)


def _trees(stage: _Stage, raw: Matrix, y: Vector) -> Callable[[Matrix], Vector]:
    return Trees(fit_trees(raw, y, seed=stage.seed)).logit


def _scratch_trees(stage: _Stage) -> Vector:
    p = _rate(stage)
    for day_ms, rows in _days(stage):
        ours = stage.final_ms <= day_ms
        if stage.y[ours].sum() >= FEWEST_ORDERS:
            p[rows] = sigmoid(_trees(stage, stage.raw[ours], stage.y[ours])(stage.raw[rows]))
    return p


def _refitted_daily(stage: _Stage, fit: Callable[[int], Callable[[Matrix], Vector]]) -> Vector:
    """Probabilities (N,) by the logits of what was fitted when the day of a row began."""
    p = np.empty(len(stage.raw))
    for day_ms, rows in _days(stage):
        p[rows] = sigmoid(fit(day_ms)(stage.raw[rows]))
    return p


def _days(stage: _Stage) -> list[tuple[int, NDArray[np.int64]]]:
    """Each day since the launch that has rows: when it began, and its rows."""
    day = (stage.now_ms - stage.start_ms) // DAY_MS
    return [(int(stage.start_ms + d * DAY_MS), np.flatnonzero(day == d)) for d in np.unique(day).tolist()]
