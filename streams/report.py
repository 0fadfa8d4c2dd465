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
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from features.errors import InputError
from models.intervals import Interval
from models.similarity import POOLED
from streams import report_plots as plots
from streams.report_words import (
    DESCRIBED,
    GROUPS,
    HEADSTART,
    MOST_NAMED,
    OTHER,
    Standing,
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

DAY_MS = 86_400_000
SHOWN = (HEADSTART, "frozen", "scratch")
"""The three that plots compare: transfer that goes on, transfer that stopped, and none."""
FEW_ORDERS = 100
MOST_PANELS = 24
MOST_ROWS_OF_A_PLOT = 60
MOST_SOURCES = 30
MOST_SIMILARITY_ROWS = 600
MOST_PAIRS = 3
ROUNDING_NATS = 1e-6
"""What is left of a bound may be this far below 0 by rounding."""


class Column(NamedTuple):
    """A figure in the tables: its name in a result, its heading, its decimals and those of its gap, and whether more is better (None: neither)."""

    name: str
    heading: str
    digits: int
    gap_digits: int
    higher_is_better: bool | None


COLUMNS = (
    Column("auc", "AUC", 3, 4, True),
    Column("pr_auc", "PR-AUC", 3, 4, True),
    Column("precision_at_5pct", "Precision@5 %", 3, 4, True),
    Column("log_loss", "log-loss", 4, 4, False),
    Column("pcoc_pooled", "predicted / observed", 2, 2, None),
)
AUC, LOG_LOSS = COLUMNS[0], COLUMNS[3]
ADVANTAGE = "headstart's advantage"
MARKS: dict[Standing, tuple[str, str]] = {
    "better": ("▼", "worse than headstart"),
    "worse": ("▲", "better than headstart"),
    "even": ("", ""),
    "unknown": ("", ""),
}
NOT_ONE = ("≠", "its interval does not hold 1")

SIMILARITY = {
    "line": "source", "verdict": "verdict", "weight": "weight", "pi": "trust", "score": "similarity", "rows": "exposures", "conversions": "orders",
    "span_days": "days", "psi": "PSI", "mmd2": "MMD²", "a_distance": "A-distance", "log_odds": "log odds of an order, less the launch's", "funnel": "funnel",
    "delay": "delay", "agreement": "agreement", "logme": "LogME", "h_score": "H-score", "reason": "why",
}  # fmt: skip
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


class Cell(NamedTuple):
    """What stands in a table: a text, a smaller one below it, and a mark with its meaning."""

    text: str
    small: str = ""
    mark: tuple[str, str] = ("", "")
    kind: str = ""


class Table(NamedTuple):
    """Headings and rows; the first cell of a row is its name, and a row of one cell heads those below. Columns are numbers unless their heading is in `words`."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: frozenset[str] = frozenset()


class Judged(NamedTuple):
    """A model of the comparison: its figures and gaps by name."""

    name: str
    figures: Mapping[str, Interval]
    gaps: Mapping[str, Interval]


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
    judged = _judged(_mapping(found.get("comparison")), _mapping(found.get("calibration")))
    launches = {str(line): _mapping(launch) for line, launch in _mapping(found.get("launches")).items()}
    sections = {
        "help": _help(judged),
        "sources": _sources(found, judged, launches),
        "saving": _saving(_mapping(found.get("learning_curve"))),
        "calibration": _calibration(found),
        "cost": _cost(_mapping(found.get("cost"))),
        "insurance": _insurance(launches),
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
    comparison = _mapping(found.get("comparison"))
    return {
        "lines": len(found.get("lines_judged", ())),
        "few": number(comparison.get("conversions")) < FEW_ORDERS,
        "without_orders": [str(line) for line in found.get("lines_without_orders", ())],
        **{name: count(number(comparison.get(name))) for name in ("rows", "conversions", "users", "resamples")},
    }


def _help(judged: Sequence[Judged]) -> dict[str, Any]:
    """Against scratch, the strongest model without transfer, frozen, and the strongest other one."""
    by_name = {model.name: model for model in judged}
    scratch = by_name.get("scratch")
    answer = verdict(*_gaps(scratch), "scratch") if scratch else Verdict("Cannot be said", "No launched line had an order that could be judged.", "open")
    rivals = {m.name: _gaps(m) for m in judged if m.name not in (HEADSTART, "scratch", "oracle_sgd")}
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
            *(_gap_cell(model, column) for column in (AUC, LOG_LOSS)),
            Cell(verdict(*_gaps(model), model.name).answer),
        ]
        for question, model in asked
    ]
    caution, doubt = "", ""
    if scratch is not None and alone is not None and alone is not scratch:
        hardest = verdict(*_gaps(alone), alone.name)
        caution = f"Of the models without transfer, {alone.name} ranks best here. {hardest.because}"
        doubt = caution if hardest.answer != answer.answer else ""
    head = ("headstart against", "model", "advantage in AUC", "advantage in log-loss", "is headstart better?")
    table = Table("Headstart against those that matter most", head, rows, frozenset({"model", "is headstart better?"}))
    return {"verdict": answer, "caution": caution, "doubt": doubt, "table": table if rows else None}


def _sources(found: Mapping[str, Any], judged: Sequence[Judged], launches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Who taught, and which way of transfer the mixture came to trust."""
    experts = [str(name) for name in found.get("experts", ())]
    prior = {line: {name: number(_mapping(launch.get("prior")).get(name)) for name in experts} for line, launch in launches.items()}
    courses = {line: course for line, launch in launches.items() if (course := _course(line, launch, experts)) is not None}
    final = {line: {name: number(course.weights[name][-1]) for name in experts} for line, course in courses.items()}
    favourites = [max(weights, key=lambda name: weights[name]) for weights in final.values() if all(map(math.isfinite, weights.values()))]
    means = {name: (_mean(p[name] for p in prior.values()), _mean(w[name] for w in final.values())) for name in experts}
    sentence = "No weights of the mixture were recorded."
    if favourites:
        first = max(experts, key=favourites.count)
        times = favourites.count(first)
        sentence = f"At the end, “{first}” had the most weight in {times} of {len(favourites)} launches (mean over all launches {fixed(means[first][1], 2)})."
    by_name = {model.name: model for model in judged}
    rows = [
        [
            Cell(name, described(name).learns_from),
            *(Cell(fixed(value, 2)) for value in means[name]),
            *(cell for column in (AUC, LOG_LOSS) for cell in (_figure_cell(by_name.get(name), column), _gap_cell(by_name.get(name), column))),
        ]
        for name in experts
    ]
    heads = ("way of transfer", "weight at the start", "weight at the end", "AUC", ADVANTAGE, "log-loss", ADVANTAGE)
    by_launch = [
        [Cell(line), *(Cell(fixed(final.get(line, {}).get(name, math.nan), 2), f"from {fixed(prior[line][name], 2)}") for name in experts)] for line in launches
    ]
    taught = {line: [str(s) for s in launch.get("sources") or ()] for line, launch in launches.items()}
    busiest = sorted(courses, key=lambda line: -number(launches[line].get("conversions")) if math.isfinite(number(launches[line].get("conversions"))) else 0.0)
    shown = set(busiest[:MOST_PANELS])
    similar, sums, sifted = _similarity(_mapping(found.get("similarity")))
    return {
        "sentence": sentence,
        "taught_by": " ".join(filter(None, (_taught_by([len(names) for names in taught.values()]), sifted))),
        "experts": Table("The ways of transfer: their weights as means over the launches, and their own figures, had each been alone", heads, rows) if rows else None,
        "weights": Table("The mixture's weights at the end of each launch", ("launch", *experts), by_launch) if final else None,
        "plot": plots.weights_over_time([courses[line] for line in courses if line in shown], experts) if shown and experts else None,
        "panels": (len(shown), len(courses)),
        "taught": [(line, ", ".join(names) or "–") for line, names in taught.items()],
        "similar": similar[: _within(MOST_SIMILARITY_ROWS, [len(table.rows) for _, table in similar])],
        "not_shown": len(similar) - _within(MOST_SIMILARITY_ROWS, [len(table.rows) for _, table in similar]),
        "similar_weights": sums,
    }  # fmt: skip


def _course(line: str, launch: Mapping[str, Any], experts: Sequence[str]) -> plots.Course | None:
    weights = _mapping(launch.get("weights"))
    ms = [number(t) for t in weights.get("ms") or ()]
    if not ms or not experts or any(len(weights.get(name) or ()) != len(ms) for name in experts):
        return None
    start = number(launch.get("at_ms"))
    start = start if math.isfinite(start) else ms[0]
    return plots.Course(line, [(t - start) / DAY_MS for t in ms], {name: [number(w) for w in weights[name]] for name in experts})


def _taught_by(counts: Sequence[int]) -> str:
    if not any(counts):
        return ""
    least, most = min(counts), max(counts)
    number_of = f"{least}" if least == most else f"{least} to {most}"
    who = f"Each launch learned from {number_of} other line{'' if most == 1 else 's'}"
    return who + ("." if most == 1 else ", which fed one shared model; a single line's contribution is not measured here.")


def _least_alike(weights: Mapping[str, Mapping[str, float]]) -> str:
    """The pairs whose rows should count least, by name, and what all others have at least."""
    pairs = sorted((w, source, launch) for launch, row in weights.items() for source, w in row.items() if math.isfinite(w))
    named = [pair for pair in pairs if pair[0] < 1.0][:MOST_PAIRS]
    if not pairs:
        return ""
    if not named:
        return "No pair is so unlike that its rows should count for less than 1."
    rest = pairs[len(named) :]
    said = ", ".join(f"{source} for {launch} ({_share(w)})" for w, source, launch in named)
    return f"Least alike: {said}{f'; all other pairs ≥ {_share(math.floor(100 * rest[0][0]) / 100)}' if rest else ''}."


def _share(weight: float) -> str:
    """A weight that is not rounded up to 1."""
    return f"{weight:.0f}" if weight in (0.0, 1.0) else fixed(min(weight, 0.99), 2)


def _similarity(found: Mapping[str, Any]) -> tuple[list[tuple[str, Table]], Table | None, str]:
    """A table for each launch, one of the weights of all, and how many sources were used in which way."""
    tables = []
    weights: dict[str, dict[str, float]] = {}
    verdicts: list[str] = []
    for launch, rows in found.items():
        rows = [_mapping(row) for row in rows or ()]
        keys = [key for key in SIMILARITY if any(key in row for row in rows)]
        if "line" not in keys:
            continue
        cells = [[_similarity_cell(key, row.get(key)) for key in keys] for row in rows]
        tables.append((str(launch), Table(f"What {launch} can learn from", [SIMILARITY[key] for key in keys], cells, frozenset({"verdict", "why"}))))
        weights[str(launch)] = {str(row.get("line")): number(row.get("weight")) for row in rows}
        verdicts += [str(row["verdict"]) for row in rows if row.get("verdict")]
    counted = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    sentence = f"By similarity, measured afterwards, of {len(verdicts)} pairs of source and launch: {counted}." if verdicts else ""
    sentence = " ".join(filter(None, (sentence, _least_alike(weights))))
    sources = sorted({source for row in weights.values() for source in row})
    if not any(math.isfinite(w) for row in weights.values() for w in row.values()) or len(sources) > MOST_SOURCES:
        return tables, None, sentence
    rows = [[Cell(launch), *(_weight_cell(row.get(source, math.nan)) for source in sources)] for launch, row in weights.items()]
    return (
        tables,
        Table("How much each source's rows should count for each launch, by similarity: 1 in full, 0 not at all", ("launch", *sources), rows),
        sentence,
    )


def _weight_cell(weight: float) -> Cell:
    if not weight < 1.0:
        return Cell(fixed(weight, 2))
    return Cell(_share(weight), mark=("*", "left out" if weight <= 0 else "counts in part"), kind="flagged")


def _within(most: int, counts: Sequence[int]) -> int:
    """How many of the first counts sum to at most `most`."""
    return sum(total <= most for total in accumulate(counts))


def _similarity_cell(key: str, value: Any) -> Cell:
    if isinstance(value, str):
        return Cell(value or "–", kind="flagged" if key == "verdict" and value != POOLED else "")
    if key == "weight":
        return _weight_cell(number(value))
    whole = key in ("rows", "conversions")
    return Cell(count(number(value)) if whole else fixed(number(value), 1 if key == "span_days" else 2 if key in ("pi", "score") else 3))


def _saving(curve: Mapping[str, Any]) -> dict[str, Any]:
    """How many conversions transfer saves."""
    conversions = [number(n) for n in curve.get("conversions") or ()]
    auc = {str(name): [number(v) for v in values] for name, values in _mapping(curve.get("auc")).items() if len(values) == len(conversions)}
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
    reach = {name: tuple(number(_mapping(_mapping(curve.get("reach")).get(name)).get(f"to_{share}pct")) for share in (95, 98)) for name in auc}
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
    by_model = {str(name): _mapping(c) for name, c in _mapping(found.get("calibration")).items()}
    ratios = {name: interval(c.get("predicted_over_observed")) for name, c in by_model.items()}
    bins = {name: [_mapping(b) for b in c.get("reliability") or ()] for name, c in by_model.items()}
    shown = [name for name in SHOWN if bins.get(name)]
    rows = {
        name: [
            Cell(name),
            Cell(fixed(ratios[name].value, 2), span(ratios[name], 2), mark=NOT_ONE if _off(ratios[name]) else ("", "")),
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
    off = [f"day {day + 1}: {fixed(ratio.value, 2)} {span(ratio, 2)}" for day, ratio in known.items() if _off(ratio)]
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
    days = [_mapping(day) for day in found.get("days", ())]
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
    everything = _mapping(cost.get("everything"))
    batch, alone = number(everything.get("us_in_batch_of_64")), number(everything.get("us_alone"))
    sentence = "The cost was not measured."
    if math.isfinite(batch) and batch > 0:
        sentence = (
            f"An event takes {fixed(batch, 1)} µs in batches of 64 ({count(1e6 / batch)} events a second on one core) and {fixed(alone, 0)} µs alone; "
            f"each launch keeps {size(number(everything.get('bytes_of_a_launch')))}."
        )
    parts = {str(part): {str(name): number(value) for name, value in _mapping(figures).items()} for part, figures in cost.items()}
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


def _insurance(launches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the mixture can lose against scratch, and what it did lose, on the launches as they were and with preferences reversed."""
    found = {line: [_mapping(launch.get(kind)) for kind in ("insurance", "flipped")] for line, launch in launches.items()}
    found = {line: kinds for line, kinds in found.items() if any(kinds) and number(launches[line].get("exposures")) != 0}
    if not found:
        return {"verdict": Verdict("Cannot be said", "No launch was rehearsed.", "open"), "table": None, "check": None, "plot": None}
    less = {line: [number(kind.get("less_scratch")) for kind in kinds] for line, kinds in found.items()}
    slack = {line: [number(kind.get("slack")) for kind in kinds] for line, kinds in found.items()}
    exposures = {line: number(launches[line].get("exposures")) for line in found}
    rows = [
        [Cell(line), Cell(count(exposures[line])), Cell(count(number(launches[line].get("conversions")))), *(_insured_cell(value) for value in less[line])]
        for line in found
    ]
    heads = ("launch", "exposures", "orders", "as it was: advantage over scratch, nats", "reversed: advantage over scratch, nats")
    checks = [[Cell(line), *(_slack_cell(value) for value in slack[line])] for line in found]
    shown = [plots.Insured(line, *(-value for value in less[line])) for line in list(found)[:MOST_ROWS_OF_A_PLOT] if any(map(math.isfinite, less[line]))]
    return {
        "verdict": _insured(less, slack, exposures),
        "table": Table("Headstart's advantage over scratch, over each whole launch (+ is better)", heads, rows),
        "check": Table("What the proven limit would still have allowed the mixture to lose, in nats", ("launch", "as it was", "reversed"), checks),
        "plot": plots.insurance(shown) if shown else None,
    }  # fmt: skip


def _insured(less: Mapping[str, Sequence[float]], slack: Mapping[str, Sequence[float]], exposures: Mapping[str, float]) -> Verdict:
    broken = [line for line, values in slack.items() if any(v < -ROUNDING_NATS for v in values)]
    if broken:
        return Verdict(
            "The bound is broken",
            f"The mixture lost more than the proven limit allows in {', '.join(broken)}: this is a defect of the program; please report it.",
            "bad",
        )
    worst = [max((values[k] for values in less.values() if math.isfinite(values[k])), default=math.nan) for k in range(2)]
    if all(map(math.isnan, worst)):
        return Verdict("Cannot be said", "No launch has a figure.", "open")
    over = [line for line, values in less.items() if any(v > plots.INSURED_NATS for v in values)]
    kinds = [{line: values[k] for line, values in less.items() if math.isfinite(values[k])} for k in range(2)]
    said = " ".join(f"{name}: {_against_scratch(kind, exposures)}." for name, kind in zip(("As it was", "Reversed"), kinds, strict=True) if kind)
    if over:
        return Verdict("Costlier than 5 nats", f"{said} More than 5 in {', '.join(over)}.", "bad")
    return Verdict("It is insured", said, "good")


def _against_scratch(less: Mapping[str, float], exposures: Mapping[str, float]) -> str:
    """In how many launches the mixture was better and in how many worse than scratch, by how many nats, from what it lost less what scratch lost."""
    gained = sorted(-value for value in less.values() if value < 0)
    parts = []
    if gained:
        least, most = fixed(gained[0], 1), fixed(gained[-1], 1)
        by = f"{least} to {most}" if least != most else most
        parts.append(f"better than scratch in {len(gained)} of {len(less)}, by {by} nats")
    lost = {line: value for line, value in less.items() if value > 0}
    if lost:
        line = max(lost, key=lambda name: lost[name])
        each = f", = {fixed(lost[line] / exposures[line], 3)} of log-loss an exposure" if exposures[line] > 0 else ""
        parts.append(
            f"worse{'' if gained else ' than scratch'} in {len(lost)} of {len(less)}, by at most {fixed(lost[line], 1)} nats (limit {plots.INSURED_NATS:.0f}){each}"
        )
    return "; ".join(parts) or "equal to scratch"


def _insured_cell(value: float) -> Cell:
    if math.isnan(value):
        return Cell("–")
    inside = value <= plots.INSURED_NATS
    return Cell(fixed(-value, 1, sign=True), mark=("✓", "at most 5 nats lost") if inside else ("✗", "more than 5 nats lost"), kind="good" if inside else "bad")


def _slack_cell(value: float) -> Cell:
    broken = value < -ROUNDING_NATS
    return Cell(fixed(value, 1), mark=("✗", "below 0: a defect") if broken else ("", ""), kind="bad" if broken else "")


def _models(judged: Sequence[Judged]) -> dict[str, Any]:
    """All models with all figures, by group, the best AUC of a group first."""
    ordered = sorted(judged, key=lambda m: (GROUPS.index(described(m.name).group), -_sortable(m.figures["auc"].value)))
    rows: list[list[Cell]] = []
    for group in GROUPS:
        inside = [m for m in ordered if described(m.name).group == group]
        if inside and group != HEADSTART:
            rows.append([Cell(group)])
        rows += [[Cell(m.name, kind="ours" if m.name == HEADSTART else ""), *(cell for c in COLUMNS for cell in _cells(m, c))] for m in inside]
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
    figures = {str(line): {str(name): _mapping(f) for name, f in _mapping(of).items()} for line, of in _mapping(found.get("lines")).items()}
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
    heads = ("line", "launched (UTC)", "exposures", "orders", "order rate", *(f"{column.heading}, {name}" for column in (AUC, LOG_LOSS) for name in shown))
    drawn = [(line, {name: _value(figures, line, name, "auc") for name in shown}) for line in launches]
    drawn = [(line, values) for line, values in drawn if any(map(math.isfinite, values.values()))][:MOST_ROWS_OF_A_PLOT]
    compared = [values for _, values in drawn if all(math.isfinite(values.get(name, math.nan)) for name in (HEADSTART, "scratch"))]
    ahead = sum(values[HEADSTART] > values["scratch"] for values in compared)
    return {
        "table": Table("The launches one by one", heads, rows, frozenset({"launched (UTC)"})) if rows else None,
        "plot": plots.auc_by_line(drawn) if drawn else None,
        "sentence": f"Headstart ranks better than scratch in {ahead} of {len(compared)} lines." if compared else "",
    }


def _value(figures: Mapping[str, Mapping[str, Mapping[str, Any]]], line: str, model: str, name: str) -> float:
    """A figure of one line, whether it is a number or an interval."""
    value = figures.get(line, {}).get(model, {}).get(name)
    return interval(value).value if isinstance(value, dict) else number(value)


def _judged(comparison: Mapping[str, Any], calibration: Mapping[str, Any]) -> list[Judged]:
    """The models; predicted / observed has the interval of the section on calibration, so that the page shows one."""
    names = [column.name for column in COLUMNS]
    ratios = {
        str(name): {"pcoc_pooled": interval(of["predicted_over_observed"])} for name, of in calibration.items() if "predicted_over_observed" in _mapping(of)
    }
    return [
        Judged(
            str(name),
            {f: interval(_mapping(_mapping(of).get("figures")).get(f)) for f in names} | ratios.get(str(name), {}),
            {f: interval(_mapping(_mapping(of).get("gaps")).get(f)) for f in names},
        )
        for name, of in _mapping(comparison.get("methods")).items()
    ]


def _named(judged: Sequence[Judged], found: Mapping[str, Any]) -> list[str]:
    """The models of this page, by group; all that we know if there are none."""
    names = dict.fromkeys([m.name for m in judged] + [str(name) for name in (*found.get("models", ()), *found.get("experts", ()))])
    known = [name for name in DESCRIBED if name in names] if names else list(DESCRIBED)
    return [*known, *(name for name in names if described(name).group == OTHER)]


def _gaps(model: Judged) -> tuple[Interval, Interval]:
    return model.gaps["auc"], model.gaps["log_loss"]


def _strongest(models: Iterable[Judged]) -> Judged | None:
    """The best by AUC; None if none has one."""
    known = [m for m in models if math.isfinite(m.figures["auc"].value)]
    return max(known, key=lambda m: m.figures["auc"].value) if known else None


def _figure_cell(model: Judged | None, column: Column) -> Cell:
    if model is None:
        return Cell("–")
    of = model.figures[column.name]
    return Cell(fixed(of.value, column.digits), span(of, column.digits))


def _gap_cell(model: Judged | None, column: Column) -> Cell:
    if model is None or model.name == HEADSTART:
        return Cell("–" if model is None else "")
    gap, higher_is_better = model.gaps[column.name], bool(column.higher_is_better)
    stands = standing(gap, higher_is_better=higher_is_better)
    ours = advantage(gap, higher_is_better=higher_is_better)
    return Cell(fixed(ours.value, column.gap_digits, sign=True), span(ours, column.gap_digits, sign=True), MARKS[stands], "bad" if stands == "worse" else "")


def _cells(model: Judged, column: Column) -> tuple[Cell, ...]:
    """A figure and headstart's advantage; where neither more nor less is better, the figure, marked if its interval does not hold 1."""
    if column.higher_is_better is not None:
        return _figure_cell(model, column), _gap_cell(model, column)
    mark = NOT_ONE if _off(model.figures[column.name]) else ("", "")
    return (_figure_cell(model, column)._replace(mark=mark),)


def _bin(of: Mapping[str, Any]) -> tuple[float, float, float, float]:
    return number(of.get("predicted")), number(of.get("observed")), number(of.get("low")), number(of.get("high"))


def _off(ratio: Interval) -> bool:
    return ratio.low > 1.0 or ratio.high < 1.0


def _sortable(value: float) -> float:
    return value if math.isfinite(value) else -1.0


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return math.fsum(known) / len(known) if known else math.nan


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _time(ms: float) -> str:
    """A time in UTC to the minute; "–" if undefined."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M") if math.isfinite(ms) and abs(ms) < 1e14 else "–"
