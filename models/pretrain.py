"""From the source lines' final exposures to an artifact: scaler, delay curve, trunk, trees, heads, how lines differ, and what experts are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from models.boosting import TreesSettings, fit_trees, out_of_fold
from models.checkpoint import Artifact
from models.covariates import Reference
from models.delay import check_edges_s, default_edges_s, fit_curve
from models.encode import Encoder, standardise
from models.experts import BASE_PRIOR, EXPERTS
from models.fine_tune import Start, continued
from models.fit import C_GRID, choose_c, design_effect, fit_map
from models.head import Matrix, Vector
from models.hierarchy import fit_hierarchy, line_profiles
from models.instances import MOST_ROWS
from models.launch_head import MODELS
from models.logistic import sigmoid
from models.metrics import figures
from models.mixture import prior_from_losses
from models.model import Model
from models.offset import DEFAULT_PI, GRID, likelihood_curve, offset_prior
from models.ranks import ALONE, Ranks
from models.rehearsal import logit, rehearse
from models.rows import Rows, need_rows
from models.trunk import Progress, TrunkSettings, train_trunk

C_TREES = 1.0


@dataclass(frozen=True)
class PretrainSettings:
    """`c_grid`: prior variances of a raw head's weights among which held-out users choose; one value fixes it. `c_trunk`: that of the trunk's head.

    The trunk's is fixed: on its own training users the trunk looks better than it is, and the held-out ones are too few to choose (they choose too narrow).
    `pseudo_steps`: most steps of training the trunk of a pseudo-launch. `validate`: whether figures on held-out users are worth their time.
    """

    trunk: TrunkSettings = field(default_factory=TrunkSettings)
    trees: TreesSettings = field(default_factory=TreesSettings)
    c_grid: tuple[float, ...] = C_GRID
    c_trunk: float = 0.1
    pseudo_steps: int = 600
    validate: bool = True


@dataclass(frozen=True)
class PseudoLaunch:
    """A source line that is launched in pretence at `at_ms`: `rows` of all lines, made from a log without the line's earlier events; `line` indexes `rows.lines`."""

    rows: Rows
    line: int
    at_ms: int

    def known(self) -> NDArray[np.bool_]:
        """(N,): the rows of other lines that were final when the launch began."""
        return np.asarray((self.rows.line != self.line) & (self.rows.ts_ms + round(1000 * self.rows.window_s) <= self.at_ms))


def pretrain(
    rows: Rows,
    *,
    pseudo: Iterable[PseudoLaunch] = (),
    edges_s: NDArray[np.float64] | None = None,
    line_weight: Mapping[str, float] | None = None,
    attributes: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
    schema_hash: str,
    trained_until_ms: int,
    fingerprint: str,
    created: str = "",
    progress: Progress | None = None,
    settings: PretrainSettings | None = None,
    start: Start | None = None,
    ranks: Ranks = ALONE,
) -> Artifact:
    """Train on the source lines' final rows. Deterministic for rows, seed and machine.

    `pseudo`: launches in pretence, of this rank, from which the priors of the level and of the experts are learned; asked for one by one, since each has rows
    of its own. `ranks`: the processes that train together, each of which calls this with the same rows and gets the same artifact. `edges_s` (K+1,): delay bins from 0 to the window;
    default: geometric. `line_weight`: how much a line's rows count, 0 (left out) to 1 (the default). `attributes`: numbers that describe a line, the
    same names for each. `start`: the trunk to go on from, its scaler kept; pseudo-launches begin from nothing all the same, for it knows the lines
    that they launch. InputError if the rows cannot teach anything.
    """
    settings = settings or PretrainSettings()
    need_rows(rows)
    edges = default_edges_s(rows.window_s) if edges_s is None else check_edges_s(edges_s, rows.window_s)
    weights = np.array([(line_weight or {}).get(line, 1.0) for line in rows.lines])
    kept = _only(rows, weights > 0.0)
    need_rows(kept)
    names, table = _attribute_table(kept.lines, attributes)
    base = _learn_sources(kept, edges, weights[weights > 0.0][kept.line], table, seed=seed, settings=settings, progress=progress, start=start, ranks=ranks)
    artifact = replace(base, attribute_names=names, schema_hash=schema_hash, trained_until_ms=trained_until_ms, fingerprint=fingerprint, created=created)
    quick = replace(settings, trunk=replace(settings.trunk, most_steps=settings.pseudo_steps), c_grid=(float(str(base.settings["c_raw"])),), validate=False)
    mine, several = np.zeros((0, 1 + len(GRID) + len(EXPERTS))), len(ranks.share_of(rows.lines))  # of each launch its line, its curve and its losses
    done = 0
    for done, launch in enumerate(pseudo, start=1):
        if (found := _pretended(launch, edges, base.deff, seed=seed, settings=quick, ranks=ranks.alone())) is not None:
            mine = np.vstack([mine, np.concatenate([[launch.line], *found])])
        _tell(progress, "launching the source lines in pretence", done, several)
    if done:  # lines with too little were left out
        _tell(progress, "launching the source lines in pretence", several, several)
    taught = ranks.gathered(mine)
    taught = taught[np.argsort(taught[:, 0], kind="stable")]
    curves, losses = np.ascontiguousarray(taught[:, 1 : 1 + len(GRID)]), np.ascontiguousarray(taught[:, 1 + len(GRID) :])
    return replace(
        artifact,
        offset_pi=offset_prior(curves),
        expert_pi=prior_from_losses(losses, base_prior(weights)),
        settings={
            **artifact.settings,
            "pseudo_launches": len(curves),
            "line_weight": {line: float(weight) for line, weight in zip(rows.lines, weights, strict=True) if weight != 1.0},
            "pseudo_losses": {name: [float(a) for a in losses[:, k]] for k, name in enumerate(EXPERTS)},
        },
    )  # fmt: skip


def _pretended(
    launch: PseudoLaunch, edges: NDArray[np.float64], deff: float, *, seed: int, settings: PretrainSettings, ranks: Ranks
) -> tuple[Vector, Vector] | None:
    """What a launch in pretence teaches: how likely each level of the grid was, and what each expert lost (K,); None if too little was known before it."""
    known = launch.rows.select(launch.known())
    if not 10 <= known.ordered.sum() <= len(known) - 10:
        return None
    model = Model(
        replace(
            _learn_sources(known, edges, np.ones(len(known)), None, seed=seed, settings=settings, progress=None, ranks=ranks), trained_until_ms=launch.at_ms
        )
    )
    found = rehearse(model, launch.rows, launch.line, at_ms=launch.at_ms)
    y = launch.rows.ordered[found.index]
    return likelihood_curve(logit(found.score[:, MODELS.index("shared")]), y, deff=deff), found.head.mixture.losses / deff


def _learn_sources(
    rows: Rows, edges: NDArray[np.float64], weight: Vector, attributes: Matrix | None,
    *, seed: int, settings: PretrainSettings, progress: Progress | None, start: Start | None = None, ranks: Ranks = ALONE,
) -> Artifact:  # fmt: skip
    """Everything that is learned from final rows alone; `weight` (N,) is how often a row counts."""
    if start is not None:
        mean, std = start.trunk.mean, start.trunk.std
        arrays, held_out = continued(start, rows, weight=weight, seed=seed, settings=settings.trunk, progress=progress, ranks=ranks)
    else:
        mean, std = fit_scaler(rows.x)
        trunk, held_out = train_trunk(rows, mean, std, weight=weight, seed=seed, settings=settings.trunk, progress=progress, ranks=ranks)
        arrays = trunk.to_arrays()
    _tell(progress, "fitting the heads", 0, 4)
    raw = standardise(rows.x, mean, std)
    z = Encoder(arrays).encode(raw)
    y, user = rows.ordered, rows.user
    c_raw = settings.c_grid[0] if len(settings.c_grid) == 1 else choose_c(raw, y, user, grid=settings.c_grid)
    _tell(progress, "fitting the heads", 1, 4)
    trees = fit_trees(raw, y, seed=seed, weight=weight, settings=settings.trees)
    leaves = np.stack([out_of_fold(raw, y, user, seed=seed, weight=weight, settings=settings.trees), np.ones(len(y))], axis=1)
    _tell(progress, "fitting the heads", 2, 4)
    metrics = _validate({"raw": (raw, c_raw), "trunk": (z, settings.c_trunk), "trees": (leaves, C_TREES)}, y, held_out) if settings.validate else {}
    _tell(progress, "fitting the heads", 3, 4)
    raw_head = fit_map(raw, y, c=c_raw, weight=weight)
    deff = design_effect(y, sigmoid(raw_head.predict(raw)), user, rows.line)
    some = np.sort(np.random.default_rng(seed).permutation(len(y))[:MOST_ROWS])
    _tell(progress, "fitting the heads", 4, 4)
    return Artifact(
        feature_names=rows.feature_names,
        schema_hash="",
        lines=rows.lines,
        window_s=rows.window_s,
        edges_s=edges,
        curve=fit_curve(rows.order_delay_s, edges),
        trunk=arrays,
        trees=trees,
        # All rows are final, so their delay bins together say what their labels say: both raw heads start from one fit.
        heads={
            "raw_final": raw_head,
            "raw_delay": raw_head.copy(),
            "trunk_delay": fit_map(z, y, c=settings.c_trunk, weight=weight),
            "trees_delay": fit_map(leaves, y, c=C_TREES, weight=weight),
        },
        hierarchy=fit_hierarchy(z, y, rows.line, lines=len(rows.lines), c=settings.c_trunk, attributes=attributes, deff=deff),
        profiles=line_profiles(z, rows.line, len(rows.lines)),
        sample_z=z[some].astype(np.float32),
        sample_y=y[some],
        c_trunk=settings.c_trunk,
        attribute_names=(),
        offset_pi=DEFAULT_PI.copy(),
        expert_pi=prior_from_losses(np.zeros((0, len(EXPERTS))), BASE_PRIOR),
        deff=deff,
        trained_until_ms=0,
        fingerprint="",
        metrics=metrics,
        reference=Reference.of(rows.x),
        settings={**asdict(settings), "seed": seed, "c_raw": c_raw, **(start.as_settings() if start is not None else {})},
    )


def _only(rows: Rows, lines: NDArray[np.bool_]) -> Rows:
    """The rows of some lines (M,), and no trace of the others."""
    some = rows.select(lines[rows.line])
    place = np.cumsum(lines) - 1
    return replace(some, line=place[some.line].astype(np.int32), lines=tuple(line for line, kept in zip(rows.lines, lines, strict=True) if kept))


def base_prior(weights: Vector) -> Vector:
    """Return the experts' prior (K,) before any launch: `BASE_PRIOR`, and where sources were weighted down (M,), less for what rests on all of them.

    What the default loses goes to the experts that need the sources least: the launch's own slopes, and the heads from nothing.
    """
    pi = BASE_PRIOR.copy()
    moved = pi[0] * (1.0 - float(np.mean(weights)))
    pi[0] -= moved
    independent = [EXPERTS.index(name) for name in ("deviation", "deviation_wide", "feature", "scratch")]
    pi[independent] += moved / len(independent)
    return pi


def fit_scaler(x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (F,) float64 of x (N, F); a constant feature has deviation 1."""
    wide = x.astype(np.float64)
    mean, std = wide.mean(axis=0), wide.std(axis=0)
    return mean, np.where(std > 1e-6 * np.maximum(1.0, np.abs(mean)), std, 1.0)


def _validate(maps: Mapping[str, tuple[Matrix, float]], y: Vector, held_out: NDArray[np.bool_]) -> dict[str, float]:
    """Figures on the users that the trunk was not trained on, of the mean of the heads (raw counts twice) and of each alone."""
    seen = ~held_out
    if not held_out.any() or not 0 < y[held_out].sum() < held_out.sum() or not 0 < y[seen].sum() < seen.sum():
        return {}
    said = {name: fit_map(z[seen], y[seen], c=c).predict(z[held_out]) for name, (z, c) in maps.items()}
    p = sigmoid((said["raw"] + sum(said.values())) / (1.0 + len(said)))
    found = {f"validation_{name}": value for name, value in figures(y[held_out], p, p).items()}
    for name, s in said.items():
        own = figures(y[held_out], sigmoid(s), s)
        found |= {f"validation_{name}_auc": own["auc"], f"validation_{name}_log_loss": own["log_loss"]}
    return found


def _attribute_table(lines: Sequence[str], attributes: Mapping[str, Mapping[str, float]] | None) -> tuple[tuple[str, ...], Matrix | None]:
    """The names of the attributes and their values (M, A); InputError if a line lacks one that another has."""
    if not attributes:
        return (), None
    names = tuple(sorted({name for line in lines for name in attributes.get(line, {})}))
    for line in lines:
        if missing := [name for name in names if name not in attributes.get(line, {})]:
            raise InputError(f"line {line!r} has no attribute {missing[0]!r}, which another line has")
    return names, np.array([[float(attributes[line][name]) for name in names] for line in lines])


def _tell(progress: Progress | None, step: str, done: int, of: int) -> None:
    if progress:
        progress(step, done, of)
