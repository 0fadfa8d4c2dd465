"""What is said of a launch's scores and shoppers: one rule and one beginning on all of a page, words for chance, and which way shoppers have changed."""

from __future__ import annotations

import numpy as np
import pytest

from features.vector import NAMES
from models.chronicle import BLOCK_MS, GAUGES, HOUR_MS, PLACE, Block, Blocks, Rows
from models.covariates import WHO, Moments
from models.react import DONE
from models.sketches import MILLION
from streams.alerts import Alert
from streams.beats import ALIVE_MS, Beat
from streams.evaluation import as_launch
from streams.feature_words import direction, mean_of
from streams.panels import DAY_MS, when
from streams.panels_launch import panels, verdicts
from streams.panels_shop import pulse
from streams.panels_shoppers import spread_of
from streams.sight import About
from streams.trust import came, shift_of, trust
from streams.view import Look
from tests.builders import START_MS

DAYS = 6
NOW_MS = START_MS + DAYS * DAY_MS
LAUNCH = as_launch("shoes", START_MS, 86_400.0)


def look(*, foretold: float = 2.0, orders: int = 2, every: int = 1, alerts: tuple[Alert, ...] = (), beats: tuple[Beat, ...] = (), clock: str = "live") -> Look:
    """A launch with so many orders foretold in each hour, and come in every so many."""
    rows = Rows()
    for hour in range(DAYS * 24):
        counts = [0] * len(PLACE)
        for name, value in (("heard", 10), ("expected", round(foretold * MILLION)), ("hits", 0 if hour % every else orders)):
            counts[PLACE[name]] = value
        rows.add(START_MS + hour * HOUR_MS, counts, [0.0] * len(GAUGES))
    return Look(
        name="test", clock=clock, now_ms=NOW_MS, trunk="t", launches={"shoes": LAUNCH}, rows={"shoes": rows}, blocks={}, traffic={}, examples={},
        alerts=sorted(alerts, key=lambda a: a.alert_id, reverse=True), about=None, heads={}, cursors={}, beats=list(beats), outcome_partitions=1,
    )  # fmt: skip


def alarm(day: float, since_day: float, *, direction: int = -1) -> Alert:
    """A calibration alarm."""
    at_ms, since_ms = (START_MS + round(d * DAY_MS) for d in (day, since_day))
    return Alert(
        alert_id=f"{at_ms:015d}:shoes:calibration", launch_id="shoes", kind="calibration", severity="page", at_ms=at_ms, since_ms=since_ms, text="",
        evidence={"direction": direction}, done=DONE, trunk="",
    )  # fmt: skip


def test_a_shift_begins_when_its_first_alarm_says_and_all_of_the_page_agrees() -> None:
    """Two alarms about one shift: tile, calibration and drift are red alike, name the first one's beginning, and each reset is marked and labelled."""
    seen = look(orders=1, alerts=(alarm(4.0, 3.0), alarm(5.9, 4.2)))
    tile = next(v for v in verdicts(seen, LAUNCH) if v.panel == "calibration")
    found = {panel.id: panel for panel in panels(seen, LAUNCH)}
    began = when(START_MS + 3 * DAY_MS)
    assert tile.state == found["calibration"].state == found["drift"].state == "bad"
    assert f"Since about {began} fewer orders" in tile.why
    assert f"since about {began}" in found["drift"].says
    assert when(START_MS + round(4.2 * DAY_MS)) not in tile.why + found["drift"].says
    labels = [a["text"] for a in found["drift"].layout["annotations"]]
    assert [text for text in labels if "alarm" in text] == ["alarm 1", "alarm 2"]
    assert found["drift"].layout["xaxis"]["title"]["text"] == "at each alarm: level reset, evidence starts again"
    assert "cannot be told yet" in found["drift"].says


@pytest.mark.parametrize(("orders", "says"), [(1, "have not caught up yet"), (2, "the scores have been right")])
def test_the_drift_panel_says_whether_the_reset_has_worked(orders: int, says: str) -> None:
    """By the orders since the last alarm, once there are enough."""
    found = {panel.id: panel for panel in panels(look(orders=orders, alerts=(alarm(4.5, 3.0),)), LAUNCH)}
    assert says in found["drift"].says
    assert found["drift"].numbers[1][0] == "since the last alarm"


def test_alarms_far_apart_or_the_other_way_are_not_one_shift() -> None:
    """An old alarm, or one in the other direction, does not date the present shift; an alarm that is over dates none."""
    for other in (alarm(1.0, 0.5), alarm(4.0, 3.0, direction=1)):
        shift = shift_of(look(alerts=(other, alarm(5.0, 4.5))), "shoes")
        assert shift is not None
        assert shift.since_ms == START_MS + round(4.5 * DAY_MS)
    assert shift_of(look(alerts=(alarm(2.0, 1.0),)), "shoes") is None


@pytest.mark.parametrize(
    ("foretold", "orders", "every", "answer", "state", "words"),
    [
        (2.0, 2, 1, "Yes", "good", "100 orders came for every 100 foretold"),
        (0.6, 1, 2, "So far, yes", "good", "within what chance explains"),
        (4.0, 1, 1, "No: far from calibrated", "bad", "fewer than chance explains"),
        (2.9, 4, 1, "With care", "warn", "more than chance explains"),
        (0.1, 0, 1, "Too early to say", "none", "are needed"),
        (3.0, 0, 1, "No: far from calibrated", "bad", "0 orders came for every 100 foretold"),
    ],
)
def test_the_answer_says_what_chance_explains(foretold: float, orders: int, every: int, answer: str, state: str, words: str) -> None:
    """Orders of the last two days for every 100 foretold, and whether that is within chance; no order at all is an answer too."""
    judged = trust(look(foretold=foretold, orders=orders, every=every), "shoes")
    assert (judged.answer, judged.state) == (answer, state)
    assert words in judged.why


def test_orders_are_counted_in_a_span() -> None:
    """All of them, or those of whole hours that began in it."""
    seen = look(orders=2)
    assert came(seen, "shoes").orders == 2 * 24 * DAYS
    assert came(seen, "shoes", since_ms=NOW_MS - HOUR_MS - 1).orders == 2
    assert came(seen, "shoes", since_ms=START_MS, until_ms=START_MS + 3 * HOUR_MS).orders == 6


def test_the_header_says_whether_a_worker_runs() -> None:
    """Red, or grey in a replay, as soon as no beat has come for ten seconds."""
    beat = Beat(worker="w", host="h", pid=1, started_ms=0, at_ms=NOW_MS, partitions=[], learns=[], rss_bytes=0, cpu_s=0.0, lost=0, trunk="")
    assert ALIVE_MS == 10_000
    assert pulse(look(beats=(beat,)), NOW_MS + ALIVE_MS) == ("good", "1 worker running")
    assert pulse(look(beats=(beat,)), NOW_MS + ALIVE_MS + 1) == ("bad", "no worker is running")
    assert pulse(look(clock="replay:1000"), NOW_MS) == ("none", "no worker is running")


def test_shoppers_that_differ_are_told_with_both_means_and_the_direction() -> None:
    """Younger shoppers: the tile and the panel name age, years before and now, and which way."""
    mean, std, blocks = [0.0] * len(NAMES), [1.0] * len(NAMES), Blocks()
    mean[NAMES.index("age")], std[NAMES.index("age")] = 4.0, 2.0
    for k in range(DAYS * 4):
        block, late = Block.empty("t", len(NAMES), len(WHO)), k >= 4 * (DAYS - 1)
        block.spread[:, 5] += 200
        block.spread[NAMES.index("age")] = 0
        block.spread[NAMES.index("age"), 1 if late else 8] += 200
        z = np.random.default_rng(k).normal(0.0, 0.1, (200, len(WHO)))
        z[:, WHO.index("age")] -= 0.75 if late else 0.0
        block.moments = Moments.of(z)
        blocks.held[f"b{START_MS + k * BLOCK_MS:015d}"] = block.to_bytes()
    seen = look()
    seen.blocks["shoes"] = blocks
    about = About("t", 86_400.0, 1.0, [0.0], [0.0], [], 0, list(NAMES), [[0] * 10] * len(NAMES), mean, std)
    seen = Look(**{**seen.__dict__, "about": about})
    (moved,) = spread_of(seen, "shoes").large
    assert moved.told == "age: younger (35 years → 20 years)"
    assert "age: younger (35 years → 20 years)" in next(v for v in verdicts(seen, LAUNCH) if v.panel == "shoppers").why


def test_means_and_directions_in_words() -> None:
    """A yes or no is a share, a mean that has hardly moved gives no direction."""
    assert mean_of("female", 0.625) == "62%"
    assert direction("age", 0.5) == "older"
    assert direction("level", -0.5) == "lower"
    assert direction("age", 0.05) == "spread otherwise"
