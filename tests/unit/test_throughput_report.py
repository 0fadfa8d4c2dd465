"""What `bench/throughput.py` makes of its rounds: a ratio compares what was done in the same round, since the machine's speed changes from one to the next."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def throughput(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    return importlib.import_module("throughput")


def test_a_ratio_is_the_median_of_the_rounds_that_both_have_finished(throughput: ModuleType) -> None:
    """Neither the ratio of the medians, nor one over rounds that one of the two has not finished."""

    def rounds(**rates: float) -> dict[int, object]:
        return {int(number[1:]): throughput.Rate(rate, 10.0, 1.0) for number, rate in rates.items()}

    table, results = throughput.report({"headstart": rounds(r0=100, r1=300, r2=500, r3=50), "quix": rounds(r0=200, r2=800, r3=500)})
    assert results["quix"]["headstart_ratios"] == [0.5, 0.625, 0.1]
    assert results["quix"]["headstart_ratio"] == 0.5  # that of the medians is .4
    assert results["headstart"]["events_per_s"] == 200
    assert "| 0.50 × |" in table


def test_a_run_without_headstart_has_no_ratio_and_is_still_json(throughput: ModuleType) -> None:
    """It says null, not NaN."""
    table, results = throughput.report({"quix": {0: throughput.Rate(200.0, 10.0, 1.0)}})
    assert results["quix"]["headstart_ratio"] is None
    assert "×" not in table
    json.dumps(results, allow_nan=False)
