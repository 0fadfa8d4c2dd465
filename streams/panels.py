"""What a panel of the dashboard is, and what all panels share: colours by name, time axes, and series that are not too fine to read.

A panel is plain data: a finding in a sentence, an explanation in plain words, a chart as Plotly reads it, and the same figures as a table, which is also
what a screen reader reads and what the CSV holds. Colours are names with an @, which the page replaces by those of its theme.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from models.chronicle import HOUR_MS, MINUTE_MS, Rows

State = Literal["good", "warn", "bad", "none"]
DAY_MS: Final = 24 * HOUR_MS
MOST_POINTS: Final = 100
STEPS_MS: Final = (HOUR_MS, 3 * HOUR_MS, 6 * HOUR_MS, DAY_MS, 7 * DAY_MS)
FEW_MINUTES: Final = 3 * HOUR_MS
"""A series that is no longer than this is shown by the minute."""

ORDER_COUNTS: Final = "One order is the order of every exposure of its shopper that is still followed, so of each visit before it: there are more exposures with an order than orders in the shop's books."


@dataclass(frozen=True)
class Table:
    """Figures in columns. Cells are numbers, texts, or None; times are ISO 8601, UTC."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Panel:
    """One panel. `says` is its finding; without a chart `empty` says what it waits for."""

    id: str
    title: str
    says: str
    explains: str
    table: Table
    state: State = "none"
    data: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    empty: str = ""
    wide: bool = False
    numbers: Sequence[tuple[str, str, str]] = ()
    chart_note: str = ""


@dataclass(frozen=True)
class Verdict:
    """An answer to a question that people have, with the reason."""

    question: str
    answer: str
    why: str
    state: State
    panel: str


def when(ms: int) -> str:
    """Return a time as people read it, UTC."""
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%d %b %H:%M")


def day(ms: int) -> str:
    """Return a day as people say it, UTC."""
    at = dt.datetime.fromtimestamp(ms / 1000, dt.UTC)
    return f"{at.day} {at:%b %Y}"


def short(name: str, most: int = 24) -> str:
    """Return a name as a chart has room for it; its end stays, since names often differ there."""
    return name if len(name) <= most else f"{name[: most - 9]}…{name[-8:]}"


def iso(ms: int) -> str:
    """Return a time as ISO 8601, UTC."""
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(ms: float) -> str:
    """Return a length of time as people say it."""
    for unit_ms, unit in ((DAY_MS, "day"), (HOUR_MS, "hour"), (MINUTE_MS, "minute"), (1000, "second")):
        if ms >= 2 * unit_ms or unit_ms == 1000:
            count = round(ms / unit_ms)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return ""


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as people read it; – where there is none."""
    if share is None or share != share:
        return "–"
    least = 10.0**-digits
    return f"< {least:.{digits}f} %" if 0.0 < share < least / 200.0 else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 2) -> str:
    """Return a figure as people read it; – where there is none."""
    return "–" if value is None or value != value else "∞" if value == float("inf") else f"{value:,.{digits}f}".replace(",", "\u202f")


def whole(value: float) -> str:
    """Return a count with its thousands apart."""
    return f"{int(value):,}".replace(",", "\u202f")


@dataclass(frozen=True)
class Series:
    """Sums of counts over steps of time, and the gauges at their ends."""

    starts: list[int]
    counts: list[list[int]]
    gauges: list[list[float]]
    step_ms: int

    def column(self, place: int) -> list[int]:
        """Return one count over time."""
        return [row[place] for row in self.counts]

    @property
    def times(self) -> list[str]:
        """The steps' beginnings, as a chart takes them."""
        return [iso(start) for start in self.starts]

    @property
    def by(self) -> str:
        """How long a step is, in words."""
        names = {MINUTE_MS: "minute", HOUR_MS: "hour", DAY_MS: "day", 7 * DAY_MS: "week"}
        return names.get(self.step_ms, span(self.step_ms))

    @property
    def each(self) -> str:
        """The same after a count: "an hour", "in 6 hours"."""
        return {"hour": "an hour"}.get(self.by, f"in {self.by}" if self.by[0].isdigit() else f"a {self.by}")


def series(rows: Rows | None, *, least_ms: int = 0) -> Series:
    """Return a domain's rows in steps that fit a chart: minutes for a few hours, else hours or more of them."""
    if rows is None or not rows.held:
        return Series([], [], [], HOUR_MS)
    hours = rows.series("h")
    reach_ms = hours[-1][0] + HOUR_MS - hours[0][0]
    minutes = rows.series("m")
    if reach_ms <= FEW_MINUTES and minutes and least_ms <= HOUR_MS:
        return Series([at for at, _ in minutes], [row.counts for _, row in minutes], [row.gauges for _, row in minutes], MINUTE_MS)
    step_ms = next((step for step in STEPS_MS if step >= least_ms and reach_ms / step <= MOST_POINTS), STEPS_MS[-1])
    starts: list[int] = []
    counts: list[list[int]] = []
    gauges: list[list[float]] = []
    for at, row in hours:
        start = at // step_ms * step_ms
        if not starts or starts[-1] != start:
            starts.append(start)
            counts.append(list(row.counts))
            gauges.append(row.gauges)
        else:
            counts[-1] = [a + b for a, b in zip(counts[-1], row.counts, strict=True)]
            gauges[-1] = row.gauges or gauges[-1]
    return Series(starts, counts, gauges, step_ms)


def last_ms(rows: Rows | None, place: int) -> int:
    """Return when the last hour ends in which a count was not 0; 0 if there is none."""
    held = rows.series("h") if rows is not None else []
    return next((at + HOUR_MS for at, row in reversed(held) if row.counts[place]), 0)


def total(rows: Rows | None, *, since_ms: int | None = None, until_ms: int | None = None) -> list[int]:
    """Return the sums of a domain's counts over the hours that are kept; [] if there are none."""
    if rows is None:
        return []
    held = [row.counts for at, row in rows.series("h") if (since_ms is None or at >= since_ms) and (until_ms is None or at < until_ms)]
    return [sum(column) for column in zip(*held, strict=True)]


def line(x: Sequence[Any], y: Sequence[Any], name: str, colour: str, **more: Any) -> dict[str, Any]:
    """Return a line as Plotly reads it."""
    style = {"color": colour, "width": 2, "shape": "linear", **more.pop("line", {})}
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": name, "line": style, **more}


def named(name: str, hover: str) -> dict[str, Any]:
    """Return a trace's name as a legend has room for it, with the full one on hover."""
    return {"name": short(name), "meta": name, "hovertemplate": hover + "<extra>%{meta}</extra>"}


def band(x: Sequence[Any], low: Sequence[Any], high: Sequence[Any], name: str, colour: str) -> list[dict[str, Any]]:
    """Return the space between two lines."""
    edge = {"type": "scatter", "mode": "lines", "x": list(x), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    return [{**edge, "y": list(low)}, {**edge, "y": list(high), "fill": "tonexty", "fillcolor": colour, "name": name}]


def axes(x: str = "", y: str = "", **more: Any) -> dict[str, Any]:
    """Return a layout with titles of the axes."""
    layout: dict[str, Any] = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    for name, part in more.items():
        layout[name] = {**layout.get(name, {}), **part} if isinstance(part, Mapping) and isinstance(layout.get(name, {}), Mapping) else part
    return layout
