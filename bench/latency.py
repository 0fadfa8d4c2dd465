"""How long after an event was published its score can be read: `python bench/latency.py [--capacity EVENTS_PER_S] [--json FILE]`. SYNTHETIC events.

One worker, scoring and learning, at 10 %, 50 % and 80 % of what it can do: that is measured first, as `bench/throughput.py` does, unless it is given. Broker,
Redis, worker, publisher and reader share the machine, so on two cores the higher rates say as much about the machine as about the worker. An event's way:
publisher, broker, worker (state, model, commit), broker, reader; the clock starts when the publisher is handed the event. Needs `make peers`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from throughput import HERE, PEERS, VISIT, Stage, machine, run_headstart, staged, train, whole, working

SHARES = (0.1, 0.5, 0.8)
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
SKIP_S = 5.0
JOIN_S = 60.0


def paced(stage: Stage, tag: str, number: int, rate: float, seconds: float, users: int) -> dict[str, Any]:
    """Let events come at a rate; returns what `speed/paced.py` has found."""
    command = [
        str(PEERS), str(HERE / "speed" / "paced.py"), "--broker", stage.broker, "--scores", f"{tag}-scores", "--tag", f"round{number}", "--rate", str(rate),
        "--seconds", str(seconds), "--skip", str(SKIP_S), "--users", str(users), "--partitions", str(stage.partitions),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 120)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def at_rates(stage: Stage, rates: list[float], seconds: float, users: int) -> list[dict[str, Any]]:
    """Start a worker that sees only new events, and measure rate after rate."""
    tag = "latency"
    with working(stage, tag) as worker:
        found = []
        for at, rate in enumerate([rates[0], *rates]):  # the first time, the worker joins its group and catches up
            told = paced(stage, tag, at, rate, seconds if at else JOIN_S, users)
            if worker.poll() is not None:
                raise RuntimeError("the worker ended")
            if told["read"] != told["sent"]:
                raise RuntimeError(f"{told['sent']} events were published and {told['read']} scores read")
            found.append(told)
        return found[1:]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", type=Path, default=HERE.parent / "var" / "bench" / "throughput-trunk", help="trained in passing if it is not there")
    parser.add_argument("--capacity", type=float, help="events a second that the worker can do (default: measured first)")
    parser.add_argument("--seconds", type=float, default=30.0, help="at each rate, of which the first five do not count")
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--kafka", type=whole, help="the folder of an Apache Kafka (default: the embedded broker)")
    parser.add_argument("--json", type=Path)
    parser.set_defaults(visit=VISIT, kafka_streams=None, limit=60.0, launches=1)
    given = parser.parse_args()
    if not PEERS.exists():
        sys.exit(f"no {PEERS}: `make peers` makes it")
    if not (given.trunk / "manifest.json").exists():
        train(given.trunk)

    capacity = given.capacity
    if capacity is None:
        with ExitStack() as stack:
            capacity, _ = run_headstart(staged(stack, given, 300_000), "capacity")
        print(f"capacity: {capacity:,.0f} events/s", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        found = at_rates(staged(stack, given, 0), [share * capacity for share in SHARES], given.seconds, given.users)
    print("| load | events/s | " + " | ".join(f"p{p:g} ms" for p in PERCENTILES) + " | most |\n| --- | --: |" + " --: |" * (len(PERCENTILES) + 1))
    for share, told in zip(SHARES, found, strict=True):
        ms = np.array(told["ms"])
        figures = " | ".join(f"{v:.1f}" for v in (*np.percentile(ms, PERCENTILES), ms.max()))
        print(f"| {share:.0%} | {told['rate']:,.0f} | {figures} |")
    if given.json:
        edges = np.concatenate([[0.0], np.geomspace(0.5, 10_000.0, 60)])
        rows = [{"load": s, "events_per_s": t["rate"], "histogram": np.histogram(t["ms"], edges)[0].tolist()} for s, t in zip(SHARES, found, strict=True)]
        given.json.write_text(json.dumps({"capacity": capacity, "edges_ms": edges.tolist(), "rates": rows, "at": time.time(), "machine": machine()}) + "\n")


if __name__ == "__main__":
    main()
