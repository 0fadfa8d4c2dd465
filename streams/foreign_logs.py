"""Other shops' logs, as CSV or Parquet: Taobao UserBehavior and REES46."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.events import KINDS, MAX_TS_MS, MIN_TS_MS
from streams.log_rows import Rows, read_rows

TAOBAO_COLUMNS: Final = ("user_id", "item_id", "category_id", "behavior", "ts")
TAOBAO_KINDS: Final = {"pv": "browse", "fav": "click", "cart": "cart", "buy": "order"}
REES46_COLUMNS: Final = ("event_time", "event_type", "product_id", "category_id", "category_code", "brand", "price", "user_id", "user_session")
REES46_REQUIRED: Final = ("event_time", "event_type", "product_id", "category_id", "user_id")
REES46_KINDS: Final = {"view": "browse", "cart": "cart", "purchase": "order"}
REES46_SKIPPED: Final = "remove_from_cart"


def event_ids(ts_ms: np.ndarray, kind_rank: np.ndarray, row: np.ndarray) -> pa.Array:
    """Return ids whose bytes sort by (time, browse < click < cart < order, row); shapes (N,) → (N,). Unique if the rows are."""

    def padded(numbers: np.ndarray, width: int) -> Any:
        return pc.utf8_lpad(pa.array(numbers, pa.int64()).cast(pa.string()), width, "0")

    return pc.binary_join_element_wise(padded(ts_ms, 15), padded(kind_rank, 1), padded(row, 10), "-")


def read_taobao(path: Path) -> tuple[Rows, dict[str, int]]:
    """Return the log's columns, and what was left out: rows outside the window, where a column `in_window` says so.

    Times are whole seconds; the line is the category. Raises `InputError` for the first bad row.
    """
    rows = read_rows(path, TAOBAO_COLUMNS, TAOBAO_COLUMNS)
    skipped = {}
    if "in_window" in rows.table.column_names:
        inside = pc.is_in(pc.utf8_lower(rows.table["in_window"].cast(pa.string())), value_set=pa.array(["true", "1"]))
        if outside := len(inside) - (pc.sum(inside).as_py() or 0):
            skipped = {"outside the window": outside}
        rows = rows.kept(inside)
    seconds = rows.cast("ts", pa.int64(), "a time in whole seconds since 1970")
    inside = pc.and_(pc.greater_equal(seconds, MIN_TS_MS // 1000), pc.less_equal(seconds, MAX_TS_MS // 1000))
    rows.refuse("ts", pc.invert(inside), lambda row: f"{seconds[row].as_py()} seconds since 1970 is not between 1970 and 2106")
    category = rows.cast("category_id", pa.string(), "a category")
    columns = {
        "user_id": rows.cast("user_id", pa.string(), "a user"),
        "product_id": rows.cast("item_id", pa.string(), "a product"),
        "line": category,
        "ts": pc.multiply(seconds, 1000),
        "category": category,
    }
    return _with_kinds(rows, columns, "behavior", TAOBAO_KINDS), skipped


def read_rees46(path: Path) -> tuple[Rows, dict[str, int]]:
    """Return the log's columns (and `category_code`, for a mapping of lines), and how many `remove_from_cart` were left out.

    The line is the first part of `category_code`, or the category where there is none. Raises `InputError` for the first bad row.
    """
    rows = read_rows(path, REES46_COLUMNS, REES46_REQUIRED)
    dropped = pc.is_in(rows.table["event_type"].cast(pa.string()), value_set=pa.array([REES46_SKIPPED]))
    skipped = {REES46_SKIPPED: count} if (count := pc.sum(dropped).as_py()) else {}
    rows = rows.kept(pc.invert(dropped))
    times = rows.table["event_time"]
    if not pa.types.is_timestamp(times.type):
        times = pc.replace_substring_regex(times.cast(pa.string()), r"( UTC|Z|\+00:00)$", "")
    moments = rows.cast("event_time", pa.timestamp("ms"), "a time such as 2019-10-01 00:00:00 UTC", times)
    category = rows.cast("category_id", pa.string(), "a category")
    columns = {
        "user_id": rows.cast("user_id", pa.string(), "a user"),
        "product_id": rows.cast("product_id", pa.string(), "a product"),
        "line": category,
        "ts": moments.cast(pa.int64()),
        "category": category,
    }
    if "category_code" in rows.table.column_names:
        columns["category_code"] = rows.table["category_code"].cast(pa.string())
        columns["line"] = pc.coalesce(pc.replace_substring_regex(columns["category_code"], r"\..*$", ""), category)
    if "price" in rows.table.column_names:
        columns["price"] = rows.cast_known("price", pa.float64(), "a number")
    if "user_session" in rows.table.column_names:
        columns["session_id"] = rows.table["user_session"].cast(pa.string())
    return _with_kinds(rows, columns, "event_type", REES46_KINDS), skipped


def _with_kinds(rows: Rows, columns: dict[str, Any], kind_column: str, kinds: dict[str, str]) -> Rows:
    """Return the rows of the log: these columns, the kind, and event ids made from time, kind and the row's place."""
    expected = f"one of {', '.join(kinds)}"
    names = rows.cast(kind_column, pa.string(), expected)
    code = pc.index_in(names, value_set=pa.array(list(kinds)))
    rows.refuse(kind_column, pc.is_null(code), lambda row: f"{names[row].as_py()[:60]!r} is not {expected}")
    kind = pa.array(list(kinds.values())).take(code.combine_chunks())
    made = rows.with_table(pa.table({"kind": kind, **columns}))
    made.check_ranges()  # before the ids: they hold the time, which must be in range to sort
    rank = np.asarray(pc.index_in(kind, value_set=pa.array(KINDS)))
    return made.with_table(made.table.append_column("event_id", event_ids(np.asarray(columns["ts"]), rank, rows.place)))
