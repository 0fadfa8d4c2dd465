"""`headstart uplift`: does the campaign sell more than would have been sold without it?"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from features.errors import InputError
from models.intervals import Interval
from models.uplift import TOP, Arm, Uplift, analyse
from streams.commands.options import Broker, Config, Json, Namespace, Redis, Set, for_people, write_json
from streams.commands.progress import progress_bar
from streams.settings import load_settings
from streams.uplift import Gathered, TopicReader, find_launch, from_file
from streams.uplift_plot import write_plot
from streams.uplift_words import conclusion, percent_of, signed, warnings


def uplift(
    launch: Annotated[str, typer.Argument(metavar="LAUNCH", help="The launch; with --outcomes only its name in the report.")],
    outcomes: Annotated[
        Path | None, typer.Option("--outcomes", metavar="FILE.jsonl|parquet", help="Judge this file instead of Kafka's outcomes; its columns are below.")
    ] = None,
    holdout: Annotated[
        float | None, typer.Option("--holdout", metavar="SHARE", help="With --outcomes: the share of the users that was to be held out, between 0 and 1.")
    ] = None,
    top: Annotated[float, typer.Option("--top", metavar="SHARE", help="Of the users, by score, whose conversion is also told alone.")] = TOP,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png|svg", help="Draw the lift and the evidence as users came.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Give up if the outcomes are not read by then.")] = 120.0,
    broker: Broker = None,
    redis: Redis = None,
    namespace_: Namespace = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Does the campaign sell more? Compare the treated users with those held out, as often as you like.

    Only exposures whose attribution window is over count. Users are compared, since users were drawn: one has converted once an order followed any
    exposure of theirs within its window. Look as often as you like, and stop when you like: the intervals and the e-value stay valid.

    The file of --outcomes has a row for each exposure: user_id, arm (treated or holdout), close_ms (the end of its window, ms), label (1 ordered,
    0 not, -1 not final yet), and, if you have them, score, probability and exposure_id. An exposure that comes twice counts once.
    """
    if not 0 < top <= 1:
        raise InputError(f"--top {top}: expected a share above 0, up to 1")
    if outcomes is not None:
        if holdout is None or not 0 < holdout < 1:
            raise InputError("--outcomes needs --holdout SHARE, between 0 and 1: how many users were to be held out, not how many were")
        share, found = holdout, from_file(outcomes)
    elif holdout is not None:
        raise InputError("--holdout goes with --outcomes: a launch knows its own")
    else:
        settings = load_settings(config, needs=("broker", "redis"), assignments=assignments or (), broker=broker, redis=redis, namespace=namespace_)
        there = asyncio.run(find_launch(settings, launch))
        share = there.holdout
        with progress_bar() as bar:
            task = bar.add_task(f"outcomes of {launch}", total=None)
            found = TopicReader(settings, there).read(timeout_s=timeout, progress=lambda read, of: bar.update(task, completed=read, total=of))
    judged = analyse(found.matured, holdout=share, top=top)
    if plot is not None:
        write_plot(judged, plot, title=f"{launch}: {judged.treated.users} treated users, {judged.holdout.users} held out")
    if json is not None:
        write_json(json, as_json(launch, judged, found))
    if for_people(json):
        _show(launch, judged, found)


def as_json(launch: str, judged: Uplift, found: Gathered) -> dict[str, Any]:
    """Return every figure, the conclusion and the warnings; null where a figure does not exist or an interval has no end."""
    told = {**asdict(judged), "launch": launch, "conclusion": conclusion(judged), "warnings": warnings(judged, found), "repeated": found.repeated}
    for arm, figures in (("treated", judged.treated), ("holdout", judged.holdout)):
        told[arm]["rate"] = figures.rate
    return {name: _finite(value) for name, value in told.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(launch: str, judged: Uplift, found: Gathered) -> None:
    console = Console(width=120, highlight=False, markup=False)
    console.print(f"{launch}: {conclusion(judged)}", style="bold", soft_wrap=True)
    for warning in warnings(judged, found):
        console.print(f"! {warning}", style="yellow", soft_wrap=True)
    table = Table(title="exposures whose window is over", title_justify="left")
    for name in ("arm", "users", "that ordered", "share", "foretold at the first", "exposures", "with an order"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for name, arm in (("treated", judged.treated), ("holdout", judged.holdout)):
        table.add_row(*_row(name, arm))
    console.print(table)
    for name, text in _figures(judged):
        console.print(f"{name:22} {text}", soft_wrap=True)


def _row(name: str, arm: Arm) -> tuple[str, ...]:
    return name, str(arm.users), str(arm.converted), percent_of(arm.rate, 2), percent_of(arm.predicted, 2), str(arm.exposures), str(arm.conversions)


def _figures(judged: Uplift) -> Iterator[tuple[str, str]]:
    sure, ratio, each = f"{100 * (1 - judged.alpha):g} % at all times", judged.sample_ratio, judged.per_exposure
    yield "lift", f"{signed(judged.lift.value)}, {_between(judged.lift, signed)} ({sure}; orders per assigned user, exact)"
    settled = "not to be believed" if judged.verdict == "not comparable" else "settled" if judged.e_value >= 1 / judged.alpha else "open"
    yield "evidence", f"e-value {judged.e_value:.3g} ({settled}; {1 / judged.alpha:.0f} settles it), p {judged.p_value:.2g}, valid however often you look"
    yield "difference", f"{_points(judged.difference.value)} orders per 100 users, {_between(judged.difference, _points)} ({sure}; for large numbers)"
    if not math.isnan(judged.variance_reduction):
        text = f"{_points(judged.adjusted.value)}, {_between(judged.adjusted, _points)}; the score at the first exposure explains {percent_of(judged.variance_reduction)}"
        yield "… with CUPED", f"{text} of the variance"
    fits = "fits" if ratio.fits else "DOES NOT FIT"
    yield (
        "sample ratio",
        f"{percent_of(ratio.observed, 2)} held out, {percent_of(ratio.expected, 2)} intended: {fits} (p {ratio.p_value:.2g}, valid however often you look)",
    )
    yield "per exposure", f"{_points(each.difference)} orders per 100 exposures, ± {_points(each.se, sign='')} (standard error by users; for one look)"
    best = judged.targeted
    if best is not None:
        untreated, treated = (f"{percent_of(rate.value)} ({_between(rate, percent_of)})" for rate in (best.untreated, best.treated))
        text = f"of {best.users} users {untreated} convert untreated, {treated} treated (95 %, for one look; {best.holdout_users} of them held out)"
        yield f"top {percent_of(best.share)} by score", text


def _between(interval: Interval, form: Any) -> str:
    return "–" if math.isnan(interval.low) else f"{form(interval.low)} to {form(interval.high)}"


def _points(value: float, sign: str = "+") -> str:
    """A rate as orders per 100."""
    return "–" if not math.isfinite(value) else f"{100 * value:{sign}.2f}".replace("-", "−")
