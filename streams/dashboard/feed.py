"""What the page is sent: the overview or a launch as plain data, made when the namespace has moved on and somebody looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from features.errors import HeadstartError, InputError
from streams import panels_launch, panels_shop
from streams.dashboard.outcomes import UpliftReader
from streams.lag import LagReader
from streams.panels import Panel, day
from streams.records import OVERVIEW, Launch
from streams.view import Look, Reader, plain

FRESH_S: Final = 1.0
"""A look is shared by everybody who asks within this time."""


class Feed:
    """Makes documents for the pages: `overview`, or a launch's id."""

    def __init__(
        self, reader: Reader, *, lag: LagReader | None, uplift: UpliftReader | None, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._reader, self._lag, self._uplift, self._clock_ms = reader, lag, uplift, clock_ms
        self._look: Look | None = None
        self._as_of_s = 0.0
        self.read_ms = 0  # by the wall clock, when a look last succeeded
        self._looking = asyncio.Lock()

    async def look(self) -> Look:
        """Return what there is, at most a second old. Raises InputError for an empty namespace, and DependencyDown."""
        async with self._looking:
            if self._look is None or time.monotonic() - self._as_of_s >= FRESH_S:
                self._look, self._as_of_s, self.read_ms = await self._reader.look(), time.monotonic(), self._clock_ms()
            return self._look

    async def overview(self) -> dict[str, Any]:
        """Return the overview."""
        look = await self.look()
        wall_ms = self._clock_ms()
        lags = await self._lags(look, wall_ms)
        cards = []
        for launch in look.launches.values():
            figures = panels_launch.figures(look, launch.id)
            cards.append({
                "id": launch.id, "line": launch.line, "products": launch.products, "open": not (told := phase(look, launch, wall_ms)), "phase": told, "holdout": launch.holdout,
                "window_s": launch.window_s, "since_ms": launch.from_ms, "verdicts": [asdict(v) for v in panels_launch.verdicts(look, launch)], "figures": figures,
                "spark": panels_shop.spark(look, launch.id),
            })  # fmt: skip
        verdicts = [panels_shop.flow(look, wall_ms, lags), panels_shop.refused(look)]
        return self._document(look, wall_ms, OVERVIEW, [asdict(v) for v in verdicts], panels_shop.panels(look, wall_ms, lags), launches=cards)

    async def launch(self, name: str) -> dict[str, Any]:
        """Return a launch. Raises InputError if there is none of that name."""
        look = await self.look()
        if name not in look.launches:
            raise InputError(f"there is no launch {name!r}; the launches are: {', '.join(look.launches) or 'none'}")
        launch, wall_ms = look.launches[name], self._clock_ms()
        panels = panels_launch.panels(look, launch)
        if self._uplift is not None:
            panels.insert(-1, await self._uplift.panel(launch))
        verdicts = [*panels_launch.verdicts(look, launch), panels_shop.flow(look, wall_ms, await self._lags(look, wall_ms))]
        about = {"line": launch.line, "products": launch.products, "holdout": launch.holdout, "window_s": launch.window_s, "since_ms": launch.from_ms,
                 "closed_ms": launch.closed_ms, "open": not (now := phase(look, launch, wall_ms)), "phase": now}  # fmt: skip
        told = [asdict(v) for v in verdicts]
        return self._document(look, wall_ms, name, told, panels, about=about, figures=panels_launch.figures(look, name))

    async def panel(self, page: str, panel_id: str) -> dict[str, Any]:
        """Return one panel of a page. Raises InputError if there is none."""
        document = await (self.overview() if page == OVERVIEW else self.launch(page))
        found = next((panel for panel in document["panels"] if panel["id"] == panel_id), None)
        if found is None:
            raise InputError(f"there is no panel {panel_id!r}; there are {', '.join(p['id'] for p in document['panels'])}")
        return dict(found)

    async def _lags(self, look: Look, wall_ms: int) -> dict[int, int]:
        lags = {beat.partition: beat.lag for worker in look.alive(wall_ms) for beat in worker.partitions if beat.lag is not None}
        if self._lag is not None and set(look.cursors) - set(lags):
            try:
                lags = {**await self._lag.lags(look.cursors), **lags}
            except HeadstartError:
                return lags
        return lags

    def _document(self, look: Look, wall_ms: int, page: str, verdicts: list[dict[str, Any]], panels: list[Panel], **more: Any) -> dict[str, Any]:
        state, text = panels_shop.pulse(look, wall_ms)
        found: dict[str, Any] = plain({
            "page": page, "namespace": look.name, "clock": look.clock, "now_ms": look.now_ms, "wall_ms": wall_ms, "trunk": look.trunk,
            "pulse": {"state": state, "text": text}, "launches_there": list(look.launches), "verdicts": [{**v, "href": _where(v["panel"], page)} for v in verdicts], "panels": [as_plain(panel) for panel in panels], **more,
        })  # fmt: skip
        return found


def phase(look: Look, launch: Launch, wall_ms: int) -> str:
    """Return what a launch is if it is not running: "begins 7 Dec" or "closed"; else nothing."""
    at_ms = wall_ms if look.live else look.now_ms  # a live namespace without a worker has no event time, and one with a backlog an old one
    if launch.closed_ms is not None and at_ms >= launch.closed_ms:
        return "closed"
    return f"begins {day(launch.from_ms)}" if launch.from_ms > at_ms else ""


def _where(panel: str, page: str) -> str:
    """Where a tile leads: the flow is only on the overview."""
    return f"/#{panel}" if panel == "flow" and page != OVERVIEW else f"#{panel}"


def as_plain(panel: Panel) -> dict[str, Any]:
    """Return a panel as the page takes it."""
    return {
        "id": panel.id, "title": panel.title, "says": panel.says, "explains": panel.explains, "state": panel.state, "empty": panel.empty, "wide": panel.wide,
        "numbers": [list(n) for n in panel.numbers], "note": panel.chart_note, "data": panel.data, "layout": panel.layout,
        "columns": list(panel.table.columns), "rows": [list(row) for row in panel.table.rows],
    }  # fmt: skip
