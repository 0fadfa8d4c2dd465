"""How steady this machine's processors are: `python bench/steadiness.py [--seconds 10]`.

A shared or power-capped machine gives its clock away without a word: no steal time is told, the same work just takes longer for a while, and whatever is being
timed has a long tail. Each processor counts as fast as it can, in windows of 5 ms; a window below `SLOW` of the median is slow, and slow windows less than
`APART_S` from each other are one dip. Run it with nothing else on the machine, before a latency is believed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from typing import NamedTuple

WINDOW_S = 0.005
SLOW = 0.6
APART_S = 0.2


class Window(NamedTuple):
    """Since when, in seconds, and how far was counted in it."""

    at_s: float
    turns: int


def counted(cpu: int, seconds: float) -> list[Window]:
    """Count on one processor for a while."""
    os.sched_setaffinity(0, {cpu})
    windows, began_s = [], time.perf_counter()
    while (at_s := time.perf_counter() - began_s) < seconds:
        count, until_s = 0, began_s + at_s + WINDOW_S
        while time.perf_counter() < until_s:
            for _ in range(20):
                count += 1
        windows.append(Window(at_s, count))
    return windows


def dips(windows: list[Window]) -> tuple[list[float], float, float]:
    """Return when each dip began (s), the share of windows that are slow, and how far the slowest is from the median."""
    median = statistics.median(window.turns for window in windows)
    slow = [window.at_s for window in windows if window.turns < SLOW * median]
    began = [at_s for before_s, at_s in zip([-1.0, *slow], slow, strict=False) if at_s - before_s > APART_S]
    return began, len(slow) / len(windows), min(window.turns for window in windows) / median


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long")
    seconds = parser.parse_args().seconds
    cpus = sorted(os.sched_getaffinity(0))
    with ProcessPoolExecutor(len(cpus)) as pool:
        found = list(pool.map(counted, cpus, [seconds] * len(cpus)))
    print("| processor | slow, of all time | dips | s between them | slowest window, of the median |\n| --- | --: | --: | --: | --: |")
    for cpu, windows in zip(cpus, found, strict=True):
        began, share, least = dips(windows)
        apart = f"{statistics.median(b - a for a, b in pairwise(began)):.1f}" if len(began) > 1 else ""
        print(f"| {cpu} | {share:.0%} | {len(began)} | {apart} | {least:.2f} |")


if __name__ == "__main__":
    main()
