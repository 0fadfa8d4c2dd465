"""`headstart similarity`: which older lines should a launch learn from? Every line of a log measured against one, and weighed."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final

import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from features.vector import ABOUT_LINE
from models.similarity import Similarity
from models.similarity import similarity as measure
from models.source_weights import FULL_AGREEMENT, LEAST_WEIGHT, LIMITS, SourceSimilarity
from streams import namespace
from streams.commands.options import Config, Format, Json, Lines, Set, Window, for_people, time_ms, write_json
from streams.commands.progress import progress_bar
from streams.evaluation import launched
from streams.importing import read_log
from streams.settings import load_settings
from streams.training import final_rows

MEANINGS: Final = (
    ("PSI, MMD²", "how differently the shoppers' features are spread; 0: alike. PSI above .25 is commonly called a shift"),
    ("A-distance", "how well a classifier tells the two lines' shoppers apart; 0: not at all, 2: always"),
    ("in range", "share of the target's feature values within this line's 1-99 % range"),
    ("varying", "share of the features that vary in the target and vary here too"),
    ("zeros", "share of zeros among the line's feature values"),
    ("orders", "log odds of an order, less the target's, ± a standard error; .7: twice the odds"),
    ("funnel", "mean |difference| of the log odds of click, cart and order"),
    ("delay", "greatest gap between the curves of how soon orders come; 0 to 1"),
    ("agreement", "how far what orders depend on here holds for the target: 1 alike, 0 unrelated, -1 opposite, ± a standard error"),
    ("LogME, H", "how well this line's own scores explain the target's orders (blind to sign); higher is better"),
)


def similarity(
    events: Annotated[Path, typer.Argument(metavar="EVENTS", help="The event log, with the target line and the older lines.")],
    target_line: Annotated[str, typer.Option("--target-line", metavar="LINE", help="The line that is to learn from the others.")],
    launch_at: Annotated[
        str | None,
        typer.Option("--launch-at", metavar="TIME", help="Delete the target's earlier events first, as if it had been launched then: ISO 8601 or ms."),
    ] = None,
    window: Window = None,
    format: Format = "auto",
    lines: Lines = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Which older lines should a new one learn from? Measure how like each is to the target line, and weigh them.

    Each line of the log is compared with the target: do its shoppers look alike, does it convert alike and as fast, and do the same things make
    its shoppers order? A line that differs by no more than chance is "pooled" (weight 1), a moderately different one is "weighted", one that is
    unrelated is "left out" (weight 0). A difference counts only as far as it is larger than chance, so a launch with few conversions rules nobody
    out without cause. "Trust" is each line's share if one line had to be drawn rather than the pool.

    Only exposures whose attribution window is over by the end of the log are compared. "–" is a figure that could not be computed: the file of
    --json holds null there and says why.
    """
    settings = load_settings(config, assignments=assignments or ())
    log = read_log(events, format=format, lines=lines)
    log = launched(log, [target_line], time_ms("--launch-at", launch_at) if launch_at else int(pc.min(log["ts"]).as_py()))
    rules = replace(namespace.rules_of(settings, None, replay=True, window_s=window), partitions=1, outcome_partitions=1, partitioner_check=False)
    names = sorted({target_line, *pc.unique(log["line"]).to_pylist()})
    with progress_bar() as bar:
        task = bar.add_task(f"features of events, {len(names)} lines", total=log.num_rows)
        until_ms = int(pc.max(log["ts"]).as_py())
        rows = final_rows(
            log, rules, tick_ms=settings.replay_tick_ms, lines=names, until_ms=until_ms, went_on=lambda n: bar.advance(task, n)
        )  # fmt: skip
        task = bar.add_task(f"comparing {len(names) - 1} lines with {target_line}", total=1)
        found = measure(rows, target_line, about_line=ABOUT_LINE)
        bar.update(task, completed=1)
    if json is not None:
        write_json(json, as_json(found))
    if for_people(json):
        _show(found)


def as_json(found: Similarity) -> dict[str, Any]:
    """Return all figures and the limits of the rule; null where a figure does not exist, and `unknown` of that line says why."""
    return {
        **asdict(found),
        "sources": [asdict(source) for source in found.sources],
        "rule": {
            "limits": {name: asdict(limits) for name, limits in LIMITS.items()},
            "full_agreement": FULL_AGREEMENT,
            "least_weight": LEAST_WEIGHT,
            "not_compared": list(ABOUT_LINE),
        },
    }


def _show(found: Similarity) -> None:
    """Print what follows, what was measured, and what the words mean."""
    console = Console(width=140, markup=False)
    verdicts = Table(title=f"sources for {found.target}: {found.target_rows} exposures, {found.target_conversions} orders", title_justify="left")
    _columns(verdicts, ("line", "verdict", "weight", "trust", "similarity", "exposures", "orders", "days", "zeros", "why"), left=("line", "verdict", "why"))
    for s in found.sources:
        verdicts.add_row(
            s.line, s.verdict, f"{s.weight:.2f}", f"{s.pi:.1%}", f"{s.score:.2f}", f"{s.rows}", f"{s.conversions}", f"{s.span_days:.1f}",
            f"{s.missing_share:.0%}", s.reason,
        )  # fmt: skip
    console.print(verdicts)
    measures = Table(title="what was measured", title_justify="left")
    _columns(measures, ("line", "PSI", "MMD²", "A-distance", "in range", "varying", "orders", "funnel", "delay", "agreement", "LogME", "H"), left=("line",))
    for s in found.sources:
        measures.add_row(*_measured(s))
    if found.pooled_logme is not None:
        measures.add_section()
        measures.add_row("all pooled", *("–",) * 9, _figure(found.pooled_logme, 4), _figure(found.pooled_h_score))
        measures.add_row("no features", *("–",) * 9, _figure(found.level_logme, 4), "–")
    console.print(measures)
    for word, meaning in MEANINGS:
        console.print(f"  {word:11} {meaning}", highlight=False, soft_wrap=True)
    reasons = sorted({why for s in found.sources for why in s.unknown.values()})
    if reasons:
        console.print(f"– not computed: {'; '.join(reasons)}", highlight=False, markup=False, soft_wrap=True)
    if found.note:
        console.print(f"note: {found.note}", highlight=False, markup=False, soft_wrap=True)


def _columns(table: Table, names: tuple[str, ...], *, left: tuple[str, ...]) -> None:
    for name in names:
        table.add_column(name, justify="left" if name in left else "right")


def _measured(s: SourceSimilarity) -> tuple[str, ...]:
    return (
        s.line, _figure(s.psi), _figure(s.mmd2), _figure(s.a_distance, 2), _figure(s.inside), _figure(s.shared_features, 2),
        _with_error(s.log_odds, s.log_odds_se), _figure(s.funnel, 2), _figure(s.delay, 2), _with_error(s.agreement, s.agreement_se),
        _figure(s.logme, 4), _figure(s.h_score),
    )  # fmt: skip


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _with_error(value: float | None, se: float | None) -> str:
    return "–" if value is None or se is None else f"{value:+.2f} ± {se:.2f}"
