"""Reading event logs from elsewhere, and writing our own: Taobao UserBehavior, REES46, our JSONL and Parquet, text also gzipped.

Every reader is strict: the first row that cannot be used stops the import with the file, the row, the column and what was wrong,
because a log that is silently short gives figures that nobody can repeat. Only what has no counterpart here is left out, and
counted: see `skipped`. Event ids of foreign logs are made from (time, kind, row), so that their bytes sort as the log means.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import InputError
from features.events import KINDS, Refused, decode, encode, milliseconds
from features.log import SCHEMA, events, in_order
from models.whole_file import written_whole
from streams.foreign_logs import REES46_REQUIRED, TAOBAO_COLUMNS, TAOBAO_KINDS, read_rees46, read_taobao
from streams.lines import line_rule
from streams.log_rows import Rows, first_line, one_line, opened, read_rows
from streams.mistaken_seconds import note_seconds

FORMATS: Final = ("auto", "taobao", "rees46", "jsonl", "parquet")
REQUIRED: Final = tuple(field.name for field in SCHEMA if not field.nullable)
NESTED: Final = "user"  # as wire events have it
SHOPPER: Final = ("age_band", "gender", "level", "region")
_SKIPPED: Final = b"headstart.skipped"


def read_log(path: Path, *, format: str = "auto", lines: str | None = None) -> pa.Table:
    """Return the log in `features.log.SCHEMA`, in order; `skipped(table)` tells what was left out.

    `lines` is None (the line is what the log says, or the category), `hash:N[:SALT]`, `behaviour:N[:SHARE]`, or a mapping file (see `streams.lines`).
    Raises `InputError` for a missing, unreadable or empty file, wrong columns, or the first bad row.
    """
    path = Path(path)
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown; expected one of {', '.join(FORMATS)}")
    rule = line_rule(lines) if lines is not None else None
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{path} is empty: it holds no events")
        found = _guess(path) if format == "auto" else format
        left_out: dict[str, int] = {}
        if found == "jsonl":
            rows = _read_jsonl(path)
        elif found == "parquet":
            rows = own_rows(read_rows(path, REQUIRED, REQUIRED))
        else:
            rows, left_out = (read_taobao if found == "taobao" else read_rees46)(path)
    except (OSError, EOFError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or one_line(error)}") from None
    if not rows.table.num_rows:
        raise InputError(f"{path} holds no events" + "".join(f"; left out: {count} {why}" for why, count in left_out.items()))
    if rule is not None:
        rows = rows.with_column("line", rule(rows.table))
    rows.check_ranges()
    metadata = {_SKIPPED: json.dumps(left_out, sort_keys=True).encode()} if left_out else None
    table = in_order(rows.table)
    note_seconds(path, int(table["ts"][-1].as_py()))
    return table.replace_schema_metadata(metadata)


def skipped(table: pa.Table) -> dict[str, int]:
    """Return what `read_log` left out of this log: {reason: number of rows}."""
    found: dict[str, int] = json.loads((table.schema.metadata or {}).get(_SKIPPED, b"{}"))
    return found


def write_log(table: pa.Table, path: Path) -> None:
    """Write a log as Parquet (`.parquet`), or as lines of wire events with their `kind` (`.jsonl`, `.jsonl.gz`).

    The same log gives the same bytes, and a file that is cut short never has the name. Raises `InputError`.
    """
    path = Path(path)
    if not path.name.endswith((".parquet", ".jsonl", ".jsonl.gz")):
        raise InputError(f"cannot write {path}: the name must end in .parquet, .jsonl or .jsonl.gz")
    try:
        with written_whole(path) as partial, partial.open("wb") as file:
            if path.suffix == ".parquet":
                pq.write_table(table, file, compression="zstd")
            elif path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped:
                    _write_lines(table, zipped)
            else:
                _write_lines(table, file)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or one_line(error)}") from None


def _write_lines(table: pa.Table, sink: Any) -> None:
    for kind, event in events(table):
        sink.write(encode(msgspec.structs.replace(event, kind=kind)) + b"\n")


def _guess(path: Path) -> str:
    """Return the format that a Parquet file's columns or a text file's first line show; raises `InputError` when they show none."""
    with path.open("rb") as file:
        in_parquet = file.read(4) == b"PAR1"
    if in_parquet:
        try:
            names = pq.read_schema(path).names
        except pa.ArrowException as error:
            raise InputError(f"cannot read {path}: {one_line(error)}") from None
    else:
        first, _ = first_line(path)
        if first.startswith("{"):
            return "jsonl"
        names = [field.strip('" ') for field in first.split(",")]
        if len(names) == len(TAOBAO_COLUMNS) and names[3] in TAOBAO_KINDS:
            return "taobao"
    needed = {"taobao": TAOBAO_COLUMNS, "rees46": REES46_REQUIRED} | ({"parquet": ("event_id",)} if in_parquet else {})
    for format, columns in needed.items():
        if set(columns) <= set(names):
            return format
    raise InputError(f"{path}: no known format has the columns {', '.join(names)[:120]}; give the format: {', '.join(FORMATS[1:])}")


def own_rows(rows: Rows) -> Rows:
    """Return the rows of a table of our schema with its columns' own types. Raises `InputError` for the first value that has another."""
    if NESTED in rows.table.column_names and pa.types.is_nested(rows.table[NESTED].type):
        raise InputError(f"{rows.path}: what is known of a shopper is in columns of its own, {', '.join(SHOPPER)} and registered_ts, not in {NESTED!r}")
    rows = rows.with_table(rows.table.select([name for name in rows.table.column_names if name in SCHEMA.names]))
    for field in (field for field in SCHEMA if field.name in rows.table.column_names):
        values = rows.table[field.name]
        if field.type == pa.int64() and pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("ms", values.type.tz), safe=False)
        cast = rows.cast_known if field.nullable else rows.cast
        rows = rows.with_column(field.name, cast(field.name, field.type, f"of type {field.type}", values))
    wrong = pc.invert(pc.is_in(rows.table["kind"], value_set=pa.array(KINDS)))
    rows.refuse("kind", wrong, lambda row: f"{rows.table['kind'][row].as_py()[:60]!r} is not one of {', '.join(KINDS)}")
    return rows


class _Kind(msgspec.Struct):
    kind: str


def _read_jsonl(path: Path) -> Rows:
    """Return the rows of wire events that also name their kind, one JSON object a line; blank lines are passed over."""
    index = {kind: number for number, kind in enumerate(KINDS)}
    peek = msgspec.json.Decoder(_Kind)
    of_event = [name for name in SCHEMA.names if name not in ("kind", "ts", "registered_ts", *SHOPPER)]
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    place: list[int] = []
    with opened(path) as stream:
        for number, text in enumerate(stream, 1):
            if not text.strip():
                continue
            try:
                kind = peek.decode(text).kind
                if kind not in index:
                    raise InputError(f"{path}, line {number}, column 'kind': {kind[:60]!r} is not one of {', '.join(KINDS)}")
                event, ts_ms = decode(text.strip(), index[kind])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Refused) as error:
                raise InputError(f"{path}, line {number}: {one_line(error)}") from None
            user = event.user
            for name in of_event:
                columns[name].append(getattr(event, name))
            for name in SHOPPER:
                columns[name].append(None if user is None else getattr(user, name))
            columns["kind"].append(kind)
            columns["ts"].append(ts_ms)
            columns["registered_ts"].append(None if user is None or user.registered_ts is None else milliseconds(user.registered_ts))
            place.append(number)
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in SCHEMA})
    return Rows(path, table, np.array(place, np.int64), "line")
