"""One or more lines of a log are launched, and headstart and each of its experts are judged on what came.

`Judged` gathers final facts, whether they come from the offline loop or from the topic of a replay: so the figures of both are the
same to the bit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import InputError
from features.exposures import NONE
from features.memory_store import MemoryStore
from models.checkpoint import Artifact
from models.launch_head import MODELS
from models.metrics import figures
from models.model import Model
from streams.cutting import cut
from streams.lines import told_apart_until_ms
from streams.offline import put_launches, run
from streams.panels import iso
from streams.partition import Rules
from streams.records import SHARED, Launch, Outcome, Outgoing, checked_id
from streams.ticks import Tick, with_end
from streams.training import without_past

Figures = dict[str, dict[str, float]]

LAUNCH_AT_SHARE = 0.45


@dataclass(frozen=True)
class Settled:
    """An exposure of a launch whose label is final: who, when, what each expert said, and what came."""

    close_ms: int
    exposure_id: str
    user_id: str
    line: str
    ts_ms: int
    predictions: tuple[float, ...]
    label: int


class Judged:
    """The launches' final exposures, in the order in which they became final."""

    def __init__(self) -> None:
        self._by_launch: dict[str, list[Settled]] = {}

    def hear(self, outcome: Outcome) -> None:
        """Take in one fact; only final labels of launches are kept."""
        closed = outcome.closed
        if outcome.key != SHARED and closed.label != NONE:
            e = closed.exposure
            self._by_launch.setdefault(outcome.key, []).append(Settled(closed.close_ms, e.id, e.user, e.line, e.ts_ms, e.said(), closed.label))

    def launches(self) -> list[str]:
        """Return the launches heard of, by name."""
        return sorted(self._by_launch)

    def of(self, launch: str) -> list[Settled]:
        """Return a launch's exposures by (close time, id)."""
        return sorted(self._by_launch.get(launch, []), key=lambda s: (s.close_ms, s.exposure_id))

    def figures(self, launch: str, *, until_ms: int, window_ms: int) -> Figures:
        """Return {expert: figures} over the exposures whose window ends by `until_ms`: of the others the log cannot know."""
        rows = [s for s in self.of(launch) if s.ts_ms + window_ms <= until_ms]
        y = np.array([s.label for s in rows], np.float64)
        said = np.array([s.predictions for s in rows], np.float64).reshape(len(rows), 2 * len(MODELS))
        return {name: figures(y, said[:, 2 * k + 1], said[:, 2 * k]) for k, name in enumerate(MODELS)}


def table_of(rows: Sequence[Settled], *, until_ms: int, window_ms: int) -> pa.Table:
    """Return headstart's prediction of each exposure: user_id, line, ts (s), probability, score, ordered (null where its window ends after `until_ms`)."""
    return pa.table(
        {
            "user_id": _ids([s.user_id for s in rows]),
            "line": _ids([s.line for s in rows]),
            "ts": pa.array([s.ts_ms // 1000 for s in rows], pa.int64()),
            "probability": pa.array([s.predictions[1] for s in rows], pa.float64()),
            "score": pa.array([s.predictions[0] for s in rows], pa.float64()),
            "ordered": pa.array([s.label if s.ts_ms + window_ms <= until_ms else None for s in rows], pa.int8()),
        }
    )


def _ids(names: list[str]) -> pa.Array:
    """Return names as strings, or as integers where all of them were integers in the log they came from."""
    if all(name.isascii() and name.isdigit() and (name == "0" or name[0] != "0") and len(name) < 19 for name in names):
        return pa.array([int(name) for name in names], pa.int64())
    return pa.array(names, pa.string())


def launch_time(log: pa.Table, share: float = LAUNCH_AT_SHARE) -> int:
    """Return the default start of a launch: after a share of the log's span, in ms."""
    span = pc.min_max(log["ts"]).as_py()
    return int(span["min"]) + int(share * (int(span["max"]) - int(span["min"])))


def require_lines(log: pa.Table, lines: Sequence[str]) -> None:
    """Raise InputError unless all of these lines are in the log, and others besides."""
    known = set(pc.unique(log["line"]).to_pylist())
    for line in lines:
        if line not in known:
            raise InputError(f"there is no line {line!r} in the log; it has {', '.join(sorted(known)[:20])}")
    if not known - set(lines):
        raise InputError("every line of the log is launched: none is left to learn from")


def require_told_apart(rule: str | None, log: pa.Table, at_ms: int) -> None:
    """Raise InputError where lines are told apart (`--lines`) by events after a launch: it would be judged with what only the future knew."""
    if (known_ms := told_apart_until_ms(rule, log)) is not None and at_ms < known_ms:
        raise InputError(
            f"--lines {rule} tells lines apart by events up to {iso(known_ms)}, after the launch at {iso(at_ms)}: give a smaller SHARE, or launch later"
        )


def launched(log: pa.Table, lines: Sequence[str], at_ms: int) -> pa.Table:
    """Return the log as if `lines` had been launched at a time. Raises InputError for a line that is not in it."""
    require_lines(log, lines)
    for line in lines:
        log = without_past(log, line, at_ms)
    return log


def as_launch(line: str, at_ms: int, window_s: float) -> Launch:
    """Return the launch of a whole line at a time. Raises InputError for a line by whose name no launch can go."""
    return Launch(id=checked_id(line), line=line, window_s=window_s, from_ms=at_ms)


def prequential(
    log: pa.Table, artifact: Artifact, launches: Sequence[Launch], rules: Rules, *, tick_ms: int,
    on_tick: Callable[[Tick], None] | None = None, heard: Callable[[Outgoing], None] | None = None, on_outcome: Callable[[Outcome], None] | None = None,
) -> Judged:  # fmt: skip
    """Run the pipeline over a log in one process, and return what became final; `rules` as in a replay, with any number of partitions."""
    judged, store = Judged(), MemoryStore()

    def hear(outcome: Outcome) -> None:
        judged.hear(outcome)
        if on_outcome is not None:
            on_outcome(outcome)

    async def all_of_it() -> None:
        await put_launches(store, launches)
        ticks = with_end(cut(log, tick_ms), rules.edges_ms[-1] + rules.grace_ms)
        await run(ticks, store, rules, Model(artifact), scoring=heard is not None, heard=heard, on_outcome=hear, on_tick=on_tick)

    asyncio.run(all_of_it())
    return judged


def write_predictions(judged: Sequence[Judged], path: Path, *, until_ms: int, window_ms: int) -> None:
    """Write every exposure's prediction as Parquet, as `table_of` has it. Raises InputError when the folder cannot be written."""
    try:
        settled = [s for j in judged for launch in j.launches() for s in j.of(launch)]
        pq.write_table(table_of(settled, until_ms=until_ms, window_ms=window_ms), path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
