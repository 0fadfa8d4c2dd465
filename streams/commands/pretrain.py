"""`headstart pretrain`: train the trunk and the source heads on an event log."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pyarrow.compute as pc
import typer

from models.checkpoint import save
from streams import namespace
from streams.commands.options import Config, Format, Json, Lines, Set, Steps, Trunk, Window, progress_bar, time_ms, without_nan, write_json
from streams.importing import read_log
from streams.settings import load_settings
from streams.training import train


def pretrain(
    events: Annotated[Path, typer.Argument(metavar="FILE", help="The event log of the older product lines.")],
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Use only what was known at this time: ISO 8601 or ms (default: the whole log, up to now).")
    ] = None,
    without_line: Annotated[list[str] | None, typer.Option("--without-line", metavar="LINE", help="Leave a line out; may be given again.")] = None,
    out: Trunk = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed, log and machine give the same bytes.")] = 0,
    window: Window = None,
    format: Format = "auto",
    lines: Lines = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Train the trunk and the source heads on an event log, and write them to the folder of --trunk (trunk.safetensors, manifest.json)."""
    settings = load_settings(config, assignments=assignments or (), trunk=out)
    log = read_log(events, format=format, lines=lines)
    if without_line:
        log = log.filter(~pc.field("line").isin(without_line))
    # An event with a time in the future must not set the end of training: learning online begins there.
    until_ms = time_ms("--until", until) if until else min(int(pc.max(log["ts"]).as_py() or 0) + 1, time.time_ns() // 1_000_000)
    rules = namespace.rules_of(settings, None, replay=True, window_s=window)
    with progress_bar() as bar:
        artifact = train(
            log, rules, tick_ms=settings.replay_tick_ms, until_ms=until_ms, seed=seed, progress=Steps(bar), tell=lambda text: bar.console.print(text)
        )
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    saved = save(replace(artifact, created=created), settings.trunk)
    typer.echo(f"trunk {saved.sha256[:16]} of {len(saved.lines)} lines in {settings.trunk}, {saved.trunk.parameters()} parameters")
    for name, value in saved.metrics.items():
        typer.echo(f"  {name:32} {value:.4f}")
    if json is not None:
        write_json(json, {"sha256": saved.sha256, "lines": list(saved.lines), "metrics": without_nan(saved.metrics), "deff": saved.deff})
