"""The design's own simulation, as rows: what the method can do where its assumptions hold. Beside the shop of `learning_shop`, it shows why that differs. SYNTHETIC.

Twelve source lines and a launch; 25 features that everyone sees, N(0, 1); the log odds of an order are linear in them, with slopes that lie around the shared ones
(half as far from them as those are from 0), and a level for each line; delays that depend on nothing but the launch's factor; a window of seven days. All that is
different in the shop is absent here: what is hidden from every model, features that drift, and orders of later visits, which come late and to those who come often.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from learning_shop import DAY_MS, KEPT, PAST, TRAINED_BY, VARIANTS, Stage, Staged, files_of, hashed, put
from numpy.typing import NDArray

import models
import models.pretrain
from models.checkpoint import load, save
from models.delay import default_edges_s
from models.logistic import sigmoid
from models.offset import likelihood_curve
from models.pretrain import PretrainSettings, PseudoLaunch, pretrain
from models.rows import Rows

LINES, FEATURES = 13, 25
SLOPE, OWN, LEVEL = 0.2, 0.1, 0.8
BASE = -2.9
WINDOW_S = 7 * 86_400.0
BEFORE_DAYS, AFTER_DAYS = 21, 14
SOURCE_ROWS_A_DAY, LAUNCH_ROWS_A_DAY = 60, 600
DELAYS = ((0.4, 30 / 1440, 1.2), (0.35, 8 / 24, 1.0), (0.25, 2.0, 0.8))
"""(share, median in days, sigma of the logarithm): a seventh of the orders comes in a quarter of an hour, a quarter after a day."""
START_MS = 1_704_067_200_000
AT_MS = START_MS + BEFORE_DAYS * DAY_MS


def folder(seed: int) -> Path:
    """Return where what a seed needs is kept."""
    return KEPT / "linear" / f"seed-{seed}"


def stage(seed: int, *, stale: bool = False) -> Stage:
    """Return a seed's stage; what was trained is kept in `var/bench/`."""
    variants = {name: draw(seed, **settings) for name, settings in VARIANTS.items()}
    made_by = hashed(b"", *(f for name in TRAINED_BY for f in files_of(models, f"{name}.py")), *KEPT.parent.parent.glob("bench/learning_linear.py"))
    trained = folder(seed) / f"artifact-{made_by}"
    if stale and not (trained / PAST).exists():
        trained = max((path.parent for path in folder(seed).glob(f"artifact-*/{PAST}")), key=lambda path: path.stat().st_mtime, default=trained)
    if not (trained / PAST).exists():
        curves: list[NDArray[np.float64]] = []

        def noted(*args: Any, **more: Any) -> NDArray[np.float64]:
            curves.append(likelihood_curve(*args, **more))
            return curves[-1]

        rows = variants["base"].rows
        known = rows.select(rows.ts_ms + round(1000 * WINDOW_S) <= AT_MS)
        middle_ms = START_MS + BEFORE_DAYS * DAY_MS // 2
        pseudo = [PseudoLaunch(known.select((known.line != m) | (known.ts_ms >= middle_ms)), m, middle_ms) for m in range(LINES - 1)]
        with patch.object(models.pretrain, "likelihood_curve", noted):
            artifact = pretrain(
                known, pseudo=pseudo, edges_s=default_edges_s(WINDOW_S), seed=seed, schema_hash="", trained_until_ms=AT_MS, fingerprint="",
                settings=PretrainSettings(pseudo_steps=200, validate=False),
            )  # fmt: skip
        losses = np.array(list(artifact.settings["pseudo_losses"].values())).T  # type: ignore[attr-defined]
        save(artifact, trained)
        put(trained / PAST, curves=np.array(curves).reshape(len(losses), -1), losses=losses)
    with np.load(trained / PAST) as past:
        return Stage(AT_MS, LINES - 1, load(trained), variants, past["curves"], past["losses"])


def draw(seed: int, *, launch_offset: float = 0.0, launch_kind: str = "like", launch_delay: float = 1.0) -> Staged:
    """Return all rows of one variant; variants differ in the launch's orders alone."""
    rng = np.random.default_rng(seed)
    shared = SLOPE * rng.normal(size=FEATURES)
    slopes = shared + OWN * rng.normal(size=(LINES, FEATURES))
    level = LEVEL * rng.normal(size=LINES)
    level[-1] = launch_offset
    other = np.linalg.norm(slopes[-1]) / np.sqrt(FEATURES) * rng.normal(size=FEATURES)
    slopes[-1] = {"like": slopes[-1], "unrelated": other, "flipped": -slopes[-1]}[launch_kind]
    n_sources = (BEFORE_DAYS + AFTER_DAYS) * SOURCE_ROWS_A_DAY * (LINES - 1)
    n = n_sources + AFTER_DAYS * LAUNCH_ROWS_A_DAY
    line = np.concatenate([rng.integers(0, LINES - 1, n_sources), np.full(n - n_sources, LINES - 1)])
    begins, days = np.where(line < LINES - 1, 0.0, BEFORE_DAYS), np.where(line < LINES - 1, BEFORE_DAYS + AFTER_DAYS, AFTER_DAYS)
    ts_ms = START_MS + np.floor((begins + days * rng.random(n)) * DAY_MS).astype(np.int64)
    x = rng.normal(size=(n, FEATURES)).astype(np.float32)
    p = sigmoid(BASE + level[line] + (x * slopes[line]).sum(axis=1))
    part = rng.choice(len(DELAYS), size=n, p=[share for share, _, _ in DELAYS])
    medians, sigmas = np.array([m for _, m, _ in DELAYS])[part], np.array([s for _, _, s in DELAYS])[part]
    delay_s = 86_400.0 * np.where(line == LINES - 1, launch_delay, 1.0) * medians * np.exp(sigmas * rng.normal(size=n))
    ordered = (rng.random(n) < p) & (delay_s <= WINDOW_S)
    users = rng.integers(0, n // 2, n)
    order = np.argsort(ts_ms, kind="stable")
    delays = np.where(ordered, np.maximum(delay_s, 1.0), np.inf)
    # Who clicks and who puts into the cart is drawn from the same odds: the trunk has its three targets.
    seen = [np.where(ordered | (rng.random(n) < sigmoid(np.log(p) + more)), np.minimum(delays, 60.0), np.inf) for more in (1.5, 0.7)]
    rows = Rows(
        x=x[order], line=line[order].astype(np.int32), lines=(*(f"line-{m:02d}" for m in range(LINES - 1)), "launch"), user=users[order],
        ts_ms=ts_ms[order], delay_s=np.stack([*seen, delays], axis=1)[order], window_s=WINDOW_S, feature_names=tuple(f"x{j}" for j in range(FEATURES)),
    )  # fmt: skip
    within = sum(share * 0.5 * math.erfc(-math.log(WINDOW_S / (86_400.0 * launch_delay * median)) / sigma / math.sqrt(2)) for share, median, sigma in DELAYS)
    return Staged(rows, np.where(rows.line == LINES - 1, (p * within)[order], np.nan))
