"""A trunk that goes on from another one: the scaler stays, layers near the heads learn faster, and few conversions are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.errors import InputError, Mismatch
from models.carry import same_scaler
from models.encode import Encoder, TrunkArrays, standardise
from models.fine_tune import DECAY, FEWEST_CONVERSIONS, Start, continued, conversions, layer_rates
from models.pretrain import PretrainSettings, pretrain
from models.rows import Rows
from models.trunk import LineHeads, Trunk, TrunkSettings, train_trunk
from tests.unit.synthetic_rows import make_rows

QUICK = TrunkSettings(most_steps=60, check_steps=10, width=32, middle=16, outputs=8)
ALL = PretrainSettings(trunk=QUICK, c_grid=(0.02,), validate=False)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """The log on which the parent was trained."""
    return make_rows(2000)


@pytest.fixture(scope="module")
def parent(rows: Rows) -> TrunkArrays:
    """A trained trunk with a scaler of its own."""
    return train_trunk(rows, np.full(12, 0.5), np.full(12, 0.7), seed=0, settings=QUICK)[0].to_arrays()


def same(a: TrunkArrays, b: TrunkArrays) -> bool:
    """Equal to the bit."""
    return all(x.tobytes() == b.as_dict()[name].tobytes() for name, x in a.as_dict().items())


def test_a_refreshed_trunk_keeps_scaler_and_edges_and_learns(rows: Rows, parent: TrunkArrays) -> None:
    """On rows of a later time, with other orders: mean, deviation and edges to the bit, other weights; the same seed gives the same bits."""
    later = make_rows(2000, seed=1, shift=0.5)
    fast = replace(QUICK, learning_rate=3e-3)
    weight = np.ones(len(later))
    first, held_out = continued(Start(parent, "p"), later, weight=weight, seed=0, settings=fast)
    again, _ = continued(Start(parent, "p"), later, weight=weight, seed=0, settings=fast)
    for name in ("mean", "std", "edges", "starts"):
        assert getattr(first, name).tobytes() == getattr(parent, name).tobytes()
    assert not same(first, parent)
    assert same(first, again)
    fresh_held_out = train_trunk(later, parent.mean, parent.std, seed=0, settings=QUICK)[1]
    assert (held_out == fresh_held_out).all()
    assert not set(later.user[held_out]) & set(later.user[~held_out])
    z = Encoder(first).encode(standardise(later.x, first.mean, first.std))
    assert np.isfinite(z).all()


def test_a_layer_learns_more_slowly_the_further_it_lies_below_the_heads(rows: Rows, parent: TrunkArrays) -> None:
    """Each by 2.6; every parameter is in exactly one group."""
    trunk, heads = Trunk.from_arrays(parent), LineHeads(4, 8)
    groups = layer_rates(trunk, heads, QUICK)
    names = {id(p): name for name, p in [*trunk.named_parameters(), *heads.named_parameters()]}
    rate = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert len(rate) == sum(len(group["params"]) for group in groups) == len(names)
    assert rate["shared.weight"] == rate["deviation"] == QUICK.learning_rate
    ladder = [rate[name] for name in ("shared.weight", "third.weight", "second.weight", "first.weight")]
    np.testing.assert_allclose(np.array(ladder[:-1]) / np.array(ladder[1:]), DECAY)
    assert rate["norm.weight"] == rate["first.weight"]


def test_a_trunk_is_fine_tuned_with_one_lines_rows_alone(rows: Rows, parent: TrunkArrays) -> None:
    """Whatever the other lines hold, the same bits; another line gives others."""
    start = Start(parent, "p", line="line-1", force=True)
    weight = np.ones(len(rows))
    tuned, _ = continued(start, rows, weight=weight, seed=0, settings=QUICK)
    scrambled = replace(rows, x=np.where((rows.line == 1)[:, None], rows.x, rows.x[::-1]).astype(np.float32))
    again, _ = continued(start, scrambled, weight=weight, seed=0, settings=QUICK)
    other, _ = continued(replace(start, line="line-2"), rows, weight=weight, seed=0, settings=QUICK)
    assert same(tuned, again)
    assert not same(tuned, other)
    assert not same(tuned, parent)


def test_too_few_conversions_are_refused_with_their_number(rows: Rows, parent: TrunkArrays) -> None:
    """Under 2 000 of the line's own, unless forced; a line that is not there has none."""
    found = conversions(rows, "line-1")
    assert 0 < found == int(rows.ordered[rows.line == 1].sum()) < FEWEST_CONVERSIONS
    weight = np.ones(len(rows))
    with pytest.raises(InputError, match=rf"{found} conversions.*--force"):
        continued(Start(parent, "p", line="line-1"), rows, weight=weight, seed=0, settings=QUICK)
    with pytest.raises(InputError, match="no line 'ties'"):
        continued(Start(parent, "p", line="ties", force=True), rows, weight=weight, seed=0, settings=QUICK)
    many = replace(rows, delay_s=np.where(np.isfinite(rows.delay_s), rows.delay_s, 60.0), line=np.ones(len(rows), np.int32))
    assert conversions(many, "line-1") >= FEWEST_CONVERSIONS
    continued(Start(parent, "p", line="line-1"), many, weight=weight, seed=0, settings=QUICK)


def test_a_trunk_that_held_out_users_do_not_like_better_stays(rows: Rows, parent: TrunkArrays) -> None:
    """With a learning rate that wrecks it, the trunk is what it was; so with no steps, and with nothing to learn from."""
    weight = np.ones(len(rows))
    for settings in (replace(QUICK, learning_rate=100.0), replace(QUICK, most_steps=0)):
        assert same(continued(Start(parent, "p"), rows, weight=weight, seed=0, settings=settings)[0], parent)
    silent = replace(rows, delay_s=np.full_like(rows.delay_s, np.inf))
    assert same(continued(Start(parent, "p"), silent, weight=weight, seed=0, settings=QUICK)[0], parent)


def test_a_trunk_of_other_features_is_refused(rows: Rows, parent: TrunkArrays) -> None:
    """The rows must have the features that the trunk was made for."""
    with pytest.raises(Mismatch, match="12 features, the rows have 11"):
        continued(Start(parent, "p"), make_rows(200, 11), weight=np.ones(200), seed=0, settings=QUICK)


def test_an_artifact_says_what_it_was_made_from(rows: Rows) -> None:
    """Pre-training from a parent keeps its scaler and records its sha256 and the line; without one nothing of the kind is recorded."""
    facts = {"schema_hash": "s", "fingerprint": "", "settings": ALL}
    first = pretrain(rows, trained_until_ms=1, **facts)  # type: ignore[arg-type]
    later = make_rows(2000, seed=1, shift=0.5)
    second = pretrain(later, trained_until_ms=2, start=Start(first.trunk, "abc"), **facts)  # type: ignore[arg-type]
    tuned = pretrain(later, trained_until_ms=2, start=Start(first.trunk, "abc", "line-0", force=True), **facts)  # type: ignore[arg-type]
    assert same_scaler(first, second)
    assert second.settings["parent"] == "abc"
    assert "parent" not in first.settings
    assert (tuned.settings["parent"], tuned.settings["fine_tuned_to"]) == ("abc", "line-0")
    assert second.heads["trunk_delay"].m.tobytes() != first.heads["trunk_delay"].m.tobytes()
