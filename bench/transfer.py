"""What transfer is worth on the simulated shop, over several seeds: `python bench/transfer.py [SEEDS]` (default 3). SYNTHETIC data.

For each seed a shop with a launch on day 8 of 14: headstart, frozen and scratch on the launch's exposures, and the oracle, which knows the true probability.
"""

from __future__ import annotations

import sys

import numpy as np

from streams.commands.demo import DAY_MS, with_oracle
from streams.evaluation import as_launch, prequential
from streams.partition import Rules
from streams.shop import Shop, simulate
from streams.training import edges_ms, train

TICK_MS = 1_800_000
FIGURES = ("conversions", "auc", "log_loss", "precision_at_5pct", "pcoc")


def main() -> None:
    """Print a line for each seed and model, and the means."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[str, list[list[float]]] = {}
    print(f"{'seed':>4} {'model':10}" + "".join(f"{name:>20}" for name in FIGURES))
    for seed in range(1, seeds + 1):
        shop = Shop(seed=seed)
        made = simulate(shop)
        launch_ms = shop.start_ms + round((shop.launch_day or 0) * DAY_MS)
        rules = Rules(edges_ms=edges_ms(shop.window_s), partitioner_check=False)
        artifact = train(made.log, rules, tick_ms=TICK_MS, until_ms=launch_ms, seed=seed)
        judged = prequential(made.log, artifact, [as_launch(shop.launch_line, launch_ms, shop.window_s)], rules, tick_ms=TICK_MS)
        for model, figures in with_oracle(judged, made, shop).items():
            row = [figures[name] for name in FIGURES]
            found.setdefault(model, []).append(row)
            print(f"{seed:4} {model:10}" + "".join(f"{value:20.4f}" for value in row), flush=True)
    for model, rows in found.items():
        print(f"mean {model:10}" + "".join(f"{value:20.4f}" for value in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
