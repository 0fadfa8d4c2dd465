"""What `bench/learning.py` says of many seeds: means with bootstrap intervals over seeds, beside the design's aims, as Markdown and as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from learning_figures import AFTER, DELAYS, FED, KINDS, OFFSETS, PAST
from numpy.typing import NDArray

from models.launch_head import MODELS
from models.learning_curve import conversions_to

RESAMPLES = 2000
Seed = dict[str, Any]
Statistic = Callable[[NDArray[np.int64]], float]
"""A figure of some seeds, given by their positions (repeats allowed)."""


def interval(seeds: int, statistic: Statistic) -> dict[str, float | None]:
    """Return a figure of all seeds with its 95 % bootstrap interval over seeds; None where it is undefined."""
    rng = np.random.default_rng(0)
    spread = np.array([statistic(rng.integers(0, seeds, seeds)) for _ in range(RESAMPLES)])
    known = spread[np.isfinite(spread)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) else (math.nan, math.nan)
    found = {"value": statistic(np.arange(seeds)), "low": low, "high": high, "undefined": 1.0 - len(known) / RESAMPLES}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def mean_of(values: Sequence[float]) -> Statistic:
    """The mean of those that are known."""
    a = np.array([math.nan if v is None else v for v in values], np.float64)
    return lambda chosen: float(np.nanmean(a[chosen])) if np.isfinite(a[chosen]).any() else math.nan


def ratio_of(above: Sequence[float], below: Sequence[float]) -> Statistic:
    """The quotient of two means."""
    a, b = np.array(above), np.array(below)
    return lambda chosen: float(a[chosen].mean() / b[chosen].mean())


def report(seeds: Sequence[Seed]) -> tuple[str, dict[str, Any]]:
    """Return the Markdown and the summary."""
    summary: dict[str, Any] = {"seeds": len(seeds)}
    text = [_shops(seeds)]
    for name, part in (("waiting", _waiting), ("curve", _curve), ("insurance", _insurance), ("pcoc", _pcoc), ("delay", _delay), ("past", _past)):
        lines, summary[name] = part(seeds)
        text += ["", *lines]
    return "\n".join(text), summary


def _shops(seeds: Sequence[Seed]) -> str:
    def mean(name: str) -> float:
        return float(np.mean([s["launch"][name] for s in seeds]))

    return (
        f"{len(seeds)} simulated launches (SYNTHETIC), means: {mean('source_rows'):.0f} final exposures of the source lines with {mean('source_conversions'):.0f} "
        f"conversions before the launch; {mean('exposures'):.0f} exposures of the launch with {mean('conversions'):.0f} conversions; "
        f"the truth has AUC {mean('truth_auc'):.3f} and log-loss {mean('truth_log_loss'):.4f}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |", *("| " + " | ".join(row) + " |" for row in rows)]


def _said(found: dict[str, float | None], digits: int = 3, scale: float = 1.0) -> str:
    def one(value: float | None) -> str:
        return "–" if value is None else f"{scale * value:.{digits}f}"

    return f"{one(found['value'])} [{one(found['low'])}, {one(found['high'])}]"


def _reached(found: dict[str, float | None], low: float, high: float) -> str:
    return "yes" if found["value"] is not None and low <= found["value"] <= high else "no"


def _waiting(seeds: Sequence[Seed]) -> tuple[list[str], dict[str, Any]]:
    found: dict[str, Any] = {}
    rows = []

    def losses(model: str, way: str) -> list[float]:
        return [s["waiting"][model][way] for s in seeds]

    def closed(model: str, way: str, scale: str) -> dict[str, float | None]:
        gain = np.subtract(losses(model, "wait"), losses(model, way)) if model == scale else np.subtract(losses(scale, "wait"), losses(model, way))
        return interval(len(seeds), ratio_of(gain.tolist(), np.subtract(losses(scale, "wait"), losses(scale, "oracle")).tolist()))

    for model in FED:
        found[model] = closed(model, "bins", model)
        means = [f"{np.mean(losses(model, way)):.4f}" for way in ("wait", "bins", "oracle")]
        aim = ("≥ 95 %", _reached(found[model], 0.95, math.inf))
        rows.append([f"{model}, delay bins", *means, _said(found[model], 0, 100) + " %", *aim])
    for way, name in (("fnw", "FNW with SGD"), ("es_dfm", "ES-DFM with SGD")):
        found[way] = {"own_scale": closed("sgd", way, "sgd"), "deviation_scale": closed("sgd", way, "deviation")}
        means = [f"{np.mean(losses('sgd', w)):.4f}" for w in ("wait", way, "oracle")]
        rows.append([name, *means, _said(found[way]["own_scale"], 0, 100) + " %", "", ""])
    return ["**1** Gap in log-loss closed, from waiting for the window to labels at the exposure", "", *_table(
        ("", "wait", "method", "oracle", "closed", "aim", "reached"), rows
    )], found  # fmt: skip


def _curve(seeds: Sequence[Seed]) -> tuple[list[str], dict[str, Any]]:
    curves = [s["curve"] for s in seeds if s["curve"]]
    counts = sorted(set.intersection(*(set(c["conversions"][:-1]) for c in curves)))
    learned = [*counts, float(np.mean([c["conversions"][-1] for c in curves]))]

    def table(kind: str, model: str) -> NDArray[np.float64]:
        """(seeds, counts + 1): the last is with all that was learned."""
        return np.array([[c[kind][model][c["conversions"].index(n)] for n in counts] + [c[kind][model][-1]] for c in curves])

    auc = {model: table("auc", model) for model in MODELS}
    top = {model: table("precision", model) for model in MODELS}
    fifty = counts.index(50)

    def reach(model: str, share: float) -> Statistic:
        def of(chosen: NDArray[np.int64]) -> float:
            full = max(float(values[chosen, -1].mean()) for values in auc.values())
            n = conversions_to(share, learned, auc[model][chosen].mean(axis=0).tolist(), full)
            return math.inf if n is None else n

        return of

    def each(model: str, share: float) -> float:
        own = [conversions_to(share, learned, auc[model][i].tolist(), max(float(v[i, -1]) for v in auc.values())) for i in range(len(curves))]
        return float(np.median([math.inf if n is None else n for n in own]))

    def precision(model: str) -> Statistic:
        return lambda chosen: float(top[model][chosen, fifty].mean() / max(float(values[chosen, -1].mean()) for values in top.values()))

    found: dict[str, Any] = {"conversions": learned, "auc": {m: v.mean(axis=0).tolist() for m, v in auc.items()}}
    rows = []
    for model in ("headstart", "shared", "deviation", "scratch"):
        to = {share: interval(len(curves), reach(model, share)) for share in (0.95, 0.98)}
        best = interval(len(curves), precision(model))
        median = {share: each(model, share) for share in (0.95, 0.98)}
        found[model] = {"to_95": to[0.95], "to_98": to[0.98], "median_to_95": median[0.95], "median_to_98": median[0.98], "precision_at_50": best}
        first = [f"{v:.3f}" for v in auc[model].mean(axis=0)[[0, counts.index(20), fifty, -1]]]
        ok = "yes" if _reached(to[0.95], 0, 20) == _reached(to[0.98], 0, 80) == "yes" else "no"
        ok3 = _reached(best, 0.9, math.inf)
        rows.append(
            [model, *first, _said(to[0.95], 0), _said(to[0.98], 0), f"{median[0.95]:.0f} / {median[0.98]:.0f}", ok, _said(best, 2), ok3]
        )  # fmt: skip
    return [
        (
            "**2, 3** AUC on the last 40 % of the launch's exposures after n conversions; conversions to 95 % (aim ≤ 20) and 98 % (aim ≤ 80) of the best model's "
            "AUC with all of them; Precision@5 % after 50 over the best with all (aim ≥ .90)"
        ),
        "",
        *_table(("", "0", "20", "50", "all", "to 95 %", "to 98 %", "median of seeds", "reached", "Precision@5 %", "reached"), rows),
    ], found


def _insurance(seeds: Sequence[Seed]) -> tuple[list[str], dict[str, Any]]:
    every = [run for s in seeds for run in s["insurance"].values()]
    least = min(run["least_slack"] for run in every)
    used = max(run["most_of_bound_used"] for run in every)
    found: dict[str, Any] = {"least_slack": least, "most_of_bound_used": used, "launches": len(every)}
    rows = [
        ["4", f"least slack of the bound, {len(every)} launches × {len(MODELS) - 1} experts", "≥ 0", f"{least:.4f} nats; at most {100 * used:.1f} % of it was used",
         "yes" if least >= 0 else "no"],
    ]  # fmt: skip
    for kind in (*KINDS, "base"):
        said, anew, best = ([s["insurance"][kind][what] for s in seeds] for what in ("said_less_scratch", "less_scratch", "less_best"))
        means = {"said_less_scratch": said, "less_scratch": anew, "less_best": best}
        found[kind] = {what: interval(len(seeds), mean_of(values)) for what, values in means.items()} | {"most": max(anew), "most_said": max(said)}
        aim = ("≤ 5 nats", "yes" if max(*anew, *said) <= 5 else "no") if kind in KINDS else ("", "")
        told = (
            f"as said {_said(found[kind]['said_less_scratch'], 1)} nats, at most {max(said):+.1f}; mixed anew by each bin "
            f"{_said(found[kind]['less_scratch'], 1)}, at most {max(anew):+.1f}, less the best expert {_said(found[kind]['less_best'], 1)}"
        )
        rows.append(["5", f"{kind} launch: mixture less scratch", aim[0], told, aim[1]])
    return ["**4, 5** What the mixture costs", "", *_table(("#", "", "aim", "measured", "reached"), rows)], found


def _pcoc(seeds: Sequence[Seed]) -> tuple[list[str], dict[str, Any]]:
    found: dict[str, Any] = {}
    rows = []
    for name in OFFSETS:
        known = [s["pcoc"][name] for s in seeds if s["pcoc"][name]]
        if not known:
            rows.append(["like the others" if name == "base" else name, "0", *[""] * 5])
            continue
        found[name] = {model: interval(len(known), mean_of([k[model] for k in known])) for model in ("headstart", "shared", "frozen", "truth")}
        said = [_said(found[name][model], 2) for model in ("headstart", "shared", "frozen", "truth")]
        rows.append(["like the others" if name == "base" else name, str(len(known)), *said, _reached(found[name]["headstart"], 0.95, 1.05)])
    return [
        f"**6** Predicted over observed from {AFTER} learned conversions on (aim .95–1.05), by the launch's level",
        "",
        *_table(("launch", "seeds", "headstart", "shared", "frozen", "truth", "reached"), rows),
    ], found


def _delay(seeds: Sequence[Seed]) -> tuple[list[str], dict[str, Any]]:
    found: dict[str, Any] = {}
    rows = []
    for name in DELAYS:
        for way in ("frozen", "adapted"):
            figures = {
                figure: interval(len(seeds), mean_of([s["delay"][name][way][figure] for s in seeds])) for figure in seeds[0]["delay"][name][way]
            }  # fmt: skip
            found[f"{name}, {way}"] = figures
            label = {"base": "× 1", "delay x.3": "× .3", "delay x3": "× 3"}[name]
            by_day = [_said(figures[f"{model}_{part}"], 2) for model in ("headstart", "shared") for part in ("day_1", "day_2", "later")]
            rows.append([label, way, *by_day, *(_said(figures[f"error_{part}"]) for part in ("day_1", "day_2", "end"))])
    head = ("delays", "curve", "headstart: day 1", "day 2", "later", "shared: day 1", "day 2", "later", "error of F: after day 1", "day 2", "at the end")
    return ["**Delay curve** Predicted over observed by day, with the launch's delay curve adapted and with the sources'", "", *_table(head, rows)], found


def _past(seeds: Sequence[Seed]) -> tuple[list[str], dict[str, Any]]:
    found: dict[str, Any] = {}
    rows = []
    names = [f"{model}_{part}" for part in ("two_days", "first_conversions") for model in ("headstart", "shared")]
    for n in PAST:
        of = [s["past"][str(n)] for s in seeds]
        less = {name: interval(len(seeds), mean_of([a[name] - s["past"]["0"][name] for a, s in zip(of, seeds, strict=True)])) for name in names}
        found[str(n)] = {"known": float(np.mean([a["known"] for a in of])), "less_none": less, "loss": {m: float(np.mean([a[m] for a in of])) for m in names}}
        rows.append([f"{n}", f"{found[str(n)]['known']:.1f}", *(f"{found[str(n)]['loss'][m]:.4f}; {_said(less[m], 2, 1000)}" for m in names)])
    head = ("past launches", "known", "headstart, two days", "shared, two days", "headstart, first 50", "shared, first 50")
    return [
        (
            "**Learning across launches** Log-loss in a next launch's first two days, and before 50 of its conversions were learned, with priors from n past launches; "
            "then the difference to n = 0 in thousandths of a nat"
        ),
        "",
        *_table(head, rows),
    ], found
