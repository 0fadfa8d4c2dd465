"""The simulated shops of `bench/learning.py`: a launch in several variants, the rows of each, and what was trained before it. SYNTHETIC data.

A seed is one shop: ten source lines and one launch with hundreds of orders. The lines differ in slopes (`own_structure`, half of the shared ones) and in level
(`line_offset`, .8 logit), as those of the design's simulation did. The window is three days: with one of a day, waiting for it costs next to nothing, while
within three days a fifth of the orders comes in the first quarter of an hour and nearly a third after a day. Variants of the launch share all that was before it, so
they share the artifact and the first half of the pipeline's work. Everything is kept under `var/bench/`, by settings and source files, so that a second run is quick.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import features
import models
import models.pretrain
import streams
from features.exposures import NONE, Exposure
from features.intake import hash64
from features.memory_store import MemoryStore
from features.vector import NAMES
from models.checkpoint import Artifact, load, save
from models.offset import likelihood_curve
from models.pretrain import PretrainSettings
from models.rows import Rows
from streams.cutting import cut
from streams.offline import run
from streams.partition import Rules
from streams.records import Outcome
from streams.shop import Shop, Simulated, simulate
from streams.ticks import Tick
from streams.training import before, edges_ms, rows_of, train

DAY_MS = 86_400_000
TICK_MS = 3_600_000
KEPT = Path(__file__).resolve().parent.parent / "var" / "bench"
SHOP = Shop(
    users=2500, lines=11, days=20.0, launch_day=9.0, launch_appeal=1.6, launch_offset=0.0, conversion=0.2, visits_per_day=0.3,
    own_structure=0.5, line_offset=0.8, window_s=3 * 86_400.0,
)  # fmt: skip
PAST = "past.npz"
TRAINED_BY = ("pretrain", "trunk", "boosting", "trees", "fit", "hierarchy", "head", "encode", "mixture", "offset", "rehearsal", "experts", "instances")
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "offset -1": {"launch_offset": -1.0},
    "offset -.5": {"launch_offset": -0.5},
    "offset +.5": {"launch_offset": 0.5},
    "offset +1": {"launch_offset": 1.0},
    "unrelated": {"launch_kind": "unrelated"},
    "flipped": {"launch_kind": "flipped"},
    "delay x.3": {"launch_delay": 0.3},
    "delay x3": {"launch_delay": 3.0},
}


@dataclass(frozen=True)
class Staged:
    """A shop's rows in one variant. `truth` (N,): the true probability of the launch's rows, NaN of the others'."""

    rows: Rows
    truth: NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
    """What the figures of a seed are made from. `past_curves` (M, 141) and `past_losses` (M, K): of the source lines launched in pretence."""

    at_ms: int
    launch: int
    artifact: Artifact
    variants: dict[str, Staged]
    past_curves: NDArray[np.float64]
    past_losses: NDArray[np.float64]


def hashed(what: bytes, *files: Path) -> str:
    """Return a short hash of some bytes and of source files."""
    return hashlib.sha256(b"\0".join([what, *(file.read_bytes() for file in sorted(files))])).hexdigest()[:12]


def files_of(package: Any, pattern: str = "*.py") -> list[Path]:
    """Return a package's source files."""
    return list(Path(package.__path__[0]).glob(pattern))


def folders(shop: Shop) -> tuple[Path, Path]:
    """Return where a seed's rows and its artifact are kept: the rows depend on the shop and on features, the artifact on how it is trained too."""
    described = json.dumps([dataclasses.asdict(replace(shop, seed=0)), VARIANTS]).encode()
    made_by = hashed(described, *files_of(features), *files_of(streams, "shop*.py"))
    trained_by = hashed(b"", *(file for name in TRAINED_BY for file in files_of(models, f"{name}.py")))
    rows = KEPT / f"rows-{made_by}" / f"seed-{shop.seed}"
    return rows, rows / f"artifact-{trained_by}"


def stage(shop: Shop, *, stale: bool = False) -> Stage:
    """Return a seed's stage, from `var/bench/` if it is there; `stale`: with the latest artifact that was trained on these rows, by whatever sources."""
    kept, trained = folders(shop)
    kept.mkdir(parents=True, exist_ok=True)
    variants = {name: kept / f"{name}.npz" for name in VARIANTS}
    if not all(path.exists() for path in variants.values()):
        _make_rows(shop, variants)
    if stale and not (trained / PAST).exists():
        trained = max((path.parent for path in kept.glob(f"artifact-*/{PAST}")), key=lambda path: path.stat().st_mtime, default=trained)
    if not (trained / PAST).exists():
        _train(shop, trained)
    with np.load(trained / PAST) as past:
        curves, losses = past["curves"], past["losses"]
    return Stage(_launch_ms(shop), shop.lines - 1, load(trained), {name: _read(path, shop) for name, path in variants.items()}, curves, losses)


def _launch_ms(shop: Shop) -> int:
    assert shop.launch_day is not None
    return shop.start_ms + round(shop.launch_day * DAY_MS)


def _rules(shop: Shop) -> Rules:
    return Rules(edges_ms=edges_ms(shop.window_s), partitioner_check=False)


def _train(shop: Shop, folder: Path) -> None:
    """Train on what was before the launch, and keep what `models.pretrain` learns of each pseudo-launch on its way to the priors."""
    curves: list[NDArray[np.float64]] = []

    def noted(*args: Any, **more: Any) -> NDArray[np.float64]:
        curves.append(likelihood_curve(*args, **more))
        return curves[-1]

    with patch.object(models.pretrain, "likelihood_curve", noted):
        artifact = train(
            before(simulate(shop).log, _launch_ms(shop)), _rules(shop), tick_ms=TICK_MS, until_ms=_launch_ms(shop), seed=shop.seed,
            settings=PretrainSettings(validate=False),
        )  # fmt: skip
    losses = np.array(list(artifact.settings["pseudo_losses"].values())).T  # type: ignore[attr-defined]
    save(artifact, folder)
    put(folder / PAST, curves=np.array(curves).reshape(len(losses), -1), losses=losses)


def _make_rows(shop: Shop, paths: dict[str, Path]) -> None:
    """Run the pipeline once up to the launch, and from there on once for each variant."""
    at_ms, end_ms, rules = _launch_ms(shop), shop.start_ms + round(shop.days * DAY_MS), _rules(shop)
    store, common = MemoryStore(), list[Exposure]()
    past: pa.Table = None
    for name, path in paths.items():
        made = simulate(replace(shop, **VARIANTS[name]))
        if past is None:
            past = before(made.log, at_ms)
            _run([tick for tick in cut(made.log, TICK_MS) if tick.end_ms <= at_ms], store, rules, common)
        elif not past.equals(before(made.log, at_ms)):
            raise AssertionError(f"variant {name!r} has another past")
        final = list(common)
        _run([tick for tick in cut(made.log, TICK_MS) if tick.end_ms > at_ms], copy.deepcopy(store), rules, final)
        rows = rows_of([e for e in final if e.ts_ms + rules.edges_ms[-1] <= end_ms], rules, shop.line_names)
        if name != "base":  # what was final before the launch is the base's
            rows = rows.select(rows.ts_ms + rules.edges_ms[-1] > at_ms)
        put(path, x=rows.x, line=rows.line, user=rows.user, ts_ms=rows.ts_ms, delay_s=rows.delay_s, truth=_truth(made, rows, shop))


def _run(ticks: list[Tick], store: MemoryStore, rules: Rules, final: list[Exposure]) -> None:
    def hear(outcome: Outcome) -> None:
        if outcome.closed.label != NONE:
            final.append(outcome.closed.exposure)

    asyncio.run(run(ticks, store, rules, None, scoring=False, on_outcome=hear))


def _truth(made: Simulated, rows: Rows, shop: Shop) -> NDArray[np.float64]:
    """The true probabilities (N,) of the launch's rows."""
    of_launch = made.truth.filter(pc.field("line") == shop.launch_line)
    user = [hash64(name) & 0x7FFFFFFFFFFFFFFF for name in of_launch["user_id"].to_pylist()]
    known = dict(zip(zip(user, of_launch["ts"].to_pylist(), strict=True), of_launch["probability"].to_pylist(), strict=True))
    ours = rows.line == shop.lines - 1
    return np.array(
        [known.get(key, np.nan) if mine else np.nan for key, mine in zip(zip(rows.user.tolist(), rows.ts_ms.tolist(), strict=True), ours, strict=True)]
    )


def put(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Write arrays; a reader sees all of them or none."""
    partial = path.with_name("partial-" + path.name)
    np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def _read(path: Path, shop: Shop) -> Staged:
    with np.load(path) as a:
        rows = Rows(a["x"], a["line"], shop.line_names, a["user"], a["ts_ms"], a["delay_s"], shop.window_s, NAMES)
        return Staged(rows, a["truth"])
