"""Uplift for the dashboard: a launch's final exposures, read from the topic `outcomes` in the background, and judged again when more have come."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from features.errors import HeadstartError
from models.uplift import Uplift, analyse
from streams.panels import Panel, Table, axes, band, line, number, percent, when, whole
from streams.records import Launch
from streams.settings import Settings
from streams.uplift import TopicReader
from streams.uplift_words import conclusion, warnings

AGAIN_S: Final = 20.0
FORGOTTEN_S: Final = 3_600.0
TIMEOUT_S: Final = 600.0
EXPLAINS: Final = (
    "Some shoppers are held out by a draw, and must not be targeted. If more of the others order, the campaign sells more. The interval and the evidence stay valid however often you look: "
    "you may stop as soon as 0 is outside. Evidence says how many times better “the campaign changes orders” explains what came than “it changes nothing”: at 20 the matter is settled, and below 1 nothing speaks for a change. Only exposures whose window is over count; users are compared, not exposures. The sample-ratio check tells if the draw was disturbed."
)


class _Closing(Exception):
    """The dashboard ends while something is read."""


@dataclass
class _Known:
    topic: TopicReader
    judged: Uplift | None = None
    warns: list[str] = field(default_factory=list)
    says: str = ""
    progress: str = ""
    read_ms: int = 0  # by the wall clock, when what is judged was read to its end
    failed: str = ""  # why the last reading did not succeed, and when
    as_of_s: float = -math.inf  # when a reading last ended, well or not
    looked_s: float = 0.0
    task: asyncio.Task[None] | None = None


class UpliftReader:
    """Keeps the latest judgement of each launch that somebody looks at; reading goes on in a thread, one launch at a time."""

    def __init__(self, settings: Settings, *, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._settings, self._clock_ms = settings, clock_ms
        self._known: dict[str, _Known] = {}
        self._one = asyncio.Lock()
        self._closing = False

    async def panel(self, launch: Launch) -> Panel:
        """Return the launch's panel as of what is known; starts to read if that is old."""
        if not launch.holdout:
            return _panel(
                None,
                "This launch holds nobody out, so there is nothing to compare with: a launch gets its holdout with `headstart launch add --holdout`.",
                [],
                "",
            )
        known = self._known.setdefault(launch.id, _Known(TopicReader(self._settings, launch)))
        known.looked_s = time.monotonic()
        for name in [name for name, of in self._known.items() if known.looked_s - of.looked_s > FORGOTTEN_S and (of.task is None or of.task.done())]:
            del self._known[name]  # and the exposures that it holds
        if (known.task is None or known.task.done()) and time.monotonic() - known.as_of_s >= AGAIN_S:
            known.task = asyncio.create_task(self._read(launch, known))
        if known.judged is None:
            return _panel(None, known.failed or known.progress or "Reading the outcomes.", [], "")
        old = f" {known.failed} What is shown is older." if known.failed else ""
        as_of = f"As of {when(known.read_ms)} UTC.{old}"
        return _panel(known.judged, "", [*known.warns, as_of], known.says, doubtful=bool(known.warns or known.failed))

    async def _read(self, launch: Launch, known: _Known) -> None:
        def progress(read: int, of: int) -> None:
            if self._closing:
                raise _Closing
            known.progress = f"Reading the outcomes: {whole(read)} of {whole(of)}."

        async with self._one:
            if self._closing:
                return
            try:
                found = await asyncio.to_thread(known.topic.read, timeout_s=TIMEOUT_S, progress=progress)
                judged = await asyncio.to_thread(analyse, found.matured, holdout=launch.holdout)
                known.judged, known.says, known.warns = judged, conclusion(judged), warnings(judged, found)
                known.read_ms, known.failed = self._clock_ms(), ""
            except (HeadstartError, ValueError) as error:
                known.failed = f"The outcomes could not be read at {when(self._clock_ms())} UTC: {error}."
            known.as_of_s = time.monotonic()

    async def close(self) -> None:
        """End what is being read, and see it ended: a thread cannot be cancelled, and the process would wait for it."""
        self._closing = True
        await self.settled()

    async def settled(self) -> None:
        """Return when nothing is being read any more."""
        await asyncio.gather(*(known.task for known in self._known.values() if known.task is not None), return_exceptions=True)


def _panel(judged: Uplift | None, empty: str, notes: list[str], says: str, *, doubtful: bool = False) -> Panel:
    title = "Does the campaign sell more?"
    if judged is None or judged.verdict == "too few":
        return Panel(
            "uplift", title, "", EXPLAINS, Table(["arm", "users", "that ordered", "share", "exposures"], []), empty=" ".join([says, *notes]) if says else empty
        )
    rows = [[name, arm.users, arm.converted, arm.rate, arm.exposures] for name, arm in (("treated", judged.treated), ("held out", judged.holdout))]
    path = judged.path
    limit = min(2.0, max(0.1, 2.0 * max((abs(v) for v in (judged.lift.low, judged.lift.high) if math.isfinite(v)), default=1.0)))
    return Panel(
        "uplift", title, " ".join([says, *notes]), EXPLAINS, Table(["arm", "users", "that ordered", "share", "exposures"], rows),
        state="warn" if judged.verdict == "not comparable" or doubtful else "good" if judged.verdict == "lifts" else "bad" if judged.verdict == "lowers" else "none",
        data=[
            *band(path.users, [max(v.low, -1.0) for v in path.lift], [min(v.high, 20.0) for v in path.lift], f"{1 - judged.alpha:.0%} at all times", "@bandc1"),
            line(path.users, [v.value for v in path.lift], "lift", "@c1"), line([0, path.users[-1]], [0, 0], "no difference", "@muted", line={"dash": "dash", "width": 1}),
        ],
        layout=axes("users whose first exposure is final", "lift", yaxis={"tickformat": "+.0%", "range": [max(-1.0, -limit), limit]}),
        numbers=[("lift", percent(judged.lift.value), f"{percent(judged.lift.low)} to {percent(judged.lift.high) if math.isfinite(judged.lift.high) else 'any size'}"),
                 ("evidence", number(judged.e_value, 1), "20 is enough to stop"),
                 ("held out", percent(judged.sample_ratio.observed), f"{percent(judged.sample_ratio.expected)} intended: {'fits' if judged.sample_ratio.fits else 'DOES NOT FIT'}")],
    )  # fmt: skip
