"""Options that several commands share, and how a command writes its figures."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from features.errors import InputError
from features.events import Refused, milliseconds
from models.whole_file import can_be_replaced
from streams.mistaken_seconds import YEAR_2000_MS, day

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML file with settings (default: the one that HEADSTART_CONFIG names, else headstart.toml here, if there is one)."
    ),
]
Broker = Annotated[str | None, typer.Option("--broker", metavar="HOST:PORT[,…]", help="Kafka brokers to start from.")]

Redis = Annotated[
    str | None, typer.Option("--redis", metavar="URL", help="Redis or Valkey, such as redis://127.0.0.1:6379/0. A password goes into HEADSTART_REDIS.")
]
Namespace = Annotated[str | None, typer.Option("--namespace", metavar="NAME", help="Prefix of every Redis key (default: live).")]
Trunk = Annotated[Path | None, typer.Option("--trunk", metavar="FOLDER", help="Folder of the trained trunk (default: var/trunk).")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting that `headstart config` lists, but no secret; may be given again.")
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures as JSON; - is standard output.")]

Format = Annotated[str, typer.Option("--format", metavar="auto|taobao|rees46|jsonl|parquet", help="What the file holds; auto looks at its name and columns.")]
ByParts = Annotated[
    bool, typer.Option("--by-parts", help="Read the log part by part, for one larger than memory: Parquet of our schema in order of ts. A folder always is.")
]
Lines = Annotated[
    str | None,
    typer.Option(
        "--lines",
        metavar="FILE|hash:N[:SALT]|behaviour:N[:SHARE]",
        help="What makes the product lines: a mapping file, or N lines by hash of the category, or by how categories behave in the log's first third.",
    ),
]
LaunchAt = Annotated[
    str | None, typer.Option("--launch-at", metavar="TIME", help="When the lines are launched: ISO 8601 or ms (default: after 45 % of the log's span).")
]
Window = Annotated[float | None, typer.Option("--window", metavar="SECONDS", help="Attribution window (default: the setting window_s, one day).")]


LONGEST: Final = 18  # digits of a number
WIDE: Final = 160
"""Columns of a table, whatever the terminal has: what is cut off cannot be copied."""


def require_writable(option: str, file: Path | None, *, replaced: bool = False) -> None:
    """Raise InputError where a file could not be written, or a new one put in its place if it is `replaced`, before the work that would fill it."""
    if file is None or str(file) == "-":
        return
    written = file.resolve().parent if replaced and can_be_replaced(file) else file if file.exists() else file.parent
    if file.is_dir() or not os.access(written, os.W_OK):
        raise InputError(f"{option} {file} cannot be written")


def for_people(json: Path | None) -> bool:
    """Whether standard output is for people: with `--json -` it holds the figures alone."""
    return json is None or str(json) != "-"


def write_json(file: Path, figures: object) -> None:
    """Write `figures` as indented JSON with a newline at its end; "-" is standard output. Raises InputError if the file cannot be written.

    NaN and infinity are not JSON: give None for a figure that does not exist.
    """
    text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if str(file) == "-":
        typer.echo(text, nl=False)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--json {file} cannot be written: {error.strerror}") from None


def whole_number(text: str) -> int | None:
    """Return the number that a text of digits stands for, None for any other text."""
    return int(text) if text.isdecimal() and len(text) <= LONGEST else None


def time_ms(option: str, text: str) -> int:
    """Return a time given as ISO 8601 or in milliseconds. Raises InputError that names the option, also for a number that seems to be in seconds."""
    number = whole_number(text)
    try:
        found = milliseconds(text if number is None else number)
    except Refused as refused:
        raise InputError(f"{option} {text:.60}: {refused.detail}") from None
    if number is not None and number < YEAR_2000_MS:
        raise InputError(f"{option} {text}: is it in seconds? In milliseconds it is on {day(number)}; expected milliseconds, or ISO 8601")
    return found


def need_past(trained_until_ms: int, launch_ms: int, folder: Path) -> None:
    """Raise InputError for a trunk that has seen what came after the launch: it would be judged on what it knows, and learn nothing from it."""
    if trained_until_ms > launch_ms:
        raise InputError(
            f"the trunk in {folder} was trained until {trained_until_ms} ms, after the launch at {launch_ms} ms: train it with --until {launch_ms}"
        )


def without_nan(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Return figures as JSON can hold them: what is undefined is null."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def print_figures(lines: Mapping[str, Mapping[str, Mapping[str, float]]], *, title: str) -> None:
    """Print {line: {model: figures}} as a table: ranks by the score, the rest by the probability."""
    table = Table(title=title, title_justify="left")
    columns = ("line", "model", "exposures", "conversions", "AUC", "PR-AUC", "log-loss", "Precision@5%", "pred./observed")
    for name in columns:
        table.add_column(name, justify="left" if name in ("line", "model") else "right")
    for line, models in lines.items():
        for i, (model, f) in enumerate(models.items()):
            table.add_row(
                line if i == 0 else "", model, f"{f['n']:.0f}", f"{f['conversions']:.0f}",
                *(_decimals(f[name], 3 if name == "pcoc" else 4) for name in ("auc", "pr_auc", "log_loss", "precision_at_5pct", "pcoc")),
            )  # fmt: skip
        table.add_section()
    Console(width=124, markup=False).print(table)


def print_comparison(compared: Mapping[str, Any], *, title: str) -> None:
    """Print what `streams.comparison.compare` found: each model's figures, and headstart's advantage over it: + is better, * if the interval excludes 0."""
    if "comparison" not in compared:
        return
    table = Table(title=title, title_justify="left")
    for name in ("model", "AUC", "headstart better by", "log-loss", "headstart better by", "Precision@5%", "pred./observed"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model, told in compared["comparison"]["methods"].items():
        figures, gaps = told["figures"], told["gaps"]
        table.add_row(
            model, _decimals(figures["auc"]["value"], 4), _advantage(gaps["auc"], higher_is_better=True) if model != "headstart" else "",
            _decimals(figures["log_loss"]["value"], 4), _advantage(gaps["log_loss"], higher_is_better=False) if model != "headstart" else "",
            _decimals(figures["precision_at_5pct"]["value"], 3), _decimals(figures["pcoc_pooled"]["value"], 2),
        )  # fmt: skip
        if model in (compared["experts"][-1], "headstart"):
            table.add_section()
    Console(width=124, markup=False).print(table)


def _advantage(gap: Mapping[str, float], *, higher_is_better: bool) -> str:
    from streams.report_words import advantage, excludes_zero, interval

    ours = advantage(interval(gap), higher_is_better=higher_is_better)
    return f"{ours.value:+.4f} [{ours.low:+.4f}, {ours.high:+.4f}]{'*' if excludes_zero(ours) else ' '}"


def _decimals(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
