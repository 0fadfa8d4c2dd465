"""The simulated shop: the same seed gives the same bytes, and the truth is true."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from features.events import KINDS, decode, encode
from features.log import SCHEMA, events
from streams.cli import main
from streams.importing import read_log
from streams.shop import SYNTHETIC, Shop, Simulated, simulate
from streams.shop_truth import TRUTH_SCHEMA, exposure_rows, labels

DAY_MS = 86_400_000


@functools.cache
def shop(**changed: object) -> Simulated:
    """A small shop with these settings changed."""
    return simulate(Shop(**{"users": 900, **changed}))  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Two runs of the same settings are equal, event for event and truth for truth; another seed is another log."""
    again = simulate(Shop(users=900))
    assert again.log.equals(shop().log)
    assert again.truth.equals(shop().truth)
    assert not shop(seed=2).log.equals(shop().log)


def test_every_event_is_valid_on_the_wire() -> None:
    """A worker would refuse none of the events, their ids are unique, and the log is in order and in its schema."""
    log = shop().log
    assert log.schema.equals(SCHEMA)
    for kind, event in events(log.slice(0, 3000)):
        decode(encode(event), KINDS.index(kind))
    ids = log["event_id"].to_pylist()
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_the_launch_begins_on_its_day() -> None:
    """The launch line has no event before its day and many after; without a launch there is no such line."""
    settings, log = Shop(users=900), shop().log
    launch = log.filter(pc.equal(log["line"], "launch"))
    assert launch["ts"][0].as_py() >= settings.start_ms + 8 * DAY_MS
    assert launch.num_rows > 400
    assert "launch" not in shop(launch_day=None).log["line"].unique().to_pylist()
    assert pc.count_distinct(shop(launch_day=None).log["line"]).as_py() == 8


def test_the_funnel_and_the_delays_look_like_a_shop() -> None:
    """Browses outnumber clicks, clicks carts, carts orders; 3 to 6 % of the exposures convert; orders come minutes to days later."""
    log, truth = shop().log, shop().truth
    count = [pc.sum(pc.equal(log["kind"], kind)).as_py() for kind in KINDS]
    assert count == sorted(count, reverse=True)
    assert 0.03 < np.mean(truth["ordered"].to_numpy()) < 0.06
    orders = log.filter(pc.equal(log["kind"], "order"))
    within_visit = np.mean(np.array(orders["session_id"].is_valid()))
    assert 0.3 < within_visit < 0.6


def test_the_truth_is_calibrated_and_ranks() -> None:
    """Over five shops, in every fifth of the true probability as many convert as it says, within four standard errors, and it tells them apart."""
    shops = [shop(seed=seed, drift="abrupt", drift_day=10.0).truth for seed in range(1, 6)]
    p = np.concatenate([truth["probability"].to_numpy() for truth in shops])
    y = np.concatenate([truth["ordered"].to_numpy() for truth in shops]).astype(float)
    assert ((p > 0) & (p < 1)).all()
    order = np.argsort(p)
    for fifth in np.array_split(order, 5):
        # Exposures that share an order are not independent: allow for a design effect of 2.
        error = (y[fifth] - p[fifth]).sum() / np.sqrt(2 * (p[fifth] * (1 - p[fifth])).sum())
        assert abs(error) < 4
    rank = np.empty(len(p))
    rank[order] = np.arange(len(p))
    positives = y.sum()
    assert (rank[y > 0].sum() - positives * (positives - 1) / 2) / (positives * (len(y) - positives)) > 0.75


def test_the_truth_has_a_row_for_each_exposure() -> None:
    """The truth's rows are the log's exposures, found here one event at a time, and final ones carry the label that the log shows."""
    settings, log, truth = Shop(users=900), shop().log, shop().truth
    assert truth.schema.equals(TRUTH_SCHEMA)
    window_ms = int(settings.window_s * 1000)
    last_seen: dict[str, int] = {}
    in_visit: dict[str, set[str]] = {}
    exposures: list[dict[str, Any]] = []
    orders: dict[tuple[str, str], list[int]] = {}
    for row in log.select(["event_id", "kind", "user_id", "line", "ts"]).to_pylist():
        user, line, ts = row["user_id"], row["line"], row["ts"]
        if ts - last_seen.get(user, -DAY_MS) > 30 * 60_000:
            in_visit[user] = set()
        last_seen[user] = ts
        if line not in in_visit[user] and row["kind"] != "order":
            exposures.append(row)
        in_visit[user].add(line)
        if row["kind"] == "order":
            orders.setdefault((user, line), []).append(ts)
    assert truth["event_id"].to_pylist() == [row["event_id"] for row in exposures]
    seen = [any(row["ts"] < ts <= row["ts"] + window_ms for ts in orders.get((row["user_id"], row["line"]), ())) for row in exposures]
    final = truth["final"].to_numpy()
    assert (truth["ordered"].to_numpy() == seen)[final].all()
    assert not final.all()


def test_exposures_and_labels_at_their_edges() -> None:
    """A gap of exactly 30 min is the same visit; an order first leaves no exposure; an order at the same moment does not count, one at the window's end does."""
    gap = 30 * 60_000
    ts = np.array([0, gap, 2 * gap + 1, 5 * gap, 5 * gap + 1])
    kind = np.array([0, 1, 0, 3, 0])
    same = np.zeros(5, np.int64)
    assert exposure_rows(same, same, ts, kind).tolist() == [0, 2]
    two = np.zeros(2, np.int64)
    at = np.array([100, 100])
    for moment, expected in ((100, False), (101, True), (150, True), (151, False)):
        assert labels(two, two, at, two[:1], two[:1], np.array([moment]), window_ms=50).tolist() == [expected] * 2


def test_the_truth_knows_orders_on_their_way() -> None:
    """After a cart without an order yet, a shopper who comes back within six hours converts as often as the truth says, which is often."""
    p, y = [], []
    for simulated in (shop(seed=seed) for seed in range(1, 6)):
        carts: dict[tuple[str, str], int] = {}
        truth = {row["event_id"]: row for row in simulated.truth.to_pylist()}
        for row in simulated.log.select(["event_id", "kind", "user_id", "line", "ts"]).to_pylist():
            pair = row["user_id"], row["line"]
            if row["event_id"] in truth and row["ts"] - carts.get(pair, -DAY_MS) < DAY_MS // 4:
                p.append(truth[row["event_id"]]["probability"])
                y.append(truth[row["event_id"]]["ordered"])
            if row["kind"] == "cart":
                carts[pair] = row["ts"]
            elif row["kind"] == "order":
                carts.pop(pair, None)
    chances, came = np.array(p), np.array(y, float)
    assert len(p) > 100
    assert abs((came - chances).sum()) < 3.5 * np.sqrt(2 * (chances * (1 - chances)).sum())


@pytest.mark.parametrize("drift", ["abrupt", "gradual"])
def test_drift_changes_orders_and_not_visits(drift: str) -> None:
    """Drift of +1.5 logit leaves the exposures as they were before it, and raises the true probability after it, by more once it is whole."""
    still, moved = shop().truth, shop(drift=drift, drift_size=1.5, drift_day=8.0).truth
    start = Shop().start_ms
    before, after = pc.less(still["ts"], start + 7 * DAY_MS), pc.greater(still["ts"], start + 11 * DAY_MS)
    assert (
        moved.filter(pc.less(moved["ts"], start + 7 * DAY_MS))
        .drop_columns(["event_id", "probability", "ordered"])
        .equals(still.filter(before).drop_columns(["event_id", "probability", "ordered"]))
    )
    late = moved.filter(pc.greater(moved["ts"], start + 11 * DAY_MS))
    assert pc.mean(late["probability"]).as_py() > 2 * pc.mean(still.filter(after)["probability"]).as_py()


def test_drift_of_the_launch_alone_leaves_the_sources_alone() -> None:
    """With `drift_on="launch"` the other lines' events are those of a shop without drift."""
    still, moved = shop().log, shop(drift="abrupt", drift_size=1.5, drift_day=8.0, drift_on="launch").log
    columns = ["kind", "user_id", "product_id", "line", "price"]
    sources = [log.filter(pc.not_equal(log["line"], "launch")).select(columns) for log in (still, moved)]
    assert sources[0].num_rows == sources[1].num_rows
    assert sorted(map(str, sources[0].to_pylist())) == sorted(map(str, sources[1].to_pylist()))
    assert not still.equals(moved)


def test_the_offset_moves_the_launch() -> None:
    """A larger launch offset raises the launch's true conversion and leaves the other lines' as it was."""
    low, high = shop(launch_offset=-0.5).truth, shop(launch_offset=1.0).truth
    launch = [pc.mean(truth.filter(pc.equal(truth["line"], "launch"))["probability"]).as_py() for truth in (low, high)]
    sources = [pc.mean(truth.filter(pc.not_equal(truth["line"], "launch"))["probability"]).as_py() for truth in (low, high)]
    assert launch[1] > 2 * launch[0]
    assert sources[1] == pytest.approx(sources[0], rel=0.02)


def test_recent_behaviour_tells_of_orders() -> None:
    """Shoppers who looked at a line within the last day convert more often when they come back to it than the others do."""
    log, truth = shop().log, shop().truth
    past: dict[tuple[str, str], list[int]] = {}
    for user, line, ts in zip(*(log[name].to_pylist() for name in ("user_id", "line", "ts")), strict=True):
        past.setdefault((user, line), []).append(ts)
    recent = np.array(
        [
            any(ts - DAY_MS <= seen < ts - 3_600_000 for seen in past[user, line])
            for user, line, ts in zip(*(truth[name].to_pylist() for name in ("user_id", "line", "ts")), strict=True)
        ]
    )
    ordered = truth["ordered"].to_numpy().astype(float)
    assert ordered[recent].mean() > 1.3 * ordered[~recent].mean()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"users": 0}, "users 0"),
        ({"launch_day": 20.0}, "launch_day 20.0 is not within"),
        ({"drift": "wild"}, "drift 'wild'"),
        ({"drift_on": "some"}, "drift_on 'some'"),
        ({"launch_line": "audio"}, "launch_line 'audio'"),
        ({"days": float("nan")}, "days nan"),
    ],
)
def test_a_wrong_setting_is_one_readable_line(changed: dict[str, object], expected: str) -> None:
    """A setting that makes no shop is an InputError that names it."""
    with pytest.raises(InputError, match=expected):
        Shop(**changed)  # type: ignore[arg-type]


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_the_command_writes_log_truth_and_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`headstart simulate` writes files that read back, says SYNTHETIC, and its JSON counts what it wrote."""
    out, truth, figures = tmp_path / "log.jsonl", tmp_path / "truth.parquet", tmp_path / "figures.json"
    files = ["--out", str(out), "--truth", str(truth), "--json", str(figures)]
    code, shown, _ = run("simulate", *files, "--users", "60", "--launch-day", "7", "--seed", "3", capsys=capsys)
    assert code == 0
    assert SYNTHETIC in shown
    log, counted = read_log(out), json.loads(figures.read_text())
    assert log.equals(simulate(Shop(users=60, launch_day=7.0, seed=3)).log)
    assert counted["all"] == counted["all"] | {"events": log.num_rows, "exposures": pq.read_table(truth).num_rows}
    assert counted["note"] == SYNTHETIC


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option ends with exit code 1 and one line on standard error, and no file is left."""
    for wrong in (["--days", "0"], ["--start", "soon"], ["--truth", str(tmp_path / "t.csv")]):
        code, _, error = run("simulate", "--out", str(tmp_path / "log.parquet"), *wrong, capsys=capsys)
        assert code == 1
        assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
