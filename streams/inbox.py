"""Live: what has come of the partitions' outcomes, and what of it may be learned. Pure: cursors and held messages are arguments.

A message may be learned when its partition's *committed* cursor has told it, in the order of lives and numbers, each once. The message alone is not
enough: where the store was put back to an older state, what the lost time told is still on Kafka. Such a message is passed over, and the partition
tells what became of it in its present life.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from streams.outbox import is_earlier
from streams.partition import Cursor
from streams.records import Counted, Outcome

FULL = 20_000  # messages that wait behind a hole: then it is looked at right away


class Expected(msgspec.Struct, array_like=True):
    """What comes next of one input partition."""

    epoch: int
    number: int


@dataclass
class Passed:
    """What was not learned, for counts and alerts; partitions with the number of messages."""

    duplicates: int = 0
    forgotten: dict[int, int] = field(default_factory=dict)  # told in a life, or a part of one, that the store has forgotten
    ahead: dict[int, int] = field(default_factory=dict)  # learned here, and forgotten by the partition


class Inbox:
    """What one outcome partition's learner has received and not yet learned, by input partition."""

    def __init__(self, q: int, expected: Mapping[int, Expected]) -> None:
        self.q = q
        self.expected = {p: Expected(e.epoch, e.number) for p, e in expected.items()}
        self._waiting: dict[int, dict[tuple[int, int], tuple[int, Outcome | Counted]]] = {}  # by (epoch, number), with their offsets
        self._twice = 0
        self._stuck: dict[int, tuple[int, int]] = {}

    def take(self, message: Outcome | Counted, offset: int) -> None:
        """Take in a message that was read at an offset."""
        waiting = self._waiting.setdefault(message.partition, {})
        if (message.epoch, message.number) in waiting:
            self._twice += 1
        else:
            waiting[message.epoch, message.number] = offset, message

    def partitions(self) -> list[int]:
        """Return the input partitions of which something waits."""
        return sorted(self._waiting)

    def offset(self, read_to: int) -> int:
        """Return the offset from which to read again what still waits."""
        return min((offset for waiting in self._waiting.values() for offset, _ in waiting.values()), default=read_to)

    def is_full(self) -> bool:
        """Whether too much waits behind holes."""
        return any(len(waiting) > FULL for waiting in self._waiting.values())

    def due(self, cursors: Mapping[int, Cursor | None]) -> tuple[list[Outcome | Counted], Passed]:
        """Return what may be learned now, in the order in which it came, and what is passed over; `cursors` are those of `partitions`, as committed."""
        now: list[tuple[int, Outcome | Counted]] = []
        passed, self._twice = Passed(duplicates=self._twice), 0
        for p, cursor in cursors.items():
            waiting = self._waiting.pop(p, {})
            lives = lives_of(cursor, self.q)
            ahead = self._enter(p, lives)
            if ahead:
                passed.ahead[p] = ahead
            while (wanted := self._wanted(p, lives)) is not None and (found := waiting.pop(wanted, None)) is not None:
                now.append(found)
                self.expected[p].number += 1
            rest = {}
            for (epoch, number), held in waiting.items():
                if lives and epoch < min(lives):
                    passed.duplicates += 1  # of a life that is learned to its end
                elif epoch not in lives or number >= lives[epoch]:
                    passed.forgotten[p] = passed.forgotten.get(p, 0) + 1
                elif (epoch, number) < (self.expected[p].epoch, self.expected[p].number):
                    passed.duplicates += 1
                else:
                    rest[epoch, number] = held
            if rest:
                self._waiting[p] = rest
        return [message for _, message in sorted(now, key=lambda found: found[0])], passed

    def _enter(self, p: int, lives: Mapping[int, int]) -> int:
        """Go to the first life that there is to learn from, unless we are in one; returns how many numbers we were ahead of what that life has told.

        A life that we were in is not named any more once it is learned and let go, or if it told nothing; those that began before it are learned too.
        """
        expected = self.expected.get(p)
        if not lives:
            return 0
        if expected is None or expected.epoch not in lives:
            left = [epoch for epoch in lives if expected is None or not is_earlier(epoch, expected.epoch)] or list(lives)[-1:]
            self.expected[p] = Expected(left[0], 0)
            return 0
        ahead = max(0, expected.number - lives[expected.epoch])
        expected.number -= ahead
        return ahead

    def _wanted(self, p: int, lives: Mapping[int, int]) -> tuple[int, int] | None:
        """Go on to the next life where one has ended, and return the (epoch, number) that is next; None where all that was told is learned."""
        if not lives:
            return None
        expected = self.expected[p]
        epochs = list(lives)
        while expected.number >= lives[expected.epoch]:
            if expected.epoch == epochs[-1]:
                return None
            expected.epoch, expected.number = epochs[epochs.index(expected.epoch) + 1], 0
        return expected.epoch, expected.number

    # Holes: what was told, has left for Kafka, and does not come.

    def holes(self, cursors: Mapping[int, Cursor | None], *, all_read: bool) -> list[int]:
        """Return the input partitions of which the next message is missing for the second look in a row, and will not come.

        A partition must say that the message is on Kafka; and either a later one has been read, or `all_read`: the topic to its end.
        """
        found: dict[int, tuple[int, int]] = {}
        looking = Inbox(self.q, self.expected)  # what is expected changes in a step alone, which commits it
        for p, cursor in cursors.items():
            lives = lives_of(cursor, self.q)
            looking._enter(p, lives)
            wanted = looking._wanted(p, lives)
            if wanted is None or cursor is None or wanted in self._waiting.get(p, {}):
                continue
            if _is_sent(cursor, self.q, wanted) and (all_read or self._waiting.get(p)):
                found[p] = wanted
        missing = [p for p, wanted in found.items() if self._stuck.get(p) == wanted]
        self._stuck = found
        return missing

    def fill(
        self, p: int, cursor: Cursor, held: Mapping[tuple[int, int], Outcome | Counted], read_to: int, *, all_read: bool
    ) -> tuple[int, int]:  # fmt: skip
        """Close the hole of an input partition with what its outbox still holds, by (epoch, number).

        Returns how many messages came from there, and how many are lost for good, neither there nor on Kafka (`all_read`): those are passed over.
        """
        lives = lives_of(cursor, self.q)
        before = self.expected.get(p)
        self.expected = {at: Expected(e.epoch, e.number) for at, e in self.expected.items()}
        self._enter(p, lives)
        wanted, waiting = self._wanted(p, lives), self._waiting.setdefault(p, {})
        upto = None if all_read else min(waiting, default=None)  # what lies behind the next one may still come
        found = {at: m for at, m in held.items() if wanted is not None and wanted <= at and (upto is None or at < upto)}
        found = {at: m for at, m in found.items() if at not in waiting and _is_sent(cursor, self.q, at)}
        waiting |= {at: (read_to, message) for at, message in found.items()}
        lost = 0
        while all_read and wanted is not None and wanted not in waiting and _is_sent(cursor, self.q, wanted):
            epoch, number = wanted
            end = lives[epoch] if epoch != cursor.epoch else _at(cursor.told.sent, self.q)
            self.expected[p].number = min((n for e, n in waiting if e == epoch and n > number), default=end)
            lost += self.expected[p].number - number
            wanted = self._wanted(p, lives)
        if not found and not lost and before is not None:
            self.expected[p] = before  # there is nothing to commit
        return len(found), lost


def lives_of(cursor: Cursor | None, q: int) -> dict[int, int]:
    """Return {epoch: number at which it ends, for outcome partition q} of the lives that are not learned to their end, and of the present one, in order."""
    if cursor is None:
        return {}
    return {**{past.epoch: past.ends[q] for past in cursor.told.before}, cursor.epoch: cursor.numbers[q]}


def _is_sent(cursor: Cursor, q: int, at: tuple[int, int]) -> bool:
    return at[0] != cursor.epoch or at[1] < _at(cursor.told.sent, q)


def _at(numbers: list[int], q: int) -> int:
    return numbers[q] if numbers else 0
