"""The launches of a namespace: control records in the store, which workers take up at their next tick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from features.errors import InputError, Mismatch
from features.store import Changes, Store, fresh_version
from models.launch_head import LaunchHead
from streams.domains import Launches
from streams.knowledge import CONTROL_SLOT, outcome_slot
from streams.records import Launch, decode_launch, encode_json

TRIES = 20


async def read(store: Store) -> dict[str, Launch]:
    """Return the launches by id."""
    slot = await store.load(CONTROL_SLOT, ("launches",))
    return {name: decode_launch(value) for name, value in sorted(slot.hashes["launches"].items())}


async def change(store: Store, launch_id: str, launch: Launch, *, must_exist: bool) -> None:
    """Write one launch. Raises InputError if it is there already, or is not, and Mismatch if others keep writing at the same time."""
    for _ in range(TRIES):
        slot = await store.load(CONTROL_SLOT, ("launches",))
        there = slot.hashes["launches"]
        if must_exist and launch_id not in there:
            raise unknown(launch_id, list(there))
        if not must_exist and launch_id in there:
            raise InputError(f"there is a launch {launch_id!r} already; `headstart launch show {launch_id}` shows it")
        changes = Changes(cursor=slot.cursor, put={"launches": {launch_id: encode_json(launch)}}, version=fresh_version(slot.version))
        if await store.commit(CONTROL_SLOT, slot.version, changes):
            return
    raise Mismatch("the launches are being changed by others all the time; try again")


async def put_back(store: Store, known: Sequence[Launch]) -> list[str]:
    """Write launches that the store has forgotten, or forgotten to be closed, back into it; returns their ids."""
    for _ in range(TRIES):
        slot = await store.load(CONTROL_SLOT, ("launches",))
        lost = Launches([decode_launch(value) for value in slot.hashes["launches"].values()]).forgotten(known)
        changes = Changes(cursor=slot.cursor, put={"launches": {launch.id: encode_json(launch) for launch in lost}}, version=fresh_version(slot.version))
        if not lost or await store.commit(CONTROL_SLOT, slot.version, changes):
            return [launch.id for launch in lost]
    raise Mismatch("the launches are being changed by others all the time")


def unknown(launch_id: str, known: list[str]) -> InputError:
    """Return the error for a launch that is not there."""
    return InputError(f"there is no launch {launch_id!r}; the launches are: {', '.join(sorted(known)) or 'none'}")


def closed(launch: Launch, at_ms: int) -> Launch:
    """Return the launch as closed from a time on: no exposure opens, open ones run out."""
    return msgspec.structs.replace(launch, closed_ms=at_ms)


@dataclass(frozen=True)
class Learned:
    """What a launch has learned: outcomes, orders among them, and the same by delay bin."""

    outcomes: int
    orders: int
    bins_tried: list[int]
    bins_hit: list[int]


async def learned(store: Store, launch_id: str, outcome_partition: int) -> Learned:
    """Return what the launch's head has learned so far; nothing if it has no outcome yet."""
    (value,) = await store.read_hash(outcome_slot(outcome_partition), "heads", [launch_id])
    if value is None:
        return Learned(0, 0, [], [])
    head = LaunchHead.from_bytes(value)
    return Learned(head.n_learned, int(head.hit.sum()), head.tried.tolist(), head.hit.tolist())
