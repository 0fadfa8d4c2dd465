"""What of a head survives a new trunk. Pure: states and models in, states out; the same bytes wherever it is done.

A refreshed trunk keeps the scaler, so a raw feature means what it meant, and what lives on raw features is carried over bit for bit: the shared heads
`raw_final` and `raw_delay`, and the expert from scratch. So is what does not look at features at all: the evidence on the launch's level (a shift in
logit), the mixture's weights and losses, and the delay counts. What lives on the trunk's z or on the trees (the shared heads `trunk_delay` and
`trees_delay`, and the deviation, feature-, instance- and relation-based experts) starts again from what the new artifact believes: the axes of z are
arbitrary and the trees' logit is another quantity, so evidence about slopes on the old ones says nothing about the new. To refit them, the old
outcomes would be needed, and they are not kept.

If the scalers differ (an artifact that was not made from its predecessor), raw features do not mean what they meant either: all heads start again, and
only level, mixture and delay counts are carried. A state that has learned nothing is the new artifact's, whatever the scaler.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from features.errors import Mismatch
from models.checkpoint import Artifact
from models.experts import EXPERTS
from models.launch_head import LaunchHead
from models.mixture import Mixture
from models.model import HEADS, Model
from models.shared_heads import SharedHeads

FEATURELESS = ("shared", "frozen")
"""Experts whose own state does not look at features; `shared` holds the launch's level, `frozen` nothing."""

ON_RAW = ("scratch",)
"""Experts whose heads read raw features."""


def differences(old: Artifact, new: Artifact) -> list[str]:
    """Return what forbids `new` to take the place of `old`, in words; empty if nothing does: features, window and delay bins must be the same."""
    told = []
    if new.schema_hash != old.schema_hash:
        told.append(f"the feature schema ({new.schema_hash} instead of {old.schema_hash})")
    if new.window_s != old.window_s:
        told.append(f"the attribution window ({new.window_s:g} s instead of {old.window_s:g} s)")
    if not np.array_equal(new.edges_s, old.edges_s):
        told.append(f"the delay bins ({new.edges_s.tolist()} s instead of {old.edges_s.tolist()} s)")
    return told


def same_scaler(old: Artifact, new: Artifact) -> bool:
    """Whether raw features mean the same to both, to the bit: then heads on raw features are carried over."""
    return old.trunk.mean.tobytes() == new.trunk.mean.tobytes() and old.trunk.std.tobytes() == new.trunk.std.tobytes()


def carried_shared(state: SharedHeads, old: Model, new: Model) -> SharedHeads:
    """Return the shared heads under the new trunk, a state of its own. Mismatch if the artifacts cannot follow each other (`differences`)."""
    _check(old, new)
    fresh = SharedHeads.of(new)
    if state.n_learned == 0:
        return fresh
    kept = {name: state.heads[name].copy() for name, reads in HEADS.items() if reads == "raw"} if same_scaler(old.artifact, new.artifact) else {}
    return SharedHeads({**fresh.heads, **kept}, state.delay.copy(), state.n_learned)


def carried_launch(state: LaunchHead, old: Model, new: Model) -> LaunchHead:
    """Return a launch's head under the new trunk, a state of its own. Mismatch as `carried_shared`."""
    _check(old, new)
    fresh = LaunchHead.of(new)
    if state.n_learned == 0:
        return fresh
    kept = (*FEATURELESS, *ON_RAW) if same_scaler(old.artifact, new.artifact) else FEATURELESS
    experts = tuple(was.copy() if name in kept else anew for name, was, anew in zip(EXPERTS, state.experts, fresh.experts, strict=True))
    mixture = carried_mixture(state.mixture, old.expert_pi, new.expert_pi)
    return LaunchHead(experts, mixture, state.delay.copy(), state.tried.copy(), state.hit.copy(), state.n_learned)


def carried_mixture(state: Mixture, old_pi: np.ndarray, new_pi: np.ndarray) -> Mixture:
    """Return the mixture under another prior (K,): weights and losses as they are.

    The bound speaks of the prior with which the mixture began. To be stated with the new one, what that promises an expert beyond the old one is
    added to the cost of sharing, so `Mixture.slack` stays true.
    """
    moved = state.copy()
    moved.own[1] += max(0.0, float(np.log(new_pi / old_pi).max()))
    return moved


def heard_since(model: Model, since_ms: int) -> Model:
    """Return the model as carried delay counts must see it: they hear exposures whole from `since_ms` on, not from the new trunk's end of training."""
    if since_ms == model.artifact.trained_until_ms:
        return model
    seen = copy.copy(model)
    seen.artifact = replace(model.artifact, trained_until_ms=since_ms)
    return seen


def _check(old: Model, new: Model) -> None:
    if told := differences(old.artifact, new.artifact):
        raise Mismatch(f"the trunk {new.artifact.sha256[:16]} cannot follow {old.artifact.sha256[:16]}: it differs in {', '.join(told)}")
