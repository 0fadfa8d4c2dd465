"""The report's section on sources: which way of transfer the mixture came to trust, and how alike the old lines are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from models.source_weights import POOLED
from streams import report_plots as plots
from streams.report_cells import (
    ADVANTAGE,
    AUC,
    LOG_LOSS,
    Cell,
    Judged,
    Table,
    as_mapping,
    figure_cell,
    gap_cell,
    mean_of,
)
from streams.report_words import (
    count,
    described,
    fixed,
    number,
)

DAY_MS = 86_400_000
MOST_PANELS = 24
MOST_SOURCES = 30
MOST_SIMILARITY_ROWS = 600
MOST_PAIRS = 3
SIMILARITY = {
    "line": "source", "verdict": "verdict", "weight": "weight", "pi": "trust", "score": "similarity", "rows": "exposures", "conversions": "orders",
    "span_days": "days", "psi": "PSI", "mmd2": "MMD²", "a_distance": "A-distance", "log_odds": "log odds of an order, less the launch's", "funnel": "funnel",
    "delay": "delay", "agreement": "agreement", "logme": "LogME", "h_score": "H-score", "reason": "why",
}  # fmt: skip


def sources(found: Mapping[str, Any], judged: Sequence[Judged], launches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Who taught, and which way of transfer the mixture came to trust."""
    experts = [str(name) for name in found.get("experts", ())]
    prior = {line: {name: number(as_mapping(launch.get("prior")).get(name)) for name in experts} for line, launch in launches.items()}
    courses = {line: course for line, launch in launches.items() if (course := _course(line, launch, experts)) is not None}
    final = {line: {name: number(course.weights[name][-1]) for name in experts} for line, course in courses.items()}
    favourites = [max(weights, key=lambda name: weights[name]) for weights in final.values() if all(map(math.isfinite, weights.values()))]
    means = {name: (mean_of(p[name] for p in prior.values()), mean_of(w[name] for w in final.values())) for name in experts}
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
            *(cell for column in (AUC, LOG_LOSS) for cell in (figure_cell(by_name.get(name), column), gap_cell(by_name.get(name), column))),
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
    similar, sums, sifted = _similarity(as_mapping(found.get("similarity")))
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
    weights = as_mapping(launch.get("weights"))
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
        rows = [as_mapping(row) for row in rows or ()]
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
