"""Records at hand, in one array, so that a kernel changes them where they are; those that were not used for the longest time make room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.errors import Mismatch
from features.kernel import kernel
from features.names import Names
from features.store import Block

FIRST_ROWS = 64
NOBODY = -1


class Missing(NamedTuple):
    """The names of records that are not at hand: the text of each, and their keys (N, 2)."""

    texts: list[str]
    keys: NDArray[np.uint64]


class Residents:
    """Records of one dtype by name. `rows` (C,) holds them; it and a place are good until the next `take_in`, but for the places
    that the last `find` gave: these outlive the `take_in` after it.

    A changed record stays until `committed`. So `rows` grows beyond `most` where more than that are changed or used at once.
    """

    def __init__(self, dtype: np.dtype[np.void], most: int) -> None:
        self._most = most
        self.rows = np.zeros(min(FIRST_ROWS, most), dtype)
        self._names: list[str] = []
        self._keys = np.zeros((len(self.rows), 2), np.uint64)  # of the names
        self._table = _empty_table(len(self.rows))  # of places, found by their keys
        self._used = np.zeros(len(self.rows), np.int64)  # the turn in which a place was last asked for
        self._free: list[int] = []
        self._changed: list[NDArray[np.int64]] = []  # since the last `changes`
        self._leaving: list[NDArray[np.int64]] = []  # what that told, until it is committed
        self._turn = 0

    def find(self, names: Names) -> tuple[NDArray[np.int64], Missing]:
        """Return the places (N,) of records, -1 where there is none, and the names of those, each once."""
        places = self.look(names.keys)
        self._turn += 1
        self._used[places] = self._turn  # of a missing one that of the last place, which does no harm
        missing: dict[str, int] = {}
        for i in np.flatnonzero(places == NOBODY).tolist():
            missing.setdefault(names.text(i), i)
        return places, Missing(list(missing), names.keys[list(missing.values())])

    def look(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the places (N,) of the records with these keys (N, 2), -1 where there is none."""
        places = np.empty(len(keys), np.int64)
        _look(self._table, self._keys, keys, places)
        return places

    def take_in(self, missing: Missing, values: Sequence[bytes | None]) -> None:
        """Hold further records; what has no bytes (None) is an empty record. Raises Mismatch for one of another width."""
        width = self.rows.dtype.itemsize
        empty = bytes(width)
        held = [empty if value is None else value for value in values]
        for text, value in zip(missing.texts, held, strict=True):
            if len(value) != width:
                raise Mismatch(f"the record {text!r:.80} has {len(value)} bytes, this program's have {width}: another version wrote it")
        places = self._places_for(len(held))
        raw = self._raw()
        raw[places] = np.frombuffer(b"".join(held), raw.dtype)
        self._used[places] = self._turn
        for text, place in zip(missing.texts, places, strict=True):
            self._names[place] = text
        self._keys[places] = missing.keys
        _enter(self._table, self._keys, np.array(places, np.int64))

    def change(self, places: NDArray[np.int64]) -> None:
        """Note that the records at these places are about to be changed."""
        self._changed.append(places)

    def changes(self) -> Block:
        """Return the records that were changed since the last call, as they are now. They stay until `committed`."""
        places = _once(self._changed)
        self._leaving += self._changed
        self._changed = []
        return Block(list(map(self._names.__getitem__, places.tolist())), self.rows.dtype.itemsize, self._raw()[places].tobytes())

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
        taken = self._free[kept:]
        del self._free[kept:]
        fresh = range(len(self._names), len(self._names) + n - len(taken))
        self._names += [""] * len(fresh)
        return [*taken, *fresh]

    def _evict(self, n: int) -> None:
        """Let go of up to n records that are neither changed nor used in this turn, the longest unused first."""
        used = self._used[: len(self._names)].copy()
        used[self._free] = self._turn
        used[_once(self._leaving + self._changed)] = self._turn
        oldest = np.argpartition(used, n - 1)[:n] if n < len(used) else np.arange(len(used))
        if gone := oldest[used[oldest] < self._turn].tolist():
            self._free += gone
            self._enter_all()

    def _grow(self, size: int) -> None:
        rows, used = np.zeros(size, self.rows.dtype), np.zeros(size, np.int64)
        keys = np.zeros((size, 2), np.uint64)
        rows[: len(self.rows)], used[: len(self._used)], keys[: len(self._keys)] = self.rows, self._used, self._keys
        self.rows, self._used, self._keys = rows, used, keys
        if len(self._table) < 2 * size:
            self._table = _empty_table(size)
            self._enter_all()

    def _enter_all(self) -> None:
        """Fill the table anew with all that is held."""
        held = np.ones(len(self._names), np.bool_)
        held[self._free] = False
        self._table[:] = NOBODY
        _enter(self._table, self._keys, np.flatnonzero(held))


def _once(several: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the places in all of them, each once and in order: ten times as fast as `np.unique`, which hashes."""
    places = np.sort(np.concatenate([np.full(1, -1), *several]))
    once: NDArray[np.int64] = places[1:][places[1:] != places[:-1]]
    return once


def _empty_table(places: int) -> NDArray[np.int32]:
    """Return a table at least twice as long as there are places, a power of two."""
    return np.full(1 << (2 * places - 1).bit_length(), NOBODY, np.int32)


@kernel
def _look(table: NDArray[np.int32], held: NDArray[np.uint64], keys: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
    """Find keys (N, 2) by linear probing, of which the low bits of the first half say where to begin."""
    mask = np.uint64(table.shape[0] - 1)
    for i in range(keys.shape[0]):
        at = keys[i, 0] & mask
        place = np.int64(table[at])
        while place >= 0 and (held[place, 0] != keys[i, 0] or held[place, 1] != keys[i, 1]):
            at = (at + np.uint64(1)) & mask
            place = np.int64(table[at])
        places[i] = place


@kernel
def _enter(table: NDArray[np.int32], held: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
    """Enter places, whose keys are not in the table."""
    mask = np.uint64(table.shape[0] - 1)
    for i in range(places.shape[0]):
        at = held[places[i], 0] & mask
        while table[at] >= 0:
            at = (at + np.uint64(1)) & mask
        table[at] = places[i]
