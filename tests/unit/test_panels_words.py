"""What panels and tiles say in their words: of which time a figure is, where a replay stands, names that fit, and shares that are small but not none."""

from __future__ import annotations

import io
import re
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from models.chronicle import BLOCK_MS, Block, Blocks, Rows
from models.sketches import bins_of, millionths
from streams.beats import Beat
from streams.commands.demo import _judged_in_words
from streams.commands.status import rendered
from streams.panels import day, percent, short
from streams.panels_launch import panels
from streams.panels_shop import flow, refused
from streams.panels_shop import panels as shop_panels
from streams.records import SHARED, SHOP
from streams.seen import SHOP_COLUMNS
from tests.builders import DAY_MS, HOUR_MS, START_MS
from tests.unit.test_trust import LAUNCH, NOW_MS, look

LONG = "spring-shoes-of-the-year-2027-in-every-colour"
BEAT = Beat(worker="w", host="h", pid=1, started_ms=NOW_MS - 112_000, at_ms=NOW_MS, partitions=[], learns=[], rss_bytes=0, cpu_s=0.0, lost=0, trunk="")


def test_a_replay_that_has_not_begun_is_not_at_its_end() -> None:
    """Before the first tick nothing is said of 1970, with a worker or without."""
    before = replace(look(clock="replay:1000"), now_ms=0)
    for seen in (before, replace(before, beats=[BEAT])):
        told = flow(seen, NOW_MS, {})
        assert told.answer == "The replay has not begun"
        assert "01 Jan" not in told.why
    assert "01 Jan" not in flow(replace(look(), now_ms=0), NOW_MS, {}).why
    assert flow(look(clock="replay:1000", beats=(BEAT,)), NOW_MS, {0: 1238}).why.endswith("1 238 records still to be worked.".replace(" ", "\u202f", 1))


def test_the_latest_step_of_a_launch_is_named() -> None:
    """The last step that had events may be long ago: it says which it is."""
    traffic = Rows()
    for hour, events in ((0, 5), (30, 442)):
        traffic.add(START_MS + hour * HOUR_MS, [events, 0, 0, 0, 0])
    found = next(p for p in panels(replace(look(), traffic={"shoes": traffic}), LAUNCH) if p.id == "activity")
    assert "from 02 Jan 06:00 UTC: 442." in found.says


def test_traffic_says_by_which_clock_it_is_counted() -> None:
    """By when events were worked: in the axis and in the explanation of every panel that counts so, and in the tile."""
    traffic = {SHOP: Rows(), SHARED: Rows(), "shoes": Rows()}
    traffic[SHOP].add(NOW_MS, [107_319, 5, *(0 for _ in SHOP_COLUMNS[2:])])
    for name in (SHARED, "shoes"):
        traffic[name].add(NOW_MS, [5, 0, 0, 0, 0])
    seen = replace(look(), traffic=traffic)
    found = {p.id: p for p in [*shop_panels(seen, NOW_MS, {}), *panels(seen, LAUNCH)]}
    for name in ("throughput", "rejects", "activity"):
        assert found[name].layout["xaxis"]["title"]["text"] == "when they were worked"
        assert "a backlog appears" in found[name].explains
    assert "worked in the last day were refused (< 0.01 %)" in refused(seen).why


def test_names_fit_a_chart_and_are_whole_on_hover() -> None:
    """An axis and a legend have the short name, the table and the hover the whole one."""
    seen = look()
    rows = {LONG: seen.rows["shoes"]}
    traffic = {LONG: Rows()}
    traffic[LONG].add(NOW_MS, [5, 0, 0, 0, 0])
    found = {p.id: p for p in shop_panels(replace(seen, launches={LONG: msgspec.structs.replace(LAUNCH, id=LONG)}, rows=rows, traffic=traffic), NOW_MS, {})}
    axis = found["launches"].layout["yaxis"]
    assert (axis["tickvals"], axis["ticktext"]) == ([LONG], [short(LONG)])
    trace = found["throughput"].data[-1]
    assert (trace["name"], trace["meta"]) == (short(LONG), LONG)
    assert LONG in found["throughput"].table.columns
    assert len(short(LONG)) == 24
    assert short(LONG).endswith("y-colour")
    assert short("shoes") == "shoes"


def test_the_calibration_chart_has_room_for_all_its_points() -> None:
    """Where far more came than was said, the axis ends above the range of the highest point."""
    block = Block.empty("t", 1, 0)
    said, came = np.array([0.01, 0.04]), np.array([0, 60])
    for k, at in enumerate(bins_of(said).tolist()):
        block.told[:, at] += (100, came[k], 100 * int(millionths(said)[k]))
    found = next(
        p
        for p in panels(replace(look(), blocks={"shoes": Blocks({f"b{NOW_MS // BLOCK_MS * BLOCK_MS:015d}": block.to_bytes()})}), LAUNCH)
        if p.id == "calibration"
    )
    trace = found.data[1]
    assert max(y + up for y, up in zip(trace["y"], trace["error_y"]["array"], strict=True)) <= found.layout["yaxis"]["range"][1]
    assert found.layout["xaxis"]["range"] == found.layout["yaxis"]["range"]


def test_final_figures_are_called_so() -> None:
    """The ratio beside the old lines is of final labels, and says so; why the old lines' columns need not fit is said too."""
    found = next(p for p in shop_panels(look(), NOW_MS, {}) if p.id == "launches")
    assert "came / foretold, final" in found.table.columns
    assert "before their training ended" in found.explains


def test_status_shows_whole_names() -> None:
    """However long, and the order rate is called so."""
    launches = {name: msgspec.structs.replace(LAUNCH, id=name) for name in ("summer-sandals-of-2027", LONG)}
    seen = replace(look(), launches=launches, rows={name: look().rows["shoes"] for name in launches})
    console = Console(width=120, highlight=False, markup=False, record=True, file=io.StringIO())
    console.print(rendered(seen, {}))
    text = console.export_text()
    assert "summer-sandals-of-2027" in text
    assert "…" not in text
    assert LONG in "".join(cells[1].strip() for line in text.splitlines() if len(cells := line.split("│")) > 2)
    assert "order rate" in text


@pytest.mark.parametrize(
    ("share", "digits", "told"), [(5 / 107_319, 2, "< 0.01 %"), (0.0, 2, "0.00 %"), (0.00006, 2, "0.01 %"), (0.004, 0, "< 1 %"), (-0.00001, 1, "-0.0 %")]
)
def test_a_small_share_is_not_none(share: float, digits: int, told: str) -> None:
    """What would be rounded to nothing says that it is less than can be written."""
    assert percent(share, digits) == told


def test_every_term_is_explained_on_the_page() -> None:
    """The box of words has each that a marketer need not know."""
    text = (Path(__file__).parents[2] / "streams" / "dashboard" / "words.html.jinja").read_text("utf-8")
    terms = " ".join(re.findall(r"<dt>(.*?)</dt>", text)).lower()
    for term in ("exposure", "final", "delay bin", "came / foretold", "evidence", "log-loss", "auc", "psi", "trunk", "lag", "held out"):
        assert term in terms


def test_the_demo_says_why_its_table_has_fewer_exposures() -> None:
    """Those whose window ends after the log have no label that the log knows."""
    assert "512 exposures of the launch became final, 396 of them before the log ends" in _judged_in_words(512, {"headstart": {"n": 396.0}})


def test_a_day_in_words() -> None:
    """With its year, since launches are planned ahead."""
    assert day(START_MS + 6 * DAY_MS) == "7 Jan 2024"


def test_a_verdict_and_a_panel_are_plain_data() -> None:
    """Workers say for how long they have been running."""
    found = next(p for p in shop_panels(look(beats=(BEAT,)), NOW_MS, {}) if p.id == "workers")
    told = dict(zip(found.table.columns, found.table.rows[0], strict=True))
    assert told["running for"] == "112 seconds"
    assert asdict(refused(look()))["answer"] == "No event yet"
