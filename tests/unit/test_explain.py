"""The transfer ledger: its parts add up for any artifact and state, each is what it says, and what is read is what the pipeline would score."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.errors import HeadstartError, InputError, Mismatch
from features.events import KINDS
from features.memory_store import MemoryStore
from features.vector import NAMES, WIDTH
from models.explain import Ledger, _expert_parts, ledger
from models.launch_head import LaunchHead
from models.logistic import sigmoid
from models.model import HEADS, Model
from models.rehearsal import logit
from models.shared_heads import SharedHeads
from models.trees import TreeArrays
from streams import namespace
from streams.cutting import cut
from streams.explaining import Asked, Explained, as_json, explain
from streams.feature_words import GROUPS, OTHER, by_group, reasons, words
from streams.knowledge import Knowledge
from streams.offline import put_launches, run
from streams.partition import Partition
from streams.pipeline import work_off
from streams.records import Launch, decode_score
from streams.settings import Settings
from streams.waterfall import draw, picture
from tests.builders import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, make_artifact, make_event, make_log, random_events, receive

LINES = ("shoes", "bags", "books")
SETTINGS = Settings(partitions=1, namespace="test")


def bushy(seed: int, trees: int = 30) -> TreeArrays:
    """Random trees of three leaves on any feature."""
    rng = np.random.default_rng(seed)
    first = 5 * np.arange(trees)
    left = np.stack([first + 1, first + 1, first + 3, first + 3, first + 4], axis=1)
    inner = np.array([True, False, True, False, False])
    threshold = np.where(inner, rng.normal(size=(trees, 5)), np.inf)
    feature, value = np.where(inner, rng.integers(0, WIDTH, (trees, 5)), 0), np.where(inner, 0.0, 0.2 * rng.normal(size=(trees, 5)))
    return TreeArrays(first, feature.ravel().astype(np.int32), threshold.ravel(), left.ravel().astype(np.int32), value.ravel())


def bushy_model(seed: int) -> Model:
    """A model with random weights everywhere, trees too."""
    return Model(replace(make_artifact(*LINES, seed=seed), trees=bushy(seed)))


def vectors(n: int, seed: int) -> np.ndarray:
    """Vectors of all kinds, some features at the sources' mean, some far beyond the clip."""
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 3.0, (n, WIDTH))
    x[rng.random(x.shape) < 0.2] = 1.0
    x[rng.random(x.shape) < 0.02] = 40.0
    return x.astype(np.float32)


def taught(model: Model, seed: int, outcomes: int = 400) -> tuple[SharedHeads, LaunchHead]:
    """Heads that old lines and a launch have taught something."""
    rng = np.random.default_rng(seed)
    shared, head = SharedHeads.of(model), LaunchHead.of(model)
    for learn, rate in ((shared.learn_many, 0.1), (lambda *a: head.learn_many(a[0], shared, *a[1:]), 0.3)):
        y = (rng.random(outcomes) < rate).astype(np.int64)
        at_ms = START_MS + MINUTE_MS * np.arange(outcomes)
        learn(model, vectors(outcomes, seed + 1), rng.integers(0, model.bins, outcomes), y, np.where(y == 1, 1, -1), at_ms)
    return shared, head


def booked(seed: int, *, launched: bool = True) -> tuple[Model, SharedHeads, LaunchHead, np.ndarray, Ledger]:
    """A ledger, and all that it came from."""
    model = bushy_model(seed)
    shared, head = taught(model, seed)
    x = vectors(1, seed + 2)[0]
    return model, shared, head, x, ledger(model, shared, head if launched else None, x)


@pytest.mark.parametrize("seed", range(6))
def test_the_parts_add_up_to_the_logit(seed: int) -> None:
    """Whatever the artifact and the state: the four parts, the heads' and the experts' parts of them, the sources, and the features, to 1e-9."""
    model, shared, head, x, book = booked(seed)
    said = head.predict(model, shared, model.maps(x[None]))[0]
    assert book.probability == said.probability[0]
    assert book.score == said.score[0]
    assert book.logit == pytest.approx(float(logit(said.probability)[0]), abs=1e-12)
    assert sum(book.parts.values()) == pytest.approx(book.logit, abs=1e-9)
    assert min(abs(part) for part in book.parts.values()) > 1e-6, "a state that has learned nothing proves little"
    assert sum(source.part for source in book.sources.lines) + book.sources.remainder == pytest.approx(book.s0, abs=1e-9)
    assert book.features.start + float(book.features.shares.sum()) + book.features.residual == pytest.approx(book.logit, abs=1e-9)
    assert float(np.abs(book.features.shares).sum()) > 20 * abs(book.features.residual)


def test_each_part_is_what_it_says() -> None:
    """s0 is the frozen heads', s the fresh ones', the level what the default expert adds, and the experts' parts go the way that they pull."""
    model, shared, head, x, book = booked(7)
    maps = model.maps(x[None])
    said = head.predict(model, shared, maps)
    assert book.s0 == pytest.approx(float(model.frozen_logit(maps)[0]), abs=1e-12)
    assert book.s0 + book.fresh == pytest.approx(float(shared.logit(maps)[0]), abs=1e-12)
    assert book.s0 + book.fresh + book.level == pytest.approx(float(logit(said[1].probability)[0]), abs=1e-12)
    for name, reads in HEADS.items():
        z = getattr(maps, reads)
        assert book.s0_heads[name] == float(model.heads[name].predict(z)[0]) / 4
        assert book.sd[name] ** 2 == pytest.approx(float(z[0] @ shared.heads[name].p @ z[0]), rel=1e-12)
    for expert in book.experts:
        assert np.sign(expert.part) == np.sign(expert.weight * (expert.probability - book.experts[0].probability))
    assert sum(expert.weight for expert in book.experts) == pytest.approx(1.0)
    assert book.level_sd > 0.0


def test_a_product_that_has_taught_nothing_owes_all_to_the_old_lines() -> None:
    """Fresh heads: what was taught since is exactly 0; the level is but the prior's curvature, its width the prior's."""
    model = bushy_model(3)
    shared, head = SharedHeads.of(model), LaunchHead.of(model)
    book = ledger(model, shared, head, vectors(1, 5)[0])
    assert book.fresh == 0.0
    assert abs(book.level) < 0.2
    assert [expert.weight for expert in book.experts] == model.expert_pi.tolist()


def test_a_line_that_is_not_launched_has_two_parts() -> None:
    """Without a head the probability is σ(s): no level, no experts, and it still adds up."""
    model, shared, _, x, book = booked(4, launched=False)
    assert book.probability == book.score == float(sigmoid(shared.logit(model.maps(x[None])))[0])
    assert (book.level, book.mixed, book.experts, book.level_sd) == (0.0, 0.0, (), 0.0)
    assert book.s0 + book.fresh == pytest.approx(book.logit, abs=1e-9)
    assert book.features.end == book.logit


def test_experts_whose_pulls_cancel_still_add_up() -> None:
    """Two experts that pull the mixture apart, equally: the change is none, their parts are equal and opposite, and finite."""
    w, p = np.array([0.5, 0.25, 0.25]), np.array([0.2, 0.1, 0.3])
    parts = _expert_parts(w, p, 0.0, 0.2)
    assert parts.sum() == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(parts, [0.0, -0.025 / 0.16, 0.025 / 0.16])
    np.testing.assert_allclose(_expert_parts(w, np.array([0.2, 0.2, 0.4]), 0.3, 0.25), [0.0, 0.0, 0.3])


def test_the_sources_shares_find_the_line_that_the_pooled_head_is() -> None:
    """If the pooled head is one line's own, well-known head, that line has the share; without a word on whose the heads are, all is the remainder."""
    artifact = make_artifact(*LINES, seed=2)
    own = artifact.hierarchy.heads
    sure = replace(artifact.hierarchy, sigma0=1e-6 * np.eye(own.shape[1]))
    heads = {**artifact.heads, "trunk_delay": replace(artifact.heads["trunk_delay"], m=own[1])}
    model = Model(replace(artifact, hierarchy=sure, heads=heads))
    x = vectors(1, 1)[0]
    found = ledger(model, SharedHeads.of(model), None, x).sources
    np.testing.assert_allclose([source.share for source in found.lines], [0, 1, 0], atol=1e-3)
    assert found.fit == pytest.approx(1.0, abs=1e-3)
    assert found.lines[1].alone == pytest.approx(float(own[1] @ model.maps(x[None]).z[0]))
    # One line was left out of training, but nothing says which one.
    fewer = ledger(Model(replace(artifact, lines=LINES[:2])), SharedHeads.of(model), None, x)
    assert fewer.sources.lines == ()
    assert fewer.sources.remainder == pytest.approx(fewer.s0)
    profiles = artifact.profiles.copy()
    profiles[0] = np.nan
    known = ledger(Model(replace(artifact, lines=LINES[1:], profiles=profiles)), SharedHeads.of(model), None, x)
    assert [source.line for source in known.sources.lines] == list(LINES[1:])
    assert known.sources.lines[0].alone == pytest.approx(found.lines[1].alone)


def test_a_vector_of_another_kind_is_refused() -> None:
    """Too short, or not finite."""
    model = bushy_model(0)
    for x in (np.zeros(WIDTH - 1, np.float32), np.full(WIDTH, np.nan, np.float32)):
        with pytest.raises(ValueError, match="finite numbers"):
            ledger(model, SharedHeads.of(model), None, x)


# What is read from the store.

NOW_MS = START_MS + 2 * DAY_MS
LAUNCHED = (
    Launch(id="new", line="line1", window_s=21_600.0, from_ms=START_MS + HOUR_MS, holdout=0.5),
    Launch(id="some", line="line2", products=["line2-p1", "line2-p2"], window_s=21_600.0, from_ms=START_MS + HOUR_MS),
)


@pytest.fixture(scope="module")
def artifact() -> Any:
    """An artifact whose source line is line0."""
    return replace(make_artifact("line0", seed=1), trees=bushy(1))


@pytest.fixture(scope="module")
def store(artifact: Any) -> MemoryStore:
    """A namespace after two days of a replay in two partitions."""
    held = MemoryStore()
    settings = replace(SETTINGS, partitions=2)
    rules = namespace.rules_of(settings, artifact, replay=True)

    async def fill() -> None:
        await held.put_meta(namespace.description(settings, artifact, rules, clock="replay:3600000", broker={}))
        await put_launches(held, LAUNCHED)
        await run(cut(make_log(random_events(1500, seed=3)), HOUR_MS), held, rules, Model(artifact))

    asyncio.run(fill())
    return held


def told(store: MemoryStore, artifact: Any, settings: Settings = SETTINGS, **asked: Any) -> Explained:
    """The explanation of what is asked for."""
    return asyncio.run(explain(store, settings, artifact, Asked(**{"user": "user1", **asked}), now_ms=NOW_MS))


def copied(store: MemoryStore) -> tuple[Any, ...]:
    """All that the store holds."""
    return dict(store._cursors), dict(store._records), {name: dict(held) for name, held in store._hashes.items()}, dict(store._meta)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("launch", "product"), [("new", "line1-p3"), ("some", "line2-p2"), (None, "line0-p1")])
def test_it_is_the_score_that_the_pipeline_would_give(store: MemoryStore, artifact: Any, kind: str, launch: str | None, product: str) -> None:
    """The same event worked off by the pipeline gets the same score and probability, to the bit; and nothing was written."""
    line, category = product.partition("-")[0], f"{product.partition('-')[0]}-c2"
    before = copied(store)
    found = told(store, artifact, launch=launch, line=line, product=product, category=category, price=12.5, kind=kind, at_ms=NOW_MS)
    assert copied(store) == before

    async def scored() -> tuple[float, float]:
        rules = namespace.rules_of(replace(SETTINGS, partitions=2), artifact, replay=True)
        knowledge = Knowledge(store, Model(artifact), 1)
        await knowledge.refresh()
        event = make_event(NOW_MS, id="real", who="user1", line=line, product=product, category=category, price=12.5)
        for number in range(2):
            partition = await Partition.load(number, store, rules)
            worked = await work_off(partition, [receive(event, kind)], knowledge, offsets=[0] * 4)
            if worked.scores:
                entries = decode_score(worked.scores[0].value or b"").entries
                (entry,) = [entry for entry in entries if entry.launch_id == launch]
                return entry.score, entry.probability
        raise AssertionError

    assert (found.ledger.score, found.ledger.probability) == asyncio.run(scored())
    assert found.ledger.probability > 0.001


def test_an_exposure_is_explained_as_it_was_scored(store: MemoryStore, artifact: Any) -> None:
    """By the event that opened it: its own vector and time, beside what was said then."""
    partition = asyncio.run(Partition.load(1, store, namespace.rules_of(SETTINGS, artifact, replay=True)))
    exposure = next(e for e in partition.pending.open.values() if e.domain == "new")
    event = next(a.event for a in random_events(1500, seed=3) if a.event.user_id == exposure.user and a.ts_ms == exposure.ts_ms)
    found = told(store, artifact, user=exposure.user, launch="new", event=event.event_id)
    assert found.x.tobytes() == exposure.x
    assert (found.ts_ms, found.said) == (exposure.ts_ms, exposure.said()[1])


def test_what_is_asked_for_may_be_left_open(store: MemoryStore, artifact: Any) -> None:
    """A launch brings its line and first product; a line that is being launched means its launch; the time is the replay's end."""
    found = told(store, artifact, launch="some")
    assert (found.line, found.ts_ms) == ("line2", NOW_MS)
    by_product = told(store, artifact, launch="some", product="line2-p1")
    assert by_product.x.tobytes() == found.x.tobytes()
    in_line = told(store, artifact, line="line1")
    assert in_line.launch is not None
    assert in_line.launch.id == "new"
    assert in_line.arm in ("treated", "holdout")
    assert told(store, artifact, line="line2").launch is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"user": "nobody", "launch": "new"}, "nothing is known of user 'nobody' in namespace 'test'"),
        ({"launch": "old"}, "there is no launch 'old'; the launches are: new, some"),
        ({}, "say of what with --launch or --line; the open launches are: new, some"),
        ({"launch": "some", "product": "line1-p1"}, "launch 'some' holds the products line2-p1, line2-p2, not 'line1-p1'"),
        ({"launch": "new", "line": "line0"}, "launch 'new' holds line 'line1', not 'line0'"),
        ({"launch": "new", "kind": "look"}, "--kind look: expected one of browse, click, cart, order"),
        ({"launch": "new", "event": "e-none"}, "event 'e-none' of user 'user1' opened no exposure of 'new' that is still followed"),
        ({"launch": "new", "at_ms": NOW_MS + 40 * DAY_MS}, "was last seen 40 days ago"),
    ],
)
def test_what_is_not_known_is_said_in_a_line(store: MemoryStore, artifact: Any, asked: dict[str, Any], expected: str) -> None:
    """Users, launches, products and events that are not there."""
    with pytest.raises(InputError) as raised:
        told(store, artifact, **asked)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_another_trunk_or_other_settings_are_refused(store: MemoryStore, artifact: Any) -> None:
    """They would explain another score than the worker gives; so would an empty namespace."""
    for more, expected in (
        ({"artifact": replace(artifact, sha256="f" * 64)}, "the namespace's trunk is 0123456789abcdef"),
        ({"settings": replace(SETTINGS, timezone="Europe/Berlin")}, "timezone or the window"),
        ({"artifact": replace(artifact, edges_s=artifact.edges_s * 2)}, "timezone or the window"),
    ):
        with pytest.raises(Mismatch) as raised:
            told(store, **{"artifact": artifact, **more}, launch="new")
        assert expected in str(raised.value)
    with pytest.raises(HeadstartError, match="namespace 'test' is empty"):
        told(MemoryStore(), artifact, launch="new")


# In words, as JSON, as a picture.


def test_every_feature_has_words() -> None:
    """Each number of the vector has its own label, a group, and a value that is written for any number; a new feature keeps its description."""
    told_words = [words(name) for name in NAMES]
    assert len({entry.label for entry in told_words}) == len(NAMES)
    assert all(entry.group in GROUPS and entry.group != OTHER for entry in told_words)
    for entry in told_words:
        assert all(entry.write(value) for value in (-3.0, 0.0, 0.5, 14.8, 40.0))
    assert words("brand_new").group == OTHER
    assert words("user_since_order").write(float(np.log1p(30 * 86_400))) == "never"
    assert words("line_since_browse").write(float(np.log1p(7200))) == "2.0 h ago"
    assert words("user_browse_7d").write(float(np.log1p(12))) == "12"


def test_reasons_keep_the_sum_and_join_the_clock() -> None:
    """All shares are there, strongest first; sine and cosine of the hour are one reason with a time of day."""
    x, shares = vectors(1, 0)[0], np.random.default_rng(0).normal(size=WIDTH)
    turn = 2 * np.pi * 15.5 / 24
    x[NAMES.index("hour_sin")], x[NAMES.index("hour_cos")] = np.sin(turn), np.cos(turn)
    found = reasons(NAMES, x.tolist(), shares.tolist())
    assert sum(reason.share for reason in found) == pytest.approx(float(shares.sum()), abs=1e-12)
    assert len(found) == WIDTH - 1
    assert [abs(reason.share) for reason in found] == sorted((abs(reason.share) for reason in found), reverse=True)
    (clock,) = [reason for reason in found if len(reason.names) == 2]
    assert clock.value == "15:30"
    assert clock.share == pytest.approx(shares[NAMES.index("hour_sin")] + shares[NAMES.index("hour_cos")])
    assert sum(by_group(found).values()) == pytest.approx(float(shares.sum()), abs=1e-12)


def test_the_json_adds_up(store: MemoryStore, artifact: Any) -> None:
    """It survives JSON, and its parts, its sources and its features sum to what they are parts of."""
    book = json.loads(json.dumps(as_json(told(store, artifact, launch="new")), allow_nan=False))
    assert sum(part["logit"] for part in book["parts"]) == pytest.approx(book["logit"], abs=1e-9)
    for part in book["parts"][:2]:
        assert sum(part["heads"].values()) == pytest.approx(part["logit"], abs=1e-12)
    assert sum(expert["part"] for expert in book["experts"]) == pytest.approx(book["parts"][3]["logit"], abs=1e-9)
    assert sum(line["part"] for line in book["sources"]["lines"]) + book["sources"]["remainder"] == pytest.approx(book["parts"][0]["logit"], abs=1e-9)
    features = book["features"]
    assert features["baseline_logit"] + sum(features["groups"].values()) + features["residual"] == pytest.approx(book["logit"], abs=1e-9)
    assert features["baseline_logit"] + sum(reason["share"] for reason in features["shares"]) + features["residual"] == pytest.approx(book["logit"], abs=1e-9)
    assert book["sources"]["approximate"] is True


def test_the_picture_ends_where_the_score_is(store: MemoryStore, artifact: Any, tmp_path: Path) -> None:
    """Both waterfalls begin and end at the logits of the ledger; names with markup of any kind are drawn as they are; an unknown format is refused."""
    found = told(store, artifact, launch="new")
    for axes in picture(found).axes:
        marks = [float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == "D"]
        assert marks[-1] == pytest.approx(found.ledger.logit, abs=1e-9)
        assert axes.get_xlim()[0] < marks[-1] < axes.get_xlim()[1]
    odd = replace(found, asked=replace(found.asked, user="a$b$_{c} [red] 鞋"))
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        draw(odd, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    draw(odd, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    with pytest.raises(InputError, match=r"ends with \.png or \.svg"):
        draw(found, tmp_path / "a.jpg")
    with pytest.raises(InputError, match="cannot be written"):
        draw(found, tmp_path / "missing" / "a.png")
