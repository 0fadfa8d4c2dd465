"""Which product line a row of a foreign log belongs to: by a hash of its category, by how its category behaves, or by a mapping file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import InputError
from streams.behaviour_lines import FIRST_PART, behaviour_lines

DEFAULT_SALT = "headstart"
KEYS = {"product": "product_id", "category": "category", "category_code": "category_code"}  # the first that maps a row wins


def line_rule(text: str) -> Callable[[pa.Table], Any]:
    """Return what makes the `line` column of a table with `product_id`, `category`, `line`, `kind` and `ts`, from the value of `--lines`.

    `hash:N[:SALT]`: the line is sha256("SALT:<category>")[:8] mod N, as a string.
    `behaviour:N[:SHARE]`: categories that behave alike in the first SHARE (a third) of the log's span are one line, "b0" to "b{N-1}", with the
    more interest the higher the number (see `streams.behaviour_lines`). Otherwise the path of a mapping file:

    - CSV with a header of two columns, `category,line` or `product,line` (or `category_code,line` for REES46);
    - JSON: `{"category": {"1051": "shoes"}, "product": {"77": "boots"}}`; either part may be absent.

    A product's line goes before its category's; a row that nothing maps keeps the line that it has. Raises `InputError`.
    """
    if text.startswith("hash:"):
        count, _, salt = text[5:].partition(":")
        if not (count.isascii() and count.isdigit() and 1 <= int(count) <= 1_000_000):
            raise InputError(f"lines {text!r}: expected hash:N or hash:N:SALT with N from 1 to 1000000")
        return lambda table: hashed(table, int(count), salt or DEFAULT_SALT)
    if text.startswith("behaviour:"):
        return _by_behaviour(text)
    mapping = _read_mapping(Path(text))
    return lambda table: _mapped(table, mapping)


def told_apart_until_ms(text: str | None, log: pa.Table) -> int | None:
    """Return the time of the last event that decides which line is which, by a value of `--lines` and a log with every event; None where no event does."""
    if text is None or not text.startswith("behaviour:"):
        return None
    first, last = pc.min(log["ts"]).as_py(), pc.max(log["ts"]).as_py()
    return int(first + _behaviour(text)[1] * (last - first))


def rule_in_words(text: str | None) -> str:
    """What makes a line, for a reader, from a value of `--lines` that `line_rule` takes; None: what the log itself says."""
    if text is None:
        return "what the log says, or the category"
    kind, _, rest = text.partition(":")
    number, _, part = rest.partition(":")
    if kind == "hash":
        return f"a hash of the category, into {number} lines"
    if kind == "behaviour":
        first = f"first {part} of the log's time" if part else "first third of the log's time"
        return f"how categories behave in the {first}, into {number} lines: those that behave alike are one; b0 has the least interest, b{int(number) - 1} the most"
    return f"the mapping file {Path(text).name}"


def hash_line(category: str, count: int, salt: str = DEFAULT_SALT) -> str:
    """Return the line of a category among `count` lines, "0" to str(count - 1)."""
    return str(int.from_bytes(sha256(f"{salt}:{category}".encode()).digest()[:8], "big") % count)


def hashed(table: pa.Table, count: int, salt: str) -> Any:
    """Return the `line` column made by `hash_line` from `category`, or from `line` where a row has no category."""
    encoded = pa.chunked_array([_category(table).combine_chunks()]).combine_chunks().dictionary_encode()
    lines = pa.array([hash_line(name, count, salt) for name in encoded.dictionary.to_pylist()], pa.string())
    return lines.take(encoded.indices)


def _category(table: pa.Table) -> Any:
    return pc.coalesce(table["category"], table["line"]) if "category" in table.column_names else table["line"]


def _by_behaviour(text: str) -> Callable[[pa.Table], Any]:
    count, share = _behaviour(text)
    return lambda table: behaviour_lines(_category(table), table["kind"], table["ts"], count, share)


def _behaviour(text: str) -> tuple[int, float]:
    number, _, part = text.partition(":")[2].partition(":")
    try:
        count, share = int(number), float(part) if part else FIRST_PART
    except ValueError:
        count, share = 0, 0.0
    if not (1 <= count <= 1000 and 0 < share <= 1):
        raise InputError(f"lines {text!r}: expected behaviour:N or behaviour:N:SHARE with N from 1 to 1000 and SHARE above 0, at most 1")
    return count, share


def _mapped(table: pa.Table, mapping: dict[str, dict[str, str]]) -> Any:
    found = []
    for part, column in KEYS.items():
        if part in mapping and column in table.column_names:
            keys = pa.array(list(mapping[part]), pa.string())
            lines = pa.array(list(mapping[part].values()), pa.string())
            found.append(lines.take(pc.index_in(table[column].combine_chunks(), value_set=keys)))
    return pc.coalesce(*found, table["line"].combine_chunks()) if found else table["line"]


def _read_mapping(path: Path) -> dict[str, dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the mapping of lines {path}: {error.strerror}; expected a file, hash:N[:SALT] or behaviour:N[:SHARE]") from None
    except UnicodeDecodeError:
        raise InputError(f"the mapping of lines {path} is not UTF-8 text") from None
    return _from_json(path, text) if text.lstrip().startswith("{") else _from_csv(path, text)


def _from_json(path: Path, text: str) -> dict[str, dict[str, str]]:
    try:
        mapping = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the mapping of lines {path} is not JSON: {error}") from None
    for part, pairs in mapping.items():
        if part not in KEYS or not isinstance(pairs, dict) or not all(isinstance(line, str) and line for line in pairs.values()):
            raise InputError(f"the mapping of lines {path}: {part!r} is wrong; expected {{{', '.join(KEYS)}}} with ids and names of lines")
    if not any(mapping.values()):
        raise InputError(f"the mapping of lines {path} is empty")
    return {part: pairs for part, pairs in mapping.items() if pairs}


def _from_csv(path: Path, text: str) -> dict[str, dict[str, str]]:
    rows = [[field.strip() for field in row] for row in csv.reader(text.splitlines()) if row]
    if not rows or len(rows[0]) != 2 or rows[0][0] not in KEYS or rows[0][1] != "line":
        raise InputError(f"the mapping of lines {path}: the first line must be 'category,line' or 'product,line'")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2 or not all(row):
            raise InputError(f"the mapping of lines {path}, row {number}: expected an id and a line, got {','.join(row)[:60]!r}")
    if len(rows) == 1:
        raise InputError(f"the mapping of lines {path} is empty")
    return {rows[0][0]: dict(rows[1:])}
