"""The simulated shop: the same seed gives the same bytes, and the truth is true."""

from __future__ import annotations

import functools
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
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
from streams.training import without_past

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


def test_the_default_shop_stays_the_one_it_was() -> None:
    """Settings that came later change no byte of the log, and nothing of the truth, that seed 1 and the defaults have always given."""
    made, log, truth = shop(users=300), sha256(), sha256()
    for name in made.log.column_names:
        log.update(repr(made.log[name].to_pylist()).encode())
    for name in made.truth.column_names:
        truth.update(repr([round(value, 9) if isinstance(value, float) else value for value in made.truth[name].to_pylist()]).encode())
    assert (log.hexdigest()[:16], truth.hexdigest()[:16]) == ("8a506b3e1b0c7fae", "30fe55907ea531e7")


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


def of_line(table: pa.Table, *, launch: bool) -> pa.Table:
    """The launch's rows of a log or truth, or all others."""
    return table.filter(pc.equal(table["line"], "launch") if launch else pc.not_equal(table["line"], "launch"))


def chances(truth: pa.Table) -> dict[tuple[str, int], float]:
    """True probabilities of the launch's exposures, by user and time."""
    rows = of_line(truth, launch=True)
    return dict(zip(zip(rows["user_id"].to_pylist(), rows["ts"].to_pylist(), strict=True), rows["probability"].to_pylist(), strict=True))


def test_a_launch_of_another_kind_changes_who_orders_and_not_how_many() -> None:
    """A flipped launch ranks its shoppers the other way round, an unrelated one less like the others do; its level stays within a quarter, its visits all."""
    for seed in (1, 2):
        made = {kind: chances(shop(launch_kind=kind, seed=seed).truth) for kind in ("like", "unrelated", "flipped")}
        both = sorted(made["like"].keys() & made["unrelated"].keys() & made["flipped"].keys())
        assert len(both) > 0.99 * len(made["like"])
        ranks = {kind: np.argsort(np.argsort([p[exposure] for exposure in both])) for kind, p in made.items()}
        alike = {kind: np.corrcoef(ranks["like"], ranks[kind])[0, 1] for kind in ranks}
        assert alike["flipped"] < -0.2 < alike["unrelated"] < 0.8
        for p in made.values():
            assert np.mean(list(p.values())) == pytest.approx(np.mean(list(made["like"].values())), rel=0.25)


@pytest.mark.parametrize("changed", [{"launch_kind": "flipped"}, {"launch_kind": "unrelated"}, {"launch_delay": 0.3}])
def test_what_is_the_launchs_own_leaves_the_rest_alone(changed: dict[str, object]) -> None:
    """Before the launch the log is the same to the byte; after it the other lines see the same events, a few of them seconds later, for a cart takes time."""
    columns = ["kind", "user_id", "product_id", "line", "price"]
    past = [log.filter(pc.less(log["ts"], Shop().start_ms + 8 * DAY_MS)) for log in (shop().log, shop(**changed).log)]
    assert past[0].drop_columns(["event_id"]).equals(past[1].drop_columns(["event_id"]))
    sources = [of_line(log, launch=False).select(columns).to_pylist() for log in (shop().log, shop(**changed).log)]
    assert sorted(map(str, sources[0])) == sorted(map(str, sources[1]))
    assert not shop().log.equals(shop(**changed).log)


@pytest.mark.parametrize("changed", [{"launch_kind": "flipped", "launch_delay": 3.0, "drift": "abrupt"}, {"launch_kind": "unrelated", "launch_delay": 0.3}])
def test_the_truth_of_every_launch_is_calibrated(changed: dict[str, object]) -> None:
    """Over four shops with a popular launch and a window that holds visits yet to come, in every third of its true probability as many order as it says."""
    popular = {"users": 600, "launch_appeal": 2.5, "visits_per_day": 0.9, "window_s": 3 * 86_400.0}
    truths = [of_line(shop(seed=seed, **popular, **changed).truth, launch=True) for seed in range(1, 5)]
    p = np.concatenate([truth["probability"].to_numpy() for truth in truths])
    y = np.concatenate([truth["ordered"].to_numpy() for truth in truths]).astype(float)
    assert y.sum() > 2000
    for third in np.array_split(np.argsort(p), 3):
        error = (y[third] - p[third]).sum() / np.sqrt(2 * (p[third] * (1 - p[third])).sum())
        assert abs(error) < 4


def test_the_launchs_orders_come_sooner_or_later() -> None:
    """The launch delay moves the time from its last look to its order by its factor, and so how many come within the window."""
    medians, shares = [], []
    for factor in (0.3, 1.0, 3.0):
        made = shop(launch_delay=factor, launch_appeal=2.5)
        last: dict[str, int] = {}
        delays = []
        for row in of_line(made.log, launch=True).select(["user_id", "kind", "ts"]).to_pylist():
            if row["kind"] == "order":
                delays.append(row["ts"] - last[row["user_id"]])
            else:
                last[row["user_id"]] = row["ts"]
        medians.append(np.median(delays))
        shares.append(np.mean(list(chances(made.truth).values())))
    assert 1.5 * medians[0] < medians[1] < medians[2] / 1.5
    assert shares[0] > shares[1] > shares[2]


def test_the_other_lines_levels_spread_as_told() -> None:
    """With a larger line offset the lines' true conversion rates lie further apart, by about what was asked for."""
    spread = []
    for offset in (0.0, 1.2):
        truth = shop(lines=25, line_offset=offset, launch_day=None).truth
        p = truth.group_by("line").aggregate([("probability", "mean")])["probability_mean"].to_numpy()
        spread.append(np.std(np.log(p / (1 - p))))
    assert spread[0] < 0.4
    assert 0.7 < spread[1] < 1.5


def test_an_appealing_launch_is_seen_more() -> None:
    """A launch appeal of 2.5 in place of 0.8 more than doubles its exposures, at the other lines' cost."""
    few, many = shop().truth, shop(launch_appeal=2.5).truth
    assert of_line(many, launch=True).num_rows > 2 * of_line(few, launch=True).num_rows
    assert of_line(many, launch=False).num_rows < of_line(few, launch=False).num_rows


def test_a_source_line_without_its_past_is_one_more_launch() -> None:
    """Lines whose past is deleted one after another, as `headstart evaluate` does it, are launches whose exposures the truth knows but for a few at the cut."""
    made, start = shop(), Shop().start_ms
    log = made.log
    cuts = {line: start + day * DAY_MS for line, day in (("audio", 3), ("bags", 5), ("books", 7))}
    for line, cut in cuts.items():
        log = without_past(log, line, cut)
    user, line_of, kind = (pc.index_in(log[name], value_set=pc.unique(log[name])).to_numpy().astype(np.int64) for name in ("user_id", "line", "kind"))
    kind = np.array([KINDS.index(name) for name in pc.unique(log["kind"]).to_pylist()])[kind]
    opening = log.take(exposure_rows(user, line_of, log["ts"].to_numpy(), kind))
    known = set(zip(made.truth["line"].to_pylist(), made.truth["event_id"].to_pylist(), strict=True))
    for line, cut in cuts.items():
        found = opening.filter(pc.equal(opening["line"], line))
        assert found["ts"][0].as_py() >= cut
        assert found.num_rows > 200
        assert sum((line, event) not in known for event in found["event_id"].to_pylist()) <= 3


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
        ({"launch_kind": "odd"}, "launch_kind 'odd'"),
        ({"launch_delay": 0.0}, "launch_delay 0.0"),
        ({"launch_appeal": 9.0}, "launch_appeal 9.0"),
        ({"line_offset": -1.0}, "line_offset -1.0"),
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


def test_the_command_hands_on_what_the_launch_is_like(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The options of the launch's kind, delay and appeal and of the lines' levels make the shop that the settings of those names make."""
    options = {"launch_kind": "flipped", "launch_delay": 0.3, "launch_appeal": 1.5, "line_offset": 0.7}
    given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    code, _, _ = run("simulate", "--out", str(tmp_path / "log.parquet"), "--users", "60", *given, capsys=capsys)
    assert code == 0
    assert read_log(tmp_path / "log.parquet").equals(shop(users=60, **options).log)


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option ends with exit code 1 and one line on standard error, and no file is left."""
    for wrong in (["--days", "0"], ["--start", "soon"], ["--truth", str(tmp_path / "t.csv")]):
        code, _, error = run("simulate", "--out", str(tmp_path / "log.parquet"), *wrong, capsys=capsys)
        assert code == 1
        assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
