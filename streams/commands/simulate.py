"""`headstart simulate`: write the log of a simulated shop, and the truth about it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from features.errors import InputError
from features.events import KINDS
from streams.commands.options import Json, for_people, write_json
from streams.importing import write_log
from streams.shop import SYNTHETIC, Shop, Simulated
from streams.shop import simulate as run_shop

DEFAULT = Shop()


def simulate(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the events go: a name that ends in .parquet, .jsonl or .jsonl.gz.")],
    truth: Annotated[
        Path | None, typer.Option("--truth", metavar="FILE.parquet", help="Where the true probability of an order goes, a row for each exposure.")
    ] = None,
    users: Annotated[int, typer.Option("--users", help="Number of shoppers.")] = DEFAULT.users,
    lines: Annotated[int, typer.Option("--lines", help="Number of product lines, the launched one among them.")] = DEFAULT.lines,
    days: Annotated[float, typer.Option("--days", help="Length of the log in days.")] = DEFAULT.days,
    launch_line: Annotated[str, typer.Option("--launch-line", metavar="NAME", help="Name of the line that is launched.")] = DEFAULT.launch_line,
    launch_day: Annotated[
        float, typer.Option("--launch-day", help="The day, counted from 0, before which the launch line has no events; a negative one: no launch.")
    ] = 8.0,
    launch_offset: Annotated[
        float, typer.Option("--launch-offset", metavar="LOGIT", help="How far the launch line's log odds lie above the others'.")
    ] = DEFAULT.launch_offset,
    launch_kind: Annotated[
        str,
        typer.Option(
            "--launch-kind", metavar="like|unrelated|flipped", help="Who orders of the launch line: those who order elsewhere, others, or those who do not."
        ),
    ] = DEFAULT.launch_kind,
    launch_delay: Annotated[
        float, typer.Option("--launch-delay", metavar="FACTOR", help="How much later the launch line's orders come; 0.3: sooner.")
    ] = DEFAULT.launch_delay,
    launch_appeal: Annotated[
        float, typer.Option("--launch-appeal", metavar="LOG", help="Log of how much the launch line draws shoppers, against a typical line.")
    ] = DEFAULT.launch_appeal,
    line_offset: Annotated[
        float, typer.Option("--line-offset", metavar="LOGIT", help="How much the other lines' levels differ: a standard deviation.")
    ] = DEFAULT.line_offset,
    own_structure: Annotated[
        float, typer.Option("--own-structure", metavar="RATIO", help="How much the lines' slopes differ from the shared ones; 0: not at all.")
    ] = DEFAULT.own_structure,
    drift: Annotated[
        str, typer.Option("--drift", metavar="none|abrupt|gradual", help="Whether the log odds shift; a gradual shift takes two days.")
    ] = DEFAULT.drift,
    drift_size: Annotated[float, typer.Option("--drift-size", metavar="LOGIT", help="By how much, in log odds.")] = DEFAULT.drift_size,
    drift_day: Annotated[float, typer.Option("--drift-day", help="On which day, counted from 0.")] = DEFAULT.drift_day,
    drift_on: Annotated[str, typer.Option("--drift-on", metavar="all|launch", help="In all lines, or in the launch line alone.")] = DEFAULT.drift_on,
    conversion: Annotated[
        float, typer.Option("--conversion", metavar="RATIO", help="About this share of the exposures ends in an order.")
    ] = DEFAULT.conversion,
    visits_per_day: Annotated[float, typer.Option("--visits-per-day", help="Visits of a typical shopper a day.")] = DEFAULT.visits_per_day,
    window: Annotated[float, typer.Option("--window", metavar="HOURS", help="The attribution window of the truth, in hours.")] = DEFAULT.window_s / 3600,
    start: Annotated[str, typer.Option("--start", metavar="DATE", help="When the log begins, at 00:00 UTC.")] = "2024-01-01",
    seed: Annotated[int, typer.Option("--seed", help="The same seed and options give the same bytes.")] = DEFAULT.seed,
    json: Json = None,
) -> None:
    """Write the event log of a simulated shop whose true conversion rates are known. The data is SYNTHETIC: no real shop, no real person.

    Shoppers visit several lines, browse, click, fill carts and order minutes to days later; one line is launched in the middle of the log.
    """
    if truth is not None and truth.suffix != ".parquet":
        raise InputError(f"--truth {truth}: the name must end in .parquet")
    shop = Shop(
        users=users,
        lines=lines,
        days=days,
        launch_line=launch_line,
        launch_day=None if launch_day < 0 else launch_day,
        launch_offset=launch_offset,
        launch_kind=launch_kind,
        launch_delay=launch_delay,
        launch_appeal=launch_appeal,
        line_offset=line_offset,
        own_structure=own_structure,
        drift=drift,
        drift_size=drift_size,
        drift_day=drift_day,
        drift_on=drift_on,
        conversion=conversion,
        visits_per_day=visits_per_day,
        window_s=window * 3600,
        start_ms=_start_ms(start),
        seed=seed,
    )
    simulated = run_shop(shop)
    write_log(simulated.log, out)
    if truth is not None:
        try:
            pq.write_table(simulated.truth, truth, compression="zstd")
        except OSError as error:
            raise InputError(f"--truth {truth} cannot be written: {error.strerror or error}") from None
    figures = summary(shop, simulated)
    if json is not None:
        write_json(json, figures)
    if for_people(json):
        _show(figures, out, truth)


def summary(shop: Shop, simulated: Simulated) -> dict[str, Any]:
    """Return what a log holds: events by kind, users, and for each line its exposures, the share that ordered, and the true share."""
    log, truth = simulated.log, simulated.truth
    kinds = {row["values"]: row["counts"] for row in pc.value_counts(log["kind"]).to_pylist()}

    def figures(rows: pa.Table, events: int) -> dict[str, Any]:
        count = rows.num_rows
        return {
            "events": events,
            "exposures": count,
            "conversions": int(np.sum(rows["ordered"].to_numpy())),
            "conversion": float(np.mean(rows["ordered"].to_numpy())) if count else None,
            "true_conversion": float(np.mean(rows["probability"].to_numpy())) if count else None,
        }

    return {
        "note": SYNTHETIC,
        "seed": shop.seed,
        "events": {kind: kinds.get(kind, 0) for kind in KINDS},
        "users": pc.count_distinct(log["user_id"]).as_py(),
        "first_ts": log["ts"][0].as_py(),
        "last_ts": log["ts"][-1].as_py(),
        "window_s": shop.window_s,
        "launch_line": None if shop.launch_day is None else shop.launch_line,
        "launch_at": None if shop.launch_day is None else shop.start_ms + round(shop.launch_day * 86_400_000),
        "all": figures(truth, log.num_rows),
        "lines": {line: figures(truth.filter(pc.equal(truth["line"], line)), pc.sum(pc.equal(log["line"], line)).as_py() or 0) for line in shop.line_names},
    }


def _start_ms(text: str) -> int:
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"--start {text!r} is not a date such as 2024-01-01") from None
    return (day - dt.date(1970, 1, 1)) // dt.timedelta(days=1) * 86_400_000


def _time(ts_ms: int) -> str:
    return dt.datetime.fromtimestamp(ts_ms / 1000, tz=dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _show(figures: dict[str, Any], out: Path, truth: Path | None) -> None:
    everything = figures["all"]
    typer.echo(f"{SYNTHETIC} (seed {figures['seed']}).")
    typer.echo(f"events     {everything['events']:,}: " + ", ".join(f"{count:,} {kind}" for kind, count in figures["events"].items()))
    typer.echo(f"users      {figures['users']:,}, from {_time(figures['first_ts'])} to {_time(figures['last_ts'])}")
    if figures["launch_line"] is not None:
        typer.echo(f"launch     {figures['launch_line']}, from {_time(figures['launch_at'])}")
    typer.echo(f"\nexposures with an order within {figures['window_s'] / 3600:g} h, and their true probability of one:\n")
    rows = [*figures["lines"].items(), ("all", everything)]
    width = max(len(name) for name, _ in rows)
    typer.echo(f"{'line':{width}} {'events':>10} {'exposures':>10} {'ordered':>9} {'true':>9}")
    for name, row in rows:
        shares = [f"{share:9.2%}" if share is not None else f"{'-':>9}" for share in (row["conversion"], row["true_conversion"])]
        typer.echo(f"{name:{width}} {row['events']:>10,} {row['exposures']:>10,} {shares[0]} {shares[1]}")
    typer.echo(f"\nwritten: {out}" + (f", {truth}" if truth is not None else ""))
