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
from models.learning_curve import LEARNED_SHARE, conversions_to, learning_curve
from models.metrics import auc, log_loss
from models.model import Model
from models.pretrain import PretrainSettings
from models.rows import TARGETS
from models.trunk import TrunkSettings
from streams.commands.evaluate import _null
from streams.comparison import LineRun, compare, run_lines
from streams.evaluation import launched
from streams.partition import Rules
from streams.shop import Shop, simulate
from streams.training import edges_ms, final_rows, train

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
    assert (told["lines_unranked"], told["lines_judged"]) == (["launch"], ["audio"])


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


def test_a_line_without_orders_is_judged_but_for_its_ranks(runs: list[LineRun]) -> None:
    """It is named, AUC is that of the other, and it counts in log-loss and in the ratio of foretold to come; where nothing was ordered at all nothing is said."""
    silent = replace(runs[0], y=np.zeros_like(runs[0].y))
    told = compare([silent, runs[1]], resamples=10)
    assert told["lines_unranked"] == [runs[0].line]
    assert told["lines_judged"] == [run.line for run in runs]
    figures = told["comparison"]["methods"]["headstart"]["figures"]
    assert figures["auc"]["value"] == pytest.approx(auc(runs[1].y, runs[1].said["headstart"][0]))
    losses = [log_loss(run.y, run.said["headstart"][1]) for run in (silent, runs[1])]
    assert figures["log_loss"]["value"] == pytest.approx(np.mean(losses))
    foretold = sum(run.said["headstart"][1].sum() for run in runs)
    assert figures["pcoc_pooled"]["value"] == pytest.approx(foretold / runs[1].y.sum())
    nothing = compare([silent], resamples=10)
    assert nothing["lines_judged"] == []
    assert "comparison" not in nothing


def test_the_truth_is_not_called_wrong_for_lines_that_sold_nothing(runs: list[LineRun]) -> None:
    """Two hundred small lines, of which most have no order by chance: the true chance of one comes out calibrated, and better than one half as large again."""
    small = []
    rng = np.random.default_rng(2)
    for k in range(200):
        y, p = (rng.random(20) < 0.03).astype(np.float64), np.full(20, 0.03)
        said = {"headstart": (p, p), "rival": (1.5 * p, 1.5 * p)}
        small.append(replace(runs[0], line=f"line-{k}", y=y, user=np.arange(20) + 20 * k, ts_ms=AT_MS + np.arange(20), said=said))
    found = compare(small, resamples=100)
    methods = found["comparison"]["methods"]
    ratio = found["calibration"]["headstart"]["predicted_over_observed"]
    assert ratio["low"] < 1.0 < ratio["high"]
    assert methods["rival"]["gaps"]["log_loss"]["value"] > 0


def test_the_last_weights_are_shown(runs: list[LineRun]) -> None:
    """However long the launch, of at most 200 moments the first and the last are among them."""
    run = replace(runs[0], weight_ms=np.arange(777), weights=np.tile(runs[0].weights[:1], (777, 1)))
    shown = compare([run], resamples=2)["launches"][run.line]["weights"]
    assert (shown["ms"][0], shown["ms"][-1], len(shown["ms"])) == (0, 776, 200)
    assert {len(values) for values in shown.values()} == {200}


def test_the_learning_curve_knows_no_later_order(log: pa.Table, artifact: Artifact) -> None:
    """What was ordered after its first part ended, of whatever line, is not learned by what is judged on the second."""
    lines = sorted({*pc.unique(log["line"]).to_pylist()})
    rows = final_rows(log, RULES, tick_ms=TICK_MS, lines=lines, until_ms=END_MS)
    model, place = Model(artifact), lines.index("launch")
    found = learning_curve(model, rows, place, at_ms=AT_MS)
    ours = (rows.line == place) & (rows.ts_ms >= AT_MS)
    split_ms = int(np.sort(rows.ts_ms[ours])[int(LEARNED_SHARE * ours.sum())])
    judged = ours & (rows.ts_ms >= split_ms)
    later = np.isfinite(rows.order_delay_s) & (rows.ts_ms + 1000.0 * rows.order_delay_s > split_ms) & ~judged
    assert later[rows.line == place].any() and later[rows.line != place].any()
    delay_s = rows.delay_s.copy()
    delay_s[later, TARGETS.index("order")] = np.inf
    assert found is not None and found.conversions[-1] > 0
    assert learning_curve(model, replace(rows, delay_s=delay_s), place, at_ms=AT_MS) == found


def test_conversions_to_a_share_of_the_best() -> None:
    """The count from which on the curve stays above, not the first time that it happens to be there."""
    counts, values = [0, 5, 10, 20], [0.60, 0.70, 0.65, 0.72]
    assert conversions_to(0.95, counts, values, 0.72) == 20
    assert conversions_to(0.90, counts, values, 0.72) == 5
    assert conversions_to(0.50, counts, values, 0.72) == 0
    assert conversions_to(1.1, counts, values, 0.72) is None
