"""An event log that is larger than memory: Parquet files of our own schema, in order on disk, read part by part as often as they are needed.

What reads a log as a whole sorts it first; here it must lie in order of `ts` already, in one file or in a folder whose files follow each other by name
(a warehouse's `ORDER BY ts`). Events of one moment are put into the order that a log in memory has, across parts too, so training on either gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import InputError
from features.log import in_order
from streams.importing import REQUIRED, own_rows, read_log
from streams.lines import line_rule
from streams.log_rows import Rows, one_line
from streams.mistaken_seconds import note_seconds

PART_ROWS: Final = 100_000


class LogParts:
    """Each iteration reads the log again, as tables of `features.log.SCHEMA` that follow each other in order."""

    def __init__(self, path: Path, *, lines: str | None = None, without: Sequence[str] = (), part_rows: int = PART_ROWS) -> None:
        """`path` is a file or a folder; `lines` as in `read_log`; `without`: lines to leave out.

        Raises InputError where the log cannot be read so; a bad row is found when it is read, and that a line is not there when all is.
        """
        if lines is not None and lines.startswith("behaviour:"):
            raise InputError(f"--lines {lines} looks at the log as a whole, and this one is read part by part: give a mapping file, or hash:N")
        self._rule = line_rule(lines) if lines is not None else None
        self._path, self._noted = path, False
        self._without, self._part_rows = list(without), part_rows
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"there is no .parquet file in {path}")
        rows = {file: self._open(file).metadata.num_rows for file in files}
        self.num_rows = sum(rows.values())
        self._files = [file for file in files if rows[file]]
        if not self._files:
            raise InputError(f"{path} holds no events")

    def __iter__(self) -> Iterator[pa.Table]:
        held: pa.Table | None = None  # the last moment so far: the next part may have more of it
        missing = set(self._without)
        for rows in self._read():
            held, last_ms = _joined(held, rows.table), int(rows.table["ts"][-1].as_py())
            missing -= missing and set(pc.unique(rows.table["line"]).to_pylist())
            whole = held.filter(pc.field("ts") < last_ms)
            held = held.filter(pc.field("ts") == last_ms)
            if whole.num_rows:
                yield self._kept(in_order(whole))
        if missing:
            raise _no_line(min(missing))
        if held is not None:
            if not self._noted:
                self._noted = True
                note_seconds(self._path, last_ms)
            yield self._kept(in_order(held))

    def last_ms(self) -> int:
        """Return the time of the last event: that of the last row."""
        last = self._open(self._files[-1])
        table = last.read_row_group(max(g for g in range(last.num_row_groups) if last.metadata.row_group(g).num_rows), columns=["ts", "kind"])
        return int(own_rows(Rows(self._files[-1], table, np.arange(table.num_rows), "row of the last group")).table["ts"][-1].as_py())

    def _kept(self, table: pa.Table) -> pa.Table:
        return table.filter(~pc.field("line").isin(self._without)) if self._without else table

    def _read(self) -> Iterator[Rows]:
        before_ms = -(2**62)
        for file in self._files:
            place = 1
            for batch in self._batches(file):
                rows = own_rows(Rows(file, pa.Table.from_batches([batch]), np.arange(place, place + batch.num_rows), "row"))
                place += batch.num_rows
                ts = np.concatenate([[before_ms], rows.table["ts"].to_numpy()])
                if (back := np.flatnonzero(np.diff(ts) < 0)).size:
                    raise rows.bad(int(back[0]), "ts", "earlier than the row before it; a log that is read part by part must be sorted by ts")
                before_ms = int(ts[-1])
                if self._rule is not None:
                    rows = rows.with_column("line", self._rule(rows.table))
                rows.check_ranges()
                yield rows

    def _batches(self, file: Path) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._open(file).iter_batches(batch_size=self._part_rows):
                if batch.num_rows:
                    yield batch
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"cannot read {file}: {one_line(error)}") from None

    def _open(self, file: Path) -> pq.ParquetFile:
        try:
            opened = pq.ParquetFile(file)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"cannot read {file} part by part, as Parquet: {getattr(error, 'strerror', None) or one_line(error)}") from None
        if missing := [name for name in REQUIRED if name not in opened.schema_arrow.names]:
            raise InputError(
                f"{file} has no column {missing[0]!r}: a log that is read part by part must be of our own schema; it has {', '.join(opened.schema_arrow.names)[:120]}"
            )
        return opened


Log: TypeAlias = pa.Table | LogParts


def open_log(path: Path, *, by_parts: bool, format: str = "auto", lines: str | None = None, without: Sequence[str] = ()) -> Log:
    """Return the log at `path`, part by part if that is asked for or it is a folder, else as `read_log` reads it; `without`: lines to leave out. Raises InputError."""
    if by_parts or path.is_dir():
        if format not in ("auto", "parquet"):
            raise InputError(f"--format {format} cannot be read part by part: only Parquet of our own schema is")
        return LogParts(path, lines=lines, without=without)
    log = read_log(path, format=format, lines=lines)
    if missing := set(without) - set(pc.unique(log["line"]).to_pylist()):
        raise _no_line(min(missing))
    return log.filter(~pc.field("line").isin(list(without))) if without else log


def _no_line(line: str) -> InputError:
    return InputError(f"there is no line {line!r} in the log that could be left out")


def parts(log: Log) -> Iterable[pa.Table]:
    """Return the tables that make up a log, in order: one, if it is in memory."""
    return (log,) if isinstance(log, pa.Table) else log


def last_ms(log: Log) -> int:
    """Return the time of a log's last event, 0 if it has none."""
    return log.last_ms() if isinstance(log, LogParts) else int(pc.max(log["ts"]).as_py() or 0)


def _joined(held: pa.Table | None, table: pa.Table) -> pa.Table:
    return table if held is None or not held.num_rows else pa.concat_tables([held, table], promote_options="default")
