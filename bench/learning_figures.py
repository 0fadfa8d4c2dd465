"""The figures of one seed of `bench/learning.py`: plain numbers by name, which the bench averages over seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from learning_feeds import Fed, bins, feed, of_one_bin, told, waited
from learning_shop import DAY_MS, Stage, Staged
from numpy.typing import NDArray

from models.baselines import rehearse_baselines
from models.delay import fit_curve
from models.experts import BASE_PRIOR, EXPERTS
from models.launch_head import MODELS
from models.learning_curve import learning_curve
from models.metrics import auc, log_loss, pcoc
from models.mixture import prior_from_losses
from models.model import Model
from models.offset import offset_prior
from models.rehearsal import HOUR_MS, Rehearsed, rehearse
from models.rows import Rows
from models.sgd import METHODS as SGD

OFFSETS = ("base", "offset -1", "offset -.5", "offset +.5", "offset +1")
KINDS = ("unrelated", "flipped")
DELAYS = ("delay x.3", "base", "delay x3")
FED = ("headstart", "shared", "deviation")
PAST = (0, 1, 2, 4, 7, 10)
COUNTS = (0, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 100, 120, 150, 200, 250, 300)
AFTER = 200
FEWEST_LATER = 40
FIRST = 50


def figures_of(stage: Stage) -> dict[str, Any]:
    """All figures of one seed."""
    model = Model(stage.artifact)
    base = stage.variants["base"]
    fed = feed(model, base.rows, stage.launch, bins(model, base.rows, stage.launch))
    launches = {name: rehearse(model, stage.variants[name].rows, stage.launch, at_ms=stage.at_ms) for name in (*OFFSETS, *KINDS)}
    if np.abs(fed.probability - launches["base"].probability).max() > 1e-9:
        raise AssertionError("the bench feeds a launch in another way than models.rehearsal")
    insurance = {name: insured(found, stage.variants[name].rows, model) for name, found in launches.items()}
    return {
        "launch": size(base, stage),
        "waiting": waiting(model, base, stage, fed),
        "curve": curve(model, base, stage),
        "insurance": insurance,
        "pcoc": {name: late_pcoc(launches[name], stage.variants[name]) for name in OFFSETS},
        "delay": {name: delays(model, stage.variants[name], stage) for name in DELAYS},
        "past": past(stage, model),
        "artifact": {"deff": stage.artifact.deff, "offset_pi": stage.artifact.offset_pi.tolist(), "expert_pi": stage.artifact.expert_pi.tolist()},
    }


def size(base: Staged, stage: Stage) -> dict[str, float]:
    """How many exposures and orders, and what the truth would have scored."""
    ours = base.rows.line == stage.launch
    sources = ~ours & (base.rows.ts_ms + round(1000 * base.rows.window_s) <= stage.at_ms)
    y, p = base.rows.ordered[ours], base.truth[ours]
    known = np.isfinite(p)
    return {
        "exposures": float(ours.sum()), "conversions": float(y.sum()), "source_rows": float(sources.sum()),
        "source_conversions": float(base.rows.ordered[sources].sum()), "truth_known": float(known.mean()),
        "truth_auc": auc(y[known], p[known]), "truth_log_loss": log_loss(y[known], p[known]),
    }  # fmt: skip


def waiting(model: Model, base: Staged, stage: Stage, fed: Fed) -> dict[str, dict[str, float]]:
    """Log-loss on the launch's exposures with labels when the window is over, with delay bins, and with labels at the exposure; figure 1."""
    one = of_one_bin(model)
    ways = {
        "wait": feed(model, base.rows, stage.launch, waited(base.rows, stage.launch), head_model=one),
        "bins": fed,
        "oracle": feed(model, base.rows, stage.launch, told(base.rows, stage.launch), head_model=one),
    }
    y = base.rows.ordered[fed.index]
    found = {name: {way: log_loss(y, f.probability[:, MODELS.index(name)]) for way, f in ways.items()} for name in FED}
    said = rehearse_baselines(
        base.rows, stage.launch, at_ms=stage.at_ms, trained_until_ms=stage.artifact.trained_until_ms, edges_s=stage.artifact.edges_s,
        tick_ms=HOUR_MS, names=SGD,
    )  # fmt: skip
    own = base.rows.ordered[base.rows.line == stage.launch]
    found["sgd"] = {name.removesuffix("_sgd"): log_loss(own, p) for name, p in said.items()}
    return found


def curve(model: Model, base: Staged, stage: Stage) -> dict[str, Any]:
    """AUC and Precision@5 % of each model after so many conversions; figures 2 and 3."""
    found = learning_curve(model, base.rows, stage.launch, at_ms=stage.at_ms, counts=COUNTS)
    if found is None:
        return {}
    return {"conversions": list(found.conversions), "auc": found.auc, "precision": found.precision, "judged": found.judged}


def insured(found: Rehearsed, rows: Rows, model: Model) -> dict[str, Any]:
    """What is left of the mixture's bound, and what it lost, mixed anew by each bin and as it was said; figures 4 and 5."""
    head, y = found.head, rows.ordered[found.index]
    said, scratch = (log_loss(y, found.probability[:, MODELS.index(name)]) for name in ("headstart", "scratch"))
    slack = head.mixture.slack(model.expert_pi)
    bound = -np.log(model.expert_pi) + head.mixture.own[1]
    excess = head.mixture.own[0] - head.mixture.losses
    return {
        "slack": slack.tolist(), "least_slack": float(slack.min()), "most_of_bound_used": float((excess / bound).max()), "most_excess": float(excess.max()),
        "said_less_scratch": len(y) * (said - scratch), "less_scratch": float(excess[EXPERTS.index("scratch")]), "less_best": float(excess.max()),
        "losses": dict(zip(EXPERTS, head.mixture.losses.tolist(), strict=True)), "loss": float(head.mixture.own[0]),
    }  # fmt: skip


def known_before(found: Rehearsed, ts_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many conversions had been learned when rows (n,) were predicted."""
    tick = ts_ms // HOUR_MS - (int(found.tick_ms[0]) // HOUR_MS - 1)
    return np.append(0, found.learned)[tick]


def late_pcoc(found: Rehearsed, staged: Staged) -> dict[str, float]:
    """Predicted over observed from the time on at which `AFTER` conversions had been learned; figure 6."""
    later = known_before(found, staged.rows.ts_ms[found.index]) >= AFTER
    y = staged.rows.ordered[found.index]
    truth = staged.truth[found.index]
    if y[later].sum() < FEWEST_LATER:
        return {}
    said = {name: pcoc(y[later], found.probability[later, MODELS.index(name)]) for name in ("headstart", "shared", "frozen")}
    return {**said, "truth": float(truth[later].sum() / y[later].sum()), "conversions": float(y[later].sum())}


def delays(model: Model, staged: Staged, stage: Stage) -> dict[str, dict[str, float]]:
    """Predicted over observed by day, and the error of the delay curve, when it is adapted and when it stays the sources'."""
    rows = staged.rows
    own = bins(model, rows, stage.launch)
    found = {}
    for way in ("adapted", "frozen"):
        fed = feed(model, rows, stage.launch, own, frozen_curve=way == "frozen")
        day = (rows.ts_ms[fed.index] - stage.at_ms) // DAY_MS
        y = rows.ordered[fed.index]
        truth = fit_curve(rows.order_delay_s[fed.index], model.edges_s)
        figures = {}
        for name, part in (("day_1", day == 0), ("day_2", day == 1), ("later", day >= 2)):
            figures |= {f"{model_name}_{name}": pcoc(y[part], fed.probability[part, MODELS.index(model_name)]) for model_name in FED}
            figures |= {f"{model_name}_loss_{name}": log_loss(y[part], fed.probability[part, MODELS.index(model_name)]) for model_name in FED}
        for name, at_ms in (("day_1", stage.at_ms + DAY_MS), ("day_2", stage.at_ms + 2 * DAY_MS), ("end", int(fed.tick_ms[-1]))):
            tick = int(np.searchsorted(fed.tick_ms, at_ms))
            figures[f"error_{name}"] = float(np.abs(fed.curves[min(tick, len(fed.curves) - 1)] - truth)[1:-1].mean())
        found[way] = figures
    return found


def past(stage: Stage, model: Model) -> dict[str, dict[str, float]]:
    """Log-loss in a next launch's first two days and first `FIRST` conversions, with priors from n past launches; two levels a seed, five over all seeds."""
    seed = int(stage.artifact.settings["seed"])  # type: ignore[call-overload]
    order = np.random.default_rng(seed).permutation(len(stage.past_losses))
    until_ms = stage.at_ms + 3 * DAY_MS
    found: dict[str, dict[str, float]] = {}
    for n in PAST:
        known = order[:n]
        priors = replace(stage.artifact, offset_pi=offset_prior(stage.past_curves[known]), expert_pi=prior_from_losses(stage.past_losses[known], BASE_PRIOR))
        sums: dict[str, list[float]] = {}
        for name in (OFFSETS[seed % 5], OFFSETS[(seed + 2) % 5]):
            rows = stage.variants[name].rows
            rows = rows.select((rows.ts_ms < until_ms) & ((rows.line == stage.launch) | (rows.ts_ms + round(1000 * rows.window_s) > stage.at_ms)))
            run = rehearse(Model(priors), rows, stage.launch, at_ms=stage.at_ms)
            y, ts_ms = rows.ordered[run.index], rows.ts_ms[run.index]
            parts = {"two_days": ts_ms < stage.at_ms + 2 * DAY_MS, "first_conversions": known_before(run, ts_ms) < FIRST}
            for part, chosen in parts.items():
                for model_name in ("headstart", "shared"):
                    sums.setdefault(f"{model_name}_{part}", []).append(log_loss(y[chosen], run.probability[chosen, MODELS.index(model_name)]))
        found[str(n)] = {name: float(np.mean(values)) for name, values in sums.items()} | {"known": float(len(known))}
    return found
