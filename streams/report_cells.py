"""What stands in the report's tables: figures with their intervals, and headstart's advantage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from models.intervals import Interval
from streams.report_words import (
    HEADSTART,
    Standing,
    advantage,
    fixed,
    span,
    standing,
)


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


def figure_cell(model: Judged | None, column: Column) -> Cell:
    """Return the figure with its interval; "–" without a model."""
    if model is None:
        return Cell("–")
    of = model.figures[column.name]
    return Cell(fixed(of.value, column.digits), span(of, column.digits))


def gap_cell(model: Judged | None, column: Column) -> Cell:
    """Return headstart's advantage over a model, with its interval and a mark where it is certain."""
    if model is None or model.name == HEADSTART:
        return Cell("–" if model is None else "")
    gap, higher_is_better = model.gaps[column.name], bool(column.higher_is_better)
    stands = standing(gap, higher_is_better=higher_is_better)
    ours = advantage(gap, higher_is_better=higher_is_better)
    return Cell(fixed(ours.value, column.gap_digits, sign=True), span(ours, column.gap_digits, sign=True), MARKS[stands], "bad" if stands == "worse" else "")


def figure_and_gap(model: Judged, column: Column) -> tuple[Cell, ...]:
    """A figure and headstart's advantage; where neither more nor less is better, the figure, marked if its interval does not hold 1."""
    if column.higher_is_better is not None:
        return figure_cell(model, column), gap_cell(model, column)
    mark = NOT_ONE if is_off(model.figures[column.name]) else ("", "")
    return (figure_cell(model, column)._replace(mark=mark),)


def gaps_of(model: Judged) -> tuple[Interval, Interval]:
    """Return a model's gaps in AUC and log-loss."""
    return model.gaps["auc"], model.gaps["log_loss"]


def is_off(ratio: Interval) -> bool:
    """Whether a ratio's interval does not hold 1."""
    return ratio.low > 1.0 or ratio.high < 1.0


def sortable(value: float) -> float:
    """Return a figure to sort by: what is undefined comes last."""
    return value if math.isfinite(value) else -1.0


def mean_of(values: Iterable[float]) -> float:
    """Return the mean of those that are known; NaN if none is."""
    known = [v for v in values if math.isfinite(v)]
    return math.fsum(known) / len(known) if known else math.nan


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return what may be missing in a result as a mapping."""
    return value if isinstance(value, Mapping) else {}
