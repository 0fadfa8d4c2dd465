"""What the rolling figures and detectors cost: CPU seconds per million events, with and without, in pairs: `python bench/sight_cost.py [LOG.parquet TRUNK]`.

The pipeline, learners included, runs in one process over the same SYNTHETIC log, alternating; so Kafka, Redis and the network, which a worker pays besides,
are not in the sum that the cost is compared with. "Without" leaves out `streams.seen` and `streams.sight`. Of the lines one in `--launches` of seven is launched.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import asyncio
import json
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq

from features.memory_store import MemoryStore
from models.checkpoint import Artifact, load
from models.model import Model
from streams.evaluation import as_launch
from streams.offline import put_launches, run
from streams.partition import Rules
from streams.sight import Sight
from streams.ticks import Tick, cut
from streams.training import edges_ms


def seconds(ticks: list[Tick], artifact: Artifact, launches: list[str], at_ms: int, *, seen: bool) -> float:
    """CPU seconds of one run over the ticks, scores made and thrown away."""
    store, rules = MemoryStore(), Rules(edges_ms=edges_ms(artifact.window_s), partitions=4)

    async def go() -> None:
        await put_launches(store, [as_launch(name, at_ms, artifact.window_s) for name in launches])
        await run(ticks, store, rules, Model(artifact), heard=lambda _: None)

    with ExitStack() as stack:
        if not seen:
            stack.enter_context(patch("streams.pipeline.see_events", lambda *_: None))
            stack.enter_context(patch("streams.pipeline.see_refused", lambda *_: None))
            for name in ("hear", "count"):
                stack.enter_context(patch.object(Sight, name, lambda *_: None))
            stack.enter_context(patch.object(Sight, "learned", lambda *_: False))
        began = time.process_time()
        asyncio.run(go())
        return time.process_time() - began


def main() -> None:
    """Measure pairs, print a table, and write what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of bench/three_launches.py")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--events", type=int, default=100_000, help="the last so many of the log")
    parser.add_argument("--tick-ms", type=int, default=21_600_000, help="full load means thousands of events a step; a replay's 900000 has some hundreds")
    parser.add_argument("--launches", type=int, default=3, help="how many of the three are launched, besides one alone")
    parser.add_argument("--json", type=Path, default=Path("var/bench/sight_cost.json"))
    options = parser.parse_args()
    about, artifact = json.loads((options.folder / "about.json").read_text()), load(options.folder / "trunk")
    log = pq.read_table(options.folder / "log.parquet")
    log = log.slice(max(0, log.num_rows - options.events))
    ticks = list(cut(log, options.tick_ms))
    told = []
    for launches in (["spring-shoes"], ["spring-shoes", "audio", "bags"])[: 1 + (options.launches > 1)]:
        seconds(ticks[:20], artifact, launches, about["at_ms"], seen=True)  # compiles
        pairs = []
        for i in range(options.pairs):
            order = (True, False) if i % 2 else (False, True)
            found = {seen: seconds(ticks, artifact, launches, about["at_ms"], seen=seen) for seen in order}
            pairs.append((found[False], found[True]))
            print(f"{len(launches)} of 7 lines launched, pair {i + 1}: without {found[False]:.2f} s, with {found[True]:.2f} s", flush=True)
        more = np.array([b / a - 1.0 for a, b in pairs])
        million = 1e6 / log.num_rows
        print(f"{len(launches)} of 7 lines launched: {np.median(more):+.1%} (pairs {', '.join(f'{m:+.1%}' for m in more)}); "
              f"CPU seconds per million events without {million * np.median([a for a, _ in pairs]):.1f}, with {million * np.median([b for _, b in pairs]):.1f}")  # fmt: skip
        told.append({"launches": len(launches), "events": log.num_rows, "pairs": pairs, "median": float(np.median(more))})
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
