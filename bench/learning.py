"""The design's learning figures on simulated shops: `make bench-learning`, or `python bench/learning.py [--seeds 20] [--world shop]`. SYNTHETIC data.

Prints one Markdown table for each figure, and writes everything to `var/bench/learning-*.json`. Two worlds: `learning_shop`, the simulated shop, and
`learning_linear`, rows as the design's own simulation had them, which shows what is the method's and what is the shop's. How a figure is measured: `learning_figures`. Intervals are 95 %, by a bootstrap over seeds. Rows, artifacts and figures are kept under `var/bench/`, so a second run is quick.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import learning_figures
import learning_linear
import learning_shop
from learning_report import report
from learning_shop import KEPT, files_of, hashed

import models

WORLDS = ("shop", "linear")
REPORT_EVERY = 5


def one_seed(world: str, seed: int, stale: bool) -> dict[str, Any]:
    """Return the figures of a seed, from `var/bench/` if they are there."""
    shop = replace(learning_shop.SHOP, seed=seed)
    folder = learning_shop.folders(shop)[0] if world == "shop" else learning_linear.folder(seed)
    folder.mkdir(parents=True, exist_ok=True)
    made_by = hashed(b"", *files_of(models), *Path(__file__).parent.glob("learning_*.py"))
    kept = folder / f"figures-{made_by}.json"
    if stale and not kept.exists():
        kept = max(folder.glob("figures-*.json"), key=lambda path: path.stat().st_mtime, default=kept)
    if not kept.exists():
        staged = learning_shop.stage(shop, stale=stale) if world == "shop" else learning_linear.stage(seed, stale=stale)
        found = learning_figures.figures_of(staged)
        kept.with_suffix(".partial").write_text(json.dumps(found))
        kept.with_suffix(".partial").replace(kept)
    return json.loads(kept.read_text())  # type: ignore[no-any-return]


def main() -> None:
    """Measure all seeds and print the tables; what is done is written after every few seeds, so that a run that is cut short has something to show."""
    parser = argparse.ArgumentParser(description="The learning figures on simulated launches (SYNTHETIC).")
    parser.add_argument("--seeds", type=int, default=20, help="how many of each world (default: 20)")
    parser.add_argument("--world", choices=WORLDS, action="append", help="the shop, or the design's linear rows (default: both)")
    parser.add_argument("--workers", type=int, default=2, help="how many processes (default: 2)")
    parser.add_argument("--stale", action="store_true", help="use what is there, even if the sources that made it have changed since")
    given = parser.parse_args()
    began_s, text = time.monotonic(), {}
    for world in given.world or WORLDS:
        found = dict[int, dict[str, Any]]()
        with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
            jobs = {pool.submit(one_seed, world, seed, given.stale): seed for seed in range(1, given.seeds + 1)}
            for job in as_completed(jobs):
                found[jobs[job]] = job.result()
                print(f"{world}: seed {jobs[job]}, {len(found)} of {given.seeds}, {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
                if len(found) % REPORT_EVERY and len(found) < given.seeds:
                    continue  # resampling takes longer than a seed that is kept
                text[world], summary = report([found[seed] for seed in sorted(found)])
                KEPT.mkdir(parents=True, exist_ok=True)
                (KEPT / f"learning-{world}.json").write_text(json.dumps({"summary": summary, "seeds": found}, indent=1))
                (KEPT / f"learning-{world}.md").write_text(text[world] + "\n")
        print(f"## {world}\n\n{text[world]}\n")
    print(f"{given.seeds} seeds, {time.monotonic() - began_s:.0f} s; all numbers are in var/bench/learning-*.json")


if __name__ == "__main__":
    main()
