"""How long the shared head takes to score a row, and to learn from one: `python bench/kernels.py`.

Synthetic rows, one thread, compiled code warmed up first, the best of seven runs: what the arithmetic costs, without Kafka, Redis or Python around it.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import platform
import time
from collections.abc import Callable

import numpy as np

from models.head import Posterior

ROWS = 20_000
RUNS = 7


def best_us_per_row(run: Callable[[], object]) -> float:
    """Microseconds a row, the best of `RUNS` after one to warm up."""
    run()
    times_s = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - start)
    return min(times_s) * 1e6 / ROWS


def main() -> None:
    """Print one line for each operation and width."""
    random = np.random.default_rng(1)
    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, {ROWS} rows")
    for width in (32, 64, 128):
        z = random.normal(size=(ROWS, width))
        z[:, -1] = 1.0  # the intercept
        y = (random.random(ROWS) < 0.05).astype(np.float64)
        nothing, everything = np.zeros(ROWS), np.ones(ROWS)
        head = Posterior.isotropic(width, variance=0.1, intercept=-3.0, intercept_variance=1.0)
        print(f"width {width:3}  predict {best_us_per_row(lambda head=head, z=z: head.predict(z)):7.2f} µs/row", end="")
        learnt = best_us_per_row(lambda head=head, z=z, y=y, a=nothing, b=everything: head.copy().learn_many(z, a, b, y))
        print(f"  learn {learnt:7.2f} µs/row")


if __name__ == "__main__":
    main()
