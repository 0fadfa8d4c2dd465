"""From an event log to a trained artifact: the pipeline makes the rows, `models.pretrain` learns from them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import InputError
from features.exposures import NONE, Exposure
from features.memory_store import MemoryStore
from features.vector import SCHEMA_HASH
from models.checkpoint import Artifact
from models.delay import default_edges_s
from models.fine_tune import Start
from models.pretrain import PretrainSettings, PseudoLaunch, pretrain
from models.ranks import ALONE, Ranks
from models.rows import Rows
from models.trunk import Progress
from streams.cutting import cut
from streams.log_parts import Log, parts
from streams.offline import run
from streams.partition import Rules
from streams.records import Outcome
from streams.row_sample import MOST_ROWS, RowSample

FEWEST_PSEUDO_ROWS = 100
DIGEST_ROWS: Final = 65_536


def edges_ms(window_s: float) -> tuple[int, ...]:
    """Return the ends (K,) of the delay bins of a window, in ms."""
    return tuple(round(1000 * edge) for edge in default_edges_s(window_s)[1:].tolist())


def before(log: pa.Table, until_ms: int) -> pa.Table:
    """Return the log's events before a time."""
    return log.filter(pc.field("ts") < until_ms)


def without_past(log: pa.Table, line: str, until_ms: int) -> pa.Table:
    """Return the log as if a line had been launched at a time: its earlier events are not there."""
    return log.filter((pc.field("line") != line) | (pc.field("ts") >= until_ms))


def final_rows(
    log: Log, rules: Rules, *, tick_ms: int, lines: Sequence[str], until_ms: int, seen: Callable[[pa.Table], pa.Table] = lambda part: part,
    most: int = MOST_ROWS, went_on: Callable[[int], None] = lambda _: None,
) -> Rows:  # fmt: skip
    """Return the exposures whose window ends by `until_ms`, as the pipeline sees them; of so many shoppers that they are `most` at most.

    `seen` takes away from each part of the log what is not to be seen; the rest has no events after `until_ms`. `went_on` hears after each tick of how many
    events it was. The last tick ends after that, and closes bins of which the log does not tell: those are left out.
    """
    sample = RowSample({line: i for i, line in enumerate(lines)}, most)

    def hear(outcome: Outcome) -> None:
        if outcome.closed.label != NONE and outcome.closed.close_ms <= until_ms:
            sample.add(outcome.closed.exposure)

    one_bin = replace(rules, edges_ms=rules.edges_ms[-1:])  # a row is the exposure with its delays: nobody hears of the bins between
    ticks = cut((seen(part) for part in parts(log)), tick_ms)
    asyncio.run(run(ticks, MemoryStore(), one_bin, None, scoring=False, on_outcome=hear, on_tick=lambda tick: went_on(len(tick.records))))
    return sample.rows(rules.edges_ms[-1])


def rows_of(exposures: Sequence[Exposure], rules: Rules, lines: Sequence[str]) -> Rows:
    """Return final exposures as rows; `lines` are all lines that they may be of."""
    sample = RowSample({line: i for i, line in enumerate(lines)}, most=len(exposures))
    for exposure in exposures:
        sample.add(exposure)
    return sample.rows(rules.edges_ms[-1])


@dataclass(frozen=True)
class Survey:
    """What a log holds before a time: how many events, of which lines, from when on, and a sha256 over ids, users, kinds, lines and times."""

    events: int
    lines: list[str]
    first_ms: int
    fingerprint: str


def survey(log: Log, until_ms: int | None = None) -> Survey:
    """Look through a log once. Raises InputError if it has no events before `until_ms`."""
    lines, digest = set[str](), hashlib.sha256()
    count, first_ms, rest = 0, 0, None
    for part in parts(log):
        known = before(part, until_ms) if until_ms is not None else part
        if not known.num_rows:
            continue
        first_ms = first_ms if count else int(known["ts"][0].as_py())
        count += known.num_rows
        lines.update(pc.unique(known["line"]).to_pylist())
        rest = known if rest is None else pa.concat_tables([rest, known])
        whole = rest.num_rows // DIGEST_ROWS * DIGEST_ROWS
        for start in range(0, whole, DIGEST_ROWS):
            _digest(digest, rest.slice(start, DIGEST_ROWS))
        rest = rest.slice(whole)
    if rest is None:
        raise InputError("the log has no events before the end of training")
    _digest(digest, rest)
    return Survey(count, sorted(lines), first_ms, digest.hexdigest())


def _digest(digest: Any, some: pa.Table) -> None:
    for name in ("event_id", "user_id", "kind", "line"):
        column = pc.dictionary_encode(some[name].combine_chunks())
        for value in column.dictionary.to_pylist():
            digest.update(value.encode() + b"\0")
        digest.update(column.indices.to_numpy().tobytes())
    digest.update(some["ts"].combine_chunks().to_numpy().tobytes())


def train(
    log: Log, rules: Rules, *, tick_ms: int, until_ms: int, seed: int, pseudo: bool = True,
    line_weight: Mapping[str, float] | None = None, attributes: Mapping[str, Mapping[str, float]] | None = None,
    progress: Progress | None = None, settings: PretrainSettings | None = None, tell: Callable[[str], None] = lambda _: None, start: Start | None = None,
    most_rows: int = MOST_ROWS, ranks: Ranks = ALONE,
) -> Artifact:  # fmt: skip
    """Train on all of a log's lines, with what was known at `until_ms`; `line_weight`, `attributes`, `start` and `ranks` as in `models.pretrain`.

    A log of which more than `most_rows` exposures are final teaches those of a part of its shoppers. Raises InputError when there is too little to learn from.
    """
    rules = replace(rules, partitions=1, outcome_partitions=1, partitioner_check=False)
    known = survey(log, until_ms)
    tell(f"features of {known.events} events, {len(known.lines)} lines")
    facts: dict[str, Any] = {"tick_ms": tick_ms, "lines": known.lines, "until_ms": until_ms, "most": most_rows}

    def going(step: str) -> Callable[[int], None]:
        done = 0

        def went_on(events: int) -> None:
            nonlocal done
            done += events
            if progress is not None:
                progress(step, done, known.events)

        return went_on

    rows = final_rows(log, rules, seen=lambda part: before(part, until_ms), went_on=going("features (events)"), **facts)

    def launches() -> Iterator[PseudoLaunch]:
        middle_ms = known.first_ms + (until_ms - known.first_ms) // 2
        for line in ranks.share_of(known.lines) if pseudo and len(known.lines) > 2 else ():
            step = f"line {line} launched in pretence"
            tell(step)
            seen = final_rows(log, rules, seen=partial(_pretending, line=line, at_ms=middle_ms, until_ms=until_ms), went_on=going(f"{step} (events)"), **facts)
            launch = PseudoLaunch(seen, known.lines.index(line), middle_ms)
            if (seen.line == launch.line).sum() >= FEWEST_PSEUDO_ROWS and launch.known().sum() >= FEWEST_PSEUDO_ROWS:
                yield launch

    return pretrain(
        rows, pseudo=launches(), edges_s=np.array([0.0, *rules.edges_ms]) / 1000.0, seed=seed, schema_hash=SCHEMA_HASH,
        line_weight=line_weight, attributes=attributes,
        trained_until_ms=until_ms, fingerprint=known.fingerprint, progress=progress, settings=settings, start=start, ranks=ranks,
    )  # fmt: skip


def _pretending(part: pa.Table, *, line: str, at_ms: int, until_ms: int) -> pa.Table:
    return without_past(before(part, until_ms), line, at_ms)
