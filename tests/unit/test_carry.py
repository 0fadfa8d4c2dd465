"""What a new trunk leaves of what heads have learned: to the bit what does not depend on it, nothing of what does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.errors import Mismatch
from features.vector import WIDTH
from models.carry import carried_launch, carried_mixture, carried_shared, differences, heard_since, same_scaler
from models.experts import EXPERTS
from models.head import Posterior
from models.launch_head import LaunchHead
from models.mixture import Mixture, floored
from models.model import HEADS, Model
from models.shared_heads import SharedHeads
from tests.builders import DAY_MS, START_MS, make_artifact, make_model

OLD, NEW = make_model("shoes", "hats"), make_model("shoes", "hats", "bags", seed=1)
_scaled = make_artifact("shoes", seed=1)
OTHER_SCALER = Model(replace(_scaled, trunk=replace(_scaled.trunk, std=np.nextafter(_scaled.trunk.std, 9.0))))
ON_Z = ("deviation", "deviation_wide", "feature", "instance", "relation")


def facts(n: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Rows of random shoppers whose first bins closed, one in four with an order."""
    rng = np.random.default_rng(seed)
    bin_, y = rng.integers(0, OLD.bins, n), (rng.random(n) < 0.25).astype(np.int64)
    final = np.where(bin_ == OLD.bins - 1, y, -1)
    return rng.normal(size=(n, WIDTH)).astype(np.float32), bin_, y, final, np.sort(START_MS + rng.integers(0, DAY_MS, n))


def learned(model: Model = OLD) -> tuple[SharedHeads, LaunchHead]:
    """Heads that have learned something, under a trunk."""
    shared, launch = SharedHeads.of(model), LaunchHead.of(model)
    shared.learn_many(model, *facts(200))
    launch.learn_many(model, shared, *facts(120, seed=1))
    return shared, launch


def arrays(head: LaunchHead, name: str) -> dict[str, bytes]:
    """The bits of one expert."""
    return {part: a.tobytes() for part, a in head.experts[EXPERTS.index(name)].to_arrays().items()}


def bits(posterior: Posterior) -> tuple[bytes, bytes]:
    """The bits of one shared head."""
    return posterior.m.tobytes(), posterior.p.tobytes()


def test_shared_heads_on_raw_features_and_delays_are_carried_to_the_bit() -> None:
    """The trunk's and the trees' heads are the new artifact's, not a bit of the old."""
    state, _ = learned()
    moved = carried_shared(state, OLD, NEW)
    for name, reads in HEADS.items():
        assert bits(moved.heads[name]) == bits((state.heads if reads == "raw" else NEW.heads)[name])
        assert bits(state.heads[name]) != bits(NEW.heads[name])
    assert {k: a.tobytes() for k, a in moved.delay.to_arrays().items()} == {k: a.tobytes() for k, a in state.delay.to_arrays().items()}
    assert moved.n_learned == state.n_learned


def test_a_launch_keeps_its_level_its_weights_and_its_head_from_scratch() -> None:
    """Level, scratch, mixture, delays and counts to the bit; what lives on z is that of a launch that has learned nothing under the new trunk."""
    _, state = learned()
    moved, fresh = carried_launch(state, OLD, NEW), LaunchHead.of(NEW)
    for name in ("shared", "frozen", "scratch"):
        assert arrays(moved, name) == arrays(state, name)
    for name in ON_Z:
        assert arrays(moved, name) == arrays(fresh, name) != arrays(state, name)
    assert set(EXPERTS) == {"shared", "frozen", "scratch", *ON_Z}
    for part in ("w", "losses", "last_ms"):
        assert getattr(moved.mixture, part).tobytes() == getattr(state.mixture, part).tobytes()
    assert (moved.tried == state.tried).all()
    assert (moved.hit == state.hit).all()
    assert moved.n_learned == state.n_learned
    assert {k: a.tobytes() for k, a in moved.delay.to_arrays().items()} == {k: a.tobytes() for k, a in state.delay.to_arrays().items()}


def test_with_another_scaler_only_what_knows_no_features_is_carried() -> None:
    """One bit of one deviation: the heads start again; level, mixture and delays stay."""
    assert same_scaler(OLD.artifact, NEW.artifact)
    assert not same_scaler(OLD.artifact, OTHER_SCALER.artifact)
    shared, launch = learned()
    moved, fresh = carried_shared(shared, OLD, OTHER_SCALER), SharedHeads.of(OTHER_SCALER)
    assert all(bits(moved.heads[name]) == bits(fresh.heads[name]) for name in HEADS)
    assert moved.delay.counts.ring.tobytes() == shared.delay.counts.ring.tobytes()
    after = carried_launch(launch, OLD, OTHER_SCALER)
    assert arrays(after, "shared") == arrays(launch, "shared")
    assert arrays(after, "scratch") == arrays(LaunchHead.of(OTHER_SCALER), "scratch") != arrays(launch, "scratch")
    assert after.mixture.w.tobytes() == launch.mixture.w.tobytes()


def test_what_is_carried_is_a_state_of_its_own() -> None:
    """Neither the old state nor the new model changes when the carried one learns; carrying twice gives the same bytes."""
    shared, launch = learned()
    before = shared.to_bytes(), launch.to_bytes(), SharedHeads.of(NEW).to_bytes(), LaunchHead.of(NEW).to_bytes()
    moved, head = carried_shared(shared, OLD, NEW), carried_launch(launch, OLD, NEW)
    again = moved.to_bytes(), head.to_bytes()
    assert again == (carried_shared(shared, OLD, NEW).to_bytes(), carried_launch(launch, OLD, NEW).to_bytes())
    moved.learn_many(NEW, *facts(50, seed=2))
    head.learn_many(NEW, moved, *facts(50, seed=3))
    assert (moved.to_bytes(), head.to_bytes()) != again
    assert before == (shared.to_bytes(), launch.to_bytes(), SharedHeads.of(NEW).to_bytes(), LaunchHead.of(NEW).to_bytes())


def test_what_has_learned_nothing_is_the_new_trunks() -> None:
    """The new artifact knows more than the old one about a launch without outcomes."""
    assert carried_shared(SharedHeads.of(OLD), OLD, NEW).to_bytes() == SharedHeads.of(NEW).to_bytes()
    assert carried_launch(LaunchHead.of(OLD), OLD, NEW).to_bytes() == LaunchHead.of(NEW).to_bytes()


def test_the_mixtures_bound_holds_under_the_new_prior() -> None:
    """Where the new prior promises an expert more than the old one did, the promise is made smaller by as much; a bound at its edge stays at its edge."""
    old_pi, new_pi = floored(np.array([0.9, 0.05, 0.05])), floored(np.array([0.2, 0.7, 0.1]))
    state = Mixture.unlearned(old_pi)
    state.own[0] = 1.0
    state.losses[:] = 1.0 + np.log(old_pi)
    assert state.slack(old_pi) == pytest.approx(0.0)
    assert state.slack(new_pi).min() < -1.0
    moved = carried_mixture(state, old_pi, new_pi)
    assert moved.slack(new_pi).min() == pytest.approx(0.0)
    assert moved.w.tobytes() == state.w.tobytes()
    assert carried_mixture(state, old_pi, old_pi).own.tobytes() == state.own.tobytes()


def test_artifacts_of_another_schema_window_or_bins_cannot_follow() -> None:
    """All that differs is said, and nothing is carried."""
    other = replace(NEW.artifact, schema_hash="other", edges_s=NEW.artifact.edges_s * 2, window_s=2 * NEW.artifact.window_s)
    told = " ".join(differences(OLD.artifact, other))
    assert all(words in told for words in ("feature schema", "window", "delay bins"))
    assert differences(OLD.artifact, NEW.artifact) == []
    shared, launch = learned()
    for carry in (lambda: carried_shared(shared, OLD, Model(other)), lambda: carried_launch(launch, OLD, Model(other))):
        with pytest.raises(Mismatch, match="window"):
            carry()


def test_carried_delay_counts_hear_of_exposures_from_before_the_new_end_of_training() -> None:
    """The new trunk was trained until later, but the counts have heard the early bins of those exposures: their late bins count."""
    late = Model(replace(NEW.artifact, trained_until_ms=START_MS + 30 * DAY_MS))
    deaf, hearing = SharedHeads.of(late), SharedHeads.of(late)
    x, bin_, _, final, close_ms = facts(80)
    rows = x, bin_, np.ones(80, np.int64), final, close_ms + DAY_MS
    deaf.learn_many(late, *rows)
    hearing.learn_many(heard_since(late, START_MS - DAY_MS), *rows)
    counted = [int(state.delay.counts.ring.sum() + state.delay.counts.settled.sum()) for state in (deaf, hearing)]
    assert counted == [0, 80]
    assert late.artifact.trained_until_ms == START_MS + 30 * DAY_MS
    assert heard_since(late, late.artifact.trained_until_ms) is late
