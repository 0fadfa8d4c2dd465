"""The report's section on the price of transfer: what the mixture lost against scratch, on the launches as they were and with preferences reversed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from streams import report_plots as plots
from streams.report_cells import (
    Cell,
    Table,
    as_mapping,
)
from streams.report_words import (
    Verdict,
    count,
    fixed,
    number,
)

ROUNDING_NATS = 1e-6
"""What is left of a bound may be this far below 0 by rounding."""


def insurance(launches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What was said lost against scratch, on the launches as they were and with preferences reversed, and whether the proven limit was kept."""
    found = {line: [as_mapping(launch.get(kind)) for kind in ("insurance", "flipped")] for line, launch in launches.items()}
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
    shown = [plots.Insured(line, *(-value for value in less[line])) for line in list(found)[: plots.MOST_ROWS] if any(map(math.isfinite, less[line]))]
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
    over = [[line for line, values in less.items() if values[k] > plots.INSURED_NATS] for k in range(2)]
    kinds = [{line: values[k] for line, values in less.items() if math.isfinite(values[k])} for k in range(2)]
    said = " ".join(f"{name}: {_against_scratch(kind, exposures)}." for name, kind in zip(("As it was", "Reversed"), kinds, strict=True) if kind)
    if over[0]:
        return Verdict("Costlier than 5 nats", f"{said} More than 5 in {', '.join(over[0])}.", "bad")
    if over[1]:
        return Verdict(
            "Insured, at a price",
            f"{said} More than 5 reversed in {', '.join(over[1])}: until outcomes come the old lines are believed, and what is said meanwhile is not taken back.",
            "open",
        )
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
        parts.append(f"worse{'' if gained else ' than scratch'} in {len(lost)} of {len(less)}, by at most {fixed(lost[line], 1)} nats{each}")
    return "; ".join(parts) or "equal to scratch"


def _insured_cell(value: float) -> Cell:
    if math.isnan(value):
        return Cell("–")
    inside = value <= plots.INSURED_NATS
    return Cell(fixed(-value, 1, sign=True), mark=("✓", "at most 5 nats lost") if inside else ("✗", "more than 5 nats lost"), kind="good" if inside else "bad")


def _slack_cell(value: float) -> Cell:
    broken = value < -ROUNDING_NATS
    return Cell(fixed(value, 1), mark=("✗", "below 0: a defect") if broken else ("", ""), kind="bad" if broken else "")
