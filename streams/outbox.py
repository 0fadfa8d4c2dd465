"""What a partition has told its learners, kept until they have learned it: so a crash repeats it and a hole is filled from here.

A partition tells in **lives**. Live, each load begins one (`begin_life`): a new epoch, whose numbers start at 0. So what an earlier life told and the
store has forgotten since (it was put back to an older state) can never be taken for what this life tells. The cursor says where each earlier life
ended as far as anybody still has to learn from it; whoever learns asks the cursor, not the message (`streams.inbox`).
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

import msgspec

from features.errors import Mismatch
from features.store import decoded
from streams.records import CATALOGUE, Counted, Message, Outcome, TickDone

OUTBOX: Final = "outbox"  # the hash of a partition's slot
KEPT: Final = 5_000  # messages of one partition that are on Kafka and not yet learned: the oldest leave first

Place = tuple[int, int, int]
"""Outcome partition, epoch, number: also the order in which messages leave."""


class Past(msgspec.Struct, array_like=True):
    """An earlier life: its epoch, and for each outcome partition the number at which it ended."""

    epoch: int
    ends: list[int]


class Told(msgspec.Struct, array_like=True, kw_only=True):
    """The part of a partition's cursor that its outbox writes. `sent` (Q,) are the numbers of the present epoch below which all is on Kafka."""

    before: list[Past] = []
    prior: list[list[int]] = []  # for each outcome partition the last earlier epoch that told it something, and where that ended; [] if none did
    sent: list[int] = []


def first_epoch() -> int:
    """Return the epoch of a partition that nobody has worked."""
    return 1 << 40 | secrets.randbits(40)


def next_epoch(epoch: int) -> int:
    """Return an epoch that is above `epoch` and that no other life has had."""
    return ((epoch >> 40) + 1) << 40 | secrets.randbits(40)


def is_earlier(epoch: int, other: int) -> bool:
    """Whether a life began before another one; of two that began from the same state of the store, neither did."""
    return epoch >> 40 < other >> 40


def begin_life(epoch: int, numbers: list[int], told: Told) -> tuple[int, Told]:
    """Return epoch and record of a new life, whose numbers start at 0; a life that told nothing leaves no trace."""
    prior = told.prior or [[] for _ in numbers]
    before = [*told.before, Past(epoch, list(numbers))] if any(numbers) else list(told.before)
    prior = [[epoch, end] if end else last for end, last in zip(numbers, prior, strict=True)]
    return next_epoch(epoch), Told(before=before, prior=prior, sent=[0] * len(numbers))


def field(place: Place) -> str:
    """Return the name of a message in the hash `outbox`."""
    q, epoch, number = place
    return f"{q}:{epoch:020d}:{number:015d}"


class Outbox:
    """The messages of one partition: fresh, leaving with a commit, unsent when that is done, then on Kafka, and gone when they are learned."""

    def __init__(self, held: Mapping[str, bytes], *, epoch: int, sent: Sequence[int]) -> None:
        """`held` is the store's hash; what is below `sent` (Q,) in `epoch`, or of an epoch before, is on Kafka already."""
        self._fresh: dict[Place, tuple[bytes, bytes]] = {}  # (key, message)
        self._leaving: dict[Place, tuple[bytes, bytes]] = {}  # in the commit that is under way
        self._unsent: dict[Place, tuple[bytes, bytes]] = {}
        self._sent: dict[int, deque[Place]] = {}
        self._kept: dict[Place, tuple[bytes, bytes]] = {}  # those in `_sent`
        self._drop: list[Place] = []
        self._names: dict[Place, str] = {}  # as an earlier version wrote them
        for name, value in held.items():
            message = _read(value)
            place = int(name.partition(":")[0]), message.epoch, message.number
            if name != field(place):
                self._names[place] = name
            self._unsent[place] = key_of(message), value
        self._unsent = dict(sorted(self._unsent.items()))
        self._move([place for place in self._unsent if place[1] < epoch or (place[1] == epoch and place[2] < (sent[place[0]] if sent else 0))])

    def post(self, place: Place, key: bytes, message: bytes) -> None:
        """Take in a message; it leaves after the next commit that begins."""
        self._fresh[place] = key, message

    def unsent(self) -> list[tuple[int, bytes, bytes]]:
        """Return (outcome partition, key, message) of what is committed and not known to be on Kafka, in order."""
        return [(place[0], key, message) for place, (key, message) in self._unsent.items()]

    def waiting(self) -> int:
        """Return how many are committed and not known to be on Kafka. Callable from any thread."""
        return len(self._unsent)

    def mark_sent(self, number: int) -> None:
        """Note that the first `number` of `unsent` are on Kafka."""
        self._move(list(islice(self._unsent, number)))

    def _move(self, places: Iterable[Place]) -> None:
        for place in places:
            self._kept[place] = self._unsent.pop(place)
            self._sent.setdefault(place[0], deque()).append(place)

    def send_again(self) -> None:
        """Take all that is not learned for unsent."""
        self._unsent = dict(sorted((self._kept | self._unsent).items()))
        self._sent.clear()
        self._kept = {}

    def sent(self, epoch: int, numbers: Sequence[int]) -> list[int]:
        """Return the numbers (Q,) of `epoch` below which all is on Kafka, where `numbers` are the next ones to be told."""
        upto = list(numbers)
        for q, of, number in (*self._unsent, *self._leaving, *self._fresh):
            if of == epoch:
                upto[q] = min(upto[q], number)
        return upto

    def forget_sent(self) -> None:
        """Let everything go that is on Kafka: in a replay no partition goes on before it is learned."""
        self._drop += self._kept
        self._sent.clear()
        self._kept = {}

    def learned(self, q: int, epoch: int, number: int) -> None:
        """Let go what the learner of q has learned, which expects (epoch, number) next."""
        places = self._sent.get(q)
        while places and places[0][1:] < (epoch, number):
            self._let_go(places.popleft())

    def _let_go(self, place: Place) -> None:
        del self._kept[place]
        self._drop.append(place)

    def changes(self) -> tuple[dict[str, bytes], list[str]]:
        """Return (put, drop) for the store, of all since the last call; `committed` says that it was done."""
        while len(self._kept) > KEPT:
            self._let_go(max(self._sent.values(), key=len).popleft())
        drop, self._drop = self._drop, []  # more may be learned while the commit is on its way
        self._leaving, self._fresh = self._fresh, {}
        return {field(place): message for place, (_, message) in self._leaving.items()}, [self._names.get(place) or field(place) for place in drop]

    def committed(self) -> None:
        """Note that the changes are in the store."""
        self._unsent.update(self._leaving)
        self._leaving = {}


def key_of(message: Outcome | Counted) -> bytes:
    """Return the key under which a message travels."""
    return (message.key if isinstance(message, Outcome) else CATALOGUE).encode()


def held_for(q: int, held: Mapping[str, bytes]) -> dict[tuple[int, int], Outcome | Counted]:
    """Return by (epoch, number) what the hash `outbox` holds for an outcome partition."""
    found = (_read(value) for name, value in held.items() if name.startswith(f"{q}:"))
    return {(message.epoch, message.number): message for message in found}


def _read(value: bytes) -> Outcome | Counted:
    message: Message = decoded(value, Message, "an outcome in the outbox")  # type: ignore[arg-type]
    if isinstance(message, TickDone):
        raise Mismatch("the outbox holds the end of a tick, which is never put there")
    return message
