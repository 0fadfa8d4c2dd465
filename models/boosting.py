"""Gradient boosting on the source lines' rows: the only importer of LightGBM. What it trains is scored by `models.trees`, without it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import HeadstartError
from models.head import Matrix, Vector
from models.rows import user_fold
from models.trees import TreeArrays, Trees

try:
    import lightgbm
except OSError as missing:  # its wheel takes OpenMP from the system
    raise HeadstartError(f"LightGBM cannot be loaded ({missing}); on Debian: apt install libgomp1") from None


@dataclass(frozen=True)
class TreesSettings:
    """Few, small and regularised, for some thousand rows with some hundred orders (docs/experiments.md has what was tried).

    `trees` are at most so many, with at most `leaves` leaves of at least `least_rows` rows; each is worth `learning_rate` of its fit, `l2` is added to a
    leaf's Fisher information, and a split lies between two of at most `bins` quantiles of a feature.
    """

    trees: int = 100
    leaves: int = 3
    learning_rate: float = 0.1
    least_rows: int = 100
    l2: float = 10.0
    bins: int = 63

    def __post_init__(self) -> None:
        if self.trees < 0 or self.leaves < 2 or not 0 < self.learning_rate <= 1 or self.least_rows < 1 or not 0 <= self.l2 < math.inf or self.bins < 2:
            raise ValueError(f"no trees can be trained with {self}")


def fit_trees(raw: Matrix, y: Vector, *, seed: int, weight: Vector | None = None, settings: TreesSettings | None = None) -> TreeArrays:
    """Train on N rows; raw (N, F + 1) as `standardise` makes it, y (N,) in {0, 1}, weight (N,) of each row (default 1). The same bits for the same input.

    `seed` matters only above 200 000 rows, of which LightGBM then draws so many to find the quantiles. One leaf with the rate's logit, (Σ y + ½) / (N + 1),
    where there is nothing to learn from: no feature, or not both kinds of rows. ValueError for shapes that do not match, and for anything not finite.
    """
    settings = settings or TreesSettings()
    raw, y, w = _checked(raw, y, weight)
    if settings.trees == 0 or raw.shape[1] < 2 or not 0 < float(w @ y) < float(w.sum()):
        positives, rest = float(w @ y) + 0.5, float(w @ (1.0 - y)) + 0.5
        return TreeArrays.leaves(np.array([math.log(positives / rest)]))
    parameters = {
        "objective": "binary",
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.least_rows,
        "lambda_l2": settings.l2,
        "max_bin": settings.bins,
        "use_missing": False,
        "seed": seed,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(np.ascontiguousarray(raw[:, :-1]), y, weight=w if weight is not None else None, params=parameters)
    return arrays_of(lightgbm.train(parameters, data, num_boost_round=settings.trees))


def out_of_fold(
    raw: Matrix, y: Vector, user: NDArray[np.int64], *, seed: int, weight: Vector | None = None, settings: TreesSettings | None = None, folds: int = 3
) -> Vector:  # fmt: skip
    """The logit (N,) of each row by trees that were trained on other users: what a head may learn from; raw (N, F + 1), y, user and weight (N,)."""
    logit = np.zeros(len(y))
    fold = user_fold(user, folds, salt=5)
    for k in range(folds):
        seen, unseen = fold != k, fold == k
        if unseen.any():
            logit[unseen] = Trees(fit_trees(raw[seen], y[seen], seed=seed, weight=None if weight is None else weight[seen], settings=settings)).logit(
                raw[unseen]
            )
    return logit


def arrays_of(booster: lightgbm.Booster) -> TreeArrays:
    """The booster's trees, node by node; ValueError for a split that `models.trees` does not know (categories, missing values, linear leaves)."""
    roots: list[int] = []
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    value: list[float] = []
    for tree in booster.dump_model()["tree_info"]:
        first = len(left)
        roots.append(first)
        waiting: deque[dict[str, Any]] = deque([tree["tree_structure"]])
        while waiting:
            node, here = waiting.popleft(), len(left)
            if "split_feature" in node:
                if node["decision_type"] != "<=" or node["missing_type"] != "None":
                    raise ValueError(f"a split on {node['decision_type']!r} with missing values {node['missing_type']!r} is unknown")
                feature.append(node["split_feature"])
                threshold.append(node["threshold"])
                left.append(here + 1 + len(waiting))  # breadth first: the children follow all that wait
                value.append(0.0)
                waiting += [node["left_child"], node["right_child"]]
            elif "leaf_const" in node:
                raise ValueError("linear leaves are unknown")
            else:
                feature.append(0)
                threshold.append(math.inf)
                left.append(here)
                value.append(node["leaf_value"])
    return TreeArrays(
        np.array(roots, np.int64), np.array(feature, np.int32), np.array(threshold, np.float64), np.array(left, np.int32), np.array(value, np.float64)
    )


def _checked(raw: Matrix, y: Vector, weight: Vector | None) -> tuple[Matrix, Vector, Vector]:
    y = np.asarray(y, dtype=np.float64)
    w = np.ones(len(y)) if weight is None else np.asarray(weight, dtype=np.float64)
    if raw.ndim != 2 or raw.shape[1] < 1 or y.shape != (len(raw),) or w.shape != (len(raw),):
        raise ValueError(f"raw is {raw.shape}, y {y.shape}, weight {w.shape}: expected (N, F + 1), (N,) and (N,)")
    if not (np.isfinite(raw).all() and np.isfinite(w).all() and (w >= 0).all()):
        raise ValueError("raw must be finite, and weights finite and not negative")
    if not ((y == 0) | (y == 1)).all():
        raise ValueError("y must be 0 or 1")
    return raw, y, w
