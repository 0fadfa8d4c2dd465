"""The rows of a log file while it is read: each keeps its place, so that an error names the file, the line or row, and the column."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from features.errors import InputError
from features.events import MAX_TS_MS, MIN_TS_MS
from features.log import SCHEMA

MAX_CHARACTERS: Final = dict.fromkeys(("event_id", "user_id", "product_id"), 256) | dict.fromkeys(
    ("line", "category", "channel", "session_id", "campaign_id", "age_band", "gender", "region"), 128
)
NAMES: Final = ("event_id", "user_id", "product_id", "line", "category")
RANGES: Final = {"ts": (MIN_TS_MS, MAX_TS_MS), "registered_ts": (MIN_TS_MS, MAX_TS_MS), "price": (0, 1e12), "quantity": (0, 1e12), "level": (0, 1_000_000)}
FILLED_LINE: Final = "filled line"  # a CSV's: its reader passes over empty ones, and counts the others


class Rows:
    """A table and the place of each row, from 1: a Parquet file's row, a text file's line, or its line of those that are not empty, as `unit` says."""

    def __init__(self, path: Path, table: pa.Table, place: np.ndarray, unit: str) -> None:
        self.path, self.table, self.place, self.unit = path, table, place, unit

    def bad(self, row: int, column: str, what: str) -> InputError:
        """Return the error that names a row and its column."""
        place = int(self.place[row])
        where = f"line {line_of(self.path, place)}" if self.unit == FILLED_LINE else f"{self.unit} {place}"
        return InputError(f"{self.path}, {where}, column {column!r}: {what}")

    def refuse(self, column: str, mask: Any, what: Callable[[int], str]) -> None:
        """Raise `InputError` for the first row where the mask (N,) holds; a null in it does not."""
        row = pc.index(mask, pa.scalar(True)).as_py()
        if row >= 0:
            raise self.bad(row, column, what(row))

    def kept(self, mask: Any) -> Rows:
        """Return the rows where the mask (N,) holds."""
        return Rows(self.path, self.table.filter(mask), self.place[np.asarray(mask)], self.unit)

    def with_table(self, table: pa.Table) -> Rows:
        """Return another table of the same rows."""
        return Rows(self.path, table, self.place, self.unit)

    def with_column(self, name: str, values: Any) -> Rows:
        """Return the rows with one column replaced."""
        return self.with_table(self.table.set_column(self.table.column_names.index(name), name, values))

    def cast(self, column: str, to: pa.DataType, expected: str, values: Any = None) -> Any:
        """Return a column (or `values` that were made from it) as another type; `InputError` for the first null and the first value that is not `expected`."""
        values = self.table[column] if values is None else values
        self.refuse(column, pc.is_null(values), lambda _: f"empty; expected {expected}")
        return self.cast_known(column, to, expected, values)

    def cast_known(self, column: str, to: pa.DataType, expected: str, values: Any = None) -> Any:
        """Return a column as another type, nulls kept; `InputError` for the first value that is not `expected`."""
        values = self.table[column] if values is None else values
        try:
            return values.cast(to)
        except pa.ArrowException:
            row = _first_uncastable(values, to)
            raise self.bad(row, column, f"{str(values[row].as_py())[:60]!r} is not {expected}") from None

    def check_ranges(self) -> None:
        """Raise `InputError` for the first row that a worker would refuse, column by column in the order of the log's schema."""
        for name in (name for name in SCHEMA.names if name in self.table.column_names):
            column = self.table[name]
            if name in MAX_CHARACTERS:
                self._check_length(name, column, MAX_CHARACTERS[name])
                if name in NAMES:
                    self.refuse(name, pc.match_substring_regex(column, r"[\x00-\x1f]"), lambda _: "holds a control character")
            elif name in RANGES:
                self._check_range(name, column, *RANGES[name])

    def _check_length(self, name: str, column: Any, most: int) -> None:
        length = pc.utf8_length(column)
        self.refuse(name, pc.or_(pc.equal(length, 0), pc.greater(length, most)), lambda row: f"expected 1 to {most} characters, got {length[row].as_py()}")

    def _check_range(self, name: str, column: Any, low: float, high: float) -> None:
        inside = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))
        self.refuse(name, pc.invert(inside), lambda row: f"{column[row].as_py()} is not between {low:,.0f} and {high:,.0f}")


def opened(path: Path) -> Any:
    """Open a file to read bytes, through gzip where its first two bytes say so."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def one_line(error: Exception) -> str:
    """Return an error's text on one line, not too long."""
    return " ".join(str(error).split())[:200]


def read_rows(path: Path, names: tuple[str, ...], required: tuple[str, ...]) -> Rows:
    """Return a Parquet file's rows, or a CSV's (all columns strings, an empty field is null), which may do without a header line of `names`.

    Raises `InputError` when the file cannot be read, a line has another number of fields, or a `required` column is missing.
    """
    try:
        with path.open("rb") as file:
            in_parquet = file.read(4) == b"PAR1"
        if in_parquet:
            table = pq.ParquetFile(path).read()
            rows = Rows(path, table, np.arange(1, table.num_rows + 1), "row")
        else:
            rows = _csv_rows(path, names)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path}: {one_line(error)}") from None
    for name in required:
        if name not in rows.table.column_names:
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(rows.table.column_names)}")
    return rows


def first_line(path: Path) -> tuple[str, int]:
    """Return the first line of a text file that is not empty, without its end and a byte-order mark, and which line of the file it is; ("", 0) if there is none."""
    with opened(path) as stream:
        lines = enumerate(iter(lambda: stream.readline(65_536), b""), 1)
        number, line = next(((number, line) for number, line in lines if line.rstrip(b"\r\n")), (0, b""))
    return line.decode("utf-8", "replace").strip().lstrip("\ufeff"), number


def line_of(path: Path, place: int) -> int:
    """Return which line of a text file is the one at `place` among those that are not empty, both from 1."""
    with opened(path) as stream:
        filled = (number for number, line in enumerate(stream, 1) if line.rstrip(b"\r\n"))
        return int(next(islice(filled, place - 1, None), place))


def _csv_rows(path: Path, names: tuple[str, ...]) -> Rows:
    text, number = first_line(path)
    first = [field.strip('" ') for field in text.split(",")]
    has_header = names[0] in first
    columns, skipped = (first, number) if has_header else (list(names), 0)
    with opened(path) as stream:
        try:
            table = pa_csv.read_csv(
                stream,
                # One thread: only then does the parser's error tell the bad row's number.
                read_options=pa_csv.ReadOptions(use_threads=False, column_names=columns, skip_rows=skipped),
                convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True, null_values=[""]),
            )
        except pa.ArrowException as error:
            found = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error))
            if found is None:
                raise InputError(f"{path} cannot be read as CSV: {one_line(error)}") from None
            row, expected, got = found.groups()
            raise InputError(f"{path}, line {line_of(path, int(row) - skipped + has_header)}: expected {expected} fields, got {got}") from None
    return Rows(path, table, np.arange(table.num_rows) + 1 + int(has_header), FILLED_LINE)


def _first_uncastable(values: Any, to: pa.DataType) -> int:
    """Return the first row of a column that cannot be cast, given that there is one: halve, and keep the earliest bad half."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            values.slice(low, middle - low).cast(to)
            low = middle
        except pa.ArrowException:
            high = middle
    return low
