"""From the source lines' final exposures to an artifact: scaler, delay curve, trunk, three posteriors, design effect, offset prior, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import Artifact
from models.delay import check_edges_s, default_edges_s, fit_curve
from models.encode import Encoder, standardise
from models.fit import C_GRID, choose_c, design_effect, fit_map
from models.head import Matrix, Vector
from models.metrics import figures
from models.mind import sigmoid
from models.offset import likelihood_curve, offset_prior
from models.rows import Rows, need_rows
from models.trunk import Progress, TrunkSettings, train_trunk


@dataclass(frozen=True)
class PretrainSettings:
    """`c_grid`: prior variances of a raw head's weights among which held-out users choose; one value fixes it. `c_trunk`: that of the trunk's head.

    The trunk's is fixed: on its own training users the trunk looks better than it is, and the held-out ones are too few to choose (they choose too narrow).
    """

    trunk: TrunkSettings = field(default_factory=TrunkSettings)
    c_grid: tuple[float, ...] = C_GRID
    c_trunk: float = 0.1


def pretrain(
    rows: Rows,
    *,
    pseudo: Sequence[tuple[Rows, Rows]] = (),
    edges_s: NDArray[np.float64] | None = None,
    seed: int = 0,
    schema_hash: str,
    trained_until_ms: int,
    fingerprint: str,
    created: str = "",
    progress: Progress | None = None,
    settings: PretrainSettings | None = None,
) -> Artifact:
    """Train on the source lines' final rows. Deterministic for rows, seed and machine.

    `pseudo`: for each source line that is launched in pretence, the rows to train on (other lines, before that launch) and the line's own rows after it.
    `edges_s` (K+1,): delay bins from 0 to the window; default: geometric. InputError if the rows cannot teach anything.
    """
    settings = settings or PretrainSettings()
    need_rows(rows)
    edges = default_edges_s(rows.window_s) if edges_s is None else check_edges_s(edges_s, rows.window_s)
    curve = fit_curve(rows.order_delay_s, edges)
    mean, std = fit_scaler(rows.x)
    trunk, held_out = train_trunk(rows, mean, std, seed=seed, settings=settings.trunk, progress=progress)
    arrays = trunk.to_arrays()
    _tell(progress, "fitting the heads", 0, 3)
    raw = standardise(rows.x, mean, std)
    z = Encoder(arrays).encode(raw)
    y, user = rows.ordered, rows.user
    c_raw = choose_c(raw, y, user, grid=settings.c_grid)
    _tell(progress, "fitting the heads", 1, 3)
    metrics = _validate(raw, z, y, held_out, c_raw, settings.c_trunk)
    _tell(progress, "fitting the heads", 2, 3)
    raw_head, trunk_head = fit_map(raw, y, c=c_raw), fit_map(z, y, c=settings.c_trunk)
    deff = design_effect(y, sigmoid(raw_head.predict(raw)), user, rows.line)
    _tell(progress, "fitting the heads", 3, 3)
    curves = []
    for done, (before, after) in enumerate(pseudo):
        _tell(progress, "launching the source lines in pretence", done, len(pseudo))
        if (found := pseudo_launch_curve(before, after, c=c_raw)) is not None:
            curves.append(found)
    if pseudo:
        _tell(progress, "launching the source lines in pretence", len(pseudo), len(pseudo))
    return Artifact(
        feature_names=rows.feature_names,
        schema_hash=schema_hash,
        lines=rows.lines,
        window_s=rows.window_s,
        edges_s=edges,
        curve=curve,
        trunk=arrays,
        # All rows are final, so their delay bins together say what their labels say: both raw heads start from one fit.
        heads={"raw_final": raw_head, "raw_delay": raw_head.copy(), "trunk_delay": trunk_head},
        offset_pi=offset_prior(np.stack(curves) if curves else np.zeros((0, 1))),
        deff=deff,
        trained_until_ms=trained_until_ms,
        fingerprint=fingerprint,
        metrics=metrics,
        settings={**asdict(settings), "seed": seed, "c_raw": c_raw, "pseudo_launches": len(curves)},
        created=created,
    )


def fit_scaler(x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (F,) float64 of x (N, F); a constant feature has deviation 1."""
    wide = x.astype(np.float64)
    mean, std = wide.mean(axis=0), wide.std(axis=0)
    return mean, np.where(std > 1e-6 * np.maximum(1.0, np.abs(mean)), std, 1.0)


def pseudo_launch_curve(train: Rows, launch: Rows, *, c: float) -> Vector | None:
    """Return log P(the launch's final labels | offset b) / deff, (141,), under a raw-feature head that was trained without the line; None without enough rows."""
    if len(train) == 0 or len(launch) == 0 or not 0 < train.ordered.sum() < len(train):
        return None
    mean, std = fit_scaler(train.x)
    raw = standardise(train.x, mean, std)
    head = fit_map(raw, train.ordered, c=c)
    deff = design_effect(train.ordered, sigmoid(head.predict(raw)), train.user, train.line)
    return likelihood_curve(head.predict(standardise(launch.x, mean, std)), launch.ordered, deff=deff)


def _validate(raw: Matrix, z: Matrix, y: Vector, held_out: NDArray[np.bool_], c_raw: float, c_trunk: float) -> dict[str, float]:
    """Figures on the users that neither trunk nor heads were trained on, of the mean of the heads and of each alone."""
    seen = ~held_out
    if not held_out.any() or not 0 < y[held_out].sum() < held_out.sum():
        return {}
    s_raw = fit_map(raw[seen], y[seen], c=c_raw).predict(raw[held_out])
    s_trunk = fit_map(z[seen], y[seen], c=c_trunk).predict(z[held_out])
    p = sigmoid((2.0 * s_raw + s_trunk) / 3.0)
    found = {f"validation_{name}": value for name, value in figures(y[held_out], p, p).items()}
    for name, s in (("raw", s_raw), ("trunk", s_trunk)):
        own = figures(y[held_out], sigmoid(s), s)
        found |= {f"validation_{name}_auc": own["auc"], f"validation_{name}_log_loss": own["log_loss"]}
    return found


def _tell(progress: Progress | None, step: str, done: int, of: int) -> None:
    if progress:
        progress(step, done, of)
