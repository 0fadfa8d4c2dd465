"""Boosted trees: the kernel equals LightGBM, a row's bits do not depend on its batch, and training is silent, deterministic and blind to a row's own user."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from features.errors import HeadstartError
from models.boosting import TreesSettings, arrays_of, fit_trees, out_of_fold
from models.fit import fit_map
from models.metrics import auc
from models.rows import user_fold
from models.trees import TreeArrays, Trees

SMALL = TreesSettings(trees=20, leaves=4, least_rows=20)


def make_raw(n: int = 2000, features: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardised rows on a coarse grid, with exact zeros, -0.0 and the clip ±6; the logit has a bend and an interaction. Raw, y and user."""
    rng = np.random.default_rng(seed)
    x = np.clip(np.round(rng.normal(size=(n, features)) * 2.0) / 2.0 * rng.choice([0.0, 1.0, -1.0, 4.0], size=(n, features), p=[0.3, 0.3, 0.3, 0.1]), -6.0, 6.0)
    logit = -2.0 + np.abs(x[:, 0]) + np.where(x[:, 1] > 0, x[:, 2], -x[:, 2])
    y = (rng.random(n) < 1.0 / (1.0 + np.exp(-logit))).astype(np.float64)
    return np.c_[x, np.ones(n)], y, rng.integers(0, n // 5, n)


def stump(threshold: float = 0.5) -> TreeArrays:
    """One tree of two leaves on feature 1: -1 up to the threshold, +2 above it."""
    return TreeArrays(
        np.array([0]), np.array([1, 0, 0], np.int32), np.array([threshold, np.inf, np.inf]), np.array([1, 1, 2], np.int32), np.array([0.0, -1.0, 2.0])
    )


@pytest.mark.parametrize(
    "extra", [{}, {"num_leaves": 31, "min_data_in_leaf": 2}, {"num_leaves": 2}, {"extra_trees": True}, {"bagging_fraction": 0.5, "bagging_freq": 1}]
)
def test_the_kernel_is_lightgbms_own_prediction(extra: dict[str, Any]) -> None:
    """To 1e-9, for small and large trees, on fresh rows, on zeros of both signs, at the clip, and on each threshold and its two neighbours."""
    raw, y, _ = make_raw()
    parameters = {"objective": "binary", "use_missing": False, "num_leaves": 6, "num_threads": 1, "verbosity": -1, "seed": 1, **extra}
    booster = lightgbm.train(parameters, lightgbm.Dataset(raw[:, :-1], y), num_boost_round=30)
    arrays = arrays_of(booster)
    inner = np.flatnonzero(arrays.left != np.arange(len(arrays.left)))
    edges = np.repeat(make_raw(len(inner) * 3, seed=3)[0][: len(inner)], 3, axis=0)
    for k, node in enumerate(inner):
        t = arrays.threshold[node]
        edges[3 * k : 3 * k + 3, arrays.feature[node]] = np.nextafter(t, -np.inf), t, np.nextafter(t, np.inf)
    rng = np.random.default_rng(2)
    rows = np.concatenate([raw, edges, np.c_[rng.normal(size=(500, 8)), np.ones(500)], np.zeros((1, 9)), np.full((1, 9), -0.0), np.full((1, 9), -6.0)])
    rows[np.abs(rows) < 1e-34] = 0.0  # LightGBM's predict takes what is nearer to zero than 1e-35 for zero; its training, as the kernel, does not
    expected = booster.predict(rows[:, :-1], raw_score=True)
    np.testing.assert_allclose(Trees(arrays).logit(rows), expected, rtol=0, atol=1e-9)
    assert np.std(expected) > 0.1


def test_a_value_equal_to_the_threshold_goes_left() -> None:
    """At the threshold the left leaf's value, just above it the right one's."""
    rows = np.array([[9.0, 0.5, 1.0], [9.0, np.nextafter(0.5, 1.0), 1.0]])
    assert Trees(stump()).logit(rows).tolist() == [-1.0, 2.0]


def test_a_row_has_the_same_bits_in_every_batch() -> None:
    """Alone, in batches of 7 and 64, permuted, and read from a transposed copy: the same bytes."""
    raw, y, _ = make_raw()
    trees = Trees(fit_trees(raw, y, seed=0, settings=SMALL))
    whole = trees.logit(raw)
    for size in (1, 7, 64):
        assert np.concatenate([trees.logit(raw[i : i + size]) for i in range(0, len(raw), size)]).tobytes() == whole.tobytes()
    order = np.random.default_rng(0).permutation(len(raw))
    assert trees.logit(raw[order]).tobytes() == whole[order].tobytes()
    assert trees.logit(np.asfortranarray(raw)).tobytes() == whole.tobytes()


def test_the_constant_is_ignored_and_the_rows_are_left_as_they_are() -> None:
    """Another last column gives the same logits; scoring writes nothing into the rows."""
    raw, y, _ = make_raw()
    trees = Trees(fit_trees(raw, y, seed=0, settings=SMALL))
    other = raw.copy()
    other[:, -1] = -50.0
    assert (trees.logit(other) == trees.logit(raw)).all() and (other[:, -1] == -50.0).all()


def test_training_gives_the_same_bits_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Same rows, same arrays, also after the store's detour through a dict; neither stdout nor stderr is written to, even where no split is found."""
    raw, y, _ = make_raw()
    first, second = (fit_trees(raw, y, seed=0) for _ in range(2))
    again = TreeArrays(**first.as_dict())  # type: ignore[arg-type]
    for name, array in first.as_dict().items():
        assert array.tobytes() == second.as_dict()[name].tobytes() == again.as_dict()[name].tobytes(), name
    fit_trees(raw[:50], y[:50], seed=0)
    fit_trees(np.ones_like(raw), y, seed=0)
    assert capfd.readouterr() == ("", "")


def test_the_trees_find_what_a_line_cannot() -> None:
    """Where the truth is a bend and an interaction they rank fresh rows far better than a logistic head, and the mean probability is the rate."""
    raw, y, _ = make_raw(4000)
    fresh, labels, _ = make_raw(4000, seed=1)
    logit = Trees(fit_trees(raw, y, seed=0)).logit(fresh)
    assert auc(labels, logit) > 0.75 > auc(labels, fit_map(raw, y, c=1.0).predict(fresh)) + 0.1
    assert (1.0 / (1.0 + np.exp(-logit))).mean() == pytest.approx(labels.mean(), rel=0.1)


def test_the_settings_bound_the_size() -> None:
    """At most so many trees and leaves; the parameters are a feature and a threshold for each split, and a value for each leaf."""
    raw, y, _ = make_raw()
    arrays = fit_trees(raw, y, seed=0, settings=SMALL)
    assert len(arrays.roots) == 20 and arrays.depth <= 3 and arrays.features <= 8
    assert arrays.parameters() == 20 * (2 * 3 + 4)
    assert stump().parameters() == 4 and stump().depth == 1 and stump().features == 2


def test_a_row_counts_by_its_weight() -> None:
    """The mean probability is the weighted rate; rows of weight 0 say nothing."""
    raw, y, _ = make_raw()
    weight = np.where(y > 0, 3.0, 1.0)
    p = 1.0 / (1.0 + np.exp(-Trees(fit_trees(raw, y, seed=0, weight=weight, settings=SMALL)).logit(raw)))
    assert p.mean() == pytest.approx((weight @ y) / weight.sum(), rel=0.15)
    assert Trees(fit_trees(raw, y, seed=0, weight=1.0 - y)).logit(raw[:1])[0] == pytest.approx(np.log(0.5 / ((1 - y).sum() + 0.5)))


def test_without_anything_to_learn_there_is_one_leaf_and_empty_is_zero() -> None:
    """One kind of rows, no features, or no rows: the smoothed rate's logit everywhere. `empty`: logit 0, no parameters."""
    raw, y, _ = make_raw(300)
    assert Trees(fit_trees(raw, np.zeros(300), seed=0)).logit(raw) == pytest.approx(np.full(300, np.log(0.5 / 300.5)))
    assert Trees(fit_trees(raw[:, -1:], y, seed=0)).logit(raw[:2, -1:]) == pytest.approx(np.full(2, np.log((y.sum() + 0.5) / (300 - y.sum() + 0.5))))
    assert Trees(fit_trees(raw[:0], y[:0], seed=0)).logit(raw[:3]).tolist() == [0.0] * 3
    nothing = TreeArrays.empty()
    assert Trees(nothing).logit(raw[:3]).tolist() == [0.0] * 3 and nothing.parameters() == nothing.depth == nothing.features == 0
    assert Trees(stump()).logit(raw[:0]).shape == (0,)


def test_out_of_fold_logits_do_not_know_their_user() -> None:
    """Flipping all labels of one fold's users leaves the logits of exactly those rows as they were; each fold is the trees of the others."""
    raw, y, user = make_raw()
    fold = user_fold(user, 3, salt=5)
    before = out_of_fold(raw, y, user, seed=0, settings=SMALL)
    after = out_of_fold(raw, np.where(fold == 1, 1.0 - y, y), user, seed=0, settings=SMALL)
    assert ((before == after) == (fold == 1)).mean() > 0.999 and (before == after)[fold == 1].all()
    expected = Trees(fit_trees(raw[fold != 2], y[fold != 2], seed=0, settings=SMALL)).logit(raw[fold == 2])
    assert before[fold == 2].tobytes() == expected.tobytes()


def test_out_of_fold_trees_heed_weights_as_all_trees_do() -> None:
    """Rows of no weight teach the trees of no fold."""
    raw, y, user = make_raw(900)
    weight = (np.arange(900) % 2).astype(np.float64)
    found = out_of_fold(raw, y, user, seed=0, weight=weight, settings=SMALL)
    assert np.array_equal(found, out_of_fold(raw, np.where(weight > 0, y, 1.0 - y), user, seed=0, weight=weight, settings=SMALL))
    assert not np.array_equal(found, out_of_fold(raw, y, user, seed=0, settings=SMALL))


def test_with_a_single_user_out_of_fold_is_the_logit_of_no_rows() -> None:
    """Nobody else is there to learn from: logit 0, and no error."""
    raw, y, _ = make_raw(100)
    assert not out_of_fold(raw, y, np.zeros(100, np.int64), seed=0).any()


def test_what_cannot_be_learned_from_or_scored_is_refused() -> None:
    """NaN, other labels, negative weights, wrong shapes, too few columns, and settings without sense: ValueError."""
    raw, y, _ = make_raw(200)
    bad = raw.copy()
    bad[3, 2] = np.nan
    for rows, labels, weight in ((bad, y, None), (raw, y + 0.5, None), (raw, y, -y), (raw, y[:-1], None), (raw, y, y[:-1]), (raw[0], y, None)):
        with pytest.raises(ValueError, match="must be|expected"):
            fit_trees(rows, labels, seed=0, weight=weight)
    with pytest.raises(ValueError, match=r"expected \(N, 3\)"):
        Trees(stump()).logit(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="no trees can be trained"):
        TreesSettings(leaves=1)


@pytest.mark.parametrize(
    "change",
    [
        {"roots": np.array([3])}, {"roots": np.array([-1])}, {"left": np.array([2, 1, 2], np.int32)}, {"left": np.array([1, 0, 2], np.int32)},
        {"feature": np.array([-1, 0, 0], np.int32)}, {"threshold": np.array([np.nan, np.inf, np.inf])}, {"threshold": np.array([0.5, 0.0, np.inf])},
        {"value": np.array([0.0, np.nan, 1.0])}, {"value": np.zeros(2)},
    ],
)  # fmt: skip
def test_damaged_arrays_are_refused(change: dict[str, np.ndarray]) -> None:
    """A child or root outside the arrays, a walk that could run in circles, NaN, a leaf that could be left: ValueError, never a read out of bounds."""
    with pytest.raises(ValueError, match="outside|finite|must be"):
        dataclasses.replace(stump(), **change)


@pytest.mark.parametrize(("kind", "message"), [("missing", "missing values 'NaN'"), ("category", "a split on '=='"), ("linear", "linear leaves")])
def test_splits_of_another_kind_are_refused(kind: str, message: str) -> None:
    """A booster with missing values, categories or linear leaves is not silently scored in another way."""
    raw, y, _ = make_raw()
    x = np.abs(raw[:, :-1])
    x[::3, 0] = np.nan if kind == "missing" else 0.0
    parameters = {"objective": "binary", "verbosity": -1, "num_threads": 1, "use_missing": kind == "missing", "linear_tree": kind == "linear"}
    data = lightgbm.Dataset(x, y, params=parameters, categorical_feature=[1, 2] if kind == "category" else [])
    booster = lightgbm.train(parameters, data, num_boost_round=3)
    with pytest.raises(ValueError, match=message):
        arrays_of(booster)


def test_scoring_does_not_load_lightgbm() -> None:
    """`models.trees` alone does not import it."""
    code = "import sys, models.trees; assert not any(name.partition('.')[0] == 'lightgbm' for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_openmp_is_said_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LightGBM's wheel takes it from the system, and a bare Debian has none."""
    (tmp_path / "lightgbm.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("lightgbm", "models.boosting"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(HeadstartError, match=r"libgomp\.so\.1.*apt install libgomp1"):
        importlib.import_module("models.boosting")
