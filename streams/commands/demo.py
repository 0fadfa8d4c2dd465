"""`headstart demo`: the whole system on a simulated shop, on this machine alone."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.compute as pc
import typer
from rich.progress import Progress

from features.errors import InputError
from models.checkpoint import Artifact, save
from models.metrics import figures
from streams import namespace
from streams.commands.options import Json, for_people, print_figures, without_nan, write_json
from streams.commands.progress import Steps, progress_bar
from streams.dashboard.child import DashboardServer
from streams.embedded import EmbeddedStack
from streams.evaluation import Figures, Judged, as_launch
from streams.replay import read_topic, replay_log, replay_settings
from streams.settings import Settings, load_settings, with_changes
from streams.shop import SYNTHETIC, Shop, Simulated, simulate
from streams.training import train

SESSION_S = 6
TICK_MS = 1_800_000
DAY_MS = 86_400_000


def demo(
    users: Annotated[int, typer.Option("--users", help="Shoppers of the simulated shop.")] = 2500,
    seed: Annotated[int, typer.Option("--seed", help="Another seed is another shop.")] = 2,
    workers: Annotated[int, typer.Option("--workers", help="Worker processes.")] = 1,
    partitions: Annotated[int, typer.Option("--partitions", help="Partitions of the event topics.")] = 4,
    dashboard: Annotated[bool, typer.Option(help="Start the dashboard too, while the stream runs.")] = True,
    stay: Annotated[bool, typer.Option("--stay", help="Leave the dashboard on at the end, until Ctrl-C.")] = False,
    folder: Annotated[Path | None, typer.Option("--dir", metavar="FOLDER", help="Keep trunk and logs here (default: a temporary folder).")] = None,
    json: Json = None,
) -> None:
    """Run the whole system on a simulated shop: history, training, a launch, live scores and a final table. Needs nothing installed.

    The data is SYNTHETIC. An embedded Kafka broker and Valkey start on free ports and are stopped at the end. It takes a few minutes, most of them training.
    """
    began_s = time.monotonic()
    shop = Shop(users=users, seed=seed)
    if shop.launch_day is None:
        raise InputError("the demo needs a launch")
    say = partial(typer.echo, err=not for_people(json))
    say(f"1  A simulated shop, seed {seed}: {SYNTHETIC}")
    made = simulate(shop)
    launch_ms = shop.start_ms + round(shop.launch_day * DAY_MS)
    old = shop.lines - 1
    say(f"   {made.log.num_rows} events of {users} shoppers in {shop.days:g} days; {old} old lines, and line {shop.launch_line!r} from day {shop.launch_day:g}")
    with tempfile.TemporaryDirectory(prefix="headstart-") as temporary, EmbeddedStack() as stack, ExitStack() as held, progress_bar() as bar:
        keep = folder or Path(temporary)
        settings = with_changes(
            load_settings(), broker=stack.broker, redis=stack.redis_url, session_timeout_s=SESSION_S, replay_tick_ms=TICK_MS,
            partitions=partitions, trunk=(keep / "trunk").resolve(), timezone="UTC", window_s=round(shop.window_s),
        )  # fmt: skip
        say("2  The trunk and the source heads learn from the old lines' history")
        rules = namespace.rules_of(settings, None, replay=True)
        artifact = save(train(made.log, rules, tick_ms=TICK_MS, until_ms=launch_ms, seed=seed, progress=Steps(bar)), settings.trunk)
        say(f"   {artifact.trunk.parameters()} parameters; AUC on held-out shoppers {artifact.metrics.get('validation_auc', float('nan')):.3f}")
        say(
            f"3  Line {shop.launch_line!r} is launched; its stream goes through Kafka ({stack.broker}) and Valkey ({stack.redis_url}), both embedded, memory only"
        )
        settings = replay_settings(settings, "demo")
        if dashboard or stay:
            say(f"   The dashboard: {held.enter_context(DashboardServer(settings)).url}")
        judged = _stream(settings, made, artifact, shop, launch_ms, keep, workers, bar)
        scores = sum(1 for _ in read_topic(settings, "scores"))
        if stay:
            bar.stop()
            say("The stream is at its end, and the dashboard stays on: Ctrl-C ends it, and shows how good the predictions were.")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
    results = {shop.launch_line: with_oracle(judged, made, shop)}
    say(f"4  {scores} scores were published. {_judged_in_words(len(judged.of(shop.launch_line)), results[shop.launch_line])} How good were the predictions?\n")
    if for_people(json):
        print_figures(results, title=f"SYNTHETIC shop, seed {seed}: the launch's first {shop.days - shop.launch_day:g} days")
    say(
        "headstart: source heads that stay fresh, and the launch's own level, learned online   frozen: the same heads, never updated\n"
        "scratch: a head that starts from nothing at the launch   oracle: the true probability, which only a simulation knows\n"
    )
    say(f"took {time.monotonic() - began_s:.0f} s; everything that was started has been stopped")
    if json is not None:
        write_json(json, {"lines": {line: {model: without_nan(f) for model, f in models.items()} for line, models in results.items()}, "scores": scores})


def _judged_in_words(final: int, found: Figures) -> str:
    """How many exposures there were, and why the table has fewer."""
    within = round(found["headstart"]["n"])
    return f"{final} exposures of the launch became final, {within} of them before the log ends: of the others it cannot know all orders, so the table is of these."


def _stream(
    settings: Settings, made: Simulated, artifact: Artifact, shop: Shop, launch_ms: int, folder: Path, workers: int, bar: Progress
) -> Judged:  # fmt: skip
    log, day = made.log, made.log["ts"]
    last_ms = int(pc.max(day).as_py())
    published = bar.add_task("events published", total=log.num_rows)
    learned = bar.add_task("hours scored and learned", total=(last_ms - shop.start_ms) // 3_600_000)
    return replay_log(
        settings, log, artifact, [as_launch(shop.launch_line, launch_ms, artifact.window_s)], number=workers, folder=folder,
        on_published=lambda tick: bar.advance(published, len(tick.records)),
        on_stamp=lambda ms: bar.update(learned, completed=max(0, min(ms, last_ms) - shop.start_ms) // 3_600_000),
    )  # fmt: skip


def with_oracle(judged: Judged, made: Simulated, shop: Shop) -> Figures:
    """The launch's figures, and those of the true probability on the same exposures."""
    line, window_ms, end_ms = shop.launch_line, round(1000 * shop.window_s), int(pc.max(made.log["ts"]).as_py())
    found = judged.figures(line, until_ms=end_ms, window_ms=window_ms)
    truth = made.truth.filter(pc.field("line") == line)
    known = dict(zip(zip(truth["user_id"].to_pylist(), truth["ts"].to_pylist(), strict=True), truth["probability"].to_pylist(), strict=True))
    rows = [s for s in judged.of(line) if s.ts_ms + window_ms <= end_ms and (s.user_id, s.ts_ms) in known]
    p = np.array([known[s.user_id, s.ts_ms] for s in rows], np.float64)
    return {**found, "oracle": figures(np.array([s.label for s in rows], np.float64), p, p)}
