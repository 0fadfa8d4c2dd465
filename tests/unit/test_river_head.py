"""The head in river: river's own checks, equality with the head itself, and what a transferred start is worth."""

from __future__ import annotations

import importlib.util
import math
import pickle
import random
import sys
import types
from typing import Any

import numpy as np
import pytest
from river import base, checks, datasets, preprocessing

from models.head import Posterior
from models.river_head import TransferredHead

Row = dict[base.typing.FeatureName, Any]

PHISHING = tuple(sorted(next(iter(datasets.Phishing()))[0]))


@pytest.fixture
def river_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """River's checks import scikit-learn, which they use for regressors with several outputs only; an empty module will do where it is not installed."""
    random.seed(0)
    if importlib.util.find_spec("sklearn") is None:
        stand_in = types.ModuleType("sklearn")
        stand_in.datasets = types.ModuleType("sklearn.datasets")  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "sklearn", stand_in)


@pytest.mark.usefixtures("river_checks")
def test_it_passes_rivers_checks() -> None:
    """`check_estimator` on the head from scratch: clones, pickles, features that come, go and are shuffled, pure predictions, bounded memory."""
    checks.check_estimator(TransferredHead())
    assert TransferredHead()._unit_test_skips() == set()


@pytest.mark.usefixtures("river_checks")
@pytest.mark.parametrize("most_features", [256, 0])
def test_a_transferred_head_passes_rivers_checks(most_features: int) -> None:
    """The same with a posterior as the start, growing or with a fixed list of names."""
    start = Posterior(np.linspace(-1.0, 1.0, 6), np.diag(np.linspace(0.1, 0.6, 6)))
    checks.check_estimator(TransferredHead(start, PHISHING[:5], most_features=most_features))


def test_it_is_the_head() -> None:
    """With its names given it says and learns to the bit what `Posterior` does with final labels."""
    names = ("a", "b", "c")
    start = Posterior(np.array([0.5, -0.5, 0.1, -1.0]), np.diag([0.2, 0.1, 0.4, 0.3]))
    model, head, rng = TransferredHead(start, names), start.copy(), np.random.default_rng(0)
    for _ in range(50):
        z, y = np.append(rng.normal(size=3), 1.0)[None], bool(rng.random() < 0.4)
        row: Row = dict(zip(names, z[0, :3].tolist(), strict=True))
        assert model.predict_proba_one(row)[True] == pytest.approx(1 / (1 + np.exp(-head.predict(z)[0])), rel=1e-14)
        model.learn_one(row, y)
        head.learn_many(z, np.zeros(1), np.ones(1), np.array([float(y)]))
    assert model._head.m.tobytes() == head.m.tobytes() and model._head.p.tobytes() == head.p.tobytes()
    assert start.m.tolist() == [0.5, -0.5, 0.1, -1.0]


def test_features_met_late_are_features_that_were_zero() -> None:
    """A head that grows ends where one that knew all names from the start does; the order within a row leaves no trace in a bit."""
    rng = np.random.default_rng(1)
    known, grown, shuffled = TransferredHead(names=("a", "b", "late")), TransferredHead(), TransferredHead()
    for i in range(60):
        row: Row = {"a": rng.normal(), "b": rng.normal()}
        if i > 20:
            row["late"] = rng.normal()
        for model in (known, grown):
            model.learn_one(row, bool(i % 3 == 0))
        shuffled.learn_one({name: row[name] for name in reversed(row)}, bool(i % 3 == 0))
    np.testing.assert_allclose(grown._head.m, known._head.m, rtol=1e-12)
    np.testing.assert_allclose(grown._head.p, known._head.p, rtol=1e-12)
    assert pickle.dumps(grown._head) == pickle.dumps(shuffled._head)


def test_the_number_of_features_is_bounded() -> None:
    """Names beyond `most_features` are passed over; a given list longer than that stays as it is, and fixed."""
    model, fixed = TransferredHead(most_features=3), TransferredHead(names=("a", "b"), most_features=0)
    for i in range(40):
        for one in (model, fixed):
            one.learn_one({f"f{i}": 1.0, "a": 2.0}, i % 2)
    assert len(model._head.m) == 4
    assert list(fixed._place) == ["a", "b"]


def test_what_is_no_number_teaches_nothing() -> None:
    """NaN, text or a label that is neither true nor false raises ValueError and leaves the head, its names too, unchanged; NaN predicts as missing."""
    model = TransferredHead()
    model.learn_one({"a": 1.0}, True)
    before = pickle.dumps(model)
    bad: list[tuple[Row, Any]] = [({"a": 1.0, "new": math.nan}, True), ({"a": "red", "new": 1.0}, False), ({"a": 1.0, "new": 1.0}, 2), ({"a": 1.0}, "yes")]
    for x, y in bad:
        with pytest.raises(ValueError, match=r"refused|True and False"):
            model.learn_one(x, y)
    assert pickle.dumps(model) == before
    assert model.predict_proba_one({"a": math.nan}) == model.predict_proba_one({})


def test_a_start_that_does_not_fit_is_refused() -> None:
    """A posterior needs one name for each weight but the intercept, each once; variances are positive."""
    for names in (None, ("a",), ("a", "b", "c"), ("a", "a")):
        with pytest.raises(ValueError, match="name"):
            TransferredHead(Posterior(np.zeros(3), np.eye(3)), names)
    with pytest.raises(ValueError, match="positive"):
        TransferredHead(variance=0.0)


def test_it_learns_and_a_transferred_start_learns_sooner() -> None:
    """On river's phishing stream the pipeline's accuracy passes .85; started from another part of the stream it has fewer early losses."""
    rows = list(datasets.Phishing())
    scratch, right = preprocessing.MinMaxScaler() | TransferredHead(variance=1.0), 0
    for x, y in rows:
        right += scratch.predict_one(x) == y
        scratch.learn_one(x, y)
    assert right / len(rows) > 0.85
    source = TransferredHead(variance=1.0)
    for x, y in rows[300:]:
        source.learn_one(x, y)
    transferred = TransferredHead(source._head, tuple(str(name) for name in source._place))
    losses = []
    for model in (transferred, TransferredHead(variance=1.0)):
        loss = 0.0
        for x, y in rows[:50]:
            loss -= math.log(model.predict_proba_one(x)[y])
            model.learn_one(x, y)
        losses.append(loss)
    assert losses[0] < 0.8 * losses[1]
