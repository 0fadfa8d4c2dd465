"""What evaluate says of launches: every model on the same exposures, figures that agree with each other, and nothing that JSON cannot hold."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from models.baselines import BASELINES
from models.checkpoint import Artifact
from models.experts import EXPERTS
from models.launch_head import MODELS
from models.learning_curve import conversions_to
from models.metrics import auc, log_loss
from models.pretrain import PretrainSettings
from models.trunk import TrunkSettings
from streams.commands.evaluate import _null
from streams.comparison import LineRun, compare, run_lines
from streams.evaluation import launched
from streams.partition import Rules
from streams.shop import Shop, simulate
from streams.training import edges_ms, train

pytestmark = pytest.mark.xdist_group("comparison")  # what they share takes long to make

DAY_MS = 86_400_000
TICK_MS = 3_600_000
SHOP = Shop(users=500, lines=4, days=9.0, launch_day=4.0, conversion=0.12, window_s=43_200.0, seed=3)
LINES = ("audio", "launch")


AT_MS, END_MS = SHOP.start_ms + 4 * DAY_MS, SHOP.start_ms + 9 * DAY_MS
RULES = Rules(edges_ms=edges_ms(SHOP.window_s), partitioner_check=False)


@pytest.fixture(scope="module")
def log() -> pa.Table:
    """The log of a small shop, of which two lines are launched."""
    return launched(simulate(SHOP).log, LINES, AT_MS)


@pytest.fixture(scope="module")
def artifact(log: pa.Table) -> Artifact:
    """What the others teach."""
    settings = PretrainSettings(TrunkSettings(most_steps=40), c_grid=(0.01,), pseudo_steps=20)
    return train(log, RULES, tick_ms=TICK_MS, until_ms=AT_MS, seed=0, settings=settings)


@pytest.fixture(scope="module")
def runs(log: pa.Table, artifact: Artifact) -> list[LineRun]:
    """Both launched together."""
    return run_lines(log, artifact, LINES, RULES, at_ms=AT_MS, tick_ms=TICK_MS, end_ms=END_MS)


@pytest.fixture(scope="module")
def compared(runs: list[LineRun]) -> dict[str, Any]:
    """What is said of them."""
    return compare(runs, resamples=50)


def test_a_line_without_an_event_since_its_launch_is_left_out(log: pa.Table, artifact: Artifact, runs: list[LineRun]) -> None:
    """A line that was given up before: nothing of it is judged, and the others are."""
    gone = log.filter(pc.field("line") != "launch")
    found = run_lines(gone, artifact, ("launch",), RULES, at_ms=AT_MS, tick_ms=TICK_MS, end_ms=END_MS, baselines=())
    assert [len(run.y) for run in found] == [0]
    told = compare([*found, runs[0]], resamples=20)
    assert (told["lines_without_orders"], told["lines_judged"]) == (["launch"], ["audio"])


def test_every_model_is_judged_on_the_same_exposures(runs: list[LineRun]) -> None:
    """Headstart, its experts and every baseline say something of each exposure of each line."""
    for run in runs:
        assert set(run.said) == {*MODELS, *BASELINES}
        for score, probability in run.said.values():
            assert score.shape == probability.shape == run.y.shape
            assert ((probability >= 0) & (probability <= 1)).all()
        assert run.y.sum() >= 10


def test_figures_agree_with_the_streamed_ones(runs: list[LineRun]) -> None:
    """The exposures are those on which the table of figures is made: as many, with as many orders, and the same AUC."""
    for run in runs:
        figures = run.judged.figures(run.line, until_ms=SHOP.start_ms + 9 * DAY_MS, window_ms=round(1000 * SHOP.window_s))
        assert (figures["headstart"]["n"], figures["headstart"]["conversions"]) == (len(run.y), run.y.sum())
        assert figures["headstart"]["auc"] == pytest.approx(auc(run.y, run.said["headstart"][0]), abs=1e-12)
        assert figures["scratch"]["log_loss"] == pytest.approx(log_loss(run.y, run.said["scratch"][1]), abs=1e-12)


def test_means_are_over_lines(runs: list[LineRun], compared: dict[str, Any]) -> None:
    """A figure of the comparison is the mean of the lines' own, with an interval around it, and a gap of nothing to itself."""
    told = compared["comparison"]["methods"]["headstart"]
    assert told["figures"]["auc"]["value"] == pytest.approx(np.mean([auc(run.y, run.said["headstart"][0]) for run in runs]))
    assert told["figures"]["auc"]["low"] < told["figures"]["auc"]["value"] < told["figures"]["auc"]["high"]
    assert told["gaps"]["auc"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_bound_is_shown_and_holds(compared: dict[str, Any]) -> None:
    """Each launch tells what the mixture lost against scratch, also with flipped preferences, and that its bound was kept."""
    for launch in compared["launches"].values():
        for kind in ("insurance", "flipped"):
            assert launch[kind]["slack"] >= -1e-6
            assert launch[kind]["less_scratch"] <= 5.0
        assert sum(launch["prior"].values()) == pytest.approx(1.0)
        assert set(launch["weights"]) == {"ms", *EXPERTS}


def test_it_is_json(compared: dict[str, Any]) -> None:
    """Nothing is lost on the way to JSON but what is not finite."""
    assert json.loads(json.dumps(_null(compared), allow_nan=False))["models"] == [*MODELS, *BASELINES]
    assert _null({"a": [float("nan"), 1.0, (float("inf"),)]}) == {"a": [None, 1.0, [None]]}


def test_a_line_without_orders_is_counted_and_left_out(runs: list[LineRun]) -> None:
    """It is named, and the means are those of the other."""
    silent = replace(runs[0], y=np.zeros_like(runs[0].y))
    told = compare([silent, runs[1]], resamples=10)
    assert told["lines_without_orders"] == [runs[0].line]
    assert told["lines_judged"] == [runs[1].line]
    nothing = compare([silent], resamples=10)
    assert nothing["lines_judged"] == []
    assert "comparison" not in nothing


def test_conversions_to_a_share_of_the_best() -> None:
    """The count from which on the curve stays above, not the first time that it happens to be there."""
    counts, values = [0, 5, 10, 20], [0.60, 0.70, 0.65, 0.72]
    assert conversions_to(0.95, counts, values, 0.72) == 20
    assert conversions_to(0.90, counts, values, 0.72) == 5
    assert conversions_to(0.50, counts, values, 0.72) == 0
    assert conversions_to(1.1, counts, values, 0.72) is None
