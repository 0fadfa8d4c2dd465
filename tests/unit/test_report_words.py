"""What the report says in words: a verdict follows from intervals, and claims no more than they do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.baselines import BASELINES
from models.intervals import Interval
from models.launch_head import MODELS
from streams.report_words import DESCRIBED, against, calibrated, fixed, number, ratio_of_counts, saved, size, standing, verdict


@pytest.mark.parametrize(
    ("auc", "log_loss", "answer"),
    [
        ((-0.09, -0.05), (0.004, 0.008), "Yes"),
        ((-0.09, -0.05), (-0.001, 0.008), "Yes"),
        ((-0.09, 0.01), (-0.001, 0.008), "Cannot be told apart"),
        ((0.01, 0.05), (-0.009, -0.002), "No"),
        ((-0.02, 0.05), (-0.009, -0.002), "No"),
        ((-0.09, -0.05), (-0.009, -0.002), "In part"),
        ((math.nan, math.nan), (math.nan, math.nan), "Cannot be said"),
        ((math.nan, math.nan), (0.004, 0.008), "Yes"),
    ],
)
def test_the_verdict_follows_from_the_intervals(auc: tuple[float, float], log_loss: tuple[float, float], answer: str) -> None:
    """Gaps are scratch less headstart: an AUC below 0 and a log-loss above 0 speak for headstart, and only outside the interval."""
    found = verdict(Interval(sum(auc) / 2, *auc), Interval(sum(log_loss) / 2, *log_loss), "scratch")
    assert found.answer == answer
    assert "nan" not in found.because and "–" not in found.because


def test_a_verdict_says_by_how_much() -> None:
    """With the sign turned to what headstart gains, and what is undecided named as such."""
    decided = verdict(Interval(-0.07, -0.09, -0.05), Interval(0.006, 0.004, 0.008), "scratch").because
    assert (
        decided
        == "Against scratch, headstart ranks shoppers better by .0700 AUC [.0500, .0900] and gives better probabilities, by .0060 of log-loss [.0040, .0080]."
    )
    half = verdict(Interval(0.03, 0.01, 0.05), Interval(0.0, -0.001, 0.002), "scratch").because
    assert half == (
        "Against scratch, headstart ranks shoppers worse by .0300 AUC [.0100, .0500]. "
        "Otherwise they cannot be told apart (headstart's advantage: log-loss .0000 [−.0010, +.0020])."
    )


def test_what_speaks_against_a_verdict() -> None:
    """Models that are better outside the interval, by how much, and those that tie; nothing where headstart is better than all."""
    sure, even = Interval(0.0, -0.001, 0.001), Interval(0.0, -0.01, 0.01)
    shared = (Interval(0.0074, 0.0035, 0.0116), sure)
    rivals = {"shared": shared, "lr_pooled": (even, sure), "ftrl": (Interval(-0.1, -0.2, -0.05), sure)}
    assert against(rivals) == "But shared alone ranks better (by .0074 AUC). lr_pooled cannot be told apart from headstart."
    assert against({"ftrl": rivals["ftrl"]}) == ""
    assert against({"fnw_sgd": (even, Interval(-0.002, -0.003, -0.001))}) == "But fnw_sgd gives better probabilities (by .0020 of log-loss)."
    assert against({f"m{k}": (even, sure) for k in range(6)}) == "m0, m1, m2, m3 and 2 more cannot be told apart from headstart."


def test_what_is_saved_in_words() -> None:
    """A range between the measured counts, "more than" where scratch never gets there, nothing where nothing is saved; and that it is rough."""
    counts = [0, 5, 10, 20, 95.1]
    assert saved(0, 95.1, counts, "95 %") == (
        "Headstart ranks at 95 % of the best AUC from the first shopper on; "
        "scratch reaches that for good only between 20 and, on average, 95 orders: 20 to 95 saved (rough: no interval)."
    )
    assert saved(10, 20, counts, "95 %").endswith(
        "between 5 and 10 orders; scratch reaches that for good only between 10 and 20 orders: 0 to 15 saved (rough: no interval)."
    )
    assert saved(5, 5, counts, "95 %").endswith("between 0 and 5 orders; scratch too: none saved.")
    assert saved(20, 5, counts, "95 %").endswith("scratch between 0 and 5 orders: none saved.")
    assert saved(5, math.nan, counts, "95 %").endswith("scratch never does with all 95 orders there were on average: more than 90 saved (rough: no interval).")
    assert saved(math.nan, 5, counts, "95 %").endswith("with all 95 orders there were on average; scratch reaches it between 0 and 5 orders.")
    assert saved(math.nan, math.nan, counts, "95 %").endswith("nor does scratch reach it.")


def test_calibration_in_words() -> None:
    """An interval that holds 1 is a yes; one that does not is too high or too low, or nearly right if it is within a tenth."""
    ratios = {(0.9, 1.1): "Yes", (1.2, 1.4): "Too high", (0.5, 0.8): "Too low", (1.01, 1.09): "Nearly", (math.nan, math.nan): "Cannot be said"}
    assert {k: calibrated(Interval(sum(k) / 2, *k)).answer for k in ratios} == ratios


def test_numbers_in_words() -> None:
    """As in the other tables of the project: no zero before the point, a real minus, no negative zero, a dash for what is undefined."""
    assert [fixed(v, 2) for v in (0.5, -0.5, 12.345, 1234.5, -0.001, math.nan, math.inf)] == [".50", "−.50", "12.35", "1,234.50", ".00", "–", "∞"]
    assert [fixed(v, 1, sign=True) for v in (0.5, -0.5, 0.0)] == ["+.5", "−.5", ".0"]
    assert [size(v) for v in (12, 51_234, 3_400_000, math.nan)] == ["12 bytes", "51.2 kB", "3.4 MB", "–"]
    assert number(np.float64(2)) == number(np.int64(2)) == 2.0 and math.isnan(number(None)) and math.isnan(number("2"))
    assert standing(Interval(0.1, 0.05, 0.2), higher_is_better=True) == standing(Interval(-0.1, -0.2, -0.05), higher_is_better=False) == "worse"


def test_the_interval_of_a_day() -> None:
    """A Poisson score interval: its ends are where the observed count is 1.96 standard deviations from its mean; `deff` orders count as one."""
    found = ratio_of_counts(40.0, 42.0)
    for end in (found.low, found.high):
        mean = 40.0 / end
        assert abs(42.0 - mean) / math.sqrt(mean) == pytest.approx(1.959964, abs=1e-5)
    wide = ratio_of_counts(40.0, 42.0, deff=2.0)
    assert found.value == wide.value == 40 / 42 and wide.low < found.low < found.high < wide.high
    assert math.isnan(ratio_of_counts(40.0, 0.0).value)


def test_every_model_is_described() -> None:
    """Experts and baselines alike: a reader has never heard of them."""
    assert set(DESCRIBED) == {*MODELS, *BASELINES}
    assert all(d.what and d.learns_from for d in DESCRIBED.values())
