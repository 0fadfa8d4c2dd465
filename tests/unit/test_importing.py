"""Reading other shops' logs and our own, with made-up rows; and counts on real logs where they are at hand."""

from __future__ import annotations

import gzip
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from features.events import KINDS, decode
from features.log import SCHEMA
from streams.foreign_logs import event_ids
from streams.importing import read_log, skipped, write_log
from streams.shop_truth import exposure_rows, labels

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

TAOBAO = """\
7,101,11,buy,1511600000
7,101,11,cart,1511600000
7,101,11,fav,1511600000
7,102,12,pv,1511600000
8,103,11,pv,1511599999
8,104,12,pv,1511600000
"""

REES46 = """\
event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session
2019-10-01 00:00:00 UTC,view,501,2001,toys.outdoor.kite,acme,12.50,9,aa-1
2019-10-01 00:00:02 UTC,cart,501,2001,toys.outdoor.kite,acme,12.50,9,aa-1
2019-10-01 00:00:03 UTC,remove_from_cart,501,2001,toys.outdoor.kite,acme,12.50,9,aa-1
2019-10-01 00:00:04 UTC,purchase,502,2002,,,,9,
"""


def written(folder: Path, text: str, name: str = "log.csv") -> Path:
    """A file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def real(folder: str) -> Path:
    """A real log, or the test is skipped."""
    path = DATA / folder / "events.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def our_log() -> pa.Table:
    """Two events, one with everything and one with nothing that is optional."""
    full = {
        "event_id": "e1", "kind": "cart", "user_id": "u1", "product_id": "p1", "line": "toys", "ts": 1_600_000_000_123,
        "category": "kites", "channel": "app", "session_id": "s1", "campaign_id": "c1", "price": 12.1, "quantity": 2.0,
        "age_band": "25-34", "gender": "f", "level": 3, "region": "north", "registered_ts": 1_500_000_000_000,
    }  # fmt: skip
    bare = {"event_id": "e2", "kind": "browse", "user_id": "ü2", "product_id": "p2", "line": "toys", "ts": 1_600_000_000_124}
    return pa.Table.from_pylist([full, bare], schema=SCHEMA)


def test_taobao_rows_become_events(tmp_path: Path) -> None:
    """Behaviours become kinds, seconds become milliseconds, and the line is the category."""
    log = read_log(written(tmp_path, TAOBAO))
    assert log.schema.equals(SCHEMA)
    first = log.slice(0, 1).to_pylist()[0]
    assert {name: first[name] for name in ("kind", "user_id", "product_id", "line", "category", "ts")} == {
        "kind": "browse", "user_id": "8", "product_id": "103", "line": "11", "category": "11", "ts": 1_511_599_999_000,
    }  # fmt: skip


def test_ties_are_browse_click_cart_order_then_row(tmp_path: Path) -> None:
    """Events of one millisecond stand in the funnel's order, then in the file's, and their ids sort so as bytes."""
    log = read_log(written(tmp_path, TAOBAO))
    assert log["kind"].to_pylist() == ["browse", "browse", "browse", "click", "cart", "order"]
    assert log["product_id"].to_pylist()[:3] == ["103", "102", "104"]
    ids = [text.encode() for text in log["event_id"].to_pylist()]
    assert ids == sorted(ids)
    assert len(set(ids)) == 6


def test_event_ids_sort_as_numbers_do() -> None:
    """Ids sort by time, kind and row even where the numbers have different lengths."""
    ts, rank, row = np.array([9, 10, 10, 10, 253_402_300_799_999]), np.array([3, 0, 0, 1, 0]), np.array([9, 9, 1_000_000_000, 2, 1])
    ids = event_ids(ts, rank, row).to_pylist()
    assert ids == sorted(ids)


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet"])
def test_every_container_gives_the_same_log(tmp_path: Path, name: str) -> None:
    """A plain CSV with or without a header, a gzipped CSV and a Parquet file of the same rows give the same events."""
    expected = read_log(written(tmp_path, TAOBAO, "plain.csv"))
    header = "user_id,item_id,category_id,behavior,ts\n"
    path = tmp_path / name
    if name.endswith(".parquet"):
        cells = [line.split(",") for line in TAOBAO.splitlines()]
        columns = {key: [int(row[i]) if row[i].isdigit() else row[i] for row in cells] for i, key in enumerate(header.strip().split(","))}
        pq.write_table(pa.table(columns), path)
    else:
        path.write_bytes(gzip.compress((header + TAOBAO).encode()) if name.endswith(".gz") else (header + TAOBAO).encode())
    columns_but_ids = SCHEMA.names[1:]
    assert read_log(path).select(columns_but_ids).equals(expected.select(columns_but_ids))


def test_rows_outside_the_window_are_left_out_and_counted(tmp_path: Path) -> None:
    """Where a column says which rows are in the window, the others are left out, and `skipped` says how many."""
    path = tmp_path / "log.parquet"
    table = pa.table(
        {
            "user_id": [1, 1, 1],
            "item_id": [2, 2, 2],
            "category_id": [3, 3, 3],
            "behavior": ["pv", "pv", "buy"],
            "ts": [5, 6, 7],
            "in_window": [False, True, None],
        }
    )
    pq.write_table(table, path)
    log = read_log(path)
    assert log["ts"].to_pylist() == [6000]
    assert skipped(log) == {"outside the window": 2}


def test_rees46_rows_become_events(tmp_path: Path) -> None:
    """Types become kinds; removals are counted; the line is the code's first part, or the category; empty fields are null."""
    log = read_log(written(tmp_path, REES46))
    assert log["kind"].to_pylist() == ["browse", "cart", "order"]
    assert log["line"].to_pylist() == ["toys", "toys", "2002"]
    assert log["ts"].to_pylist() == [1_569_888_000_000, 1_569_888_002_000, 1_569_888_004_000]
    assert log["price"].to_pylist() == [12.5, 12.5, None]
    assert log["session_id"].to_pylist() == ["aa-1", "aa-1", None]
    assert skipped(log) == {"remove_from_cart": 1}


def test_hashed_lines_follow_the_published_rule(tmp_path: Path) -> None:
    """`hash:N:SALT` gives sha256("SALT:<category>")[:8] mod N; without a salt it is "headstart"."""
    path = written(tmp_path, TAOBAO)
    for lines, salt in (("hash:8:hash1", "hash1"), ("hash:8", "headstart")):
        log = read_log(path, lines=lines)
        expected = [str(int.from_bytes(sha256(f"{salt}:{c}".encode()).digest()[:8], "big") % 8) for c in log["category"].to_pylist()]
        assert log["line"].to_pylist() == expected


def test_a_mapping_file_names_lines(tmp_path: Path) -> None:
    """A CSV maps categories, a JSON also products, which go first; what is not mapped keeps its line."""
    path = written(tmp_path, TAOBAO)
    by_category = read_log(path, lines=str(written(tmp_path, "category,line\n11,shoes\n", "map.csv")))
    assert dict(zip(by_category["product_id"].to_pylist(), by_category["line"].to_pylist(), strict=True)) == {
        "101": "shoes",
        "102": "12",
        "103": "shoes",
        "104": "12",
    }
    mapping = json.dumps({"category": {"11": "shoes"}, "product": {"103": "boots"}})
    both = read_log(path, lines=str(written(tmp_path, mapping, "map.json")))
    assert dict(zip(both["product_id"].to_pylist(), both["line"].to_pylist(), strict=True)) == {"101": "shoes", "102": "12", "103": "boots", "104": "12"}


@pytest.mark.parametrize(
    "lines", ["hash:0", "hash:x", "hash:", "behaviour:0", "behaviour:x", "behaviour:3:0", "behaviour:3:2", "behaviour:3:nan", "nowhere.csv"]
)
def test_a_wrong_rule_for_lines_is_one_readable_line(tmp_path: Path, lines: str) -> None:
    """A rule that cannot be used is an InputError that repeats it."""
    with pytest.raises(InputError, match=lines):
        read_log(written(tmp_path, TAOBAO), lines=lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TAOBAO + "7,101,11,pv,soon\n", "line 7, column 'ts': 'soon' is not a time in whole seconds"),
        (TAOBAO + "7,101,11,look,1511600000\n", "line 7, column 'behavior': 'look' is not one of pv, fav, cart, buy"),
        (TAOBAO + "7,,11,pv,1511600000\n", "line 7, column 'item_id': empty; expected a product"),
        (TAOBAO + "7,101,11,pv\n", "line 7: expected 5 fields, got 4"),
        (TAOBAO + "\n\r\n7,101,11,look,1511600000\n", "line 9, column 'behavior'"),
        (REES46 + "\n2019-10-01 00:00:00 UTC,sniff,1,2,,,,9,\n", "line 7, column 'event_type'"),
        (TAOBAO + "\n\n7,101,11,pv\n", "line 9: expected 5 fields, got 4"),
        ("\n\r\n" + REES46 + "2019-10-01 00:00:00 UTC,sniff,1,2,,,,9,\n", "line 8, column 'event_type'"),
        ("\n" + REES46 + "2019-10-01 00:00:00 UTC,sniff\n", "line 7: expected 9 fields, got 2"),
        ("\n" + TAOBAO + "7,101,11,look,1511600000\n", "line 8, column 'behavior'"),
        (TAOBAO + "7,101,11,pv,-5\n", "line 7, column 'ts': -5 seconds since 1970 is not between"),
        (TAOBAO + "7,101,11,pv,1511600000000\n", "line 7, column 'ts'"),
        (REES46 + "2019-13-01 00:00:00 UTC,view,1,2,,,,9,\n", "line 6, column 'event_time': '2019-13-01 00:00:00' is not a time"),
        (REES46 + "2019-10-01 00:00:00 UTC,view,1,2,,,cheap,9,\n", "line 6, column 'price': 'cheap' is not a number"),
        (REES46 + "2019-10-01 00:00:00 UTC,view,1,2,,,-1,9,\n", "line 6, column 'price': -1.0 is not between"),
        (REES46 + "2019-10-01 00:00:00 UTC,sniff,1,2,,,,9,\n", "line 6, column 'event_type': 'sniff' is not one of"),
        ("event_time,event_type,product_id\n", "has no column|no known format"),
        ("a,b,c\n1,2,3\n", "no known format"),
        (REES46.splitlines()[0] + "\n", "no events"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, expected: str) -> None:
    """The error says which line and column of which file, and what was wrong with it."""
    with pytest.raises(InputError, match=expected) as caught:
        read_log(written(tmp_path, text, "bad.csv"))
    assert "bad.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_value_is_found_among_many(tmp_path: Path) -> None:
    """The first of several bad rows is the one that is named, wherever it stands."""
    rows = [f"{n},1,2,pv,{1_511_600_000 + n}" for n in range(5000)]
    rows[3210] = "1,1,2,pv,early"
    rows[4321] = "1,1,2,pv,late"
    with pytest.raises(InputError, match="line 3211, column 'ts': 'early'"):
        read_log(written(tmp_path, "\n".join(rows)))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08", b"PAR1 and then nothing", b"\xff\xfe\x00", gzip.compress(TAOBAO.encode(), mtime=0)[:40]])
def test_a_broken_file_is_one_readable_line(tmp_path: Path, content: bytes) -> None:
    """Empty, cut short or no text at all: an InputError of one line that names the file."""
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    for format in ("auto", "taobao", "jsonl", "parquet"):
        with pytest.raises(InputError, match=r"broken\.csv") as caught:
            read_log(path, format=format)
        assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path: Path) -> None:
    """A file that is not there, a folder, and a format that does not exist are InputErrors."""
    with pytest.raises(InputError, match="No such file"):
        read_log(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="directory"):
        read_log(tmp_path)
    with pytest.raises(InputError, match="expected one of auto, taobao"):
        read_log(written(tmp_path, TAOBAO), format="xml")


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz", "log.parquet"])
def test_our_own_log_comes_back_equal(tmp_path: Path, name: str) -> None:
    """What is written reads back equal, with every optional field and with none, and the same log gives the same bytes."""
    for path in (tmp_path / name, tmp_path / f"again-{name}"):
        write_log(our_log(), path)
        assert read_log(path).equals(our_log())
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"again-{name}"])


def test_jsonl_is_the_wire_form(tmp_path: Path) -> None:
    """Each line is an event that a worker decodes, and an ISO time reads as its milliseconds."""
    path = tmp_path / "log.jsonl"
    write_log(our_log(), path)
    for line in path.read_bytes().splitlines():
        decode(line, KINDS.index(json.loads(line)["kind"]))
    path.write_text(path.read_text().replace("1600000000124", '"2020-09-13T14:26:40.124+02:00"') + "\n")
    assert read_log(path).equals(our_log())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 2: "),
        ('{"kind":"look"}', "line 2, column 'kind': 'look'"),
        ('{"event_id":"e"}', "line 2: .*`kind`"),
        ('{"kind":"browse","event_id":"e","user_id":"u","product_id":"p","line":"l"}', "line 2: wrong_shape.*`ts`"),
        ('{"kind":"browse","event_id":"e","user_id":"u","product_id":"p","line":"l","ts":"noon"}', "line 2: bad_value"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(tmp_path: Path, line: str, expected: str) -> None:
    """A line that a worker would refuse stops the import with its number and the reason."""
    path = tmp_path / "log.jsonl"
    write_log(our_log().slice(0, 1), path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=expected):
        read_log(path)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("kind", "look", "row 2, column 'kind': 'look' is not one of"),
        ("user_id", None, "row 2, column 'user_id': empty"),
        ("line", "", "row 2, column 'line': expected 1 to 128 characters, got 0"),
        ("product_id", "x" * 257, "row 2, column 'product_id': expected 1 to 256 characters, got 257"),
        ("ts", -1, "row 2, column 'ts': -1 is not between"),
        ("price", float("nan"), "row 2, column 'price': nan is not between"),
    ],
)
def test_a_bad_row_of_our_parquet_is_named(tmp_path: Path, column: str, value: object, expected: str) -> None:
    """A row that a worker would refuse stops the import with its number, its column and what was expected."""
    rows = our_log().to_pylist()
    rows[1][column] = value
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in SCHEMA])), path)
    with pytest.raises(InputError, match=expected):
        read_log(path)


def test_a_log_is_written_only_where_it_can_be(tmp_path: Path) -> None:
    """Another suffix, and a folder that is not there, are InputErrors and leave nothing behind."""
    for path in (tmp_path / "log.xls", tmp_path / "nowhere" / "log.jsonl"):
        with pytest.raises(InputError, match="cannot write"):
            write_log(our_log(), path)
    assert not list(tmp_path.iterdir())


def test_the_real_taobao_log_has_its_exposures() -> None:
    """The real log has 94 475 rows, 94 436 of them in the window; one line of a known salt has its published events, exposures and orders."""
    log = read_log(real("taobao_userbehavior_users"), lines="hash:8:hash1")
    assert log.num_rows == 94_436
    assert skipped(log) == {"outside the window": 39}
    assert pc.count_distinct(log["event_id"]).as_py() == 94_436
    launch_at, end = 1_511_884_800_000, 1_511_884_800_000 + 5 * 86_400_000
    exposures = conversions = 0
    for target in "01234567":
        rest = log.filter(pc.or_(pc.not_equal(log["line"], target), pc.greater_equal(log["ts"], launch_at)))
        user, line, ts = (rest[name].cast(pa.int64()).to_numpy() for name in ("user_id", "line", "ts"))
        kind = pc.index_in(rest["kind"], value_set=pa.array(KINDS)).to_numpy()
        rows = exposure_rows(user, line, ts, kind)
        orders = kind == 3
        label = labels(user[rows], line[rows], ts[rows], user[orders], line[orders], ts[orders], window_ms=86_400_000)
        evaluated = (line[rows] == int(target)) & (ts[rows] >= launch_at) & (ts[rows] + 86_400_000 <= end)
        exposures += int(evaluated.sum())
        conversions += int(label[evaluated].sum())
    assert (exposures, conversions) == (14_919, 1_147)


def test_the_real_rees46_log_is_read_whole() -> None:
    """The real log has 17 435 events: 17 056 views, 214 carts and 165 orders."""
    log = read_log(real("rees46_2019oct_slice"))
    assert {row["values"]: row["counts"] for row in pc.value_counts(log["kind"]).to_pylist()} == {"browse": 17_056, "cart": 165, "order": 214}


def test_a_shopper_in_a_column_of_its_own_is_refused_and_not_lost(tmp_path: Path) -> None:
    """As wire events have it; and of a Parquet file that lacks a column of ours, the column is named."""
    table = our_log()
    nested = table.append_column("user", pa.array([{"age_band": "20-29"}] * table.num_rows))
    for wrong, said in ((nested, "columns of its own, age_band"), (table.drop_columns(["kind"]), "kind")):
        pq.write_table(wrong, tmp_path / "log.parquet")
        with pytest.raises(InputError, match=said):
            read_log(tmp_path / "log.parquet")
