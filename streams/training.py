"""From an event log to a trained artifact: the pipeline makes the rows, `models.pretrain` learns from them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import InputError
from features.exposures import NONE, Exposure
from features.intake import hash64
from features.memory_store import MemoryStore
from features.vector import NAMES, SCHEMA_HASH, WIDTH
from models.checkpoint import Artifact
from models.delay import default_edges_s
from models.fine_tune import Start
from models.pretrain import PretrainSettings, PseudoLaunch, pretrain
from models.rows import Rows
from models.trunk import Progress
from streams.offline import run
from streams.partition import Rules
from streams.records import Outcome
from streams.ticks import cut

FEWEST_PSEUDO_ROWS = 100


def edges_ms(window_s: float) -> tuple[int, ...]:
    """Return the ends (K,) of the delay bins of a window, in ms."""
    return tuple(round(1000 * edge) for edge in default_edges_s(window_s)[1:].tolist())


def before(log: pa.Table, until_ms: int) -> pa.Table:
    """Return the log's events before a time."""
    return log.filter(pc.field("ts") < until_ms)


def without_past(log: pa.Table, line: str, until_ms: int) -> pa.Table:
    """Return the log as if a line had been launched at a time: its earlier events are not there."""
    return log.filter((pc.field("line") != line) | (pc.field("ts") >= until_ms))


def final_rows(log: pa.Table, rules: Rules, *, tick_ms: int, lines: Sequence[str], until_ms: int) -> Rows:
    """Return the exposures whose window ends by `until_ms`, as the pipeline sees them; the log has no later events.

    The last tick ends after `until_ms`, and closes bins of which the log does not tell: those are left out.
    """
    finals: list[Outcome] = []
    one_bin = replace(rules, edges_ms=rules.edges_ms[-1:])  # a row is the exposure with its delays: nobody hears of the bins between
    asyncio.run(run(cut(log, tick_ms), MemoryStore(), one_bin, None, scoring=False, on_outcome=lambda m: finals.append(m) if m.closed.label != NONE else None))
    return rows_of([m.closed.exposure for m in finals if m.closed.close_ms <= until_ms], rules, lines)


def rows_of(exposures: Sequence[Exposure], rules: Rules, lines: Sequence[str]) -> Rows:
    """Return final exposures as rows; `lines` are all lines that they may be of."""
    place = {line: i for i, line in enumerate(lines)}
    delay_ms = np.array([e.delay_ms for e in exposures], np.float64).reshape(len(exposures), 3)
    return Rows(
        x=np.frombuffer(b"".join(e.x for e in exposures), np.float32).reshape(len(exposures), WIDTH).copy(),
        line=np.array([place[e.line] for e in exposures], np.int32),
        lines=tuple(lines),
        user=np.array([hash64(e.user) & 0x7FFFFFFFFFFFFFFF for e in exposures], np.int64),
        ts_ms=np.array([e.ts_ms for e in exposures], np.int64),
        delay_s=np.where(delay_ms < 0, np.inf, delay_ms / 1000.0),
        window_s=rules.edges_ms[-1] / 1000.0,
        feature_names=NAMES,
    )


def fingerprint(log: pa.Table) -> str:
    """Return a sha256 over a log's ids, users, kinds and times."""
    digest = hashlib.sha256()
    for name in ("event_id", "user_id", "kind", "line"):
        for value in pc.dictionary_encode(log[name].combine_chunks()).dictionary.to_pylist():
            digest.update(value.encode())
    digest.update(log["ts"].combine_chunks().to_numpy().tobytes())
    return digest.hexdigest()


def train(
    log: pa.Table, rules: Rules, *, tick_ms: int, until_ms: int, seed: int, pseudo: bool = True,
    line_weight: Mapping[str, float] | None = None, attributes: Mapping[str, Mapping[str, float]] | None = None,
    progress: Progress | None = None, settings: PretrainSettings | None = None, tell: Callable[[str], None] = lambda _: None, start: Start | None = None,
) -> Artifact:  # fmt: skip
    """Train on all of a log's lines, with what was known at `until_ms`; `line_weight`, `attributes` and `start` as in `models.pretrain`. Raises InputError when there is too little to learn from."""
    log = before(log, until_ms)
    if log.num_rows == 0:
        raise InputError("the log has no events before the end of training")
    rules = replace(rules, partitions=1, outcome_partitions=1, partitioner_check=False)
    lines = sorted(pc.unique(log["line"]).to_pylist())
    tell(f"features of {log.num_rows} events, {len(lines)} lines")
    rows = final_rows(log, rules, tick_ms=tick_ms, lines=lines, until_ms=until_ms)
    launches = []
    if pseudo and len(lines) > 2:
        first_ms = int(pc.min(log["ts"]).as_py())
        middle_ms = first_ms + (until_ms - first_ms) // 2
        for line in lines:
            tell(f"line {line} launched in pretence")
            seen = final_rows(without_past(log, line, middle_ms), rules, tick_ms=tick_ms, lines=lines, until_ms=until_ms)
            launch = PseudoLaunch(seen, lines.index(line), middle_ms)
            if (seen.line == launch.line).sum() >= FEWEST_PSEUDO_ROWS and launch.known().sum() >= FEWEST_PSEUDO_ROWS:
                launches.append(launch)
    return pretrain(
        rows, pseudo=launches, edges_s=np.array([0.0, *rules.edges_ms]) / 1000.0, seed=seed, schema_hash=SCHEMA_HASH,
        line_weight=line_weight, attributes=attributes,
        trained_until_ms=until_ms, fingerprint=fingerprint(log), progress=progress, settings=settings, start=start,
    )  # fmt: skip
