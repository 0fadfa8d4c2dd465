"""`headstart evaluate`: does transfer help here? The same pipeline on a log, in one process, without Kafka."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer

from features.errors import InputError
from features.vector import SCHEMA_HASH
from models.checkpoint import Artifact, load, save
from streams import namespace
from streams.commands.options import (
    Config,
    Format,
    Json,
    LaunchAt,
    Lines,
    Set,
    Steps,
    Window,
    need_past,
    print_figures,
    progress_bar,
    time_ms,
    without_nan,
    write_json,
)
from streams.evaluation import Figures, Judged, as_launch, launch_time, launched, prequential, write_predictions
from streams.importing import read_log
from streams.settings import Settings, load_settings
from streams.training import train


def evaluate(
    events: Annotated[Path, typer.Option("--events", metavar="FILE", help="The event log.")],
    target_line: Annotated[
        list[str] | None, typer.Option("--target-line", metavar="LINE", help="A line to launch; given again, they are launched together.")
    ] = None,
    each_line: Annotated[bool, typer.Option("--each-line", help="Launch every line in turn, the others being its sources.")] = False,
    launch_at: LaunchAt = None,
    window: Window = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE.parquet", help="Write user_id, line, ts (s), probability and score of each exposure.")
    ] = None,
    trunk: Annotated[
        Path | None, typer.Option("--trunk", metavar="FOLDER", help="Judge this trunk; without it one is trained on what came before the launch.")
    ] = None,
    trunk_out: Annotated[Path | None, typer.Option("--trunk-out", metavar="FOLDER", help="Keep the trained trunk, for `headstart replay`.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the training.")] = 0,
    format: Format = "auto",
    lines: Lines = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Launch lines of a log and compare headstart, frozen and scratch on what came.

    A launched line's earlier events are deleted before anything is computed. Every prediction uses events up to the exposure and labels
    that were final by then. Counted are the exposures whose window the log covers. Ranks are by the score, the rest by the probability.
    """
    settings = load_settings(config, assignments=assignments or ())
    log = read_log(events, format=format, lines=lines)
    known = sorted(pc.unique(log["line"]).to_pylist())
    if bool(target_line) == each_line:
        raise InputError("give either --target-line LINE or --each-line")
    if each_line and (trunk or trunk_out):
        raise InputError("--each-line trains a trunk for each line: --trunk and --trunk-out do not go with it")
    at_ms = time_ms("--launch-at", launch_at) if launch_at else launch_time(log)
    groups = [[line] for line in known] if each_line else [list(target_line or ())]
    end_ms = int(pc.max(log["ts"]).as_py())
    results: dict[str, Figures] = {}
    judged: list[Judged] = []
    for group in groups:
        found = _judge(settings, log, group, at_ms, window, trunk, trunk_out, seed)
        judged.append(found[0])
        window_ms = round(1000 * found[1].window_s)
        results.update({line: found[0].figures(line, until_ms=end_ms, window_ms=window_ms) for line in group})
    print_figures(results, title=f"launched at {at_ms} ms; exposures whose window ends by {end_ms} ms")
    if predictions is not None:
        write_predictions(judged, predictions)
    if json is not None:
        write_json(json, {"lines": {line: {model: without_nan(f) for model, f in models.items()} for line, models in results.items()}})


def _judge(
    settings: Settings, log: pa.Table, group: list[str], at_ms: int, window: float | None, trunk: Path | None, trunk_out: Path | None, seed: int
) -> tuple[Judged, Artifact]:
    log = launched(log, group, at_ms)
    name = ", ".join(group)
    with progress_bar() as bar:
        if trunk is not None:
            artifact = load(trunk, schema_hash=SCHEMA_HASH)
            namespace.need_window(window, artifact)
            if set(group) & set(artifact.lines):
                raise InputError(f"the trunk in {trunk} was trained on {', '.join(sorted(set(group) & set(artifact.lines)))}, which is to be launched")
            need_past(artifact.trained_until_ms, at_ms, trunk)
        else:
            rules = namespace.rules_of(settings, None, replay=True, window_s=window)
            artifact = train(log, rules, tick_ms=settings.replay_tick_ms, until_ms=at_ms, seed=seed, progress=_named(Steps(bar), name))
            if trunk_out is not None:
                artifact = save(artifact, trunk_out)
        rules = replace(namespace.rules_of(settings, artifact, replay=True), partitions=1, outcome_partitions=1)
        task = bar.add_task(f"line {name}: events", total=log.num_rows)
        launches = [as_launch(line, at_ms, artifact.window_s) for line in group]
        found = prequential(log, artifact, launches, rules, tick_ms=settings.replay_tick_ms, on_tick=lambda tick: bar.advance(task, len(tick.records)))
    return found, artifact


def _named(steps: Steps, name: str) -> Steps:
    class Named(Steps):
        def __init__(self) -> None:
            pass

        def __call__(self, step: str, done: int, of: int) -> None:
            steps(f"line {name}: {step}", done, of)

    return Named()
