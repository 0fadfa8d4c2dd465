"""`headstart evaluate`: does transfer help here? The same pipeline on a log, in one process or several, without Kafka."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import active_children, get_context
from multiprocessing.queues import Queue
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.progress import Progress

from features.errors import InputError
from features.vector import SCHEMA_HASH
from models.baselines import BASELINES
from models.checkpoint import cpu_model, load, save
from streams import namespace
from streams.commands.options import (
    Config,
    Format,
    Json,
    LaunchAt,
    Lines,
    Set,
    Window,
    for_people,
    need_past,
    print_comparison,
    print_figures,
    require_writable,
    time_ms,
    without_nan,
    write_json,
)
from streams.commands.progress import Steps, progress_bar
from streams.comparison import LineRun, compare, run_lines
from streams.evaluation import Figures, launch_time, launched, require_lines, require_told_apart, write_predictions
from streams.importing import read_log
from streams.lines import rule_in_words
from streams.panels import iso
from streams.records import checked_id
from streams.report import write_report
from streams.settings import Settings, load_settings
from streams.training import train

DAY_MS = 86_400_000
MANY_LINES = 40
LISTEN_S = 2.0


@dataclass(frozen=True)
class Job:
    """Lines to launch together, and everything that a process needs for it; the log is whole."""

    settings: Settings
    log: pa.Table
    lines: tuple[str, ...]
    at_ms: int
    end_ms: int
    window_s: float | None
    trunk: Path | None
    trunk_out: Path | None
    seed: int
    baselines: tuple[str, ...]


Tell = Callable[[str, int, int], None]


def evaluate(
    events: Annotated[Path, typer.Option("--events", metavar="FILE", help="The event log.")],
    target_line: Annotated[
        list[str] | None, typer.Option("--target-line", metavar="LINE", help="A line to launch; given again, they are launched together.")
    ] = None,
    each_line: Annotated[bool, typer.Option("--each-line", help="Launch every line in turn, the others being its sources.")] = False,
    launch_at: LaunchAt = None,
    window: Window = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a page with plots that says whether transfer helps, and what it costs.")
    ] = None,
    baselines: Annotated[bool, typer.Option("--baselines/--no-baselines", help="Also judge what others would use (LightGBM, river, FNW, ES-DFM …).")] = True,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE.parquet",
            help="Write user_id, line, ts (s), probability, score and ordered (null: its window is not over) of each exposure.",
        ),
    ] = None,
    trunk: Annotated[
        Path | None, typer.Option("--trunk", metavar="FOLDER", help="Judge this trunk; without it one is trained on what came before the launch.")
    ] = None,
    trunk_out: Annotated[Path | None, typer.Option("--trunk-out", metavar="FOLDER", help="Keep the trained trunk, for `headstart replay`.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, metavar="N", help="Lines at a time, a process each (default: as many as processors).")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the training and of the intervals.")] = 0,
    format: Format = "auto",
    lines: Lines = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Launch lines of a log and compare headstart, each way of transfer, and what others would use, on what came.

    A launched line's earlier events are deleted before anything is computed. Every prediction uses events up to the exposure and labels
    that were final by then. Counted are the exposures whose window the log covers. Ranks are by the score, the rest by the probability.
    Intervals are 95 %, from resampled users.
    """
    settings = load_settings(config, assignments=assignments or ())
    log = read_log(events, format=format, lines=lines)
    known = sorted(pc.unique(log["line"]).to_pylist())
    if bool(target_line) == each_line:
        raise InputError("give either --target-line LINE or --each-line")
    if each_line and (trunk or trunk_out):
        raise InputError("--each-line trains a trunk for each line: --trunk and --trunk-out do not go with it")
    at_ms = time_ms("--launch-at", launch_at) if launch_at else launch_time(log)
    groups = [(line,) for line in known] if each_line else [tuple(target_line or ())]
    end_ms = int(pc.max(log["ts"]).as_py())
    names = BASELINES if baselines else ()
    require_told_apart(lines, log, at_ms)
    require_lines(log, groups[0])
    for line in (line for group in groups for line in group):
        checked_id(line)
    for option, file in (("--report", report), ("--predictions", predictions), ("--json", json)):
        require_writable(option, file)
    if len(groups) > MANY_LINES:
        typer.echo(f"{len(groups)} lines: each has a trunk of its own trained, which takes seconds to minutes; --lines makes fewer lines of them", err=True)
    work = [Job(settings, log, group, at_ms, end_ms, window, trunk, trunk_out, seed, names) for group in groups]
    with progress_bar() as bar:
        found = _all(work, bar, min(jobs or os.cpu_count() or 1, len(work)))
    runs = [run for runs in found for run in runs]
    window_ms = round(1000 * found[0][0].window_s)
    results: dict[str, Figures] = {run.line: run.judged.figures(run.line, until_ms=end_ms, window_ms=window_ms) for run in runs}
    title = f"launched at {iso(at_ms)}; exposures whose window ends by {iso(end_ms)}"
    if (len(runs) == 1 or not baselines) and for_people(json):
        print_figures(results, title=title)
    compared: dict[str, Any] = compare(runs, seed=seed) if baselines or report is not None else {}
    if compared and for_people(json):
        print_comparison(compared, title=f"means over {len(compared['lines_judged'])} lines, {title}")
    if predictions is not None:
        write_predictions([runs[0].judged for runs in found], predictions, until_ms=end_ms, window_ms=window_ms)
    if json is not None:
        plain = {"lines": {line: {model: without_nan(f) for model, f in models.items()} for line, models in results.items()}}
        write_json(json, _null(plain | compared))
    if report is not None:
        write_report(
            {"lines": results} | compared,
            report,
            title=f"Does transfer help on {events.name}?",
            facts=_facts(log, events, lines, at_ms, found[0][0].window_s, trunk, settings),
        )
        typer.echo(f"report: {report}", err=not for_people(json))


def run_job(job: Job, tell: Tell) -> list[LineRun]:
    """Train (or load) and judge. Raises InputError for a trunk that does not fit."""
    log = launched(job.log, job.lines, job.at_ms)
    if job.trunk is not None:
        artifact = load(job.trunk, schema_hash=SCHEMA_HASH)
        namespace.need_window(job.window_s, artifact)
        if taught := sorted(set(job.lines) & set(artifact.lines)):
            raise InputError(f"the trunk in {job.trunk} was trained on {', '.join(taught)}, which is to be launched")
        need_past(artifact.trained_until_ms, job.at_ms, job.trunk)
    else:
        rules = namespace.rules_of(job.settings, None, replay=True, window_s=job.window_s)
        artifact = train(log, rules, tick_ms=job.settings.replay_tick_ms, until_ms=job.at_ms, seed=job.seed, progress=tell)
        if job.trunk_out is not None:
            artifact = save(artifact, job.trunk_out)
    rules = replace(namespace.rules_of(job.settings, artifact, replay=True), partitions=1, outcome_partitions=1)
    return run_lines(
        log, artifact, job.lines, rules, at_ms=job.at_ms, tick_ms=job.settings.replay_tick_ms, end_ms=job.end_ms,
        baselines=job.baselines, seed=job.seed, progress=tell,
    )  # fmt: skip


def _all(work: Sequence[Job], bar: Progress, processes: int) -> list[list[LineRun]]:
    """Run all jobs in order, in this process or in several, and show how far each is."""
    show = {job.lines: Steps(bar, f"line {', '.join(job.lines)}: ") for job in work}
    if processes == 1:
        return [run_job(job, show[job.lines]) for job in work]
    context, others = get_context("spawn"), active_children()
    reports: Queue[tuple[tuple[str, ...], str, int, int] | None] = context.Queue()
    with _heard(reports, show), ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(reports,)) as pool:
        try:
            heeds = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the processes do from their start on: a Ctrl-C is for this one, which ends them
            try:
                futures: list[Future[list[LineRun]]] = [pool.submit(_in_a_process, job) for job in work]
            finally:
                signal.signal(signal.SIGINT, heeds)
            return [future.result() for future in futures]
        except BaseException:
            for process in set(active_children()).difference(others):  # else they would first do what they have begun, and one more each
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


_reports: Queue[tuple[tuple[str, ...], str, int, int] | None] | None = None


def _begin(reports: Queue[tuple[tuple[str, ...], str, int, int] | None]) -> None:
    global _reports
    _reports = reports


def _in_a_process(job: Job) -> list[LineRun]:
    assert _reports is not None
    reports = _reports
    return run_job(job, lambda step, done, of: reports.put((job.lines, step, done, of)))


@contextmanager
def _heard(reports: Queue[tuple[tuple[str, ...], str, int, int] | None], show: dict[tuple[str, ...], Steps]) -> Iterator[None]:
    """Show what the processes report until the block ends."""

    def listen() -> None:
        while (told := reports.get()) is not None:
            lines, step, done, of = told
            show[lines](step, done, of)

    listener = Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        reports.put(None)
        listener.join(timeout=LISTEN_S)
        reports.cancel_join_thread()  # a process that was ended may have held the queue's lock: then nobody will ever read that


def _facts(log: pa.Table, events: Path, lines: str | None, at_ms: int, window_s: float, trunk: Path | None, settings: Settings) -> dict[str, str]:
    days = (at_ms - int(pc.min(log["ts"]).as_py())) / DAY_MS
    return {
        "log": events.name,
        "events": f"{log.num_rows:,}",
        "users": f"{pc.count_distinct(log['user_id']).as_py():,}",
        "lines": f"{pc.count_distinct(log['line']).as_py():,}",
        "lines by": rule_in_words(lines),
        "launched at": iso(at_ms),
        "label window": f"{window_s / 3600:g} hours",
        "trained on": f"a log of its own: the trunk {trunk.name}" if trunk else f"the {days:.1f} days of log before the launch",
        "time zone of the features": settings.timezone,
        "machine": f"{cpu_model()}, {os.cpu_count()} processors",
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("headstart", "numpy", "numba", "torch", "lightgbm", "river")),
        "command": shlex.join(["headstart", *sys.argv[1:]]),
        "made": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def _null(value: Any) -> Any:
    """The same structure with null in place of what is not finite, as JSON wants it."""
    if isinstance(value, dict):
        return {name: _null(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null(item) for item in value]
    return None if isinstance(value, float) and value - value != 0.0 else value
