"""Does transfer help here, from which lines, what does it save, is it calibrated, what does it cost? Every line launched in turn, every model judged.

`run_lines` does one run, in a process of its own if the caller likes; `compare` puts the launches together into one plain structure, which is
what the JSON file holds and the report shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.exposures import NONE, Exposure
from features.predictions import unpacked
from features.vector import ABOUT_LINE
from models.baselines import BASELINES, rehearse_baselines
from models.calibration import by_day, ece, pcoc_intervals, reliability
from models.checkpoint import Artifact
from models.experts import EXPERTS
from models.intervals import paired_bootstrap
from models.launch_head import MODELS, LaunchHead
from models.learning_curve import LearningCurve, conversions_to, learning_curve
from models.metrics import Vector, log_loss
from models.model import Model
from models.rehearsal import rehearse
from models.rows import Rows
from models.shared_heads import SharedHeads
from models.similarity import similarity
from models.source_weights import SourceSimilarity
from models.trunk import Progress
from streams.evaluation import Judged, as_launch, prequential
from streams.partition import Rules
from streams.records import Outcome
from streams.ticks import Tick
from streams.training import rows_of

REFERENCE = "headstart"
SCRATCH = MODELS.index("scratch")
RESAMPLES = 500


@dataclass(frozen=True)
class Insurance:
    """What the mixture lost in nats less the loss from scratch, and what is left of its bound (the least over experts): `slack` below 0 is a defect.

    `less_scratch` is of what was said when exposures were scored, by their final labels. The bound is about the same forecasts mixed anew by each bin that has
    closed since, `remixed_less_scratch`: what is said before its outcomes are known can lose more, the more exposures are open at a time (Joulani, György
    and Szepesvári 2013, Online Learning under Delayed Feedback).
    """

    less_scratch: float
    remixed_less_scratch: float
    slack: float


@dataclass(frozen=True)
class LineRun:
    """One launch: its judged exposures (n,), what each model said of them, and what else was found on the way."""

    line: str
    at_ms: int
    judged: Judged
    user: NDArray[np.int64]
    ts_ms: NDArray[np.int64]
    y: NDArray[np.float64]
    said: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]  # (score, probability)
    weight_ms: NDArray[np.int64]
    weights: NDArray[np.float64]
    prior: NDArray[np.float64]
    insurance: Insurance
    flipped: Insurance
    curve: LearningCurve | None
    cost: Mapping[str, Mapping[str, float]]
    sources: tuple[str, ...]
    deff: float
    window_s: float
    similarity: tuple[SourceSimilarity, ...]


def run_lines(
    log: pa.Table, artifact: Artifact, lines: Sequence[str], rules: Rules, *, at_ms: int, tick_ms: int, end_ms: int,
    baselines: Sequence[str] = BASELINES, seed: int = 0, progress: Progress | None = None,
) -> list[LineRun]:  # fmt: skip
    """Launch lines of a log together (their earlier events are not there any more), and judge every model on each one's exposures whose window ends by `end_ms`."""
    final: list[Exposure] = []
    done = 0

    def hear(outcome: Outcome) -> None:
        if outcome.closed.label != NONE and outcome.closed.close_ms <= end_ms:
            final.append(outcome.closed.exposure)

    def ticked(tick: Tick) -> None:
        nonlocal done
        done += len(tick.records)
        _tell(progress, "events", done, log.num_rows)

    launches = [as_launch(line, at_ms, artifact.window_s) for line in lines]
    judged = prequential(log, artifact, launches, rules, tick_ms=tick_ms, on_tick=ticked, on_outcome=hear)
    final.sort(key=lambda e: (e.ts_ms, e.id))
    everything = tuple(sorted({*pc.unique(log["line"]).to_pylist(), *lines}))  # a line that had no event since its launch too
    return [
        _judge_line(line, final, [other for other in lines if other != line], everything, judged, artifact, rules, at_ms, tick_ms, baselines, seed, progress)
        for line in lines
    ]


def _judge_line(
    line: str, final: Sequence[Exposure], others: Sequence[str], lines: Sequence[str], judged: Judged, artifact: Artifact, rules: Rules,
    at_ms: int, tick_ms: int, baselines: Sequence[str], seed: int, progress: Progress | None,
) -> LineRun:  # fmt: skip
    known = [e for e in final if e.line not in others]
    rows, place, model = rows_of(known, rules, lines), lines.index(line), Model(artifact)
    own = rows.line == place
    mine = [e for e in known if e.line == line]
    predictions = unpacked([e.predictions for e in mine], 2 * len(MODELS))
    said = {name: (predictions[:, 2 * k], predictions[:, 2 * k + 1]) for k, name in enumerate(MODELS)}
    if not own.any():
        nothing = Insurance(0.0, 0.0, 0.0)
        return LineRun(line, at_ms, judged, rows.user[own], rows.ts_ms[own], rows.ordered[own], said, np.zeros(0, np.int64), np.zeros((0, len(EXPERTS))),
                       artifact.expert_pi, nothing, nothing, None, {}, artifact.lines, artifact.deff, artifact.window_s, ())  # fmt: skip
    _tell(progress, "baselines", 0, 1)
    found = rehearse_baselines(
        rows, place, at_ms=at_ms, trained_until_ms=artifact.trained_until_ms, edges_s=artifact.edges_s, tick_ms=tick_ms, names=baselines, seed=seed
    )
    said |= {name: (p, p) for name, p in found.items()}
    _tell(progress, "baselines", 1, 1)
    _tell(progress, "rehearsals", 0, 2)
    ours = rehearse(model, rows, place, at_ms=at_ms)
    turned = flipped(rows, place, artifact)
    against = rehearse(model, turned, place, at_ms=at_ms)
    _tell(progress, "rehearsals", 1, 2)
    curve = learning_curve(model, rows, place, at_ms=at_ms)
    alike = similarity(rows.select(np.isin(rows.line, [lines.index(name) for name in (line, *artifact.lines)])), line, about_line=ABOUT_LINE)
    _tell(progress, "rehearsals", 2, 2)
    return LineRun(
        line=line, at_ms=at_ms, judged=judged, user=rows.user[own], ts_ms=rows.ts_ms[own], y=rows.ordered[own], said=said,
        weight_ms=ours.tick_ms, weights=ours.weights, prior=artifact.expert_pi,
        insurance=_insurance(rows.ordered[own], said["headstart"][1], said["scratch"][1], ours.head, model),
        flipped=_insurance(turned.ordered[against.index], against.probability[:, 0], against.probability[:, SCRATCH], against.head, model), curve=curve,
        cost=_cost(model, ours.head, ours.shared, rows.x[own]), sources=artifact.lines, deff=artifact.deff, window_s=artifact.window_s, similarity=alike.sources,
    )  # fmt: skip


def flipped(rows: Rows, line: int, artifact: Artifact) -> Rows:
    """Return the rows as if the line's shoppers had the opposite preferences: its features are mirrored about the sources' mean."""
    x = rows.x.copy()
    own = rows.line == line
    x[own] = (2.0 * artifact.trunk.mean - x[own]).astype(np.float32)
    return replace(rows, x=x)


def _insurance(y: Vector, said: Vector, from_scratch: Vector, head: LaunchHead, model: Model) -> Insurance:
    mixture = head.mixture
    less_scratch = len(y) * (log_loss(y, said) - log_loss(y, from_scratch))
    return Insurance(less_scratch, float(mixture.own[0] - mixture.losses[SCRATCH - 1]), float(mixture.slack(model.expert_pi).min()))


def _cost(model: Model, head: LaunchHead, shared: SharedHeads, x: NDArray[np.float32], repeats: int = 200) -> dict[str, dict[str, float]]:
    """µs for a row of everything that is predicted, in a batch of 64 and alone, measured here and now (medians); numbers and bytes that are held."""
    rows = np.ascontiguousarray(np.resize(x, (64, x.shape[1])))

    def median_us(n: int) -> float:
        spent = []
        for _ in range(repeats):
            start = time.perf_counter()
            head.predict(model, shared, model.maps(rows[:n]))
            spent.append(time.perf_counter() - start)
        return float(np.median(spent)) * 1e6 / n

    arrays = model.artifact.trunk
    return {
        "everything": {"us_in_batch_of_64": median_us(64), "us_alone": median_us(1), "bytes_of_a_launch": float(len(head.to_bytes()))},
        "trunk": {"parameters": float(arrays.parameters()), "bytes": float(sum(a.nbytes for a in arrays.as_dict().values()))},
        "trees": {"parameters": float(model.artifact.trees.parameters()), "bytes": float(sum(a.nbytes for a in model.artifact.trees.as_dict().values()))},
        "shared heads": {"parameters": float(sum(len(h.m) for h in shared.heads.values())), "bytes": float(len(shared.to_bytes()))},
    }


def compare(runs: Sequence[LineRun], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Put launches together: figures as means over lines with intervals over users, gaps to headstart, calibration, learning curves, insurance and cost.

    The result is plain (it has NaN where a figure is undefined). Every line with an exposure is in it: leaving out those without an order would choose by what
    is foretold. AUC and PR-AUC are means over the lines that have them, and `lines_unranked` names the others. Without any order there is no comparison.
    """
    kept = [run for run in runs if len(run.y)] if any(run.y.any() for run in runs) else []
    result: dict[str, Any] = {
        "lines_judged": [run.line for run in kept],
        "lines_unranked": [run.line for run in runs if not 0 < run.y.sum() < len(run.y)],
        "models": list(kept[0].said) if kept else [],
        "experts": list(EXPERTS),
        "launches": {run.line: _launch(run) for run in runs},
        "similarity": {run.line: [asdict(source) for source in run.similarity] for run in runs},
    }
    if not kept:
        return result
    y, user = np.concatenate([run.y for run in kept]), np.concatenate([run.user for run in kept])
    group = np.concatenate([np.full(len(run.y), i) for i, run in enumerate(kept)])
    names = list(kept[0].said)
    said = {name: (np.concatenate([run.said[name][0] for run in kept]), np.concatenate([run.said[name][1] for run in kept])) for name in names}
    since = np.concatenate([run.ts_ms - run.at_ms for run in kept])
    result["comparison"] = asdict(paired_bootstrap(y, user, group, said, reference=REFERENCE, resamples=resamples, seed=seed))
    result["deff"] = deff = max(run.deff for run in kept)
    ratios = pcoc_intervals(y, {name: said[name][1] for name in names}, user, seed=seed)
    result["calibration"] = {
        name: {
            "ece": ece(y, said[name][1]),
            "predicted_over_observed": asdict(ratios[name]),
            "reliability": [asdict(b) for b in reliability(y, said[name][1], deff=deff)],
        }
        for name in names
    }
    days = by_day(y, np.stack([said[name][1] for name in names], axis=1), since, at_ms=0)
    result["days"] = [asdict(day) for day in days]
    result["learning_curve"] = _curves([run.curve for run in kept if run.curve is not None])
    result["cost"] = {part: {name: float(np.median([run.cost[part][name] for run in kept])) for name in figures} for part, figures in kept[0].cost.items()}
    return result


def _launch(run: LineRun) -> dict[str, Any]:
    shown = np.unique(np.linspace(0, len(run.weight_ms) - 1, 200).round().astype(np.int64)) if len(run.weight_ms) else np.zeros(0, np.int64)  # the last one too
    return {
        "at_ms": run.at_ms,
        "exposures": len(run.y),
        "conversions": int(run.y.sum()),
        "sources": list(run.sources),
        "prior": dict(zip(EXPERTS, run.prior.tolist(), strict=True)),
        "weights": {
            "ms": run.weight_ms[shown].tolist(),
            **{name: run.weights[shown, k].tolist() for k, name in enumerate(EXPERTS)},
        },
        "insurance": asdict(run.insurance),
        "flipped": asdict(run.flipped),
    }  # fmt: skip


def _curves(curves: Sequence[LearningCurve]) -> dict[str, Any]:
    """The mean AUC over lines at the counts that all of them reached, and the conversions to 95 % and 98 % of the best with all; plain."""
    if not curves:
        return {}
    counts = sorted(set.intersection(*(set(c.conversions[:-1]) for c in curves)))
    mean = {
        name: [float(np.mean([c.auc[name][c.conversions.index(n)] for c in curves])) for n in counts] + [float(np.mean([c.auc[name][-1] for c in curves]))]
        for name in MODELS
    }
    full = max(values[-1] for values in mean.values())
    learned = [*counts, float(np.mean([c.conversions[-1] for c in curves]))]
    reach = {name: {f"to_{round(100 * share)}pct": conversions_to(share, learned, mean[name], full) for share in (0.95, 0.98)} for name in MODELS}
    return {"conversions": learned, "auc": mean, "full_auc": full, "reach": reach, "lines": len(curves)}


def _tell(progress: Callable[[str, int, int], None] | None, step: str, done: int, of: int) -> None:
    if progress:
        progress(step, done, of)
