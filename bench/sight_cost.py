"""What the rolling figures and detectors cost: CPU seconds per million events, with and without: `python bench/sight_cost.py FOLDER` (of bench/three_launches.py).

The pipeline, learners included, runs in one process over a SYNTHETIC log whose time is squeezed until `--rate` events come a second, window and delay bins
with it: so what is done once a minute or an hour weighs what it weighs at full load. Kafka, Redis and the network, which a worker pays besides, are not in
the sum that the cost is compared with. Two measures: the time spent inside `streams.seen` and `streams.sight` as a share of the rest of the same run, which
no slow minute of the machine can change much; and pairs of runs with and without them. Of seven lines one is launched, then three.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.memory_store import MemoryStore
from models.checkpoint import Artifact, load
from models.model import Model
from streams import pipeline
from streams.cutting import cut
from streams.evaluation import as_launch
from streams.offline import put_launches, run
from streams.partition import Rules
from streams.sight import Sight
from streams.ticks import Tick

TICK_MS, GRACE_MS = 1_000, 100
METHODS = ("hear", "learned", "count", "changes", "committed")


def squeezed(log: pa.Table, artifact: Artifact, rate: float) -> tuple[pa.Table, Artifact]:
    """The same events and the same trunk in a time that runs so fast that `rate` events come a second."""
    ts = log["ts"].to_numpy()
    faster = float(ts[-1] - ts[0]) / 1000.0 / (log.num_rows / rate)
    now = ts[-1] - ((ts[-1] - ts) / faster).astype(np.int64)
    window_s = artifact.window_s / faster
    return (
        log.set_column(log.schema.get_field_index("ts"), log.schema.field("ts"), pa.array(now)),
        replace(artifact, window_s=window_s, edges_s=artifact.edges_s / faster),
    )


class Inside:
    """Wraps functions and adds up the CPU seconds that are spent in them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*arguments: Any) -> Any:
            began_s = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.thread_time() - began_s

        return timed


def seconds(ticks: list[Tick], artifact: Artifact, launches: list[str], at_ms: int, *, seen: bool) -> tuple[float, float]:
    """CPU seconds of one run over the ticks, scores made and thrown away, and how many of them inside what is measured."""
    edges_ms = tuple(round(1000 * edge) for edge in artifact.edges_s[1:].tolist())
    store, rules = MemoryStore(), Rules(edges_ms=edges_ms, partitions=4, grace_ms=GRACE_MS)

    async def go() -> None:
        await put_launches(store, [as_launch(name, at_ms, artifact.window_s) for name in launches])
        await run(ticks, store, rules, Model(artifact), heard=lambda _: None)

    inside = Inside()
    with ExitStack() as stack:
        for name in ("see_events", "see_refused"):
            stack.enter_context(patch.object(pipeline, name, inside.of(getattr(pipeline, name)) if seen else lambda *_: None))
        for name in METHODS:
            nothing: Callable[..., Any] = (lambda *_: ({}, {})) if name == "changes" else lambda *_: False
            stack.enter_context(patch.object(Sight, name, inside.of(getattr(Sight, name)) if seen else nothing))
        began = time.process_time()
        asyncio.run(go())
        return time.process_time() - began, inside.seconds


def main() -> None:
    """Measure pairs, print a table, and write what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of bench/three_launches.py")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--events", type=int, default=200_000, help="the last so many of the log")
    parser.add_argument("--rate", type=float, default=15_000.0, help="events a second")
    parser.add_argument("--json", type=Path, default=Path("var/bench/sight_cost.json"))
    options = parser.parse_args()
    about, artifact = json.loads((options.folder / "about.json").read_text()), load(options.folder / "trunk")
    log = pq.read_table(options.folder / "log.parquet")
    log, artifact = squeezed(log.slice(max(0, log.num_rows - options.events)), artifact, options.rate)
    at_ms = min(about["at_ms"], int(log["ts"][0].as_py()))
    ticks = list(cut(log, TICK_MS))
    told = []
    for launches in (["spring-shoes"], ["spring-shoes", "audio", "bags"]):
        seconds(ticks[:3], artifact, launches, at_ms, seen=True)  # compiles
        pairs, shares = [], []
        for i in range(options.pairs):
            order = (True, False) if i % 2 else (False, True)
            found = {seen: seconds(ticks, artifact, launches, at_ms, seen=seen) for seen in order}
            (without, _), (with_it, inside) = found[False], found[True]
            pairs.append((without, with_it))
            shares.append(inside / (with_it - inside))
            print(
                f"{len(launches)} of 7 lines launched, pair {i + 1}: without {without:.2f} s, with {with_it:.2f} s, of which inside {inside:.2f} s", flush=True
            )
        more = np.array([b / a - 1.0 for a, b in pairs])
        million = 1e6 / log.num_rows
        print(
            f"{len(launches)} of 7 lines launched: inside {np.median(shares):+.1%} of the rest ({min(shares):+.1%} to {max(shares):+.1%}); "
            f"pairs {np.median(more):+.1%} ({', '.join(f'{m:+.1%}' for m in more)}); CPU seconds per million events without {million * np.median([a for a, _ in pairs]):.1f}"
        )
        told.append({"launches": len(launches), "events": log.num_rows, "pairs": pairs, "inside": shares, "median": float(np.median(more))})
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
