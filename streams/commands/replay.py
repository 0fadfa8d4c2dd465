"""`headstart replay`: a log through Kafka to real workers, in event time, until every outcome is final."""

from __future__ import annotations

import secrets
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import pyarrow.compute as pc
import typer

from features.errors import InputError
from streams import namespace
from streams.commands.options import (
    Broker,
    Config,
    Format,
    Json,
    LaunchAt,
    Lines,
    Redis,
    Set,
    Trunk,
    for_people,
    need_past,
    print_figures,
    require_writable,
    time_ms,
    without_nan,
    write_json,
)
from streams.commands.progress import progress_bar
from streams.embedded import EmbeddedStack
from streams.evaluation import as_launch, launch_time, launched, require_told_apart, write_predictions
from streams.importing import read_log
from streams.panels import iso
from streams.replay import replay_log, replay_settings
from streams.settings import for_a_shell, load_settings, with_changes

EMBEDDED_SESSION_S = 6


def replay(
    events: Annotated[Path, typer.Argument(metavar="FILE", help="The event log.")],
    launch_line: Annotated[
        list[str] | None, typer.Option("--launch-line", metavar="LINE", help="A line to launch; given again, they are launched together.")
    ] = None,
    launch_at: LaunchAt = None,
    speed: Annotated[str, typer.Option("--speed", metavar="max|N", help="Event time over wall time; max is as fast as the workers are.")] = "max",
    workers: Annotated[int, typer.Option("--workers", help="Workers to start here; 0: you start `headstart worker` on the namespace yourself.")] = 1,
    embedded: Annotated[bool, typer.Option("--embedded", help="Start an embedded broker and Valkey for the replay, and stop them after it.")] = False,
    name: Annotated[
        str | None, typer.Option("--namespace", metavar="NAME", help="A fresh namespace, which also prefixes the topics (default: replay-…).")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE.parquet", help="Write user_id, line, ts (s), probability and score of each exposure.")
    ] = None,
    logs: Annotated[Path | None, typer.Option("--logs", metavar="FOLDER", help="Keep the workers' logs here (default: a temporary folder).")] = None,
    broker: Broker = None,
    redis: Redis = None,
    trunk: Trunk = None,
    format: Format = "auto",
    lines: Lines = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Publish a log to Kafka in event time, let real workers score and learn from it, and print the figures when every outcome is final.

    The figures equal those of `headstart evaluate` on the same log, trunk and launches exactly, however many partitions and workers there are.
    The replay has a namespace and topics of its own and refuses one that is in use.
    """
    settings = load_settings(config, needs=() if embedded else ("broker", "redis"), assignments=assignments or (), broker=broker, redis=redis, trunk=trunk)
    try:
        factor = None if speed == "max" else float(speed)
    except ValueError:
        raise InputError(f"--speed {speed}: expected max or a number") from None
    if factor is not None and not factor > 0:
        raise InputError(f"--speed {speed}: the number must be above 0")
    for option, file in (("--predictions", predictions), ("--json", json)):
        require_writable(option, file)
    artifact = namespace.load_trunk(settings)
    log = read_log(events, format=format, lines=lines)
    at_ms = time_ms("--launch-at", launch_at) if launch_at else launch_time(log)
    names = launch_line or []
    require_told_apart(lines, log, at_ms)
    log = launched(log, names, at_ms)
    taught = sorted(set(names) & set(artifact.lines))
    if taught:
        raise InputError(f"the trunk in {settings.trunk} was trained on {', '.join(taught)}, which is to be launched")
    if names:
        need_past(artifact.trained_until_ms, at_ms, settings.trunk)
    launches = [as_launch(line, at_ms, artifact.window_s) for line in names]
    end_ms = int(pc.max(log["ts"]).as_py())
    first_ms = int(pc.min(log["ts"]).as_py())
    with EmbeddedStack() if embedded else nullcontext() as stack, tempfile.TemporaryDirectory() as folder, progress_bar() as bar:
        if stack is not None:
            settings = with_changes(settings, broker=stack.broker, redis=stack.redis_url, session_timeout_s=EMBEDDED_SESSION_S)
        settings = with_changes(replay_settings(settings, name or f"replay-{secrets.token_hex(4)}"), trunk=settings.trunk.resolve())
        invitation = f"the namespace is ready; start workers with: {for_a_shell(settings)} headstart worker"
        published = bar.add_task("events published", total=log.num_rows)
        learned = bar.add_task("hours of event time learned", total=round((end_ms - first_ms) / 3_600_000))
        judged = replay_log(
            settings, log, artifact, launches, number=workers, folder=logs or Path(folder), speed=factor,
            timeout_s=120.0 if workers else 3_600.0, on_prepared=None if workers else lambda: typer.echo(invitation, err=True),
            on_published=lambda tick: bar.advance(published, len(tick.records)),
            on_stamp=lambda ms: bar.update(learned, completed=max(0, min(ms, end_ms) - first_ms) // 3_600_000),
        )  # fmt: skip
    window_ms = round(1000 * artifact.window_s)
    results = {line: judged.figures(line, until_ms=end_ms, window_ms=window_ms) for line in names}
    if for_people(json):
        print_figures(results, title=f"launched at {iso(at_ms)}; exposures whose window ends by {iso(end_ms)}")
    if predictions is not None:
        write_predictions([judged], predictions, until_ms=end_ms, window_ms=window_ms)
    if json is not None:
        write_json(json, {"lines": {line: {model: without_nan(f) for model, f in models.items()} for line, models in results.items()}})
