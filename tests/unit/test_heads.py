"""Predicting and learning with the whole model: bits, refusals, storage, and that a launch really learns."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

from features.errors import Mismatch
from models.checkpoint import Artifact
from models.experts import EXPERTS
from models.head import Vector
from models.launch_head import MODELS, LaunchHead, view_of
from models.launch_scoring import score
from models.metrics import figures
from models.model import HEADS, Model, probability_of_source
from models.pretrain import PretrainSettings, pretrain
from models.react import react
from models.rows import Rows
from models.shared_heads import SharedHeads
from models.trunk import TrunkSettings
from tests.builders import make_model
from tests.unit.synthetic_rows import bins_of, make_rows


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """A small artifact, trained in a second."""
    settings = PretrainSettings(TrunkSettings(most_steps=60), c_grid=(0.03,))
    return pretrain(make_rows(3000), schema_hash="schema", trained_until_ms=10, fingerprint="log", settings=settings)


@pytest.fixture
def model(artifact: Artifact) -> Model:
    """The model made from it."""
    return Model(artifact)


def outcomes(model: Model, rows: Rows) -> tuple[np.ndarray, ...]:
    """The closed bins of these rows in order of close time: x, bin, y, final, close_ms."""
    row, k, y = np.array(bins_of(rows.order_delay_s, model.edges_s)).T
    final = np.where(y == 1, 1, np.where(k == model.bins - 1, 0, -1))
    close_ms = rows.ts_ms[row] + (1000 * model.edges_s[k + 1]).astype(np.int64)
    order = np.argsort(close_ms, kind="stable")
    return rows.x[row][order], k[order], y[order], final[order], close_ms[order]


def test_a_row_has_the_same_bits_in_every_batch(model: Model) -> None:
    """Every expert's score and probability of a row: alone, in batches of 7, 64 and 1 000, and permuted."""
    rows = make_rows(1500, seed=5)
    launch, shared = LaunchHead.of(model), SharedHeads.of(model)
    x, k, y, final, close_ms = outcomes(model, make_rows(100, seed=6))
    launch.learn_many(model, shared, x, k, y, final, close_ms)

    def predict(batch: np.ndarray) -> np.ndarray:
        return np.stack([a for expert in launch.predict(model, shared, model.maps(batch)) for a in expert], axis=1)

    whole = predict(rows.x)
    for size in (1, 7, 64, 1000):
        assert np.concatenate([predict(rows.x[i : i + size]) for i in range(0, len(rows), size)]).tobytes() == whole.tobytes()
    order = np.random.default_rng(0).permutation(len(rows))
    assert predict(rows.x[order]).tobytes() == whole[order].tobytes()


def mixed_by(weights: Vector, said: list[Vector]) -> Vector:
    """Σ w_k said_k, expert by expert."""
    total = np.zeros(len(said[0]))
    for weight, of_expert in zip(weights.tolist(), said, strict=True):
        total += weight * of_expert
    return np.minimum(total, 1.0)


def test_the_kernel_says_what_the_experts_say(model: Model) -> None:
    """Before and after it has learned, and for rows in any order: each expert's own prediction, and the mixture's sum of them, to the bit."""
    rows = make_rows(300, seed=8)
    launch, shared = LaunchHead.of(model), SharedHeads.of(model)
    x, *facts = outcomes(model, make_rows(200, seed=9))
    for learned in range(2):
        view = view_of(model, shared, model.maps(rows.x))
        own = [expert.predict(model.priors, view) for expert in launch.experts]
        mixed = [mixed_by(launch.mixture.w, [getattr(p, part) for p in own]) for part in ("score", "probability")]
        wanted = np.stack([*mixed, *(a for p in own for a in p)], axis=1)
        some = np.random.default_rng(learned).permutation(len(rows))[:100]
        assert launch.score(model, view, some).tobytes() == wanted[some].tobytes()
        launch.learn_many(model, shared, x, *facts)


def test_many_launches_at_once_are_each_by_itself(model: Model) -> None:
    """Rows that belong to launches in any order, to some of them none: to the bit what each launch says alone, the untaught and the taught."""
    rows, shared = make_rows(300, seed=8), SharedHeads.of(model)
    x, *facts = outcomes(model, make_rows(200, seed=9))
    heads = [LaunchHead.of(model) for _ in range(7)]
    for i, head in enumerate(heads[1:], 1):
        head.learn_many(model, shared, x[: 20 * i], *(fact[: 20 * i] for fact in facts))
    view = view_of(model, shared, model.maps(rows.x))
    alone = np.stack([head.score(model, view, np.arange(len(rows))) for head in heads])
    assert len({said.tobytes() for said in alone}) == len(heads)
    for n in (0, 1, 2, 500):
        some, of = np.random.default_rng(n).integers((len(rows), len(heads) - 1), size=(n, 2)).T.copy()
        assert score([head.scorer(model) for head in heads], view, some, of).tobytes() == alone[of, some].tobytes()
    assert score([], view, np.zeros(0, np.int64), np.zeros(0, np.int64)).shape[0] == 0


def test_a_head_of_a_trunk_of_another_width_is_refused(model: Model) -> None:
    """The kernel would read what is not its own."""
    other = make_model("shoes")
    view = view_of(model, SharedHeads.of(model), model.maps(make_rows(5).x))
    scorers = [LaunchHead.of(of).scorer(of) for of in (model, other)]
    assert score(scorers[:1], view, np.arange(5), np.zeros(5, np.int64)).shape == (5, 2 * len(MODELS))
    with pytest.raises(ValueError, match="another width"):
        score(scorers, view, np.arange(5), np.zeros(5, np.int64))


@pytest.mark.parametrize(("rows", "of"), [([0, 5], [0, 0]), ([0, -1], [0, 0]), ([0, 1], [0, 2]), ([0, 1], [-1, 0]), ([0], [0, 0]), ([0, 1], [0])])
def test_rows_and_launches_that_are_not_there_are_refused(model: Model, rows: list[int], of: list[int]) -> None:
    """Before anything is read or written."""
    view, scorer = view_of(model, SharedHeads.of(model), model.maps(make_rows(5).x)), LaunchHead.of(model).scorer(model)
    with pytest.raises((IndexError, ValueError), match="not there|rows, and"):
        score([scorer, scorer], view, np.array(rows), np.array(of))
    with pytest.raises(IndexError):
        score([], view, np.array([0]), np.array([0]))


def test_a_copy_says_what_it_believes_itself(model: Model) -> None:
    """A copy of a head that has been asked, and of what was laid down of it, lies elsewhere; one that reacts says something else from then on."""
    view, every = view_of(model, SharedHeads.of(model), model.maps(make_rows(5).x)), np.arange(5)
    head = LaunchHead.of(model)
    x, *facts = outcomes(model, make_rows(50, seed=9))
    head.learn_many(model, SharedHeads.of(model), x, *facts)
    said = head.score(model, view, every)
    other = deepcopy(head)
    assert other.scorer(model).address == other.scorer(model).believed.ctypes.data != head.scorer(model).address
    assert (other.score(model, view, every) == said).all()
    react(head, model)
    assert (head.score(model, view, every) != said).any()
    assert (head.score(model, view, every) == head.copy().score(model, view, every)).all()


def test_many_is_repeated_one_to_the_bit(model: Model) -> None:
    """Outcomes in one batch, in batches of 7, or one by one leave the same bytes in both states."""
    x, k, y, final, close_ms = outcomes(model, make_rows(150, seed=7))
    stored = set()
    for size in (1, 7, len(x)):
        launch, shared = LaunchHead.of(model), SharedHeads.of(model)
        for i in range(0, len(x), size):
            part = slice(i, i + size)
            launch.learn_many(model, shared, x[part], k[part], y[part], final[part], close_ms[part])
        for i in range(0, len(x), size):
            part = slice(i, i + size)
            shared.learn_many(model, x[part], k[part], y[part], final[part], close_ms[part])
        stored.add((launch.to_bytes(), shared.to_bytes()))
    assert len(stored) == 1


def test_states_survive_storage_exactly(model: Model) -> None:
    """What is read back predicts and stores the same bytes, and goes on learning."""
    x, k, y, final, close_ms = outcomes(model, make_rows(200, seed=8))
    launch, shared = LaunchHead.of(model), SharedHeads.of(model)
    launch.learn_many(model, shared, x, k, y, final, close_ms)
    shared.learn_many(model, x, k, y, final, close_ms)
    launch2, shared2 = LaunchHead.from_bytes(launch.to_bytes()), SharedHeads.from_bytes(shared.to_bytes())
    for a, b in ((launch, shared), (launch2, shared2)):
        a.learn_many(model, b, x[:9], k[:9], y[:9], final[:9], close_ms[:9])
        b.learn_many(model, x[:9], k[:9], y[:9], final[:9], close_ms[:9])
    assert launch.to_bytes() == launch2.to_bytes()
    assert shared.to_bytes() == shared2.to_bytes()
    assert launch.n_learned == len(x) + 9


@pytest.mark.parametrize("raw", [b"", b"\x93\x01", b"nonsense", b"\xff" * 40])
def test_bytes_that_are_no_state_are_refused(raw: bytes, model: Model) -> None:
    """Mismatch for garbage, and for a state of the other kind."""
    with pytest.raises(Mismatch):
        SharedHeads.from_bytes(raw)
    with pytest.raises(Mismatch):
        LaunchHead.from_bytes(SharedHeads.of(model).to_bytes())


def test_a_copy_is_independent(model: Model) -> None:
    """Learning changes neither the copy made before, nor the model's frozen heads, nor the next launch."""
    x, k, y, final, close_ms = outcomes(model, make_rows(50, seed=9))
    launch, shared = LaunchHead.of(model), SharedHeads.of(model)
    launch_before, shared_before = launch.copy(), shared.copy()
    launch.learn_many(model, shared, x, k, y, final, close_ms)
    shared.learn_many(model, x, k, y, final, close_ms)
    assert launch_before.to_bytes() == LaunchHead.of(model).to_bytes() != launch.to_bytes()
    assert shared_before.to_bytes() == SharedHeads.of(model).to_bytes() != shared.to_bytes()


@pytest.mark.parametrize(
    ("x", "k", "y", "final"),
    [(np.nan, 0, 0, -1), (np.inf, 0, 0, -1), (0.0, 99, 0, -1), (0.0, -2, 0, -1), (0.0, 0, 2, -1), (0.0, 0, 0, 3)],
)
def test_bad_outcomes_teach_nothing(model: Model, x: float, k: int, y: int, final: int) -> None:
    """A batch with one bad outcome raises ValueError and leaves both states as they were."""
    launch, shared = LaunchHead.of(model), SharedHeads.of(model)
    before = launch.to_bytes(), shared.to_bytes()
    rows = np.zeros((3, 12), dtype=np.float32)
    rows[2, 4] = x
    args = rows, np.array([0, 1, k]), np.array([0, 1, y]), np.array([-1, 1, final]), np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="refused"):
        shared.learn_many(model, *args)
    with pytest.raises(ValueError, match="refused"):
        launch.learn_many(model, shared, *args)
    assert (launch.to_bytes(), shared.to_bytes()) == before


def test_no_nan_leaves_a_prediction(model: Model) -> None:
    """Whatever x holds, every score and probability is a number in [0, 1]."""
    x = np.zeros((4, 12), dtype=np.float32)
    x[0], x[1], x[2], x[3] = np.nan, np.inf, -np.inf, 3e38
    for expert in LaunchHead.of(model).predict(model, SharedHeads.of(model), model.maps(x)):
        for a in expert:
            assert ((a >= 0) & (a <= 1)).all()


def test_the_shared_logit_is_the_heads_mean(model: Model) -> None:
    """Each head counts once, and a row of no launch is priced by their mean."""
    maps = model.maps(make_rows(20).x)
    shared = SharedHeads.of(model)
    s = shared.logit(maps)
    np.testing.assert_allclose(s, np.mean([shared.heads[name].predict(getattr(maps, reads)) for name, reads in HEADS.items()], axis=0), rtol=1e-12)
    np.testing.assert_allclose(probability_of_source(s), 1 / (1 + np.exp(-s)), rtol=1e-12)
    assert (s == model.frozen_logit(maps)).all()


def test_no_rows_are_no_work(model: Model) -> None:
    """Empty batches predict nothing and teach nothing."""
    launch, shared = LaunchHead.of(model), SharedHeads.of(model)
    x, n = np.zeros((0, 12), dtype=np.float32), np.zeros(0, dtype=np.int64)
    launch.learn_many(model, shared, x, n, n, n, n)
    shared.learn_many(model, x, n, n, n, n)
    assert launch.to_bytes() == LaunchHead.of(model).to_bytes()
    assert len(launch.predict(model, shared, model.maps(x))[0].score) == 0


def test_a_launch_with_another_level_is_learned(model: Model) -> None:
    """A product that sells e times better: the frozen heads stay wrong, the offset finds the level, and the ranks do not move."""
    first, second = make_rows(1500, seed=20, shift=1.0), make_rows(1500, seed=21, shift=1.0)
    launch, shared = LaunchHead.of(model), SharedHeads.of(model)
    launch.learn_many(model, shared, *outcomes(model, first))
    seen = {name: figures(second.ordered, e.probability, e.score) for name, e in zip(MODELS, launch.predict(model, shared, model.maps(second.x)), strict=True)}
    assert seen["frozen"]["pcoc"] < 0.7
    assert 0.9 < seen["headstart"]["pcoc"] < 1.1
    assert seen["headstart"]["log_loss"] < seen["frozen"]["log_loss"]
    assert seen["shared"]["auc"] == pytest.approx(seen["frozen"]["auc"])
    assert launch.hit.sum() == first.ordered.sum()
    assert (launch.tried >= launch.hit).all()


def test_an_expert_is_judged_by_what_it_had_said(model: Model) -> None:
    """When the exposure was scored, not by what it says when the order comes: the one that had foretold it gets the weight."""
    rows = outcomes(model, make_rows(50, seed=24))
    x, k, y, final, close_ms = (part[rows[2] == 1][:1] for part in rows)
    said = np.full((1, len(EXPERTS)), 0.1)
    said[0, -1] = 0.9
    launch, shared = LaunchHead.of(model), SharedHeads.of(model)
    launch.learn_many(model, shared, x, k, y, final, close_ms, said)
    assert launch.mixture.losses.argmin() == len(EXPERTS) - 1
    assert (launch.mixture.w / model.expert_pi).argmax() == len(EXPERTS) - 1


def test_transfer_beats_scratch_at_first(model: Model) -> None:
    """After fifty exposures headstart ranks better than the head from scratch."""
    launch, shared = LaunchHead.of(model), SharedHeads.of(model)
    launch.learn_many(model, shared, *outcomes(model, make_rows(50, seed=22)))
    fresh = make_rows(2000, seed=23)
    seen = dict(zip(MODELS, launch.predict(model, shared, model.maps(fresh.x)), strict=True))
    assert figures(fresh.ordered, *reversed(seen["headstart"]))["auc"] > figures(fresh.ordered, *reversed(seen["scratch"]))["auc"] + 0.02


def test_the_sources_keep_the_shared_heads_fresh(model: Model) -> None:
    """When every line drifts, the shared heads follow by the sources' outcomes, in all three heads."""
    drifted, fresh = make_rows(1500, seed=30, shift=-1.0), make_rows(1500, seed=31, shift=-1.0)
    shared = SharedHeads.of(model)
    shared.learn_many(model, *outcomes(model, drifted))
    maps = model.maps(fresh.x)
    before, after = (probability_of_source(s) for s in (model.frozen_logit(maps), shared.logit(maps)))
    assert figures(fresh.ordered, after, after)["log_loss"] < figures(fresh.ordered, before, before)["log_loss"]
    for name in HEADS:
        assert shared.logit(maps).mean() < model.frozen_logit(maps).mean(), name
        assert shared.heads[name].m[-1] != model.heads[name].m[-1]
