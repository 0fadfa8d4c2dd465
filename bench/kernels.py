"""How long the model takes to score a row and to learn from an outcome: `python bench/kernels.py [--seconds S] [--json FILE]`.

The artifact is trained in passing on a small simulated shop (SYNTHETIC), so widths, trees and the share of zeros are those of a real one. One thread;
rounds of all operations interleaved, so that a slow second of the machine meets all alike; the median of the rounds. What is timed is what a worker
or a learner calls, Python around the kernels included, but neither Kafka nor Redis.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.encode import Encoder, standardise
from models.launch_head import LaunchHead, view_of
from models.launch_scoring import LaunchScorer, score
from models.model import Model
from models.pretrain import PretrainSettings
from models.rehearsal import Outcomes, outcomes
from models.rows import Rows
from models.shared_heads import SharedHeads
from models.trees import Trees
from models.trunk import TrunkSettings
from streams.partition import Rules
from streams.shop import Shop, simulate
from streams.training import edges_ms, final_rows, train

DAY_MS = 86_400_000
TICK_MS = 1_800_000
SCORE_BATCHES = (1, 64)
LEARN_BATCHES = (1, 64, 1000)
TAUGHT = 3000
LAUNCHES = 1000
ONE_EACH = f"the experts of {LAUNCHES:,} launches, a row each"
AIMS = {("figure 8", 1): 50.0, ("figure 8", 64): 6.0}
AIM_OUTCOMES_PER_S = 10_000


@dataclass(frozen=True)
class Bench:
    """A trained model, heads that have learned something, and what they are fed."""

    model: Model
    shared: SharedHeads
    launch: LaunchHead
    rows: Rows
    facts: Outcomes


def prepare() -> Bench:
    """Simulate, train, and teach both states `TAUGHT` outcomes."""
    shop = Shop(users=800, days=10.0, launch_day=None, seed=3)
    until_ms = shop.start_ms + round(shop.days * DAY_MS)
    rules = Rules(edges_ms=edges_ms(shop.window_s), partitioner_check=False)
    log = simulate(shop).log
    settings = PretrainSettings(TrunkSettings(most_steps=400), c_grid=(0.03,), validate=False)
    artifact = train(log, rules, tick_ms=TICK_MS, until_ms=until_ms, seed=1, pseudo=False, settings=settings)
    rows = final_rows(log, rules, tick_ms=TICK_MS, lines=artifact.lines, until_ms=until_ms)
    model = Model(artifact)
    bench = Bench(model, SharedHeads.of(model), LaunchHead.of(model), rows, outcomes(rows, model.edges_s))
    teach_launch(bench, slice(0, TAUGHT))
    teach_shared(bench, slice(0, TAUGHT))
    return bench


def teach_shared(bench: Bench, part: slice) -> None:
    """The shared heads take in some outcomes."""
    f = bench.facts.part(part)
    bench.shared.learn_many(bench.model, bench.rows.x[f.row], f.bin_, f.y, f.final, f.close_ms)


def teach_launch(bench: Bench, part: slice) -> None:
    """The launch's experts take in some outcomes."""
    f = bench.facts.part(part)
    bench.launch.learn_many(bench.model, bench.shared, bench.rows.x[f.row], f.bin_, f.y, f.final, f.close_ms)


def scoring(bench: Bench, batch: int) -> dict[str, Callable[[int], object]]:
    """The operations on a batch of rows that begins at a given one, by name."""
    artifact, model = bench.model.artifact, bench.model
    encoder, trees, expert = Encoder(artifact.trunk), Trees(artifact.trees), bench.launch.experts[0]
    x = [np.ascontiguousarray(bench.rows.x[i : i + batch]) for i in range(0, len(bench.rows) - batch + 1, batch)][:512]
    raw = [standardise(rows, artifact.trunk.mean, artifact.trunk.std) for rows in x]
    maps = [model.maps(rows) for rows in x]

    views, each = [view_of(model, bench.shared, of) for of in maps], np.arange(batch)
    one = bench.launch.scorer(model)
    many = [LaunchScorer(one.believed.copy(), one.on_z) for _ in range(LAUNCHES)]

    def one_each(i: int) -> object:
        first = i * batch % (LAUNCHES - batch + 1)
        return score(many[first : first + batch], views[i % len(x)], each, each)

    def default(i: int) -> object:
        seen = model.maps(x[i % len(x)])
        s = bench.shared.logit(seen)
        return s, expert.offset.probability(s, model.priors.offset)  # type: ignore[attr-defined]

    return {
        "standardise": lambda i: standardise(x[i % len(x)], artifact.trunk.mean, artifact.trunk.std),
        "trunk": lambda i: encoder.encode(raw[i % len(x)]),
        "trees": lambda i: trees.logit(raw[i % len(x)]),
        "shared heads": lambda i: bench.shared.logit(maps[i % len(x)]),
        "figure 8": default,
        "every expert and the mixture": lambda i: bench.launch.predict(model, bench.shared, model.maps(x[i % len(x)])),
        ONE_EACH: one_each,
    }


def timed_us(run: Callable[[int], object], first: int, repeats: int) -> float:
    """Microseconds a call."""
    start = time.perf_counter()
    for i in range(first, first + repeats):
        run(i)
    return (time.perf_counter() - start) * 1e6 / repeats


def interleaved(runs: dict[tuple[str, int], Callable[[int], object]], seconds: float) -> dict[tuple[str, int], float]:
    """Median microseconds a row of every operation: round after round of all of them, each about 3 ms a round, for `seconds` in all."""
    repeats = {}
    for key, run in runs.items():
        run(0)
        repeats[key] = max(1, round(3000.0 / timed_us(run, 1, 3)))
    found: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    end, first = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or len(next(iter(found.values()))) < 5:
        for key, run in runs.items():
            found[key].append(timed_us(run, first, repeats[key]) / key[1])
        first += max(repeats.values())
    return {key: statistics.median(values) for key, values in found.items()}


def learning(bench: Bench, seconds: float) -> dict[tuple[str, int], float]:
    """Median microseconds an outcome, each state going on from where it is."""
    total = len(bench.facts.row)

    def going(teach: Callable[[Bench, slice], None], batch: int) -> Callable[[int], None]:
        starts = range(TAUGHT, total - batch + 1, batch)
        return lambda i: teach(bench, slice(starts[i % len(starts)], starts[i % len(starts)] + batch))

    return interleaved(
        {(name, batch): going(teach, batch) for name, teach in (("shared heads", teach_shared), ("launch", teach_launch)) for batch in LEARN_BATCHES}, seconds
    )


def main() -> None:
    """Print the tables, and write what they hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of measuring, for scoring and for learning each")
    parser.add_argument("--json", type=Path, default=Path("var/bench/kernels.json"))
    options = parser.parse_args()
    bench = prepare()
    scored = interleaved({(name, batch): run for batch in SCORE_BATCHES for name, run in scoring(bench, batch).items()}, options.seconds)
    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, one thread; {bench.rows.x.shape[1]} features,")
    print(f"{len(bench.model.artifact.trees.roots)} trees, trunk of {bench.model.artifact.trunk.parameters()} parameters, {bench.model.bins} delay bins\n")
    print("| scoring, µs a row | alone | in a batch of 64 | aim |\n| --- | --: | --: | --- |")
    for name in dict.fromkeys(name for name, _ in scored):
        label = "trunk, trees, shared heads and offset (figure 8)" if name == "figure 8" else name
        aim = " / ".join(f"≤ {AIMS[name, batch]:g}" for batch in SCORE_BATCHES if (name, batch) in AIMS)
        print(f"| {label} | {scored[name, 1]:.1f} | {scored[name, 64]:.2f} | {aim} |")
    learned = learning(bench, options.seconds)
    print("\n| learning, outcomes/s on one core | " + " | ".join(f"batches of {b}" for b in LEARN_BATCHES) + " | bytes |\n| --- |" + " --: |" * 4)
    for name, state in (("shared heads", bench.shared), ("launch", bench.launch)):
        cells = [f"{1e6 / learned[name, b]:,.0f} ({learned[name, b]:.1f} µs)" for b in LEARN_BATCHES]
        print(f"| {name} | " + " | ".join(cells) + f" | {len(state.to_bytes()):,} |")
    print(f"\nAim (figure 9): {AIM_OUTCOMES_PER_S:,} outcomes/s.")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "machine": platform.machine(), "features": bench.rows.x.shape[1], "scoring_us_per_row": {f"{n}, {b}": v for (n, b), v in scored.items()},
        "learning_us_per_outcome": {f"{n}, {b}": v for (n, b), v in learned.items()},
        "bytes": {"shared heads": len(bench.shared.to_bytes()), "launch": len(bench.launch.to_bytes())},
    }  # fmt: skip
    options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
