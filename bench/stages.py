"""Where a microsecond of a worker goes: a flame graph, and a table by stage, of one worker that works off a backlog: `python bench/stages.py`.

py-spy, from `make peers`, looks at the worker from outside 200 times a second (on some systems it must be run as root). A sample belongs to the innermost
frame that a stage names, of the learner's stacks to the learner; the table tells the share of each, and of the CPU microseconds an event that the kernel counted meanwhile.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import redis
from arena import HERE, PEERS, VISIT, Stage, cpu_s, staged, train, whole
from throughput import applied, working

SPY: Final = PEERS.parent / "py-spy"
TAG: Final = "stages"
GRAPH_S: Final = 4
BEGIN: Final = 0.25  # of the events, before the first sample
WAITS: Final = ("select (selectors.py", "wait (threading.py", "_worker (concurrent/futures/thread.py")

STAGES: Final = (
    ("learner: outcomes, heads, figures", ("(streams/learner", "(streams/sight.py", "(models/watch.py")),
    ("state and vector: the kernel", ("advance (features/advance.py",)),
    ("trunk and trees", ("maps (models/model.py",)),
    ("shared heads", ("mean_logit (models/model.py", "logit (models/shared_heads.py")),
    ("a launch's experts and mixture", ("of_launches (streams/pair.py",)),
    ("exposures: open and mark", ("follow (streams/following.py",)),
    ("exposures: bins that close", ("close_bins (streams/pipeline.py",)),
    ("score records as JSON", ("_score (streams/pipeline.py",)),
    ("events as rows", ("rows (features/intake.py",)),
    ("records at hand, and read from Redis", ("place (streams/partition.py", "(streams/line_records.py", "(features/names.py")),
    ("commit: what has changed, packed, sent", ("changes (streams/partition.py", "commit (streams/partition.py")),
    ("outbox", ("publish_outbox (streams/pipeline.py", "(streams/outbox.py")),
    ("delivery of scores", ("deliver (streams/", "(aiokafka/producer")),
    ("merging four topics by time", ("_next (streams/desk.py",)),
    ("the rest of the pipeline", ("work_off (streams/pipeline.py", "seen (streams/pipeline.py")),
    ("decoding events", ("_received (streams/app.py",)),
    (
        "reading Kafka",
        ("(streams/transport.py", "(streams/consumer_thread.py", "(aiokafka/consumer", "(aiokafka/conn.py", "(aiokafka/client.py", "(faust/transport"),
    ),
    ("Redis' client", ("(redis/",)),
    ("Faust's agents and services", ("(faust/", "(mode/")),
)


def stage_of(frames: list[str]) -> str:
    """Return the stage of a stack, the outermost frame first."""
    (learner, of_learner), *others = STAGES
    if any(mark in frame for frame in frames for mark in of_learner):
        return learner
    return next((name for frame in reversed(frames) for name, marks in others if any(mark in frame for mark in marks)), "asyncio and the rest")


def shares(raw: str) -> dict[str, float]:
    """Return the share of the samples by stage, of those in which the worker did something, from py-spy's folded stacks."""
    found: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, n = line.rpartition(" ")
        frames = stack.split(";")
        if not any(wait in frames[-1] for wait in WAITS):
            found[stage_of(frames)] += int(n)
    total = sum(found.values()) or 1
    return {name: n / total for name, n in found.most_common()}


def look(stage: Stage, seconds: int, out: Path) -> tuple[float, dict[str, float]]:
    """Let a worker work, and look at it; returns its CPU microseconds an event, and the share of each stage. Leaves the flame graph."""
    with working(stage, TAG) as (worker,), closing(redis.Redis.from_url(stage.redis)) as store:
        until_s = time.monotonic() + stage.limit_s
        while applied(store, stage, TAG) < BEGIN * stage.events:
            if worker.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError("the worker does not get on")
            time.sleep(0.1)
        before, spent = applied(store, stage, TAG), cpu_s(worker.pid)
        folded = spied(worker.pid, seconds, "raw", stage.folder / "folded")
        after, spent = applied(store, stage, TAG), cpu_s(worker.pid) - spent
        graph = spied(worker.pid, GRAPH_S, "flamegraph", stage.folder / "flame.svg")
        if applied(store, stage, TAG) >= stage.events:
            raise RuntimeError("the backlog did not last: give more --events, or fewer --seconds")
        out.write_text(
            re.sub(r'(<text id="title"[^>]*>)[^<]*', r"\1python bench/stages.py", re.sub(r"py-spy record [^<]*", "py-spy", graph))
        )  # both name folders
        return 1e6 * spent / (after - before), shares(folded)


def spied(pid: int, seconds: int, form: str, file: Path) -> str:
    """Return what py-spy has seen of a process, in one of its formats, by function."""
    subprocess.run(
        [str(SPY), "record", "-d", str(seconds), "-r", "200", "-f", form, "-F", "-o", str(file), "-p", str(pid)], check=True, stdout=subprocess.DEVNULL
    )
    return file.read_text()


def main() -> None:
    """Look at a worker, print the table, leave the flame graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", type=Path, default=HERE.parent / "var" / "bench" / "throughput-trunk", help="trained in passing if it is not there")
    parser.add_argument("--events", type=int, default=1_200_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--launches", type=int, default=1)
    parser.add_argument("--age", type=float, default=0.0, help="of the events, in hours (see bench/throughput.py)")
    parser.add_argument("--seconds", type=int, default=10, help="for which the worker is looked at")
    parser.add_argument("--kafka", type=whole, help="the folder of an Apache Kafka (default: the embedded broker)")
    parser.add_argument("--out", type=Path, default=HERE.parent / "var" / "bench" / "flame.svg", help="the flame graph")
    parser.set_defaults(visit=VISIT, kafka_streams=None, limit=120.0, workers=1)
    given = parser.parse_args()
    if not SPY.exists():
        sys.exit(f"no {SPY}: `make peers` installs it")
    if not (given.trunk / "manifest.json").exists():
        train(given.trunk)
    with ExitStack() as stack:
        cpu_us, found = look(staged(stack, given, given.events), given.seconds, given.out)
    print("| stage | share | µs an event |\n| --- | --: | --: |")
    for name, share in found.items():
        print(f"| {name} | {share:.1%} | {share * cpu_us:.1f} |")
    print(f"| all | | {cpu_us:.1f} |")


if __name__ == "__main__":
    main()
