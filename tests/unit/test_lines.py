"""Lines by behaviour: categories that behave alike in the first part of a log are one line, whatever comes later. SYNTHETIC rows."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.errors import InputError
from features.events import KINDS
from streams.behaviour_lines import behaviour_groups, behaviour_lines
from streams.evaluation import require_told_apart
from streams.importing import read_log
from streams.lines import rule_in_words

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def made_up(*, seed: int = 1) -> pa.Table:
    """9 000 events of 30 categories: "dull-…" with few carts and orders, "keen-…" with many; and five categories that come late."""
    rng = np.random.default_rng(seed)
    number = rng.integers(30, size=9000)
    ts = np.sort(rng.integers(1000, 901_000, size=9000))
    late = (ts > 500_000) & (rng.uniform(size=9000) < 0.1)
    keen = number >= 15
    draw = rng.uniform(size=9000)
    kind = np.where(draw < np.where(keen, 0.06, 0.01), 3, np.where(draw < np.where(keen, 0.3, 0.05), 2, 0))
    names = np.where(late, np.char.add("new-", (number % 5).astype(str)), np.char.add(np.where(keen, "keen-", "dull-"), number.astype(str)))
    return pa.table({"category": names.tolist(), "kind": [KINDS[k] for k in kind], "ts": ts})


def lines_of(table: pa.Table, count: int, share: float = 1 / 3) -> dict[str, str]:
    """The line of each category; each has one."""
    lines = behaviour_lines(table["category"], table["kind"], table["ts"], count, share)
    found = dict(zip(table["category"].to_pylist(), lines.to_pylist(), strict=True))
    assert len(set(zip(table["category"].to_pylist(), lines.to_pylist(), strict=True))) == len(found)
    return found


def test_categories_that_behave_alike_share_a_line() -> None:
    """Two kinds of category are told apart without a mistake, and the line with more interest has the higher number."""
    lines = lines_of(made_up(), 2)
    assert {line for name, line in lines.items() if name.startswith("dull")} == {"b0"}
    assert {line for name, line in lines.items() if name.startswith("keen")} == {"b1"}


def test_later_events_change_no_line() -> None:
    """Other kinds, and other categories, after the first part leave every category's line as it was; so does another order of the rows."""
    table = made_up()
    before = lines_of(table, 5)
    later = table["ts"].to_numpy() > 1000 + 900_000 / 3 + 1
    rng = np.random.default_rng(2)
    kind, category = np.array(table["kind"].to_pylist()), np.array(table["category"].to_pylist())
    kind[later] = rng.permutation(kind[later])
    kind[later & (rng.uniform(size=9000) < 0.5)] = "order"
    category[later] = rng.permutation(np.r_[category[later][:-500], np.repeat(["keen-20", "other"], 250)])
    changed = pa.table({"category": category.tolist(), "kind": kind.tolist(), "ts": table["ts"]})
    after = lines_of(changed.take(rng.permutation(9000)), 5)
    assert {name: line for name, line in after.items() if name in before} == {name: before[name] for name in before if name in after}
    assert lines_of(changed, 5, share=0.9) != after


def test_lines_are_about_equal_and_none_is_empty() -> None:
    """Lines hold about as many early events as each other, and each has a category even where one category is most of the log."""
    table = made_up()
    early = table.filter(pc.less_equal(table["ts"], 301_000))
    lines = lines_of(table, 5)
    events = np.bincount([int(lines[name][1:]) for name in early["category"].to_pylist()], minlength=5)
    assert events.min() > 0.7 * events.mean()
    assert events.max() < 1.3 * events.mean()
    counts = np.array([[1000.0, 0, 80, 20], [5, 0, 1, 0], [3, 0, 0, 1], [2, 0, 0, 0], [1, 0, 0, 0]])
    for count in (1, 2, 3, 4, 5):
        groups, unseen = behaviour_groups(counts, count)
        assert sorted(set(groups.tolist())) == list(range(count))
        assert 0 <= unseen < count


def test_a_category_that_comes_late_counts_as_one_without_events() -> None:
    """All categories that the first part does not show lie in one line: the one that a category without events would be in."""
    lines = lines_of(made_up(), 4)
    assert len({line for name, line in lines.items() if name.startswith("new")}) == 1
    same = np.array([[90.0, 0, 9, 1]] * 6 + [[900.0, 0, 90, 10]])
    groups, unseen = behaviour_groups(same, 2)
    assert groups[0] == unseen != groups[-1]


def test_a_log_without_differences_is_still_cut() -> None:
    """Categories that all look alike are shared out by name; a log of browses alone has no odds to differ in, and no NaN."""
    groups, _ = behaviour_groups(np.array([[10.0, 0, 0, 0]] * 6), 3)
    assert np.bincount(groups).tolist() == [2, 2, 2]


def test_too_few_categories_is_one_readable_line() -> None:
    """More lines than the first part shows categories is an InputError that says how many there are."""
    with pytest.raises(InputError, match=r"behaviour:31: the first 0\.333 of the log's time shows 30 categories"):
        lines_of(made_up(), 31)


@pytest.mark.parametrize("foreign", ["taobao", "rees46"])
def test_the_option_works_for_foreign_logs(tmp_path: Path, foreign: str) -> None:
    """`behaviour:N:SHARE` groups the categories of an imported log of either shop as the function does for the same columns."""
    table, path = made_up(), tmp_path / "log.csv"
    rows = zip(table["category"].to_pylist(), table["kind"].to_pylist(), table["ts"].to_pylist(), strict=True)
    if foreign == "taobao":
        names = {"browse": "pv", "cart": "cart", "order": "buy"}
        path.write_text("".join(f"1,2,{category},{names[kind]},{ts}\n" for category, kind, ts in rows))
    else:
        names = {"browse": "view", "cart": "cart", "order": "purchase"}
        body = "".join(f"{dt.datetime.fromtimestamp(ts, dt.UTC):%Y-%m-%d %H:%M:%S} UTC,{names[kind]},1,{category},2\n" for category, kind, ts in rows)
        path.write_text("event_time,event_type,product_id,category_id,user_id\n" + body)
    log = read_log(path, lines="behaviour:2:0.5")
    found = dict(zip(log["category"].to_pylist(), log["line"].to_pylist(), strict=True))
    assert {name: line for name, line in found.items() if name[:3] != "new"} == {
        name: "b1" if name[:4] == "keen" else "b0" for name in found if name[:3] != "new"
    }


def test_the_real_taobao_log_has_eight_lines_that_differ() -> None:
    """On the real log the lines' order rates after the first part run from under 1 % to over 3 % of events, and none has fewer than 40 orders."""
    path = DATA / "taobao_userbehavior_users" / "events.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    log = read_log(path, lines="behaviour:8")
    later = log.filter(pc.greater(log["ts"], log["ts"][0].as_py() + 3 * 86_400_000))
    orders = {row["values"]: row["counts"] for row in pc.value_counts(later.filter(pc.equal(later["kind"], "order"))["line"]).to_pylist()}
    events = {row["values"]: row["counts"] for row in pc.value_counts(later["line"]).to_pylist()}
    assert sorted(orders) == [f"b{number}" for number in range(8)]
    assert min(orders.values()) >= 40
    rates = sorted(orders[line] / events[line] for line in events)
    assert rates[0] < 0.01
    assert rates[-1] > 0.03


def test_a_launch_comes_after_what_tells_lines_apart() -> None:
    """Lines by behaviour until half of the log, and a launch before: it would be judged with what only the future knew. Other rules read no events."""
    log = made_up()
    first, last = log["ts"][0].as_py(), log["ts"][-1].as_py()
    half_ms = first + (last - first) // 2
    require_told_apart("behaviour:2:0.5", log, half_ms)
    for rule in (None, "hash:4", "lines.csv"):
        require_told_apart(rule, log, first)
    with pytest.raises(InputError, match=r"--lines behaviour:2:0\.5 tells lines apart by events up to 1970-.*, after the launch at 1970-"):
        require_told_apart("behaviour:2:0.5", log, half_ms - 1)


def test_a_rule_in_words() -> None:
    """What a report says of `--lines`: the rule, its number of lines, and no path of the machine."""
    assert rule_in_words(None) == "what the log says, or the category"
    assert rule_in_words("hash:8:salt") == "a hash of the category, into 8 lines"
    assert rule_in_words("behaviour:8").startswith("how categories behave in the first third of the log's time, into 8 lines")
    assert rule_in_words("behaviour:8:0.5").startswith("how categories behave in the first 0.5 of the log's time") and "b7 the most" in rule_in_words(
        "behaviour:8"
    )
    assert rule_in_words("folder/lines.csv") == "the mapping file lines.csv"
