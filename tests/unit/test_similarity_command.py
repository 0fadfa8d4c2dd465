"""`headstart similarity`: the table, the JSON and the errors, on a small simulated shop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from streams import cli
from streams.importing import write_log
from streams.shop import Shop, simulate

SOURCES = {"audio", "bags", "books"}


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    captured = capsys.readouterr()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0, captured.out, captured.err


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The log of a small shop with three older lines, and when its launch begins."""
    made = Shop(users=150, lines=4, days=6.0, launch_day=3.0, conversion=0.1, seed=3)
    path = tmp_path_factory.mktemp("shop") / "shop.parquet"
    write_log(simulate(made).log, path)
    return path, made.start_ms + 3 * 86_400_000


def figures(shop: tuple[Path, int], *more: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the command writes to --json -."""
    code, out, _ = run("similarity", str(shop[0]), "--target-line", "launch", "--json", "-", *more, capsys=capsys)
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def test_json_holds_every_source_its_weight_and_why_a_figure_is_missing(shop: tuple[Path, int], capsys: pytest.CaptureFixture[str]) -> None:
    """Each older line once, π sums to 1, weights lie in 0..1, and a null has its reason."""
    found = figures(shop, capsys=capsys)
    sources = found["sources"]
    assert {s["line"] for s in sources} == SOURCES and found["target"] == "launch" and found["target_rows"] > 100
    assert math.fsum(s["pi"] for s in sources) == pytest.approx(1.0)
    for s in sources:
        assert 0 <= s["weight"] <= 1 and s["verdict"] in {"pooled", "weighted", "left out"}
        assert {name for name, value in s.items() if value is None} == set(s["unknown"])
        assert s["psi"] is not None and s["noise"]["psi"] > 0
    assert "lines_popularity" in found["rule"]["not_compared"] and "user_cart_rate" not in found["rule"]["not_compared"]


def test_the_same_log_gives_the_same_figures(shop: tuple[Path, int], capsys: pytest.CaptureFixture[str]) -> None:
    """To the last digit."""
    assert figures(shop, capsys=capsys) == figures(shop, capsys=capsys)


def test_launch_at_deletes_what_came_before(shop: tuple[Path, int], capsys: pytest.CaptureFixture[str]) -> None:
    """A later launch leaves fewer of the target's exposures; one after the log none, and then its labels are not known."""
    whole = figures(shop, capsys=capsys)
    later = figures(shop, "--launch-at", str(shop[1] + 86_400_000), capsys=capsys)
    assert 0 < later["target_rows"] < whole["target_rows"]
    never = figures(shop, "--launch-at", str(shop[1] + 30 * 86_400_000), capsys=capsys)
    assert (never["target_rows"], never["pooled_logme"]) == (0, None)
    assert {s["unknown"]["psi"] for s in never["sources"]} == {"the target has 0 exposures; 20 are needed"}


def test_the_table_is_in_plain_words(shop: tuple[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verdict and measures of every line, what the words mean, and a dash with its reason; the JSON lands in its file."""
    file = tmp_path / "figures.json"
    code, out, _ = run("similarity", str(shop[0]), "--target-line", "launch", "--launch-at", str(shop[1] + 30 * 86_400_000), "--json", str(file), capsys=capsys)
    assert code == 0
    assert "sources for launch: 0 exposures" in out
    for line in SOURCES:
        assert out.count(f"│ {line} ") == 2
    assert "A-distance  how well a classifier" in out
    assert "– not computed: " in out and "the target has 0 exposures; 20 are needed" in out
    assert json.loads(file.read_text())["target_rows"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target-line", "lost"), "there is no line 'lost' in the log; it has audio, bags, books, launch"),
        (("--target-line", "launch", "--launch-at", "soon"), "--launch-at soon"),
    ],
)
def test_an_error_is_one_line(shop: tuple[Path, int], arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown line and a time that is none: exit code 1 and what is wrong."""
    code, _, err = run("similarity", str(shop[0]), *arguments, capsys=capsys)
    assert code == 1
    assert err.startswith("headstart: ") and err.count("\n") == 1 and said in err
