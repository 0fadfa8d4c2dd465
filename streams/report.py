"""The report of `headstart evaluate`: one HTML file that says whether transfer helps here, and shows the figures behind every answer.

`result` is what `streams.comparison.compare` returns. It may also have `similarity`, {line: [{"line", "weight", "verdict", ...}]}, and `lines`,
{line: {model: {figure: number}}}; what is missing is left out of the page, and what is undefined is a dash. Nothing is fetched, no script runs,
and the same result gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from features.errors import InputError
from models.intervals import Interval
from streams import report_plots as plots
from streams.panels import ORDER_COUNTS
from streams.report_cells import (
    ADVANTAGE,
    AUC,
    COLUMNS,
    LOG_LOSS,
    NOT_ONE,
    Cell,
    Judged,
    Table,
    as_mapping,
    figure_and_gap,
    gap_cell,
    gaps_of,
    is_off,
    sortable,
)
from streams.report_insurance import insurance
from streams.report_sources import sources
from streams.report_words import (
    DESCRIBED,
    GROUPS,
    HEADSTART,
    MOST_NAMED,
    OTHER,
    Verdict,
    advantage,
    against,
    calibrated,
    count,
    described,
    fixed,
    interval,
    number,
    ratio_of_counts,
    saved,
    size,
    span,
    standing,
    verdict,
)

SHOWN = (HEADSTART, "frozen", "scratch")
"""The three that plots compare: transfer that goes on, transfer that stopped, and none."""
FEW_ORDERS = 100

PARTS = {
    "everything": "all that is predicted for one event: network, trees, heads, eight experts, mixture",
    "trunk": "neural network (trunk)",
    "trees": "boosted trees",
    "shared heads": "shared heads (the memory also holds their covariances and the delay curve)",
}
COSTS = {
    "us_in_batch_of_64": "an event, in batches of 64",
    "us_alone": "one event alone",
    "parameters": "parameters",
    "bytes": "memory",
    "bytes_of_a_launch": "memory, each launch",
}


def write_report(result: Mapping[str, Any], path: Path, *, title: str, facts: Mapping[str, str]) -> None:
    """Write the page; `facts` says by name what was evaluated and how. Raises InputError if the file cannot be written."""
    page = render(result, title=title, facts=facts)
    try:
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"the report {path} cannot be written: {error.strerror or error}") from None


def render(result: Mapping[str, Any], *, title: str, facts: Mapping[str, str]) -> str:
    """Return the page."""
    found = {key: value for key, value in result.items() if value is not None}
    judged = _judged(as_mapping(found.get("comparison")), as_mapping(found.get("calibration")))
    launches = {str(line): as_mapping(launch) for line, launch in as_mapping(found.get("launches")).items()}
    sections = {
        "help": _help(judged),
        "sources": sources(found, judged, launches),
        "saving": _saving(as_mapping(found.get("learning_curve"))),
        "calibration": _calibration(found),
        "cost": _cost(as_mapping(found.get("cost"))),
        "insurance": insurance(launches),
        "models": _models(judged),
        "lines": _lines(found, launches),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = environment.from_string(files("streams").joinpath("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        facts=facts,
        scope=_scope(found),
        glossary=[(name, *described(name)) for name in _named(judged, found)],
        **sections,
    )


def _scope(found: Mapping[str, Any]) -> dict[str, Any]:
    """How much was judged."""
    comparison = as_mapping(found.get("comparison"))
    return {
        "lines": len(found.get("lines_judged", ())),
        "few": number(comparison.get("conversions")) < FEW_ORDERS,
        "unranked": [str(line) for line in found.get("lines_unranked", ())],
        **{name: count(number(comparison.get(name))) for name in ("rows", "conversions", "users", "resamples")},
    }


def _help(judged: Sequence[Judged]) -> dict[str, Any]:
    """Against scratch, the strongest model without transfer, frozen, and the strongest other one."""
    by_name = {model.name: model for model in judged}
    scratch = by_name.get("scratch")
    answer = verdict(*gaps_of(scratch), "scratch") if scratch else Verdict("Cannot be said", "No launched line had an order that could be judged.", "open")
    rivals = {m.name: gaps_of(m) for m in judged if m.name not in (HEADSTART, "scratch", "oracle_sgd")}
    if scratch is not None and answer.kind != "bad":
        answer = answer._replace(because=" ".join(filter(None, (answer.because, against(rivals)))))
    alone = _strongest(m for m in judged if not described(m.name).transfers)
    others = _strongest(m for m in judged if m.name not in (HEADSTART, "oracle_sgd") and described(m.name).transfers)
    asked: list[tuple[str, Judged]] = []
    for question, model in (
        ("no transfer: the launch alone", scratch),
        ("the best ranking without transfer", alone),
        ("transfer without learning on: frozen", by_name.get("frozen")),
        ("a plain logistic regression on all that is final, refitted daily", by_name.get("lr_pooled")),
        ("the best other ranking", others),
    ):
        if model is not None and all(model is not other for _, other in asked):
            asked.append((question, model))
    rows = [
        [
            Cell(question),
            Cell(model.name),
            *(gap_cell(model, column) for column in (AUC, LOG_LOSS)),
            Cell(verdict(*gaps_of(model), model.name).answer),
        ]
        for question, model in asked
    ]
    caution, doubt = "", ""
    if scratch is not None and alone is not None and alone is not scratch:
        hardest = verdict(*gaps_of(alone), alone.name)
        caution = f"Of the models without transfer, {alone.name} ranks best here. {hardest.because}"
        doubt = caution if hardest.answer != answer.answer else ""
    head = ("headstart against", "model", "advantage in AUC", "advantage in log-loss", "is headstart better?")
    table = Table("Headstart against those that matter most", head, rows, frozenset({"model", "is headstart better?"}))
    return {"verdict": answer, "caution": caution, "doubt": doubt, "table": table if rows else None}


def _saving(curve: Mapping[str, Any]) -> dict[str, Any]:
    """How many conversions transfer saves."""
    conversions = [number(n) for n in curve.get("conversions") or ()]
    auc = {str(name): [number(v) for v in values] for name, values in as_mapping(curve.get("auc")).items() if len(values) == len(conversions)}
    if not conversions or not auc or not all(map(math.isfinite, conversions)):
        return {
            "sentences": ["There were too few orders for a learning curve."],
            "plot": None,
            "table": None,
            "reach": None,
            "lines": "",
            "full": "",
            "unlearned": "",
        }
    full = number(curve.get("full_auc"))
    reach = {name: tuple(number(as_mapping(as_mapping(curve.get("reach")).get(name)).get(f"to_{share}pct")) for share in (95, 98)) for name in auc}
    sentences = []
    if HEADSTART in reach and "scratch" in reach:
        sentences = [saved(reach[HEADSTART][k], reach["scratch"][k], conversions, share) for k, share in enumerate(("95 %", "98 %"))]
    heads = ("model", *(count(n) for n in conversions[:-1]), f"all (mean {count(conversions[-1])})")
    return {
        "sentences": sentences,
        "plot": plots.learning_curves(conversions, auc, full),
        "table": Table("AUC on later exposures, by orders of the launch that had been learned", heads, [[Cell(n), *(Cell(fixed(v)) for v in auc[n])] for n in auc]),
        "reach": Table(
            "Orders of the launch learned at the first measured point from which the level is held; a dash: not reached with all of them",
            ("model", "to 95 % of the best AUC", "to 98 % of the best AUC"),
            [[Cell(name), *(Cell(count(n)) for n in reach[name])] for name in auc],
        ),
        "lines": count(number(curve.get("lines"))),
        "full": fixed(full),
        "unlearned": fixed(auc["scratch"][0]) if conversions[0] == 0 and auc.get("scratch", [0.0])[0] > 0.5 else "",
    }  # fmt: skip


def _calibration(found: Mapping[str, Any]) -> dict[str, Any]:
    """Whether as many orders come as were predicted: overall, by probability, by day."""
    by_model = {str(name): as_mapping(c) for name, c in as_mapping(found.get("calibration")).items()}
    ratios = {name: interval(c.get("predicted_over_observed")) for name, c in by_model.items()}
    bins = {name: [as_mapping(b) for b in c.get("reliability") or ()] for name, c in by_model.items()}
    shown = [name for name in SHOWN if bins.get(name)]
    rows = {
        name: [
            Cell(name),
            Cell(fixed(ratios[name].value, 2), span(ratios[name], 2), mark=NOT_ONE if is_off(ratios[name]) else ("", "")),
            Cell(fixed(number(c.get("ece")), 4)),
        ]
        for name, c in by_model.items()
    }
    heads = ("model", "predicted / observed", "ECE")
    details = [
        [
            Cell(f"{name}, bin {k}"),
            Cell(count(number(b.get("n")))),
            Cell(fixed(number(b.get("predicted")), 4)),
            Cell(fixed(number(b.get("observed")), 4), span(Interval(math.nan, number(b.get("low")), number(b.get("high"))), 4)),
        ]
        for name in shown
        for k, b in enumerate(bins[name], start=1)
    ]
    days, plot, ours = _days(found)
    answer = calibrated(ratios.get(HEADSTART, Interval(math.nan, math.nan, math.nan)))
    return {
        "verdict": answer._replace(because=" ".join(filter(None, (answer.because, _off_days(ours))))),
        "table": Table("Predicted over observed orders, all lines together", heads, [rows[name] for name in shown]) if shown else None,
        "all": Table("Predicted over observed orders of all models, all lines together", heads, list(rows.values())) if rows else None,
        "widened": math.isfinite(number(found.get("deff"))),
        "plot": plots.reliability([plots.Bins(name, [_bin(b) for b in bins[name]]) for name in shown]) if shown else None,
        "bins": Table("The reliability plot in numbers", ("model", "exposures", "predicted", "observed"), details) if details else None,
        "days": days,
        "days_plot": plot,
    }  # fmt: skip


def _off_days(ratios: Mapping[int, Interval]) -> str:
    """Which days speak against it; nothing where no day has an interval."""
    known = {day: ratio for day, ratio in ratios.items() if math.isfinite(ratio.low)}
    off = [f"day {day + 1}: {fixed(ratio.value, 2)} {span(ratio, 2)}" for day, ratio in known.items() if is_off(ratio)]
    if not known:
        return ""
    if not off:
        return f"Day by day, {'the' if len(known) == 1 else 'each'} interval holds 1."
    more = f", and {len(off) - MOST_NAMED} more" if len(off) > MOST_NAMED else ""
    return f"Day by day, {len(off)} of {len(known)} intervals do{'es' if len(off) == 1 else ''} not hold 1: {', '.join(off[:MOST_NAMED])}{more}."


def _days(found: Mapping[str, Any]) -> tuple[Table | None, Markup | None, Mapping[int, Interval]]:
    """The table, the plot, and headstart's ratios by day."""
    models = [str(name) for name in found.get("models", ())]
    shown = [name for name in SHOWN if name in models]
    days = [as_mapping(day) for day in found.get("days", ())]
    if not shown or not days or any(len(day.get("predicted") or ()) != len(models) or not math.isfinite(number(day.get("day"))) for day in days):
        return None, None, {}
    deff = max([1.0, *(d for d in [number(found.get("deff"))] if math.isfinite(d))])
    ratios = {name: [ratio_of_counts(number(d["predicted"][models.index(name)]), number(d.get("observed")), deff) for d in days] for name in shown}
    rows = [
        [
            Cell(f"day {number(d['day']) + 1:.0f}"),
            Cell(count(number(d.get("n")))),
            Cell(count(number(d.get("observed")))),
            *(Cell(fixed(ratios[name][k].value, 2), span(ratios[name][k], 2)) for name in shown),
        ]
        for k, d in enumerate(days)
    ]
    table = Table("Predicted over observed orders by day since the launch", ("day", "exposures", "orders", *shown), rows)
    numbers = [int(number(d["day"])) for d in days]
    plot = plots.ratios_by_day([plots.DayRatios(name, list(zip(numbers, ratios[name], strict=True))) for name in shown])
    return table, plot, dict(zip(numbers, ratios.get(HEADSTART, ()), strict=False))


def _cost(cost: Mapping[str, Any]) -> dict[str, Any]:
    """What it takes to predict: time, parameters, memory."""
    everything = as_mapping(cost.get("everything"))
    batch, alone = number(everything.get("us_in_batch_of_64")), number(everything.get("us_alone"))
    sentence = "The cost was not measured."
    if math.isfinite(batch) and batch > 0:
        sentence = (
            f"An event takes {fixed(batch, 1)} µs in batches of 64 ({count(1e6 / batch)} events a second on one core) and {fixed(alone, 0)} µs alone; "
            f"each launch keeps {size(number(everything.get('bytes_of_a_launch')))}."
        )
    parts = {str(part): {str(name): number(value) for name, value in as_mapping(figures).items()} for part, figures in cost.items()}
    names = list(dict.fromkeys(name for figures in parts.values() for name in figures))
    rows = [
        [Cell(PARTS.get(part, part)), *(Cell(_amount(name, figures[name]) if name in figures else "") for name in names)] for part, figures in parts.items()
    ]
    return {
        "sentence": sentence,
        "table": Table("What is computed and kept", ("part", *(COSTS.get(n, n.replace("_", " ")) for n in names)), rows) if rows else None,
    }


def _amount(name: str, value: float) -> str:
    if name.startswith("bytes"):
        return size(value)
    return fixed(value, 1) + " µs" if name.startswith("us_") and math.isfinite(value) else count(value)


def _models(judged: Sequence[Judged]) -> dict[str, Any]:
    """All models with all figures, by group, the best AUC of a group first."""
    ordered = sorted(judged, key=lambda m: (GROUPS.index(described(m.name).group), -sortable(m.figures["auc"].value)))
    rows: list[list[Cell]] = []
    for group in GROUPS:
        inside = [m for m in ordered if described(m.name).group == group]
        if inside and group != HEADSTART:
            rows.append([Cell(group)])
        rows += [[Cell(m.name, kind="ours" if m.name == HEADSTART else ""), *(cell for c in COLUMNS for cell in figure_and_gap(m, c))] for m in inside]
    heads = ["model", *(heading for c in COLUMNS for heading in ((c.heading,) if c.higher_is_better is None else (c.heading, ADVANTAGE)))]
    gaps = [
        plots.GapRow(m.name, described(m.name).group, advantage(m.gaps["auc"], higher_is_better=True), advantage(m.gaps["log_loss"], higher_is_better=False))
        for m in ordered
        if m.name != HEADSTART
    ]
    counted = []
    for column in (AUC, LOG_LOSS):
        stands = {
            m.name: standing(m.gaps[column.name], higher_is_better=bool(column.higher_is_better)) for m in ordered if m.name not in (HEADSTART, "oracle_sgd")
        }
        names = [name for name, s in stands.items() if s == "worse"]
        counted.append(
            f"In {column.heading}, of {len(stands)} other models headstart is better than {list(stands.values()).count('better')}, "
            f"cannot be told apart from {list(stands.values()).count('even')}, and is worse than {', '.join(names) or 'none'}."
        )
    return {
        "sentences": counted if gaps else [],
        "table": Table("All models: figures, and headstart's advantage over each (+ is better)", heads, rows) if rows else None,
        "plot": plots.forest(gaps) if gaps else None,
    }


def _lines(found: Mapping[str, Any], launches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Each launch by itself."""
    figures = {str(line): {str(name): as_mapping(f) for name, f in as_mapping(of).items()} for line, of in as_mapping(found.get("lines")).items()}
    shown = [name for name in SHOWN if any(name in of for of in figures.values())]
    rows = []
    for line, launch in launches.items():
        exposures, orders = number(launch.get("exposures")), number(launch.get("conversions"))
        rows.append(
            [
                Cell(line),
                Cell(_time(number(launch.get("at_ms")))),
                Cell(count(exposures)),
                Cell(count(orders)),
                Cell(f"{100 * orders / exposures:.1f} %" if exposures > 0 and math.isfinite(orders) else "–"),
                *(Cell(fixed(_value(figures, line, name, column.name), column.digits)) for column in (AUC, LOG_LOSS) for name in shown),
            ]
        )
    heads = (
        "line",
        "launched (UTC)",
        "exposures",
        "with an order",
        "order rate",
        *(f"{column.heading}, {name}" for column in (AUC, LOG_LOSS) for name in shown),
    )
    drawn = [(line, {name: _value(figures, line, name, "auc") for name in shown}) for line in launches]
    drawn = [(line, values) for line, values in drawn if any(map(math.isfinite, values.values()))]
    compared = [values for _, values in drawn if all(math.isfinite(values.get(name, math.nan)) for name in (HEADSTART, "scratch"))]
    ahead = sum(values[HEADSTART] > values["scratch"] for values in compared)
    return {
        "table": Table("The launches one by one", heads, rows, frozenset({"launched (UTC)"})) if rows else None,
        "plot": plots.auc_by_line(drawn[: plots.MOST_ROWS]) if drawn else None,
        "sentence": (f"Headstart ranks better than scratch in {ahead} of {len(compared)} lines. " if compared else "") + ORDER_COUNTS,
    }


def _value(figures: Mapping[str, Mapping[str, Mapping[str, Any]]], line: str, model: str, name: str) -> float:
    """A figure of one line, whether it is a number or an interval."""
    value = figures.get(line, {}).get(model, {}).get(name)
    return interval(value).value if isinstance(value, dict) else number(value)


def _judged(comparison: Mapping[str, Any], calibration: Mapping[str, Any]) -> list[Judged]:
    """The models; predicted / observed has the interval of the section on calibration, so that the page shows one."""
    names = [column.name for column in COLUMNS]
    ratios = {
        str(name): {"pcoc_pooled": interval(of["predicted_over_observed"])} for name, of in calibration.items() if "predicted_over_observed" in as_mapping(of)
    }
    return [
        Judged(
            str(name),
            {f: interval(as_mapping(as_mapping(of).get("figures")).get(f)) for f in names} | ratios.get(str(name), {}),
            {f: interval(as_mapping(as_mapping(of).get("gaps")).get(f)) for f in names},
        )
        for name, of in as_mapping(comparison.get("methods")).items()
    ]


def _named(judged: Sequence[Judged], found: Mapping[str, Any]) -> list[str]:
    """The models of this page, by group; all that we know if there are none."""
    names = dict.fromkeys([m.name for m in judged] + [str(name) for name in (*found.get("models", ()), *found.get("experts", ()))])
    known = [name for name in DESCRIBED if name in names] if names else list(DESCRIBED)
    return [*known, *(name for name in names if described(name).group == OTHER)]


def _strongest(models: Iterable[Judged]) -> Judged | None:
    """The best by AUC; None if none has one."""
    known = [m for m in models if math.isfinite(m.figures["auc"].value)]
    return max(known, key=lambda m: m.figures["auc"].value) if known else None


def _bin(of: Mapping[str, Any]) -> tuple[float, float, float, float]:
    return number(of.get("predicted")), number(of.get("observed")), number(of.get("low")), number(of.get("high"))


def _time(ms: float) -> str:
    """A time in UTC to the minute; "–" if undefined."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M") if math.isfinite(ms) and abs(ms) < 1e14 else "–"
