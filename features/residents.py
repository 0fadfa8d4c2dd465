"""Records at hand, in one array, so that a kernel changes them where they are; those that were not used for the longest time make room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.errors import Mismatch
from features.store import Block

FIRST_ROWS = 64


class Residents:
    """Records of one dtype by name. `rows` (C,) holds them; it and a place are good until the next `take_in`, but for the places
    that the last `find` gave: these outlive the `take_in` after it.

    A changed record stays until `committed`. So `rows` grows beyond `most` where more than that are changed or used at once.
    """

    def __init__(self, dtype: np.dtype[np.void], most: int) -> None:
        self._most = most
        self.rows = np.zeros(min(FIRST_ROWS, most), dtype)
        self.places: dict[str, int] = {}
        self._names: list[str] = []
        self._used = np.zeros(len(self.rows), np.int64)  # the turn in which a place was last asked for
        self._free: list[int] = []
        self._changed: list[NDArray[np.int64]] = []  # since the last `changes`
        self._leaving: list[NDArray[np.int64]] = []  # what that told, until it is committed
        self._turn = 0

    def find(self, names: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
        """Return the places (N,) of records, -1 where there is none, and the names of those, each once."""
        get = self.places.get
        found = [get(name, -1) for name in names]
        places = np.array(found, np.int64)
        self._turn += 1
        self._used[places] = self._turn  # of a missing one that of the last place, which does no harm
        missing = [name for name, place in zip(names, found, strict=True) if place < 0] if -1 in found else []
        return places, list(dict.fromkeys(missing))

    def take_in(self, names: Sequence[str], values: Sequence[bytes | None]) -> None:
        """Hold further records; what has no bytes (None) is an empty record. Raises Mismatch for one of another width."""
        width = self.rows.dtype.itemsize
        empty = bytes(width)
        held = [empty if value is None else value for value in values]
        for name, value in zip(names, held, strict=True):
            if len(value) != width:
                raise Mismatch(f"the record {name!r:.80} has {len(value)} bytes, this program's have {width}: another version wrote it")
        places = self._places_for(len(names))
        raw = self._raw()
        raw[places] = np.frombuffer(b"".join(held), raw.dtype)
        self._used[places] = self._turn
        for name, place in zip(names, places, strict=True):
            self.places[name] = place
            self._names[place] = name

    def change(self, places: NDArray[np.int64]) -> None:
        """Note that the records at these places are about to be changed."""
        self._changed.append(places)

    def changes(self, prefix: str) -> Block:
        """Return the records that were changed since the last call, as they are now, each name behind `prefix`. They stay until `committed`."""
        places, names = _once(self._changed), self._names
        self._leaving += self._changed
        self._changed = []
        return Block([prefix + names[place] for place in places.tolist()], self.rows.dtype.itemsize, self._raw()[places].tobytes())

    def committed(self) -> None:
        """Note that what `changes` returned is in the store."""
        self._leaving.clear()

    def _raw(self) -> NDArray[np.void]:
        """The same records as mere bytes: to copy those is several times as fast as field by field."""
        return self.rows.view(f"V{self.rows.dtype.itemsize}")

    def _places_for(self, n: int) -> list[int]:
        """Return n places that nothing holds, or nothing that is worth keeping."""
        if len(self._free) + len(self.rows) - len(self._names) < n:
            if len(self.rows) >= self._most:
                self._evict(max(n, self._most // 8))
            if (short := n - len(self._free) - (len(self.rows) - len(self._names))) > 0:
                self._grow(max(len(self.rows) + short, min(2 * len(self.rows), self._most)))
        kept = max(0, len(self._free) - n)
        taken, self._free = self._free[kept:], self._free[:kept]
        fresh = range(len(self._names), len(self._names) + n - len(taken))
        self._names += [""] * len(fresh)
        return [*taken, *fresh]

    def _evict(self, n: int) -> None:
        """Let go of up to n records that are neither changed nor used in this turn, the longest unused first."""
        used = self._used[: len(self._names)].copy()
        used[self._free] = self._turn
        used[_once(self._leaving + self._changed)] = self._turn
        oldest = np.argpartition(used, n - 1)[:n] if n < len(used) else np.arange(len(used))
        gone = oldest[used[oldest] < self._turn].tolist()
        for place in gone:
            del self.places[self._names[place]]
        self._free += gone

    def _grow(self, size: int) -> None:
        rows, used = np.zeros(size, self.rows.dtype), np.zeros(size, np.int64)
        rows[: len(self.rows)], used[: len(self._used)] = self.rows, self._used
        self.rows, self._used = rows, used


def _once(several: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the places in all of them, each once and in order: ten times as fast as `np.unique`, which hashes."""
    places = np.sort(np.concatenate([np.full(1, -1), *several]))
    once: NDArray[np.int64] = places[1:][places[1:] != places[:-1]]
    return once
