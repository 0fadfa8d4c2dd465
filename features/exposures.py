"""Exposures, their delay bins, and the outcomes that close.

An exposure is the first event other than an order of a user in a domain (a line or a launch) in a visit, unless an order in that
domain came before it in that visit. It is followed through the delay bins (`edges_ms`) to the end of its window. When a bin
closes, one outcome is final: ordered in this bin, or not yet. At the window's end its label is final.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from sys import intern
from typing import Annotated, Final

import msgspec

from features.errors import Mismatch
from features.events import CLICK, ORDER
from features.predictions import as_numbers

NONE = -1
UNMARKED: Final = (NONE, NONE, NONE)
TOGETHER_MS: Final = 1_000  # what closes so near to each other waits in one list


class Exposure(msgspec.Struct, array_like=True, gc=False):
    """One open exposure, of which a worker holds up to a million. Delays are milliseconds to the first click, cart and order after it, -1 if none yet."""

    id: str
    domain: str
    user: str
    line: str
    category: str
    counts: bool  # its label counts for the user and the catalogue; of the exposures that one event opens, one does
    ts_ms: int
    x: bytes  # the vector (F,) float32, as it was scored
    predictions: msgspec.Raw  # `features.predictions`: score and probability of headstart, in a launch also of each of its experts; none without a trunk
    delay_ms: tuple[int, int, int]
    bin: Annotated[int, msgspec.Meta(ge=1)]  # the bin that closes next; len(edges) when only the window's end is left
    ordered: bool = False  # an order has been told
    late_orders: int = 0

    def said(self) -> tuple[float, ...]:
        """The predictions, as numbers."""
        return as_numbers(self.predictions)


class Closed(msgspec.Struct, array_like=True, kw_only=True):
    """One final fact: in bin `bin` (0: none) `y` says whether the order came; `label` is 0 or 1 at the window's end, else -1."""

    exposure: Exposure
    close_ms: int
    bin: int
    y: int
    label: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Exposure).decode


def exposure_id(domain: str, user: str, event_id: str) -> str:
    """Return the 16 hex digits that name an exposure."""
    return hashlib.blake2b(f"{domain}\x1f{user}\x1f{event_id}".encode(), digest_size=8).hexdigest()


def is_followed(exposure: str, learn_share: float) -> bool:
    """Whether an exposure is followed to its label; depends on its id alone."""
    return learn_share >= 1.0 or int(exposure[:8], 16) < learn_share * 2**32


class Pending:
    """The open exposures of one partition, by user and by when the next bin closes."""

    def __init__(self, edges_ms: Sequence[int], held: Mapping[str, bytes] | None = None) -> None:
        self.edges_ms = list(edges_ms)  # (K,) from the exposure to the end of each bin; the last is the window
        self.open: dict[str, Exposure] = {}
        self.users: dict[str, list[Exposure]] = {}  # those of each user
        self._later: dict[int, list[Exposure]] = {}  # by when they close next, in units of TOGETHER_MS
        self._laters: list[int] = []  # the keys of these, as a heap
        self._unit = -math.inf  # the last of which all has gone into the queue
        self._queue: list[tuple[int, str]] = []  # a heap of (close time, id)
        # Both in the order in which things happened. Bytes: as it opened, and untouched since; None: to be encoded at the commit.
        self._touched: dict[str, bytes | None] = {}
        self._gone: dict[str, None] = {}
        try:
            for value in (held or {}).values():
                exposure = _decode(value)
                exposure.predictions = exposure.predictions.copy()  # else all of `value` stays
                exposure.said()  # or it is damaged
                self._insert(exposure)
        except (msgspec.MsgspecError, UnicodeDecodeError, IndexError) as error:
            raise Mismatch(f"what the store holds as an open exposure is damaged, or of another version: {error}") from None

    def __len__(self) -> int:
        return len(self.open)

    def _insert(self, exposure: Exposure) -> None:
        name, user = exposure.id, exposure.user
        exposure.domain, exposure.line, exposure.category = intern(exposure.domain), intern(exposure.line), intern(exposure.category)  # few names, kept once
        self.open[name] = exposure
        if (of_user := self.users.get(user)) is None:
            self.users[user] = [exposure]
        else:
            of_user.append(exposure)
        self._wait(exposure)

    def _closes_ms(self, exposure: Exposure) -> int:
        return exposure.ts_ms + self.edges_ms[exposure.bin - 1]

    def _wait(self, exposure: Exposure) -> None:
        close_ms = self._closes_ms(exposure)
        unit = close_ms // TOGETHER_MS
        if unit <= self._unit:
            heappush(self._queue, (close_ms, exposure.id))
        elif (waiting := self._later.get(unit)) is not None:
            waiting.append(exposure)
        else:
            self._later[unit] = [exposure]
            heappush(self._laters, unit)

    def has_due(self, until_ms: int) -> bool:
        """Whether a bin closes up to `until_ms` inclusive."""
        while not self._queue and self._comes(until_ms):
            pass
        return bool(self._queue) and self._queue[0][0] <= until_ms

    def has_many_due(self, until_ms: int, many: int) -> bool:
        """Whether so many bins close up to `until_ms` inclusive; looks at no more of them than that, and at one that closes later for each."""
        while True:
            found, look = 0, [0]
            while look and found < many:
                at = look.pop()
                if at < len(self._queue) and self._queue[at][0] <= until_ms:  # what lies below it in the heap closes no sooner
                    found += 1
                    look += (2 * at + 1, 2 * at + 2)
            if found == many or not self._comes(until_ms):
                return found == many

    def _comes(self, until_ms: int) -> bool:
        """Let the next of what waits for longer into the queue, if some of it may close up to `until_ms`; whether there was any."""
        if not self._laters or self._laters[0] * TOGETHER_MS > until_ms:
            return False
        self._unit = heappop(self._laters)
        for exposure in self._later.pop(self._unit):
            self._wait(exposure)
        return True

    def add(self, exposure: Exposure) -> None:
        """Follow an exposure from now on."""
        self._insert(exposure)
        self._touched[exposure.id] = _encode(exposure)  # now, while it is at hand

    def mark(self, user: str, domains: Sequence[str], kind: int, ts_ms: int) -> None:
        """Note a click, cart or order of the user on the exposures that are strictly earlier and whose window holds it."""
        if kind < CLICK:
            return
        for exposure in self.users.get(user, ()):
            if exposure.domain not in domains:
                continue
            delay_ms = ts_ms - exposure.ts_ms
            if 0 < delay_ms <= self.edges_ms[-1]:
                known = exposure.delay_ms[kind - 1]
                if kind == ORDER and known == NONE and exposure.bin > 1 and delay_ms <= self.edges_ms[exposure.bin - 2]:
                    exposure.late_orders += 1
                if known == NONE or delay_ms < known:
                    marks = [*exposure.delay_ms]
                    marks[kind - 1] = delay_ms
                    exposure.delay_ms = (marks[0], marks[1], marks[2])
                    self._touched[exposure.id] = None

    def close(self, until_ms: int, most: int | None = None) -> Iterator[Closed]:
        """Yield what closes up to `until_ms` inclusive, at most so much of it, in order of (close time, exposure id); labels end an exposure."""
        for _ in count() if most is None else range(most):
            if not self.has_due(until_ms):
                return
            close_ms, name = heappop(self._queue)
            exposure = self.open[name]
            closed = self._closed(exposure, close_ms)
            yield closed
            if closed.label != NONE:
                self._remove(exposure)
                continue
            exposure.ordered = exposure.ordered or closed.y == 1
            exposure.bin = len(self.edges_ms) if exposure.ordered else exposure.bin + 1
            self._touched[name] = None
            self._wait(exposure)

    def _closed(self, exposure: Exposure, close_ms: int) -> Closed:
        order_ms = exposure.delay_ms[ORDER - 1]
        hit = order_ms != NONE and order_ms <= self.edges_ms[exposure.bin - 1]
        tells = not exposure.ordered  # after an order was told, only the label is left
        ends = exposure.bin == len(self.edges_ms)
        return Closed(exposure=exposure, close_ms=close_ms, bin=exposure.bin if tells else 0, y=int(hit and tells), label=int(hit) if ends else NONE)

    def _remove(self, exposure: Exposure) -> None:
        del self.open[exposure.id]
        rest = [e for e in self.users[exposure.user] if e.id != exposure.id]
        if rest:
            self.users[exposure.user] = rest
        else:
            del self.users[exposure.user]
        self._touched.pop(exposure.id, None)
        self._gone[exposure.id] = None

    def changes(self) -> tuple[dict[str, bytes], list[str]]:
        """Return (written, removed) since the last call, for the store."""
        written = {name: encoded or _encode(self.open[name]) for name, encoded in self._touched.items()}
        removed = list(self._gone)
        self._touched, self._gone = {}, {}
        return written, removed
