"""The open exposures of one partition: what changes of them as rows, which kernels open, mark and close, and what does not as the bytes that are stored."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from features import open_rows
from features.errors import Mismatch
from features.events import CLICK
from features.exposures import NONE, UNMARKED, Closed, Exposure
from features.names import Names, names_of, suffix_keys
from features.open_rows import OPEN, OPENS, UNFOLLOWED, empty_table

FIRST_ROWS: Final = 64
_LATEST_MS: Final = 2**53
READ_TOGETHER: Final = 2_000  # so that few are decoded at a time
CLOSE_TOGETHER: Final = 2_000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Exposure).decode


def _tail(delay_ms: Sequence[int], bin: int, ordered: bool, late_orders: int) -> bytes:
    """Return the end of an encoded exposure: all that ever changes of it."""
    return _encode((delay_ms, bin, ordered, late_orders))[1:]  # without the head of the array


_TAIL_BYTES: Final = len(_tail(UNMARKED, 1, False, 0))


class Steps:
    """What the events of a batch do to open exposures, one step after the other. An event is meant by its place in the batch."""

    def __init__(self) -> None:
        self.domains: dict[str, int] = {}  # those that occur, numbered
        self.told: list[int] = []  # of each step the event, the number of the domain, and what it does
        self.ids: list[str] = []  # of the exposures that open, in the order of their steps

    def __len__(self) -> int:
        return len(self.told) // 3

    def mark(self, event: int, domain: str, kind: int) -> None:
        """Note a click, cart or order on the exposures of its shopper in a domain that are strictly earlier and whose window holds it."""
        assert kind >= CLICK, "a browse marks nothing"
        self.told += (event, self.domains.setdefault(domain, len(self.domains)), kind)

    def open(self, event: int, domain: str, id: str, followed: bool) -> None:
        """Open an exposure, unless it is open already, or is none of those that are followed."""
        self.told += (event, self.domains.setdefault(domain, len(self.domains)), OPENS if followed else UNFOLLOWED)
        self.ids.append(id)


class Pending:
    """The open exposures of one partition, by shopper and domain and by when the next bin closes."""

    def __init__(self, edges_ms: Sequence[int], held: Mapping[str, bytes] | None = None) -> None:
        self._edges_ms = np.array(edges_ms, np.int64)  # (K,) from the exposure to the end of each bin; the last is the window
        self._opened: list[bytes] = []  # each exposure, encoded, as it was when it opened
        stored = list((held or {}).values())
        rows = np.concatenate([self._read(stored[first : first + READ_TOGETHER]) for first in range(0, max(1, len(stored)), READ_TOGETHER)])
        closes_ms = rows["ts_ms"] + self._edges_ms[rows["bin"] - 1]
        order = np.lexsort((rows["id"], closes_ms))  # which is that of a heap, too
        self._rows, self._queue, self._touched = rows, np.stack((closes_ms[order], order), 1), np.zeros(len(rows), np.int64)
        self._n = np.array([len(rows), 0])  # of the queue, and of the touched
        self._free: list[int] = []
        self._gone: list[int] = []  # ids, in the order in which they ended
        self._grow(max(FIRST_ROWS, len(rows)))

    def __len__(self) -> int:
        return int(self._n[0])

    @property
    def open(self) -> dict[str, Exposure]:
        """All of them, by id, decoded: for those who have time."""
        return {exposure.id: exposure for exposure in self._as_exposures(self._queue[: len(self), 1], self._rows[self._queue[: len(self), 1]])}

    def _read(self, stored: Sequence[bytes]) -> NDArray[np.void]:
        """Keep some of what is stored, and return its rows, which are in no list yet. Raises Mismatch."""
        rows = np.zeros(len(stored), OPEN)
        try:
            exposures = [_decode(value) for value in stored]
            for exposure in exposures:
                exposure.said()  # or it is damaged
            rows["id"] = np.array([int(exposure.id, 16) for exposure in exposures], np.uint64)
            if _names(rows["id"]) != [exposure.id for exposure in exposures]:
                raise ValueError("an id that is not 16 hex digits")
            keys = names_of([e.user for e in exposures]).keys + suffix_keys([_behind(e.domain) for e in exposures])
            rows["key_a"], rows["key_b"] = keys.T
            rows["click_ms"], rows["cart_ms"], rows["order_ms"] = np.array([e.delay_ms for e in exposures], np.int64).reshape(-1, 3).T
            for name in ("ts_ms", "bin", "ordered", "late_orders"):
                rows[name] = np.array([getattr(exposure, name) for exposure in exposures], np.int64)
            if (rows["bin"] > len(self._edges_ms)).any() or (rows["ts_ms"] != rows["ts_ms"].clip(-_LATEST_MS, _LATEST_MS)).any():
                raise ValueError("a bin or a time that there is not")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
            raise Mismatch(f"what the store holds as an open exposure is damaged, or of another version: {error}") from None
        self._opened += [_encode(msgspec.structs.replace(e, delay_ms=UNMARKED, bin=1, ordered=False, late_orders=0)) for e in exposures]
        return rows

    def has_due(self, until_ms: int) -> bool:
        """Whether a bin closes up to `until_ms` inclusive."""
        return self.has_many_due(until_ms, 1)

    def has_many_due(self, until_ms: int, many: int) -> bool:
        """Whether so many exposures have a bin that closes up to `until_ms` inclusive."""
        return bool(open_rows.are_due(self._queue, len(self), until_ms, many))

    def follow(self, steps: Steps, users: Names, ts_ms: NDArray[np.int64], room: int) -> NDArray[np.int64]:
        """Take the steps of a batch (B,) with these users and times, opening exposures while fewer than `room` are open.

        Returns (M,) of each step the place of the exposure that it opened, which is then given to `keep`; or NOT_OPENED, OPEN_BEFORE, or MARKED.
        """
        every = "".join(steps.ids)
        assert len(every) == 16 * len(steps.ids), "an id is not 16 hex digits"
        ids = np.frombuffer(bytes.fromhex(every), ">u8").astype(np.uint64)
        places, found = self._places(len(ids)), np.empty(len(steps), np.int64)
        told, domains = np.array(steps.told, np.int64).reshape(-1, 3), suffix_keys(map(_behind, steps.domains))
        ts_ms = np.ascontiguousarray(ts_ms)  # one of a single row always is, and another type to a kernel if those of several rows are not
        opened = open_rows.follow(
            self._rows, self._table, self._queue, self._touched, self._n, self._edges_ms,
            told, ids, users.keys, domains, ts_ms, min(room, sys.maxsize), places, found,
        )  # fmt: skip
        self._free += places[opened:].tolist()
        return found

    def keep(self, place: int, exposure: Exposure) -> None:
        """Take what is to be kept of an exposure that a step has opened."""
        self._opened[place] = _encode(exposure)

    def close(self, until_ms: int, most: int | None = None) -> Iterator[Closed]:
        """Yield what closes up to `until_ms` inclusive, at most so much of it, in order of (close time, exposure id); labels end an exposure.

        An exposure is told as it was before. What is yielded together has closed before the first of it is.
        """
        left = sys.maxsize if most is None else most
        while left and (some := self._close(until_ms, min(left, CLOSE_TOGETHER))):
            yield from some
            left -= len(some)

    def _close(self, until_ms: int, most: int) -> list[Closed]:
        if not self.has_due(until_ms):
            return []
        before, facts = np.empty(most, OPEN), np.empty((most, 5), np.int64)
        n = open_rows.close(self._rows, self._table, self._queue, self._touched, self._n, self._edges_ms, until_ms, before, facts)
        exposures = self._as_exposures(facts[:n, 0], before[:n])
        ended = facts[:n, 4] != NONE
        for place in facts[:n, 0][ended].tolist():
            self._opened[place] = b""
            self._free.append(place)
        self._gone += before["id"][:n][ended].tolist()
        return [
            Closed(exposure=exposure, close_ms=close_ms, bin=bin, y=y, label=label)
            for exposure, (_, close_ms, bin, y, label) in zip(exposures, facts[:n].tolist(), strict=True)
        ]

    def _as_exposures(self, places: NDArray[np.int64], rows: NDArray[np.void]) -> list[Exposure]:
        return [_decode(value) for value in self._stored(places, rows)]

    def _stored(self, places: NDArray[np.int64], rows: NDArray[np.void]) -> list[bytes]:
        """Return exposures, of which rows (N,) say what changes, as they are stored."""
        stored = [self._opened[place] for place in places.tolist()]
        if changed := [i for i, as_opened in enumerate(rows["as_opened"].tolist()) if not as_opened]:
            for i, (_, click_ms, cart_ms, order_ms, bin, ordered, late_orders, *_) in zip(changed, rows[changed].tolist(), strict=True):
                stored[i] = stored[i][:-_TAIL_BYTES] + _tail((click_ms, cart_ms, order_ms), bin, ordered, late_orders)
        return stored

    def changes(self) -> tuple[dict[str, bytes], list[str]]:
        """Return (written, removed) since the last call, for the store."""
        places = self._touched[: open_rows.take_touched(self._rows, self._touched, self._n)]
        rows = self._rows[places]
        written = dict(zip(_names(rows["id"]), self._stored(places, rows), strict=True))
        removed = _names(np.array(self._gone, np.uint64))
        self._gone = []
        return written, removed

    def _places(self, n: int) -> NDArray[np.int64]:
        """Return n places where nothing is open."""
        kept = max(0, len(self._free) - n)
        taken = self._free[kept:]
        del self._free[kept:]
        fresh = range(len(self._opened), len(self._opened) + n - len(taken))
        self._opened += [b""] * len(fresh)
        if len(self._opened) > len(self._rows):
            self._grow(max(len(self._opened), 2 * len(self._rows)))
        return np.array([*taken, *fresh], np.int64)

    def _grow(self, size: int) -> None:
        before = (self._rows, self._queue, self._touched)
        self._rows, self._queue, self._touched = np.zeros(size, OPEN), np.zeros((size, 2), np.int64), np.zeros(size, np.int64)
        for old, new in zip(before, (self._rows, self._queue, self._touched), strict=True):
            new[: len(old)] = old
        self._table = empty_table(size)
        open_rows.enter_lists(self._rows, self._table, self._queue, len(self))


def _behind(domain: str) -> str:
    """Return what stands behind a user in the name of a list."""
    return f"\x1f{domain}"


def _names(ids: NDArray[np.uint64]) -> list[str]:
    """Return the 16 hex digits of each."""
    every = ids.astype(">u8").tobytes().hex()
    return [every[at : at + 16] for at in range(0, len(every), 16)]
