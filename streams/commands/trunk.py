"""`headstart trunk compare|promote|rollback|list`: a better trunk takes the place of the active one, while workers go on."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from features.errors import InputError, Mismatch
from features.exposures import NONE, Exposure
from features.redis_store import RedisStore
from features.vector import SCHEMA_HASH
from models.carry import differences
from models.checkpoint import Artifact, load
from models.intervals import Comparison, Interval, paired_bootstrap
from streams import namespace, trunks
from streams.commands.options import WIDE, Config, Format, Json, Lines, Namespace, Redis, Set, for_people, time_ms, write_json
from streams.commands.progress import progress_bar
from streams.evaluation import as_launch, prequential
from streams.importing import read_log
from streams.knowledge import outcome_slot
from streams.records import Launch, Outcome
from streams.settings import Settings, load_settings

trunk_app = typer.Typer(no_args_is_help=True, help="Compare a trunk with the active one, make it active, go back, and list what was active.")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The trunk that `headstart pretrain --from` wrote.")]
From = Annotated[str | None, typer.Option("--from", metavar="TIME", help="When it becomes active: ISO 8601 or ms (default: in five seconds).")]
T = TypeVar("T")

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
JUDGED_BY: Final = ("log_loss", "auc")
PROMOTE: Final = "promote"
KEEP: Final = "keep the champion"
UNDECIDED: Final = "cannot be told apart: keep the champion"


@trunk_app.command("compare")
def compare(
    events: Annotated[Path, typer.Argument(metavar="EVENTS", help="An event log that goes on after both trunks' end of training.")],
    champion: Annotated[Path, typer.Option("--champion", metavar="FOLDER", help="The active trunk.")],
    challenger: Annotated[Path, typer.Option("--challenger", metavar="FOLDER", help="The trunk that may take its place.")],
    launch_line: Annotated[
        list[str] | None, typer.Option("--launch-line", metavar="LINE", help="A line that is being launched (default: those that the champion does not know).")
    ] = None,
    launch_at: Annotated[
        list[str] | None,
        typer.Option("--launch-at", metavar="TIME", help="When: once for all, or once for each --launch-line (default: where judging begins)."),
    ] = None,
    format: Format = "auto",
    lines: Lines = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Would the challenger have done better? Both run over the log as live workers would, and are judged on what came after both were trained.

    The log's earlier events make the shoppers' states and let the champion learn online what it has learned by now. Judged are the exposures, of launches
    and of older lines, that both opened after the later end of training and whose window the log covers: log-loss of the probability, AUC of the score, as
    means over lines. Intervals hold 95 % of 500 draws of users. To promote, log-loss must be lower beyond chance, and AUC not lower beyond chance.
    """
    settings = load_settings(config, assignments=assignments or ())
    folders = {CHAMPION: champion, CHALLENGER: challenger}
    artifacts = {name: load(folder, schema_hash=SCHEMA_HASH) for name, folder in folders.items()}
    if told := differences(artifacts[CHAMPION], artifacts[CHALLENGER]):
        raise Mismatch(f"the trunk in {challenger} cannot take the place of that in {champion}: it differs in {', '.join(told)}")
    log = read_log(events, format=format, lines=lines)
    from_ms = max(artifact.trained_until_ms for artifact in artifacts.values())
    launches = _launches(log, artifacts[CHAMPION], launch_line or [], launch_at or [], from_ms)
    end_ms = int(pc.max(log["ts"]).as_py() or 0)
    said: dict[str, dict[str, tuple[Exposure, int]]] = {}
    with progress_bar() as bar:
        for name, artifact in artifacts.items():
            task = bar.add_task(f"{name} {artifact.sha256[:16]}: events", total=log.num_rows)
            said[name] = _judged(settings, log, artifact, launches, from_ms, end_ms, partial(bar.advance, task))
    found = judge(said[CHAMPION], said[CHALLENGER])
    if found is None:
        raise InputError(f"no exposure after {from_ms} ms, the later end of training, has a window that is over by the log's end at {end_ms} ms")
    decided = verdict(found)
    if for_people(json):
        _show(found, decided, from_ms, end_ms)
    if json is not None:
        about = {name: {"sha256": a.sha256, "trained_until_ms": a.trained_until_ms, "lines": list(a.lines)} for name, a in artifacts.items()}
        counts = {"rows": found.rows, "conversions": found.conversions, "users": found.users, "lines": found.groups, "resamples": found.resamples}
        write_json(json, {"verdict": decided, "from_ms": from_ms, "end_ms": end_ms, **about, **counts, "figures": as_json(found)})


def _launches(log: pa.Table, champion: Artifact, names: list[str], times: list[str], from_ms: int) -> list[Launch]:
    known = sorted(pc.unique(log["line"]).to_pylist())
    if missing := [name for name in names if name not in known]:
        raise InputError(f"there is no line {missing[0]!r} in the log; it has {', '.join(known[:20])}")
    if len(times) > 1 and len(times) != len(names):
        raise InputError(f"{len(times)} times with --launch-at for {len(names)} lines with --launch-line: give one for all, or one for each")
    names = names or [line for line in known if line not in champion.lines]
    at_ms = [time_ms("--launch-at", text) for text in times] or [from_ms]
    return [as_launch(name, at_ms[i if len(at_ms) > 1 else 0], champion.window_s) for i, name in enumerate(names)]


def _judged(
    settings: Settings, log: pa.Table, artifact: Artifact, launches: Sequence[Launch], from_ms: int, end_ms: int, advance: Callable[[float], None]
) -> dict[str, tuple[Exposure, int]]:  # fmt: skip
    """Return by its id each exposure from `from_ms` on whose window is over by `end_ms`, with its label."""
    rules = replace(namespace.rules_of(settings, artifact, replay=True), partitions=1, outcome_partitions=1, partitioner_check=False)
    out: dict[str, tuple[Exposure, int]] = {}

    def hear(outcome: Outcome) -> None:
        exposure, label = outcome.closed.exposure, outcome.closed.label
        if label != NONE and exposure.ts_ms >= from_ms and exposure.ts_ms + rules.edges_ms[-1] <= end_ms:
            out[exposure.id] = exposure, label

    prequential(log, artifact, launches, rules, tick_ms=settings.replay_tick_ms, on_tick=lambda tick: advance(len(tick.records)), on_outcome=hear)
    return out


def judge(champion: dict[str, tuple[Exposure, int]], challenger: dict[str, tuple[Exposure, int]], *, resamples: int = 500) -> Comparison | None:
    """Compare what the two said of the exposures that both opened, by id, with their labels; None if there are none."""
    both = sorted(set(champion) & set(challenger))
    if not both:
        return None
    rows = [champion[name] for name in both]

    def told(by: dict[str, tuple[Exposure, int]]) -> tuple[np.ndarray, np.ndarray]:
        score, probability = np.array([by[name][0].said()[:2] for name in both], np.float64).T
        return np.ascontiguousarray(score), np.ascontiguousarray(probability)

    return paired_bootstrap(
        np.array([label for _, label in rows]), np.array([e.user for e, _ in rows]), np.array([e.domain for e, _ in rows]),
        {CHAMPION: told(champion), CHALLENGER: told(challenger)}, reference=CHAMPION, resamples=resamples,
    )  # fmt: skip


def verdict(found: Comparison) -> str:
    """Return what to do: promote if log-loss is lower beyond chance and AUC not lower beyond chance."""
    gaps = found.methods[CHALLENGER].gaps
    if gaps["log_loss"].low > 0 or gaps["auc"].high < 0:
        return KEEP
    return PROMOTE if gaps["log_loss"].high < 0 else UNDECIDED


def as_json(found: Comparison) -> dict[str, Any]:
    """Return {figure: {champion, challenger, difference}}, each with its value and interval; null where a figure does not exist."""
    return {figure: {name: [_json(a) for a in (i.value, i.low, i.high)] for name, i in _intervals(found, figure).items()} for figure in JUDGED_BY}


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value


def _intervals(found: Comparison, figure: str) -> dict[str, Interval]:
    methods = found.methods
    return {**{name: methods[name].figures[figure] for name in (CHAMPION, CHALLENGER)}, "difference": methods[CHALLENGER].gaps[figure]}


def _show(found: Comparison, decided: str, from_ms: int, end_ms: int) -> None:
    table = Table(
        title=f"{found.rows} exposures with {found.conversions} orders of {found.users} users in {found.groups} lines, {from_ms} to {end_ms} ms",
        title_justify="left",
    )
    for name in ("", CHAMPION, CHALLENGER, "difference, 95 %"):
        table.add_column(name, justify="right" if name else "left")
    for figure, label in zip(JUDGED_BY, ("log-loss", "AUC"), strict=True):
        a, b, gap = _intervals(found, figure).values()
        table.add_row(label, f"{a.value:.5f}", f"{b.value:.5f}", f"{gap.value:+.5f} ({gap.low:+.5f} to {gap.high:+.5f})")
    Console(width=110, markup=False).print(table)
    typer.echo(f"verdict: {decided}")


@trunk_app.command("promote")
def promote(
    folder: Folder, start: From = None, redis: Redis = None, namespace_: Namespace = None, json: Json = None, config: Config = None, assignments: Set = None
) -> None:
    """Make a trunk the active one of a live namespace.

    Its files go into Redis, so workers need no new folder. The learners carry what launches have learned over to it; when all have, workers score with it.
    """
    settings = _settings(config, assignments, redis, namespace_)
    artifact = load(folder)

    async def promoting(store: RedisStore) -> tuple[trunks.Activation, bool]:
        held = await _live(store, settings)
        if artifact.schema_hash != held["schema"]:
            raise Mismatch(f"the trunk in {folder} was trained on feature schema {artifact.schema_hash}, namespace {settings.namespace!r} has {held['schema']}")
        return await trunks.promote(store, folder, artifact, base=held["trunk"], stamped=await _stamped(store, held), at_ms=_from_ms(start))

    _tell(_with_store(settings, promoting), "becomes active", json)


@trunk_app.command("rollback")
def rollback(start: From = None, redis: Redis = None, namespace_: Namespace = None, json: Json = None, config: Config = None, assignments: Set = None) -> None:
    """Make the trunk before the active one active again; given twice, it goes back two trunks."""
    settings = _settings(config, assignments, redis, namespace_)

    async def going_back(store: RedisStore) -> tuple[trunks.Activation, bool]:
        held = await _live(store, settings)
        return await trunks.rollback(store, base=held["trunk"], stamped=await _stamped(store, held), at_ms=_from_ms(start))

    _tell(_with_store(settings, going_back), "becomes active again", json)


@trunk_app.command("list")
def list_(redis: Redis = None, namespace_: Namespace = None, json: Json = None, config: Config = None, assignments: Set = None) -> None:
    """List the trunks that were active in a namespace, in turn, and which one the launches' heads belong to now."""
    settings = _settings(config, assignments, redis, namespace_)

    async def read(store: RedisStore) -> list[dict[str, Any]]:
        held = await _joined(store, settings)
        numbers = await _stamps(store, held)
        first = trunks.Activation(number=0, sha256=held["trunk"], from_ms=0, previous="")
        rows = []
        for a in [first, *await trunks.read(store)]:
            about = await trunks.manifest(store, a.sha256) or {}
            state = "active" if a.number == min(numbers) else "coming" if a.number > min(numbers) else ""
            rows.append(
                {"number": a.number, "sha256": a.sha256, "state": state, "from_ms": a.from_ms, "trained_until_ms": about.get("trained_until_ms"),
                 "lines": about.get("lines"), "parent": about.get("settings", {}).get("parent")}
            )  # fmt: skip
        return rows

    rows = _with_store(settings, read)
    table = Table()
    for column in ("trunk", "state", "from (ms)", "trained until (ms)", "lines", "made from"):
        table.add_column(column, overflow="fold")
    for row in rows:
        lines = ", ".join(row["lines"]) if row["lines"] is not None else "its files are not in the store"
        table.add_row(
            row["sha256"][:16], row["state"], str(row["from_ms"] or "the beginning"), str(row["trained_until_ms"] or ""), lines, (row["parent"] or "")[:16]
        )
    if for_people(json):
        Console(width=WIDE, markup=False).print(table)
    if json is not None:
        write_json(json, rows)


def _tell(done: tuple[trunks.Activation, bool], what: str, json: Path | None) -> None:
    activation, carried = done
    if for_people(json):
        typer.echo(f"trunk {activation.sha256[:16]} {what} at {activation.from_ms} ms; before it: {activation.previous[:16] or 'none'}")
    if not carried:
        typer.echo(
            "warning: its scaler differs from that of the trunk before it (it was not made with --from): launches keep their level, mixture weights and delays, "
            "all other heads start again",
            err=not for_people(json),
        )
    if json is not None:
        write_json(json, {"sha256": activation.sha256, "from_ms": activation.from_ms, "previous": activation.previous, "heads_carried": carried})


async def _joined(store: RedisStore, settings: Settings) -> dict[str, str]:
    held = await store.meta()
    if "trunk" not in held:
        raise InputError(f"namespace {settings.namespace!r} has no worker yet: give the trunk to its first one (--trunk)")
    return held


async def _live(store: RedisStore, settings: Settings) -> dict[str, str]:
    held = await _joined(store, settings)
    if namespace.clock_of(held) != namespace.LIVE:
        raise Mismatch(f"namespace {settings.namespace!r} is a replay's: its trunk is fixed before the first event")
    return held


async def _stamps(store: RedisStore, held: dict[str, str]) -> list[int]:
    slots = [await store.load(outcome_slot(q), (trunks.STAMP,)) for q in range(int(held["outcome_partitions"]))]
    return [trunks.stamp_in(slot).number for slot in slots]


async def _stamped(store: RedisStore, held: dict[str, str]) -> int:
    return max(await _stamps(store, held))


def _settings(config: Config, assignments: Set, redis: str | None, name: str | None) -> Settings:
    return load_settings(config, needs=("redis",), assignments=assignments or (), redis=redis, namespace=name)


def _from_ms(start: str | None) -> int:
    return time_ms("--from", start) if start else time.time_ns() // 1_000_000 + trunks.LEAD_MS


def _with_store(settings: Settings, call: Callable[[RedisStore], Awaitable[T]]) -> T:
    async def called() -> T:
        store = namespace.open_store(settings, patience_s=5.0)
        try:
            return await call(store)
        finally:
            await store.close()

    return asyncio.run(called())
