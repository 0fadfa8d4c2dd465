"""`headstart pretrain`: train the trunk and the source heads on an event log."""

from __future__ import annotations

import datetime as dt
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import typer

from features.errors import InputError
from features.vector import SCHEMA_HASH
from models.checkpoint import load, save
from models.fine_tune import FEWEST_CONVERSIONS, Start
from models.ranks import device_of, joined
from streams import namespace
from streams.commands.options import ByParts, Config, Format, Json, Lines, Set, Trunk, Window, for_people, time_ms, without_nan, write_json
from streams.commands.progress import Steps, progress_bar
from streams.log_parts import last_ms, open_log
from streams.row_sample import MOST_ROWS
from streams.settings import load_settings
from streams.training import train

T = TypeVar("T")
Device = Literal["cpu", "cuda"]
WORLD_SIZE, LOCAL_RANK = "WORLD_SIZE", "LOCAL_RANK"  # torchrun says here how many processes it has started, and which of those on its machine this one is


def pretrain(
    events: Annotated[
        Path, typer.Argument(metavar="FILE", help="The event log of the older product lines, or a folder of Parquet files that follow each other by name.")
    ],
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Use only what was known at this time: ISO 8601 or ms (default: the whole log, up to now).")
    ] = None,
    without_line: Annotated[list[str] | None, typer.Option("--without-line", metavar="LINE", help="Leave a line out; may be given again.")] = None,
    out: Trunk = None,
    parent: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="Refresh this trunk: go on from its weights and keep its scaler, so that what is learned online carries over."
        ),
    ] = None,
    fine_tune: Annotated[str | None, typer.Option("--fine-tune", metavar="LINE", help="With --from: train the trunk on with this line's events alone.")] = None,
    force: Annotated[bool, typer.Option("--force", help=f"Fine-tune with fewer than {FEWEST_CONVERSIONS} conversions of the line.")] = False,
    source_weights: Annotated[
        Path | None, typer.Option("--source-weights", metavar="FILE", help="How much each line counts: the file that `headstart similarity --json` wrote.")
    ] = None,
    attributes: Annotated[
        Path | None,
        typer.Option(
            "--attributes",
            metavar="FILE",
            help='What describes each line, as JSON {"line": {"name": number}}, the same names for each. A launch cannot be described yet: it starts as a line of mean attributes.',
        ),
    ] = None,
    by_parts: ByParts = False,
    most_rows: Annotated[
        int, typer.Option("--most-rows", metavar="N", min=1000, help="Of a log with more final exposures, keep those of a part of its shoppers.")
    ] = MOST_ROWS,
    device: Annotated[
        Device,
        typer.Option(
            "--device", help="Where the trunk takes its steps; cuda needs a GPU, and PyTorch's build for it. Features and heads stay on the processor."
        ),
    ] = "cpu",
    seed: Annotated[int, typer.Option("--seed", help="The same seed, log, machine and device give the same bytes.")] = 0,
    window: Window = None,
    format: Format = "auto",
    lines: Lines = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Train the trunk and the source heads on an event log, and write them to the folder of --trunk (trunk.safetensors, manifest.json).

    To refresh a trunk, give --from and a log that holds the old lines and the launches that have grown up; `headstart trunk compare` then tells
    whether it is better, and `headstart trunk promote` makes it active. The window is that of the trunk it comes from.

    Several processes train together where torchrun starts them: `torchrun --nproc-per-node 4 -m streams.cli pretrain …`, on one machine or several. Each reads
    the log; they share out the lines that are launched in pretence, and the steps of the trunk.
    """
    settings = load_settings(config, assignments=assignments or (), trunk=out)
    if (fine_tune is not None or force) and parent is None:
        raise InputError("--fine-tune and --force go with --from FOLDER: there is no trunk to go on from")
    old = load(parent, schema_hash=SCHEMA_HASH) if parent is not None else None
    if old is not None:
        window = namespace.need_window(window, old)
        if parent is not None and parent.resolve() == settings.trunk.resolve():
            raise InputError(f"--from and --trunk are both {parent}: the old trunk would be lost; give another folder for the new one")
    line_weight = read_weights(source_weights) if source_weights is not None else None
    described = read_attributes(attributes) if attributes is not None else None
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else a GPU's sums would not be the same each time, and torch refuses them
    there = device_of(device, int(os.environ.get(LOCAL_RANK, "0")))
    with joined(int(os.environ.get(WORLD_SIZE, "1")), there) as ranks:
        log = open_log(events, by_parts=by_parts, format=format, lines=lines, without=without_line or ())
        # An event with a time in the future must not set the end of training: learning online begins there.
        until_ms = time_ms("--until", until) if until else min(last_ms(log) + 1, time.time_ns() // 1_000_000)
        rules = namespace.rules_of(settings, old, replay=True, window_s=window)
        start = Start(old.trunk, old.sha256, line=fine_tune, force=force) if old is not None else None
        with progress_bar() as bar:
            artifact = train(
                log, rules, tick_ms=settings.replay_tick_ms, until_ms=until_ms, seed=seed, progress=Steps(bar) if ranks.rank == 0 else None,
                tell=lambda text: bar.console.print(f"rank {ranks.rank}: {text}" if ranks.size > 1 else text),
                line_weight=line_weight, attributes=described, start=start, most_rows=most_rows, ranks=ranks,
            )  # fmt: skip
        if ranks.rank:
            return
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    saved = save(replace(artifact, created=created), settings.trunk)
    descent = f", from {old.sha256[:16]}" if old is not None else ""
    say = partial(typer.echo, err=not for_people(json))
    say(f"trunk {saved.sha256[:16]} of {len(saved.lines)} lines in {settings.trunk}{descent}, {saved.trunk.parameters()} parameters")
    for name, value in saved.metrics.items():
        say(f"  {name:32} {value:.4f}")
    if json is not None:
        write_json(
            json,
            {
                "sha256": saved.sha256,
                "lines": list(saved.lines),
                "metrics": without_nan(saved.metrics),
                "deff": saved.deff,
                "parent": old.sha256 if old else None,
            },
        )


class _Source(msgspec.Struct):
    line: str
    weight: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class _Sources(msgspec.Struct):
    sources: list[_Source]


def read_weights(file: Path) -> dict[str, float]:
    """Return {line: weight} from what `headstart similarity --json` wrote. Raises InputError that says what is wrong with the file."""
    return {source.line: source.weight for source in _read("--source-weights", file, _Sources).sources}


def read_attributes(file: Path) -> dict[str, dict[str, float]]:
    """Return {line: {name: number}}. Raises InputError that says what is wrong with the file."""
    return _read("--attributes", file, dict[str, dict[str, float]])


def _read(option: str, file: Path, form: type[T]) -> T:
    try:
        return msgspec.json.decode(file.read_bytes(), type=form)
    except OSError as error:
        raise InputError(f"{option} {file} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise InputError(f"{option} {file} is not as expected: {error}") from None
