"""The store's contract: slots that are read in one step and change in one step, or not at all.

A slot is what lives and changes together: an input partition (`"7"`) or an outcome partition (`"o0"`). It has a **version** that
rises with every commit, a cursor (opaque bytes), named hashes, and records. `features.memory_store` and `features.redis_store`
fulfil the same contract, `tests/contract/test_store.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec

from features.errors import Mismatch

T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """What a slot held in one moment; `version` 0 and an empty cursor if it was never committed."""

    version: int
    cursor: bytes
    hashes: Mapping[str, Mapping[str, bytes]]


@dataclass(frozen=True)
class Block:
    """Records of one width in bytes, one after the other: `values` holds those of `names` in their order."""

    names: list[str]
    width: int
    values: bytes

    def split(self) -> dict[str, bytes]:
        """Return each record by its name."""
        return {name: self.values[i * self.width : (i + 1) * self.width] for i, name in enumerate(self.names)}


@dataclass
class Changes:
    """What one commit writes. `records`, alone or in blocks, may expire (`ttl_ms`); hashes and the cursor do not.

    `erased`: names of records that go. `expire`: names of hashes that, unlike others, may expire from now on as records do.

    `version` None: the expected one and 1.
    """

    cursor: bytes
    records: dict[str, bytes] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    put: dict[str, dict[str, bytes]] = field(default_factory=dict)
    drop: dict[str, list[str]] = field(default_factory=dict)
    erased: list[str] = field(default_factory=list)
    expire: list[str] = field(default_factory=list)
    version: int | None = None


def first_version(version: int, draw: int) -> int:
    """Return the version for the first commit of one who has loaded a slot at `version`; `draw` is a random number of 32 bits.

    It is above all versions that were there, and no other commit has it. So a store that was put back to an older state, and has gone on
    from there, never comes to a version that someone from before still holds.
    """
    return ((version >> 64) + 1) << 64 | draw << 32


def fresh_version(version: int) -> int:
    """Return `first_version` with a draw of its own: for one who loads a slot for a single commit."""
    return first_version(version, secrets.randbits(32))


def decoded(raw: bytes, kind: type[T], what: str) -> T:
    """Return what a slot holds in msgpack as the type that was written. Raises Mismatch if it is something else."""
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Mismatch(f"what the store holds as {what} is damaged, or of another version: {error}") from None


class Store(Protocol):
    """Namespaced state. Every method may raise `features.errors.DependencyDown`."""

    async def load(self, slot: str, hashes: Sequence[str]) -> Slot:
        """Return version, cursor and the named hashes, read in one step."""

    async def read(self, slot: str, keys: Sequence[str]) -> list[bytes | None]:
        """Return the records of `keys`, None where there is none."""

    async def read_hash(self, slot: str, name: str, fields: Sequence[str]) -> list[bytes | None]:
        """Return the named fields of one hash, None where there is none."""

    async def commit(self, slot: str, expected: int, changes: Changes) -> bool:
        """Write all of `changes` and set the version; False, and nothing written, if it is not `expected`."""

    async def settled(self) -> None:
        """Return when what was committed is as durable as the setting promises."""

    async def meta(self) -> dict[str, str]:
        """Return the namespace's description; empty if the namespace is new."""

    async def put_meta(self, values: Mapping[str, str]) -> None:
        """Set entries of the namespace's description."""

    async def claim_meta(self, values: Mapping[str, str]) -> dict[str, str]:
        """Set the entries that are not there yet, in one step; returns the whole description as it then is."""

    async def put_beat(self, name: str, value: bytes) -> None:
        """Keep the latest sign of life of a worker; no part of any commit."""

    async def beats(self) -> dict[str, bytes]:
        """Return the latest sign of life of every worker that gave one."""

    async def drop_beats(self, names: Sequence[str]) -> None:
        """Forget workers that are gone."""

    async def close(self) -> None:
        """Let go of connections."""
