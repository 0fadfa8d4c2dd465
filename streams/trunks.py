"""The trunks of a namespace: which one is active from when on, the artifacts' files in the store, and the models that a process made of them.

`CONTROL_SLOT` holds two hashes: `trunk`, the activations by number, and `artifacts`, the two files of each artifact by sha256, read back and verified by
it. An activation is never changed: a rollback is a new one that points back. Each outcome partition's slot holds the `Stamp` of the activation that
its heads belong to, written in the commit that carried them over (`streams.learner`), so what a slot holds can be read without the control records.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from features.errors import DependencyDown, InputError, Mismatch
from features.store import Changes, Slot, Store, fresh_version
from models.carry import differences, same_scaler
from models.checkpoint import MANIFEST, TENSORS, Artifact, load
from models.model import Model

CONTROL_SLOT: Final = "control"
ARTIFACTS: Final = "artifacts"
ACTIVATIONS: Final = "trunk"
STAMP: Final = "trunk"  # the hash, and its only field, in an outcome partition's slot
LEAD_MS: Final = 5_000
TRIES: Final = 20
MODELS_KEPT: Final = 4
T = TypeVar("T")


class Activation(msgspec.Struct, frozen=True, kw_only=True):
    """From `from_ms` on the trunk `sha256` is to be used; a rollback goes back to `previous` ("": there is nothing to go back to).

    Numbers rise, and every outcome partition takes every activation in turn.
    """

    number: int
    sha256: str
    from_ms: int
    previous: str


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """Which activation the heads of an outcome partition belong to: 0 and "" for the trunk that the namespace was made with.

    `before`: the activation that the states in `heads_before` belong to, which are those of the last moment before the heads were carried over.
    `since_ms`: the end of training from which on the carried delay counts have heard everything; None: the trunk's own.
    """

    number: int = 0
    sha256: str = ""
    before: int = -1
    since_ms: int | None = None


_encode = msgspec.json.Encoder().encode
_decode_activation = msgspec.json.Decoder(Activation).decode
_decode_stamp = msgspec.json.Decoder(Stamp).decode


def activations(held: Mapping[str, bytes]) -> list[Activation]:
    """Return the activations in a control slot's hash, by number."""
    return sorted((_decode_activation(value) for value in held.values()), key=lambda a: a.number)


def stamp_in(slot: Slot) -> Stamp:
    """Return the stamp in an outcome partition's slot that was loaded with the hash `STAMP`."""
    value = slot.hashes[STAMP].get(STAMP)
    return _decode_stamp(value) if value else Stamp()


def stamp_entry(stamp: Stamp) -> dict[str, dict[str, bytes]]:
    """Return what a commit puts to set the stamp."""
    return {STAMP: {STAMP: _encode(stamp)}}


async def read(store: Store) -> list[Activation]:
    """Return the activations, by number."""
    return activations((await store.load(CONTROL_SLOT, (ACTIVATIONS,))).hashes[ACTIVATIONS])


async def is_kept(store: Store, sha256: str) -> bool:
    """Whether a trunk is one of the namespace's: a worker that belonged to it came with it, or it was promoted."""
    return await manifest(store, sha256) is not None


def active(found: list[Activation], base: str, at_ms: int) -> str:
    """Return the sha256 of the trunk that is to be used at a time; `base` is the one that the namespace was made with."""
    return next((a.sha256 for a in reversed(found) if a.from_ms <= at_ms), base)


def files(folder: Path, artifact: Artifact) -> dict[str, bytes]:
    """Return the entries of the hash `artifacts` for the artifact that was loaded from a folder. Raises Mismatch if the folder holds another by now."""
    try:
        found = {name: (folder / name).read_bytes() for name in (MANIFEST, TENSORS)}
    except OSError as error:
        raise InputError(f"cannot read the trunk in {folder}: {error.strerror or error}") from None
    if _unpack(artifact.sha256, *found.values()).sha256 != artifact.sha256:
        raise Mismatch(f"the trunk in {folder} was replaced while it was read; try again")
    return {_field(artifact.sha256, name): value for name, value in found.items()}


async def keep(store: Store, folder: Path, artifact: Artifact) -> None:
    """Put the artifact's files into the store if they are not there, so that a rollback finds them, and workers whose folder holds another trunk."""
    names = [_field(artifact.sha256, name) for name in (MANIFEST, TENSORS)]

    async def change(slot: Slot) -> tuple[None, dict[str, dict[str, bytes]] | None]:
        there = None not in await store.read_hash(CONTROL_SLOT, ARTIFACTS, names)
        return None, None if there else {ARTIFACTS: files(folder, artifact)}

    await _changed(store, change)


async def put_back(store: Store, known: Sequence[Activation], entries: Mapping[str, bytes]) -> list[int]:
    """Write what the store has forgotten: activations, and entries of the hash `artifacts`; returns the activations' numbers."""

    async def change(slot: Slot) -> tuple[list[int], dict[str, dict[str, bytes]] | None]:
        there = await store.read_hash(CONTROL_SLOT, ARTIFACTS, list(entries))
        gone = {name: value for (name, value), held in zip(entries.items(), there, strict=True) if held is None}
        put = {ARTIFACTS: gone} if gone else {}
        if lost := forgotten(known, activations(slot.hashes[ACTIVATIONS])):
            put[ACTIVATIONS] = {str(activation.number): _encode(activation) for activation in lost}
        return [activation.number for activation in lost], put or None

    return await _changed(store, change)


def forgotten(known: Sequence[Activation], held: Sequence[Activation]) -> list[Activation]:
    """Return those that the store, which holds these, has neither itself nor a later one of: it went back."""
    last = max((a.number for a in held), default=0)
    return [a for a in known if a.number > last]


async def fetch(store: Store, sha256: str) -> Artifact:
    """Return an artifact from the store, verified. Raises Mismatch if it is not there, or is not what its name says."""
    manifest, tensors = await store.read_hash(CONTROL_SLOT, ARTIFACTS, [_field(sha256, name) for name in (MANIFEST, TENSORS)])
    if manifest is None or tensors is None:
        raise Mismatch(_missing(sha256))
    return _unpack(sha256, manifest, tensors)


async def manifest(store: Store, sha256: str) -> dict[str, Any] | None:
    """Return the manifest of an artifact in the store, None if it is not there."""
    (raw,) = await store.read_hash(CONTROL_SLOT, ARTIFACTS, [_field(sha256, MANIFEST)])
    found: dict[str, Any] | None = json.loads(raw) if raw is not None else None
    return found


def _missing(sha256: str) -> str:
    return f"the trunk {sha256[:16]} is not in the namespace's store: promote it again, or start a worker with its folder (--trunk)"


def _field(sha256: str, name: str) -> str:
    return f"{sha256}:{name}"


def _unpack(sha256: str, manifest: bytes, tensors: bytes) -> Artifact:
    """Return the artifact in two files' bytes. An artifact has one reader, which verifies, and it reads folders."""
    with tempfile.TemporaryDirectory(prefix="headstart-trunk-") as folder:
        (Path(folder) / MANIFEST).write_bytes(manifest)
        (Path(folder) / TENSORS).write_bytes(tensors)
        artifact = load(folder)
    if artifact.sha256 != sha256:
        raise Mismatch(f"what the store holds as trunk {sha256[:16]} is {artifact.sha256[:16]}: it was damaged, promote it again")
    return artifact


async def _changed(store: Store, change: Callable[[Slot], Awaitable[tuple[T, dict[str, dict[str, bytes]] | None]]]) -> T:
    """Write what `change` makes of the control slot, and return its result; again if someone else was faster."""
    for _ in range(TRIES):
        slot = await store.load(CONTROL_SLOT, (ACTIVATIONS,))
        result, put = await change(slot)
        if put is None or await store.commit(CONTROL_SLOT, slot.version, Changes(cursor=slot.cursor, put=put, version=fresh_version(slot.version))):
            return result
    raise Mismatch("the control records are being changed by others all the time; try again")


async def promote(store: Store, folder: Path, artifact: Artifact, *, base: str, stamped: int, at_ms: int) -> tuple[Activation, bool]:
    """Make the artifact of a folder the active one from `at_ms` on; returns the activation, and whether heads on raw features will be carried over.

    `base`: the trunk that the namespace was made with; `stamped`: the highest activation that an outcome partition has stamped. Raises InputError if it
    is active already, and Mismatch that says what differs if it cannot follow the present one.
    """

    async def change(slot: Slot) -> tuple[tuple[Activation, bool], dict[str, dict[str, bytes]]]:
        found = activations(slot.hashes[ACTIVATIONS])
        now = found[-1].sha256 if found else base
        if now == artifact.sha256:
            raise InputError(f"the trunk {now[:16]} is the active one already")
        old = await fetch(store, now)
        if told := differences(old, artifact):
            raise Mismatch(f"the trunk in {folder} cannot take the place of {now[:16]}: it differs in {', '.join(told)}")
        activation = _next(found, artifact.sha256, previous=now, stamped=stamped, at_ms=at_ms)
        return (activation, same_scaler(old, artifact)), {ARTIFACTS: files(folder, artifact), ACTIVATIONS: {str(activation.number): _encode(activation)}}

    return await _changed(store, change)


async def rollback(store: Store, *, base: str, stamped: int, at_ms: int) -> tuple[Activation, bool]:
    """Point back to the trunk before the active one; as `promote`. Raises InputError if there is none."""

    async def change(slot: Slot) -> tuple[tuple[Activation, bool], dict[str, dict[str, bytes]]]:
        found = activations(slot.hashes[ACTIVATIONS])
        if not found or not found[-1].previous:
            raise InputError("there is no earlier trunk to go back to")
        target = found[-1].previous
        # Going back twice goes back two trunks: what the target itself had replaced, the first time that it was activated.
        earlier = next((a.previous for a in found if a.sha256 == target), "") if target != base else ""
        activation = _next(found, target, previous=earlier, stamped=stamped, at_ms=at_ms)
        carried = same_scaler(await fetch(store, found[-1].sha256), await fetch(store, target))
        return (activation, carried), {ACTIVATIONS: {str(activation.number): _encode(activation)}}

    return await _changed(store, change)


def _next(found: list[Activation], sha256: str, *, previous: str, stamped: int, at_ms: int) -> Activation:
    """The activation after all there are; numbers go on above what was stamped even where the control records were put back to an older state."""
    last = found[-1] if found else None
    number = 1 + max(stamped, last.number if last else 0)
    return Activation(number=number, sha256=sha256, from_ms=max(at_ms, last.from_ms if last else 0), previous=previous)


class Shelf:
    """The trunks of a live namespace as one process knows them. `take` hears of new activations; models are made once and kept."""

    def __init__(self, store: Store, own: Model, base: str, *, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._store, self._own, self.base, self._clock_ms = store, own, base, clock_ms
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._activations: list[Activation] = []
        self.forgotten: list[Activation] = []
        """Of the active one and those that are to follow it, what the control records have forgotten: the store went back. They go on all the same."""
        self.missing: dict[str, bytes] = {}
        """Entries of the hash `artifacts` that were there once."""
        self._files: dict[str, dict[str, bytes]] = {}

    async def take(self, held: Mapping[str, bytes]) -> None:
        """Take in the control record `trunk`, and make the model of the latest activation ahead of its time."""
        stored = activations(held)
        self.forgotten = forgotten(self._current(), stored)
        self._activations = [*stored, *self.forgotten]
        await self._keep_files()
        if self._activations:
            await self.model(self._activations[-1].sha256)

    def _current(self) -> list[Activation]:
        """Return the active one, and those whose time is still to come."""
        now_ms, known = self._clock_ms(), self._activations
        return known[max((i for i, a in enumerate(known) if a.from_ms <= now_ms), default=0) :]

    async def _keep_files(self) -> None:
        """Have the files at hand of the trunks that must not get lost: the first one, which heads begin with, this process' own, the active one, the one before, and what is to follow."""
        wanted = {self.base, self._own.artifact.sha256, *(sha256 for a in self._current() for sha256 in (a.sha256, a.previous) if sha256)}
        self._files = {sha256: files for sha256, files in self._files.items() if sha256 in wanted}
        self.missing = {}
        for sha256 in sorted(wanted):
            if sha256 not in self._files:
                names = [_field(sha256, name) for name in (MANIFEST, TENSORS)]
                values = await self._store.read_hash(CONTROL_SLOT, ARTIFACTS, names)
                if None not in values:
                    self._files[sha256] = {name: value for name, value in zip(names, values, strict=True) if value is not None}
            elif not await is_kept(self._store, sha256):
                self.missing |= self._files[sha256]

    def after(self, number: int) -> Activation | None:
        """Return the activation that follows `number`, once its time has come. None is ever passed over."""
        following = next((a for a in self._activations if a.number > number), None)
        return following if following is not None and following.from_ms <= self._clock_ms() else None

    async def model(self, sha256: str) -> Model:
        """Return the model of a trunk, "" for the one that the namespace was made with; from the store unless this process came with it or has its files.

        Raises DependencyDown if it is nowhere: where the store was emptied, another worker may be about to put it back.
        """
        sha256 = sha256 or self.base
        if sha256 == self._own.artifact.sha256:
            return self._own
        if sha256 not in self._models:
            files = self._files.get(sha256)
            if not files and not await is_kept(self._store, sha256):
                raise DependencyDown(_missing(sha256))
            self._models[sha256] = Model(_unpack(sha256, *files.values()) if files else await fetch(self._store, sha256))
            while len(self._models) > MODELS_KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(sha256)
        return self._models[sha256]
