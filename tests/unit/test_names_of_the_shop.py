"""What a shop calls its lines is printed as it is: no name is taken for markup, and none ends a command."""

from __future__ import annotations

import pytest

from streams.commands.options import print_figures
from streams.commands.progress import Steps, progress_bar

NAMES = ["Shoes [men]", "a [/b]", "[bold", "[link=x]y[/link]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_with_brackets_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a table of figures, and beside a bar."""
    figures = dict.fromkeys(("n", "conversions", "auc", "pr_auc", "log_loss", "precision_at_5pct", "pcoc"), 1.0)
    print_figures({name: {"headstart": figures}}, title=f"of {name}")
    with progress_bar() as bar:
        Steps(bar, f"line {name}: ")("features", 1, 2)
    told = capsys.readouterr()
    assert told.out.count(name) == 2
    assert f"line {name}: features" in told.err
