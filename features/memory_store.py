"""The store in this process's memory: for training data, evaluation and tests. Nothing expires in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.store import Changes, Slot


class MemoryStore:
    """Fulfils `features.store.Store`; holds copies, so that a caller's later changes do not leak in."""

    def __init__(self) -> None:
        self._cursors: dict[str, tuple[int, bytes]] = {}
        self._records: dict[tuple[str, str], bytes] = {}
        self._hashes: dict[tuple[str, str], dict[str, bytes]] = {}
        self._meta: dict[str, str] = {}
        self._beats: dict[str, bytes] = {}

    async def load(self, slot: str, hashes: Sequence[str]) -> Slot:
        version, cursor = self._cursors.get(slot, (0, b""))
        return Slot(version, cursor, {name: dict(self._hashes.get((slot, name), {})) for name in hashes})

    async def read(self, slot: str, keys: Sequence[str]) -> list[bytes | None]:
        return [self._records.get((slot, key)) for key in keys]

    async def read_hash(self, slot: str, name: str, fields: Sequence[str]) -> list[bytes | None]:
        held = self._hashes.get((slot, name), {})
        return [held.get(field) for field in fields]

    async def commit(self, slot: str, expected: int, changes: Changes) -> bool:
        version, _ = self._cursors.get(slot, (0, b""))
        if version != expected:
            return False
        self._cursors[slot] = (version + 1 if changes.version is None else changes.version, changes.cursor)
        for records in (changes.records, *(block.split() for block in changes.blocks)):
            for key, value in records.items():
                self._records[slot, key] = value
        for key in changes.erased:
            self._records.pop((slot, key), None)
        for name, fields in changes.drop.items():
            for field in fields:
                self._hashes.get((slot, name), {}).pop(field, None)
        for name, values in changes.put.items():
            self._hashes.setdefault((slot, name), {}).update(values)
        return True

    async def settled(self) -> None:
        return None

    async def meta(self) -> dict[str, str]:
        return dict(self._meta)

    async def put_meta(self, values: Mapping[str, str]) -> None:
        self._meta.update(values)

    async def claim_meta(self, values: Mapping[str, str]) -> dict[str, str]:
        self._meta = {**values, **self._meta}
        return dict(self._meta)

    async def put_beat(self, name: str, value: bytes) -> None:
        self._beats[name] = value

    async def beats(self) -> dict[str, bytes]:
        return dict(self._beats)

    async def drop_beats(self, names: Sequence[str]) -> None:
        for name in names:
            self._beats.pop(name, None)

    async def close(self) -> None:
        return None
