"""What an audit keeps of a head: a record for the topic `heads`. The state itself is in the store."""

from __future__ import annotations

import base64
import hashlib

import msgspec
import numpy as np

from models.launch_head import LaunchHead
from models.shared_heads import SharedHeads


class Snapshot(msgspec.Struct, kw_only=True):
    """The audit record of a head: its means and its offset's weights, and the sha256 of the whole state, which is in the store."""

    launch_id: str
    tick_ms: int
    trunk: str  # the first 16 hex digits of its sha256: means on its outputs are to be read with it
    n_learned: int
    sha256: str
    means: dict[str, str]  # base64 of little-endian float64


def snapshot(name: str, state: SharedHeads | LaunchHead, tick_ms: int, trunk: str) -> Snapshot:
    """Return the audit record of a head's state."""
    if isinstance(state, SharedHeads):
        means = {name: head.m for name, head in state.heads.items()} | {"delay_curve": state.delay.in_use}
    else:
        means = {"weights": state.mixture.w, "losses": state.mixture.losses, "delay_curve": state.delay.in_use} | state.means()
    return Snapshot(
        launch_id=name,
        tick_ms=tick_ms,
        trunk=trunk,
        n_learned=state.n_learned,
        sha256=hashlib.sha256(state.to_bytes()).hexdigest(),
        means={part: base64.b64encode(np.ascontiguousarray(m, "<f8").tobytes()).decode() for part, m in means.items()},
    )
