"""The detectors of a launch: quiet while nothing changes, and each finds its own kind of drift, since when, and the same after a restart."""

from __future__ import annotations

import numpy as np

from features.vector import NAMES, WIDTH
from models.chronicle import HOUR_MS, Blocks, Facts
from models.covariates import PLACES, Reference
from models.experts import EXPERTS
from models.watch import Watch, said_logit
from streams.alerts import alert_of, decode_alert
from streams.records import encode_json

DAY_MS = 24 * HOUR_MS
START_MS = 1_704_067_200_000
A_DAY = 1500
SHIFT_DAY = 5


def stream(days: int, *, orders: float = 0.0, carts: float = 0.0, age: float = 0.0, seed: int = 0) -> Facts:
    """Exposures with one delay bin and a label each; from `SHIFT_DAY` on the logits of orders and of quick carts, or the feature age, are moved."""
    rng = np.random.default_rng(seed)
    n = days * A_DAY
    at = np.sort(START_MS + rng.integers(0, days * DAY_MS, n))
    late = at >= START_MS + SHIFT_DAY * DAY_MS
    p = 1.0 / (1.0 + np.exp(-rng.normal(-2.6, 0.7, n)))
    true = 1.0 / (1.0 + np.exp(-(said_logit(p) + orders * late)))
    y = (rng.random(n) < true).astype(np.int64)
    cart = rng.random(n) < 1.0 / (1.0 + np.exp(-(-2.0 + carts * late)))
    x = rng.normal(size=(n, WIDTH)).astype(np.float32)
    x[late, NAMES.index("age")] += age
    said = np.repeat(p[:, None], 1 + len(EXPERTS), axis=1)
    delay_ms = np.stack([np.full(n, -1), np.where(cart, 1000, -1), np.full(n, -1)], axis=1)
    return Facts(
        at, at, np.zeros(n, np.int64), y, y, p, said, delay_ms, np.zeros(n), np.ones(n), np.zeros((n, 4), np.int64), x, x[:, PLACES].astype(np.float64)
    )


def found(facts: Facts, *, restart_each: int = 0) -> list[tuple[str, float, float]]:
    """(kind, day found, day since) of what a watch finds, each of which can be told as an alert; with `restart_each`, it is stored and read back every so many hours."""
    watch, blocks, told = Watch(), Blocks(), []
    reference = Reference.of(np.random.default_rng(9).normal(size=(2000, WIDTH)).astype(np.float32))
    hours = facts.close_ms // HOUR_MS
    for i, hour in enumerate(np.unique(hours).tolist()):
        part = facts.rows(hours == hour)
        news = watch.look(int(part.close_ms[0]), blocks, NAMES) + watch.hear(part, said_logit(part.said[:, 1]), deff=1.5)
        blocks.see(part, reference, "t" * 16)
        for finding in news:
            assert decode_alert(encode_json(alert_of("spring", finding, done="", trunk=""))).evidence == finding.evidence
        told += [(f.kind, (f.at_ms - START_MS) / DAY_MS, (f.since_ms - START_MS) / DAY_MS, f.evidence) for f in news]
        if restart_each and i % restart_each == 0:
            watch = Watch.from_bytes(watch.to_bytes())
    return [t[:3] for t in told]


def test_nothing_is_found_where_nothing_changes() -> None:
    """Ten days of one and the same launch raise no alert of any kind."""
    assert found(stream(10)) == []


def test_a_shift_of_orders_is_found_by_the_actuator_alone_at_first() -> None:
    """Orders half as likely again are found within two days, dated about right; shoppers and carts are not blamed."""
    told = found(stream(9, orders=0.6))
    kind, day, since = told[0]
    assert kind == "calibration"
    assert SHIFT_DAY < day < SHIFT_DAY + 2
    assert abs(since - SHIFT_DAY) < 1.0
    assert {t[0] for t in told} <= {"calibration", "confirmed"}


def test_quick_carts_that_change_are_an_early_funnel_alert() -> None:
    """Fewer carts right after an exposure are found as such within a day and a half, long before labels."""
    told = found(stream(9, carts=-0.6))
    assert told[0][0] == "early_funnel"
    assert SHIFT_DAY < told[0][1] < SHIFT_DAY + 1.5


def test_clicks_and_carts_together_keep_what_is_promised_of_one_detector() -> None:
    """Some thousand steady days raise no more alarms of the early funnel than one in a hundred days; each step's own promise would allow twice as many."""
    rng, watch, days, n = np.random.default_rng(11), Watch(), 4000, 300
    nothing, said = np.zeros(n, np.int64), np.full((n, 1 + len(EXPERTS)), 0.05)
    x, none, alarms = np.zeros((n, WIDTH), np.float32), np.full(n, -1, np.int64), 0
    for day in range(days):
        at = START_MS + day * DAY_MS + np.sort(rng.integers(0, DAY_MS, n))
        steps = np.where(rng.random((n, 2)) < (0.3, 0.12), 1000, -1)
        facts = Facts(
            at, at, nothing, nothing, none, said[:, 0], said, np.column_stack([steps, none]), np.zeros(n), np.full(n, 0.5), np.zeros((n, 4), np.int64), x,
            x[:, PLACES].astype(np.float64),
        )  # fmt: skip
        alarms += sum(finding.kind == "early_funnel" for finding in watch.hear(facts, said_logit(said[:, 1]), deff=1.0))
    assert 0 < alarms <= days / 100


def test_other_shoppers_are_no_calibration_alert() -> None:
    """Older shoppers are found as other shoppers by the second day, and again after a week; orders still come as foretold, so nothing else is raised."""
    told = found(stream(14, age=1.2))
    assert [t[0] for t in told] == ["shoppers", "shoppers"]
    assert SHIFT_DAY < told[0][1] < SHIFT_DAY + 2
    assert 7 <= told[1][1] - told[0][1] < 7.5


def test_a_restart_forgets_nothing() -> None:
    """Stored and read back every few hours, a watch finds the same at the same time."""
    facts = stream(8, orders=0.6, seed=2)
    assert found(facts) == found(facts, restart_each=5)
