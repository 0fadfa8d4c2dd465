"""The tables that commands print."""

from __future__ import annotations

import math

import pytest

from streams.commands.options import print_figures


def test_what_is_undefined_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    """A launch without an order has no AUC and no ratio of foretold to come; its log-loss stands there."""
    figures = {"n": 3.0, "conversions": 0.0, "auc": math.nan, "pr_auc": math.nan, "log_loss": 0.1234, "precision_at_5pct": 0.0, "pcoc": math.nan}
    print_figures({"shoes": {"headstart": figures}}, title="one launch")
    out = capsys.readouterr().out
    assert "nan" not in out and out.count("–") == 3 and "0.1234" in out
