"""Three launches at a time in one simulated shop (SYNTHETIC): one on which nothing changes, one whose orders fall away, one to which other shoppers come.

`python bench/three_launches.py FOLDER` writes the log, trains a trunk on the weeks before, and says what is what. For the README's pictures, for the quiz of
docs/quiz.md, and for anybody who wants to see what the dashboard says of trouble.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.checkpoint import save
from models.pretrain import PretrainSettings
from models.trunk import TrunkSettings
from streams.evaluation import launched
from streams.partition import Rules
from streams.shop import SYNTHETIC, Shop, simulate
from streams.training import edges_ms, train

DAY_MS = 86_400_000
LOST = 0.6
"""Of the orders of the second launch, from the day of the trouble on."""
YOUNG = ("18-24", "25-34")
OTHERS = 0.1
"""Of the shoppers who are not young, so many still come to the third."""


@dataclass(frozen=True)
class Three:
    """The log, the launches by name, and when they begin, when the trouble does, and how long the window is."""

    log: pa.Table
    names: tuple[str, str, str]
    at_ms: int
    trouble_ms: int
    window_s: float


def make(*, users: int = 4500, days: float = 21.0, launch_day: float = 13.0, trouble_day: float = 17.0, seed: int = 11) -> Three:
    """Simulate the shop, and change what comes to two of the launches from the day of the trouble on."""
    shop = Shop(
        users=users, lines=7, days=days, launch_day=launch_day, launch_line="spring-shoes", launch_appeal=0.2, conversion=0.07, visits_per_day=1.0,
        own_structure=0.1, line_offset=0.05, seed=seed,
    )  # fmt: skip
    log = simulate(shop).log
    fine, lost, young = "spring-shoes", "audio", "bags"
    at_ms, trouble_ms = shop.start_ms + round(launch_day * DAY_MS), shop.start_ms + round(trouble_day * DAY_MS)
    log = launched(log, [fine, lost, young], at_ms)
    line, kind, late = np.array(log["line"].to_pylist()), np.array(log["kind"].to_pylist()), log["ts"].to_numpy() >= trouble_ms
    gone = (line == lost) & late & (kind == "order") & (_draw(log["event_id"].to_pylist()) < LOST)
    is_young = np.isin(np.array([band or "" for band in log["age_band"].to_pylist()]), YOUNG)
    gone |= (line == young) & late & ~is_young & (_draw(log["user_id"].to_pylist()) >= OTHERS)
    return Three(log.filter(pa.array(~gone)), (fine, lost, young), at_ms, trouble_ms, shop.window_s)


def _draw(names: list[str]) -> np.ndarray:
    known = {name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) / 2**32 for name in set(names)}
    return np.array([known[name] for name in names])


def write(folder: Path, *, users: int = 4500, seed: int = 11) -> Three:
    """Write log.parquet, trunk/ and about.json."""
    three = make(users=users, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(three.log, folder / "log.parquet")
    quick = PretrainSettings(trunk=TrunkSettings(most_steps=500), c_grid=(0.01,))
    save(
        train(three.log, Rules(edges_ms=edges_ms(three.window_s)), tick_ms=1_800_000, until_ms=three.at_ms, seed=1, pseudo=False, settings=quick),
        folder / "trunk",
    )
    about = {"note": SYNTHETIC, "fine": three.names[0], "orders fall away": three.names[1], "other shoppers": three.names[2], "at_ms": three.at_ms,
             "trouble_ms": three.trouble_ms, "window_s": three.window_s}  # fmt: skip
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    return three


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    made = write(options.folder, users=options.users, seed=options.seed)
    print(f"{made.log.num_rows} events; fine: {made.names[0]}; orders fall away: {made.names[1]}; other shoppers: {made.names[2]}")
