"""`headstart uplift`: arms compared on final exposures; peeking costs nothing; each exposure counts once; plain words; errors of one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from models.uplift import Matured, Moments, Uplift, analyse, difference, lift_of
from streams import cli
from streams.uplift import Gathered, Row, from_file, gathered
from streams.uplift_plot import write_plot
from streams.uplift_words import conclusion, warnings

HOUR_MS = 3_600_000


def make_rows(
    users: int = 4000, *, holdout: float = 0.2, lift: float = 0.0, rate: float = 0.08, returning: float = 0.6, lost: float = 0.0, touched: float = 1.0, seed: int = 0
) -> list[Row]:  # fmt: skip
    """Exposures of users whose score is their order rate; `lost`: share of the treated who are missing; `touched`: times which the treated's scores are larger."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(users):
        treated, score = bool(rng.random() >= holdout), float(rng.beta(0.8, 0.8 * (1 / rate - 1)))
        if treated and rng.random() < lost:
            continue
        at_ms = int(rng.integers(0, 240 * HOUR_MS))
        for visit in range(1 + rng.poisson(returning)):
            rows.append(
                Row(
                    user_id=f"u{i}", arm="treated" if treated else "holdout", close_ms=at_ms + visit * 30 * HOUR_MS,
                    label=1 if rng.random() < score * (1 + lift * treated) else 0, score=score * (touched if treated else 1.0), probability=score,
                    exposure_id=f"{rng.integers(1 << 62):016x}",
                )
            )  # fmt: skip
    return rows


def judge(rows: list[Row], holdout: float = 0.2) -> Uplift:
    """The figures of rows."""
    return analyse(gathered(rows).matured, holdout=holdout)


def write_rows(rows: list[Row], path: Path) -> Path:
    """A file of outcomes, by its name."""
    plain = [msgspec.structs.asdict(row) for row in rows]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(plain), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in plain))
    return path


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(("uplift", *arguments))
    captured = capsys.readouterr()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0, captured.out, captured.err


def campaigns(number: int, users: int, *, holdout: float, lift: float = 0.0, rate: float = 0.05, peek: int = 500, seed: int = 0) -> Moments:
    """Campaigns whose users partly come back and may order later, as they are known after every `peek` users, (2, number, peeks)."""
    rng = np.random.default_rng(seed)
    peeks = users // peek
    arm = (rng.random((number, users)) >= holdout).astype(np.int64)
    x = rng.beta(0.8, 0.8 * (1 / rate - 1), arm.shape)
    at = np.broadcast_to(np.arange(users) // peek, arm.shape)
    chance = x * (1 + lift * arm)
    again = at + rng.integers(1, 5, arm.shape)
    when = np.where(
        rng.random(arm.shape) < chance, at, np.where((rng.random(arm.shape) < 0.4) & (rng.random(arm.shape) < chance), np.minimum(again, peeks), peeks)
    )

    def total(place: np.ndarray, weight: np.ndarray) -> np.ndarray:
        cell = (arm * number + np.arange(number)[:, None]) * (peeks + 1) + place
        return np.bincount(cell.ravel(), weight.ravel(), 2 * number * (peeks + 1)).reshape(2, number, peeks + 1)[:, :, :peeks].cumsum(axis=2)

    one = np.ones(arm.shape)
    return Moments(total(at, one), total(when, one), total(at, x), total(at, x * x), total(when, x))


@pytest.mark.parametrize(("holdout", "rate"), [(0.5, 0.05), (0.1, 0.05), (0.1, 0.01)])
def test_peeking_raises_no_more_than_the_promised_false_alarms(holdout: float, rate: float) -> None:
    """A/A: 200 campaigns, looked at after every 500 of 10 000 users: at most 5 % ever tell a difference, by e-process, interval or CUPED; plain z-tests far more."""
    m = campaigns(200, 10_000, holdout=holdout, rate=rate)
    ever = {"e-process": (lift_of(m.y, holdout=holdout)[0] >= math.log(20)).any(axis=1).mean()}
    for adjusted in (False, True):
        d = difference(m, adjusted=adjusted)
        ever[f"interval {adjusted}"] = (abs(d.value) > d.margin).any(axis=1).mean()
    assert max(ever.values()) <= 0.05, ever
    share, pooled = m.y / m.n, m.y.sum(axis=0) / m.n.sum(axis=0)
    z = (share[1] - share[0]) / np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / m.n).sum(axis=0))
    assert (abs(z) > 1.96).any(axis=1).mean() > 0.12


def test_a_small_holdout_without_an_order_is_not_certain() -> None:
    """Its interval is no smaller than if it ordered as often as the treated do."""
    users, nothing = np.array([[20.0], [2000.0]]), np.zeros((2, 1))
    lucky, equal = (difference(Moments(users, y, nothing, nothing, nothing), adjusted=False) for y in (np.array([[0.0], [200.0]]), 0.1 * users))
    assert lucky.margin[0] > 0.8 * equal.margin[0]


def test_a_true_lift_is_found_and_held() -> None:
    """30 % more orders among 40 000 users, half of them held out: every method finds it in most campaigns, and the lift's interval holds it at all times together in 95 %."""
    m = campaigns(40, 40_000, holdout=0.5, lift=0.3)
    log_e, _, low, high = lift_of(m.y, holdout=0.5)
    assert (log_e >= math.log(20)).any(axis=1).mean() > 0.9
    assert ((low <= 0.3) & (high >= 0.3)).all(axis=1).mean() >= 0.95
    d = difference(m, adjusted=True)
    assert (d.value > d.margin).any(axis=1).mean() > 0.9
    assert 0.02 < d.reduction[:, -1].mean() < 0.3


def test_the_interval_of_the_lift_and_the_e_value_agree() -> None:
    """The interval excludes no lift exactly when the e-value has reached 1/α."""
    m = campaigns(30, 20_000, holdout=0.2, lift=0.3)
    log_e, _, low, high = lift_of(m.y, holdout=0.2)
    settled = log_e >= math.log(20)
    assert settled.any() and not settled.all()
    assert np.array_equal(settled, (low > 0) | (high < 0))


def test_the_figures_are_those_of_a_plain_count() -> None:
    """Users, orders, rates, difference, CUPED, clustered error and Precision@K, each counted again in plain Python or by least squares."""
    rows = make_rows(lift=0.3)
    found = judge(rows)
    users: dict[str | int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.close_ms):
        users.setdefault(row.user_id, []).append(row)
    for name, arm in (("treated", found.treated), ("holdout", found.holdout)):
        mine = [own for own in users.values() if own[0].arm == name]
        assert (arm.users, arm.exposures) == (len(mine), sum(map(len, mine)))
        assert (arm.converted, arm.conversions) == (sum(any(r.label for r in own) for own in mine), sum(r.label for own in mine for r in own))
    assert found.treated.conversions > found.treated.converted
    firsts = [own[0] for own in users.values()]
    y = np.array([float(any(r.label for r in own)) for own in users.values()])
    treated = np.array([first.arm == "treated" for first in firsts])
    score = np.array([first.score for first in firsts], np.float64)
    assert found.difference.value == pytest.approx(y[treated].mean() - y[~treated].mean())
    fitted = np.linalg.lstsq(np.stack([np.ones(len(y)), treated, score], axis=1), y, rcond=None)[0]
    assert found.adjusted.value == pytest.approx(fitted[1])
    assert found.variance_reduction > 0.01
    assert found.lift.value == pytest.approx(y[treated].sum() / y[~treated].sum() * 0.2 / 0.8 - 1)
    best = np.argsort(-score)[: math.ceil(0.05 * len(y))]
    assert found.targeted is not None
    assert found.targeted.untreated.value == pytest.approx(y[best][~treated[best]].mean())
    assert found.targeted.treated.value == pytest.approx(y[best][treated[best]].mean())
    assert found.targeted.untreated.low < found.targeted.untreated.value < found.targeted.untreated.high


def test_the_error_per_exposure_is_that_of_users() -> None:
    """Users drawn again give the same standard error; one that takes exposures as independent would be smaller."""
    rows = [with_shared_label(row) for row in make_rows(1500, returning=3.0, rate=0.2)]
    found = judge(rows)
    m = gathered(rows).matured
    rng, draws = np.random.default_rng(3), []
    _, user = np.unique(m.user, return_inverse=True)
    for _ in range(400):
        weight = np.bincount(rng.integers(0, user.max() + 1, user.max() + 1), minlength=user.max() + 1)[user]
        draws.append(np.average(m.label[m.treated], weights=weight[m.treated]) - np.average(m.label[~m.treated], weights=weight[~m.treated]))
    assert found.per_exposure.se == pytest.approx(np.std(draws), rel=0.15)
    p = m.label.mean()
    assert found.per_exposure.se > 1.15 * math.sqrt(p * (1 - p) * (1 / m.treated.sum() + 1 / (~m.treated).sum()))


def with_shared_label(row: Row) -> Row:
    """A label that a user's exposures share: the user's score decides."""
    assert row.score is not None
    return msgspec.structs.replace(row, label=1 if row.score > 0.25 else 0)


def test_the_past_of_the_path_does_not_change() -> None:
    """What a report says at its end is what the path of a later report says of that moment: so peeking early or late reads one process."""
    rows = make_rows(3000, lift=0.2)
    cut_ms = int(np.median([row.close_ms for row in rows]))
    early, late = judge([row for row in rows if row.close_ms <= cut_ms]), judge(rows)
    at = max(i for i, close_ms in enumerate(late.path.close_ms) if close_ms <= cut_ms)
    then = judge([row for row in rows if row.close_ms <= late.path.close_ms[at]])
    assert then.e_value == pytest.approx(late.path.e_value[at]) and then.lift == late.path.lift[at]
    assert then.path.users[-1] == late.path.users[at] <= early.path.users[-1]
    for found in (early, late):
        assert found.p_value == pytest.approx(min(1.0, 1.0 / found.e_value))


def test_users_who_come_late_and_before_others_raise_no_false_alarm() -> None:
    """Workers that lag bring their users one after the other, so each look has another order by time: p stays what was promised at all looks together."""
    rng, alarms, of, users = np.random.default_rng(8), 0, 200, 60
    for _ in range(of):
        treated = rng.random(8 * users) >= 0.5
        for n in range(users, 8 * users + 1, users):
            names = np.arange(n).astype(np.str_)
            close_ms = -np.arange(n, dtype=np.int64) // users  # the later a worker's users come, the earlier they closed
            m = Matured(names, names, treated[:n], close_ms, np.ones(n, np.int8), np.full(n, np.nan), np.full(n, np.nan))
            found = analyse(m, holdout=0.5)
            assert found.p_value == pytest.approx(min(1.0, 1.0 / found.e_value))
            if found.p_value < 0.05:
                alarms += 1
                break
    assert alarms <= 0.05 * of


def test_the_order_of_arrival_does_not_matter() -> None:
    """Shuffled rows give the same figures to the bit."""
    rows = make_rows(800)
    mixed = [rows[i] for i in np.random.default_rng(4).permutation(len(rows))]
    assert repr(judge(mixed)) == repr(judge(rows))


def test_each_exposure_counts_once_and_only_when_final() -> None:
    """Exposures told twice, whatever their label then, and open ones change nothing."""
    rows = make_rows(600)
    again = [msgspec.structs.replace(row, label=1) for row in rows[:50]]
    still_open = [msgspec.structs.replace(row, label=-1, exposure_id=f"open{i}") for i, row in enumerate(rows[:50])]
    found = gathered([*still_open, *rows, *again])
    assert found.repeated == 50
    assert repr(analyse(found.matured, holdout=0.2)) == repr(judge(rows))
    assert "50 exposures came more than once" in " ".join(warnings(judge(rows), found))


def test_without_ids_a_user_has_one_exposure_at_a_time() -> None:
    """Rows of the same user and close_ms are one exposure."""
    rows = [
        Row(user_id=1, arm="treated", close_ms=5, label=1),
        Row(user_id=1, arm="treated", close_ms=5, label=1),
        Row(user_id=1, arm="treated", close_ms=6, label=0),
    ]
    found = gathered(rows)
    assert (len(found.matured.user), found.repeated) == (2, 1)


def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    """An exposure with an order in one row and without in another is an error that names it; before its label is final it may be there too."""
    rows = make_rows(5)
    with pytest.raises(InputError, match=f"exposure {rows[3].exposure_id} has label {1 - rows[3].label} and label {rows[3].label}"):
        from_file(write_rows([msgspec.structs.replace(rows[3], label=1 - rows[3].label), *rows], tmp_path / "outcomes.jsonl"))
    assert from_file(write_rows([msgspec.structs.replace(rows[3], label=-1), *rows], tmp_path / "open.jsonl")).repeated == 0


def test_shares_of_users_are_whole_where_they_should_be() -> None:
    """.07 of 200 users are 14, though .07 · 200 is a little more in binary; and no difference of shares is larger than 1."""
    rows = [Row(user_id=f"u{i}", arm="holdout" if i % 5 == 0 else "treated", close_ms=i, label=1 if i == 7 else 0, score=i / 200) for i in range(200)]
    found = analyse(gathered(rows).matured, holdout=0.2, top=0.07)
    assert found.targeted is not None and found.targeted.users == 14
    few = judge(rows[:3])
    assert (few.difference.low, few.difference.high) == (-1.0, 1.0)


def test_a_sample_ratio_that_fails_stops_the_conclusion() -> None:
    """When a fifth of the treated is missing there is a warning and no conclusion; with equal arms there is neither."""
    found = judge(make_rows(6000, lost=0.2, lift=0.5))
    assert not found.sample_ratio.fits and found.verdict == "not comparable"
    assert conclusion(found).startswith("No conclusion") and "arms' sizes do not fit" in warnings(found, gathered([]))[0]
    fine = judge(make_rows(6000, lift=0.5))
    assert fine.sample_ratio.fits and not warnings(fine, gathered([]))


def test_sample_ratios_are_watched_without_false_alarms() -> None:
    """Of 25 campaigns with the intended arms, looked at after every user, none is suspected; of 25 with 7 instead of 10 % held out, all are."""
    suspected = []
    for share in (0.1, 0.07):
        rng = np.random.default_rng(5)
        told = []
        for _ in range(25):
            n = 6000
            treated = rng.random(n) >= share
            names = np.arange(n).astype(np.str_)
            m = Matured(names, names, treated, np.arange(n), np.zeros(n, np.int8), np.full(n, np.nan), np.full(n, np.nan))
            told.append(not analyse(m, holdout=0.1).sample_ratio.fits)
        suspected.append(sum(told))
    assert suspected == [0, 25]


def test_scores_that_differ_before_the_campaign_are_told() -> None:
    """CUPED needs a score that the campaign has not touched: when the arms' scores differ it says so."""
    found = judge(make_rows(touched=1.5))
    assert not found.scores_balanced
    assert any("CUPED" in warning for warning in warnings(found, gathered([])))
    assert judge(make_rows()).scores_balanced


@pytest.mark.parametrize(
    "rows", [[], [("u1", "treated", 0)], [("u1", "treated", 1)], [("u1", "treated", 0), ("u2", "holdout", 0)], [("u1", "holdout", 1), ("u2", "holdout", 0)]]
)
def test_too_few_users_are_said_and_divide_nothing(rows: list[tuple[str, Any, Any]], tmp_path: Path) -> None:
    """No user, one arm, or nobody who ordered: words, JSON without NaN, and a picture."""
    found = judge([Row(user_id=user, arm=arm, close_ms=i, label=label, score=0.1) for i, (user, arm, label) in enumerate(rows)])
    assert found.verdict == "too few" and conclusion(found).startswith("Too few users to tell anything yet: ")
    assert (found.e_value, found.p_value) == pytest.approx((1, 1))
    write_plot(found, tmp_path / "few.svg", title="few")


def test_missing_scores_leave_out_what_needs_them() -> None:
    """Without scores there is no CUPED and no Precision@K; the rest is there."""
    rows = [msgspec.structs.replace(row, score=None, probability=None) for row in make_rows(500)]
    found, full = judge(rows), judge(make_rows(500))
    assert found.targeted is None and math.isnan(found.adjusted.value) and math.isnan(found.treated.predicted)
    assert (found.lift, found.difference) == (full.lift, full.difference)


def words() -> Iterator[tuple[str, float, float, str]]:
    yield "lifts", 0.123, 0.314, "The campaign lifts orders by 12 % to 31 %."
    yield "lifts", 0.05, math.inf, "The campaign lifts orders by at least 5.0 %."
    yield "lowers", -0.3, -0.1, "The campaign lowers orders by 10 % to 30 %."
    yield "undecided", -0.08, 0.15, "So far no difference can be told: the campaign may change orders by anything from −8.0 % to +15 %."
    yield "undecided", -0.5, math.inf, "So far no difference can be told: there are too few orders to say how large the lift may be."


@pytest.mark.parametrize(("verdict", "low", "high", "said"), list(words()))
def test_the_conclusion_is_in_plain_words(verdict: Any, low: float, high: float, said: str) -> None:
    """What a marketer should take from it."""
    found = judge(make_rows(50))
    assert conclusion(replace(found, verdict=verdict, lift=replace(found.lift, low=low, high=high))) == said


def test_the_command_tells_a_lift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, JSON and both kinds of picture from a file; JSONL and Parquet say the same, to the byte."""
    rows = make_rows(12_000, lift=0.6)
    told = []
    for name in ("outcomes.jsonl", "outcomes.parquet"):
        file = write_rows(rows, tmp_path / name)
        code, out, _ = run("summer", "--outcomes", str(file), "--holdout", "0.2", "--json", "-", "--plot", str(tmp_path / f"{name}.svg"), capsys=capsys)
        assert code == 0
        told.append((out, (tmp_path / f"{name}.svg").read_bytes()))
    assert told[0] == told[1]
    figures = json.loads(told[0][0])
    assert figures["verdict"] == "lifts" and figures["launch"] == "summer" and figures["conclusion"].startswith("The campaign lifts orders by ")
    assert figures["lift"]["low"] > 0 and figures["e_value"] >= 20 and figures["sample_ratio"]["fits"] is True
    assert len(figures["path"]["users"]) == len(figures["path"]["lift"]) <= 201
    ET.fromstring(told[0][1])
    code, out, _ = run("summer", "--outcomes", str(tmp_path / "outcomes.jsonl"), "--holdout", "0.2", "--plot", str(tmp_path / "p.png"), capsys=capsys)
    assert code == 0 and out.startswith("summer: The campaign lifts orders by ")
    for name in ("lift ", "evidence ", "difference ", "… with CUPED ", "sample ratio ", "per exposure ", "top 5.0 % by score "):
        assert f"\n{name}" in out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("", ("--holdout", "0"), "--outcomes needs --holdout SHARE"),
        ("", (), "--outcomes needs --holdout SHARE"),
        ("", ("--holdout", "0.1", "--top", "0"), "--top 0.0: expected a share"),
        ("", ("--holdout", "0.1", "--plot", "x.pdf"), "the name must end in .png or .svg"),
        ('{"user_id": "a", "arm": "control", "close_ms": 1, "label": 0}\n', ("--holdout", "0.1"), "line 1: Invalid enum value 'control'"),
        ('{"user_id": "a", "arm": "holdout", "close_ms": 1, "label": 2}\n', ("--holdout", "0.1"), "line 1: Invalid enum value 2"),
        ('\n{"user_id": "a", "close_ms": 1, "label": 1}\n', ("--holdout", "0.1"), "line 2: Object missing required field `arm`"),
        (
            '{"user_id": "a", "arm": "holdout", "close_ms": 1, "label": 0}\n{"user_id": "a", "arm": "treated", "close_ms": 2, "label": 0}\n',
            ("--holdout", "0.1"),
            "user 'a' is in both arms",
        ),
    ],
)
def test_an_error_is_one_line(text: str, arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad share, a bad name, a bad row: exit code 1 and what is wrong."""
    file = tmp_path / "outcomes.jsonl"
    file.write_text(text)
    code, _, err = run("summer", "--outcomes", str(file), *arguments, capsys=capsys)
    assert code == 1
    assert err.startswith("headstart: ") and err.count("\n") == 1 and said in err


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A missing file, one that is no Parquet, and one without a column."""
    with pytest.raises(InputError, match=r"cannot read .*nothing\.jsonl: No such file"):
        from_file(tmp_path / "nothing.jsonl")
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(InputError, match="cannot read"):
        from_file(tmp_path / "no.parquet")
    pq.write_table(pa.table({"user_id": ["a"], "label": [1]}), tmp_path / "short.parquet")
    with pytest.raises(InputError, match="has no column arm, close_ms"):
        from_file(tmp_path / "short.parquet")


def test_notes_of_the_source_are_told() -> None:
    """What was gathered with a reservation says so in the report."""
    empty = gathered([])
    assert warnings(judge(make_rows(50)), Gathered(empty.matured, 0, ("outcomes are missing",))) == ["Outcomes are missing."]


@pytest.mark.parametrize("holdout", [0.0, 1.0])
def test_no_holdout_is_nothing_to_compare(holdout: float) -> None:
    """A share outside 0 to 1 is refused."""
    with pytest.raises(ValueError, match="has nothing to compare"):
        analyse(gathered([]).matured, holdout=holdout)
