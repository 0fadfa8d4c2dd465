"""How long after an event was published its score can be read: `python bench/latency.py [--capacity EVENTS_PER_S] [--json FILE]`. SYNTHETIC events.

One Headstart worker, scoring and learning, and beside it, at the same rates and on the same broker, the hand-written loop of `bench/speed/confluent_loop.py`,
which does next to nothing with an event and here fills its batches for no more than 5 ms: what it takes is mostly the machine's part. The rates are 10 %,
50 % and 80 % of what Headstart can do: that is measured first, as `bench/throughput.py` does and with events of the same kind, unless it is given. Broker,
Redis, contender, publisher and reader share the machine, so on two cores the higher rates say as much about the machine as about the worker: the table tells
how many cores all of them kept busy, and how much the contender. An event's way: publisher, broker, contender (state, model, commit), broker, reader; the clock
starts when the publisher is handed the event. Needs `make peers`.

A run is over before the first delay bin closes. `--window 8` measures a stream that has run for long: the trunk's delay bins are shortened in proportion,
so that their ends lie within so many seconds, and a delay bin closes a second after its end instead of a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import redis
from arena import HERE, PEERS, VISIT, Stage, cpu_s, machine, make_topics, staged, train, whole
from throughput import SCRIPTS, cursors, run_headstart, working

from features.events import KINDS
from models.checkpoint import load, save
from streams.settings import variable

SHARES = (0.1, 0.5, 0.8)
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
SKIP_S = 5.0
LOOP, LOOP_WAIT_S = "confluent_loop", 0.005
GRACE_S = 1.0  # with --window


def paced(stage: Stage, output: str, number: int, rate: float, seconds: float, skip_s: float, users: int) -> dict[str, Any]:
    """Let events come at a rate; returns what `speed/paced.py` has found."""
    command = [
        str(PEERS), str(HERE / "speed" / "paced.py"), "--broker", stage.broker, "--scores", output, "--tag", f"{output}-{number}", "--rate", str(rate),
        "--seconds", str(seconds), "--skip", str(skip_s), "--users", str(users), "--partitions", str(stage.partitions), "--visit", str(VISIT),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 120)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def looping(stage: Stage) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The hand-written loop, as a process of its own."""
    make_topics(stage.broker, [f"{LOOP}-scores"], stage.partitions)
    command = [
        str(PEERS), str(HERE / "speed" / SCRIPTS[LOOP]), "--broker", stage.broker, "--redis", stage.redis, "--inputs", ",".join(KINDS),
        "--output", f"{LOOP}-scores", "--name", LOOP, "--folder", str(stage.folder), "--wait", str(LOOP_WAIT_S),
    ]  # fmt: skip
    with (stage.folder / f"{LOOP}.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield [process]
        finally:
            process.kill()


def outcomes(stage: Stage, name: str) -> int:
    """Return how many outcomes the worker's partitions have told; none of the loop's."""
    with closing(redis.Redis.from_url(stage.redis)) as store:
        return sum(sum(cursor.numbers) for cursor in cursors(store, stage, name))


def shortened(trunk: Path, window_s: float, folder: Path) -> Path:
    """Return a copy of a trunk whose delay bins are shorter in proportion; what it believes stays as it is."""
    artifact = load(trunk)
    save(replace(artifact, window_s=window_s, edges_s=artifact.edges_s * (window_s / artifact.window_s)), folder)
    return folder


def busy_s() -> float:
    """Return the CPU seconds that the whole machine has spent."""
    spent = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(spent) - spent[3] - spent[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and waiting


def at_rates(
    stage: Stage, name: str, started: AbstractContextManager[list[subprocess.Popen[bytes]]], rates: list[float], seconds: float, join_s: float, skip_s: float,
    users: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Start a contender that sees only new events, and measure rate after rate."""
    with started as (process,):
        found = []
        for at, rate in enumerate([rates[0], *rates]):  # the first time, it joins its group and catches up
            began_s, all_s, own_s, closed = time.monotonic(), busy_s(), cpu_s(process.pid), outcomes(stage, name)
            told = paced(stage, f"{name}-scores", at, rate, seconds if at else join_s, skip_s if at else SKIP_S, users)
            passed_s = time.monotonic() - began_s
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended")
            if told["read"] != told["sent"]:
                raise RuntimeError(f"{told['sent']} events were published and {told['read']} scores of {name} read")
            a_second = {"busy": busy_s() - all_s, "own": cpu_s(process.pid) - own_s, "outcomes": outcomes(stage, name) - closed}
            found.append({**told, **{what: value / passed_s for what, value in a_second.items()}})
        return found[1:]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", type=Path, default=HERE.parent / "var" / "bench" / "throughput-trunk", help="trained in passing if it is not there")
    parser.add_argument("--capacity", type=float, help="events a second that the worker can do (default: measured first)")
    parser.add_argument("--seconds", type=float, default=30.0, help="at each rate, of which the first five do not count, nor those of --window")
    parser.add_argument("--join", type=float, default=60.0, help="seconds that a contender is given to join its group and to compile, before it counts")
    parser.add_argument(
        "--window", type=float, help="seconds within which all delay bins of an exposure close (default: the trunk's window, of which a run sees nothing)"
    )
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--kafka", type=whole, help="the folder of an Apache Kafka (default: the embedded broker)")
    parser.add_argument("--only", choices=(LOOP, "headstart"), help="one of the two alone")
    parser.add_argument("--json", type=Path)
    parser.set_defaults(visit=VISIT, kafka_streams=None, limit=60.0, launches=1, workers=1, age=0.0)
    given = parser.parse_args()
    if not PEERS.exists():
        sys.exit(f"no {PEERS}: `make peers` makes it")
    if not (given.trunk / "manifest.json").exists():
        train(given.trunk)

    capacity = given.capacity
    if capacity is None:
        with ExitStack() as stack:
            capacity = run_headstart(staged(stack, given, 300_000), "capacity").events_per_s
        print(f"capacity: {capacity:,.0f} events/s", file=sys.stderr, flush=True)
    rates, found = [share * capacity for share in SHARES], {}
    if given.window is not None:
        os.environ[variable("grace_ms")] = str(round(1000 * GRACE_S))
    for name in (given.only,) if given.only else (LOOP, "headstart"):
        with ExitStack() as stack:
            stage = staged(stack, given, 0)
            if given.window is not None:
                stage = replace(stage, trunk=shortened(given.trunk, given.window, stage.folder / "trunk"))
            started = working(stage, name) if name != LOOP else looping(stage)
            found[name] = at_rates(stage, name, started, rates, given.seconds, given.join, SKIP_S + (given.window or 0), given.users)
    print("| contender | load | events/s | outcomes/s | " + " | ".join(f"p{p:g} ms" for p in PERCENTILES) + " | most | its cores | all cores |")
    print("| --- | --: | --: | --: |" + " --: |" * (len(PERCENTILES) + 3))
    for name, several in found.items():
        for share, told in zip(SHARES, several, strict=True):
            ms = np.array(told["ms"])
            figures = " | ".join(f"{v:.1f}" for v in (*np.percentile(ms, PERCENTILES), ms.max()))
            print(f"| {name} | {share:.0%} | {told['rate']:,.0f} | {told['outcomes']:,.0f} | {figures} | {told['own']:.2f} | {told['busy']:.2f} |")
    if given.json:
        edges = np.concatenate([[0.0], np.geomspace(0.5, 10_000.0, 60)])
        rows = {
            name: [
                {
                    "load": share,
                    "events_per_s": t["rate"],
                    "outcomes_per_s": t["outcomes"],
                    "cores": t["own"],
                    "all_cores": t["busy"],
                    "histogram": np.histogram(t["ms"], edges)[0].tolist(),
                }
                for share, t in zip(SHARES, several, strict=True)
            ]
            for name, several in found.items()
        }
        given.json.write_text(json.dumps({"capacity": capacity, "edges_ms": edges.tolist(), "rates": rows, "at": time.time(), "machine": machine()}) + "\n")


if __name__ == "__main__":
    main()
