"""One input partition as its worker holds it: cursor, open exposures, outbox, and the shoppers' records that it has at hand."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.catalogue import Counts, in_parts
from features.errors import Mismatch
from features.exposures import Closed
from features.hashing import partition_for
from features.intake import LocalTime
from features.layout import USER, USER_LINE
from features.names import Names, names_of
from features.pending import Pending
from features.residents import Residents
from features.store import Changes, Store, decoded, first_version
from features.vector import SCHEMA_HASH
from streams.line_records import line_names
from streams.outbox import OUTBOX, Outbox, Past, Told, begin_life, first_epoch, key_of
from streams.records import Counted, Outcome, Seen, encode_message
from streams.seen import in_order

TOPICS = 4


@dataclass(frozen=True)
class Rules:
    """What all partitions of a namespace agree on. Times in ms; `edges_ms` (K,) are the ends of the delay bins."""

    edges_ms: tuple[int, ...]
    partitions: int = 1
    outcome_partitions: int = 1
    grace_ms: int = 60_000
    ttl_ms: int = 30 * 86_400_000
    learn_share: float = 1.0
    max_pending: int = 1_000_000
    max_tick_events: int = 200_000
    lru_users: int = 100_000
    timezone: str = "UTC"
    replay: bool = True
    partitioner_check: bool = True
    future_ms: int = 300_000
    reacts: bool = True
    explains: bool = False

    def shared_by(self, partitions: int) -> Rules:
        """Return the rules of each of the partitions that one process holds: they share what it may have in memory."""
        n = max(1, partitions)
        return replace(self, max_pending=max(1, self.max_pending // n), lru_users=max(1, self.lru_users // n))


class Totals(msgspec.Struct, array_like=True):
    """read = applied + duplicate + rejected, at every commit."""

    read: int = 0
    applied: int = 0
    duplicate: int = 0
    rejected: int = 0
    exposures: int = 0
    untracked: int = 0
    late_orders: int = 0
    lost: int = 0  # records that had left the log before they were read


class Cursor(msgspec.Struct, array_like=True, kw_only=True):
    """Up to where all effects are in the store."""

    epoch: int
    offsets: list[int]  # the next one of each of the four input topics
    numbers: list[int]  # the next outcome number for each outcome partition
    tick_ms: int = 0  # the end of the last tick that was closed
    time_ms: int = 0
    totals: Totals
    counts: Counts = {}  # of the tick that is under way
    seen: Seen = msgspec.field(default_factory=Seen)  # since the last word to the learner
    schema: str = SCHEMA_HASH  # of the records that were committed with it
    told: Told = msgspec.field(default_factory=Told)  # what its lives have told, as far as it is not learned


def first_cursor(offsets: list[int], outcome_partitions: int, *, schema: str = SCHEMA_HASH) -> Cursor:
    """Return the cursor of a partition that nobody has worked, and that begins at `offsets` (4,)."""
    return Cursor(epoch=first_epoch(), offsets=offsets, numbers=[0] * outcome_partitions, totals=Totals(), schema=schema)


@dataclass(frozen=True)
class _Heard:
    """What a learner expected, (epoch, number), and the version of the last commit that had begun by then."""

    version: int
    at: tuple[int, int]


class LostCommit(Exception):
    """Another worker, or an earlier life of this one, has committed: drop everything and load again. Retried at once."""


class Partition:
    """Partition `number`. Made by `load`, and made anew after every commit that was refused, failed or unanswered."""

    def __init__(self, number: int, store: Store, rules: Rules, *, version: int, cursor: Cursor, pending: Pending, outbox: Outbox | None = None) -> None:
        self.number, self.rules, self.cursor, self.pending = number, rules, cursor, pending
        self.outbox = outbox or Outbox({}, epoch=cursor.epoch, sent=())
        self.local = LocalTime(rules.timezone)
        self._store, self.version, self._next_version = store, version, first_version(version, secrets.randbits(32))
        self._q_of: dict[str, int] = {}
        self._learned: dict[int, tuple[int, int]] = {}  # by outcome partition: the epoch and number below which all may be let go
        self._heard: dict[int, _Heard] = {}  # by outcome partition, what is not yet taken for certain
        self._committing = False
        self.users = Residents(USER, rules.lru_users)  # by the user's id, held as "u:…"
        self.lines = Residents(USER_LINE, rules.lru_users)  # by `line_names`, held as "ul:…"
        self.has_read = False  # records from the store, since the last commit

    @classmethod
    async def load(cls, number: int, store: Store, rules: Rules) -> Partition:
        """Read version, cursor, pending exposures and outbox in one step; a partition that nobody has worked begins at zero.

        Live this begins a life: what the store has forgotten of the last one is told under other numbers (`streams.outbox`).
        """
        slot = await store.load(str(number), ("pending", OUTBOX))
        if slot.version:
            cursor = decoded(slot.cursor, Cursor, "a partition's cursor")
            if cursor.schema != SCHEMA_HASH:
                raise Mismatch(
                    f"partition {number} holds records of feature schema {cursor.schema}, this program has {SCHEMA_HASH}: rebuild them in a namespace of their own"
                )
            if len(cursor.numbers) != rules.outcome_partitions:
                raise Mismatch(f"partition {number} knows {len(cursor.numbers)} outcome partitions, the settings say {rules.outcome_partitions}")
        else:
            cursor = first_cursor([0] * TOPICS, rules.outcome_partitions)
        outbox = Outbox(slot.hashes[OUTBOX], epoch=cursor.epoch, sent=cursor.told.sent)
        if slot.version and not rules.replay:
            cursor.epoch, cursor.told = begin_life(cursor.epoch, cursor.numbers, cursor.told)
            cursor.numbers = [0] * rules.outcome_partitions
        return cls(number, store, rules, version=slot.version, cursor=cursor, pending=Pending(rules.edges_ms, slot.hashes["pending"]), outbox=outbox)

    async def place_users(self, users: Sequence[str]) -> NDArray[np.int64]:
        """Return where in `users.rows` the records of users (N,) are; who is unknown has an empty one."""
        return (await self.place(names_of(users), names_of(())))[0]

    async def place_lines(self, users: Sequence[str], domain: str) -> NDArray[np.int64]:
        """Return where in `lines.rows` the records of users (N,) in a domain are."""
        every = np.arange(len(users))
        return (await self.place(names_of(()), line_names(names_of(users), every, [domain], np.zeros_like(every))))[1]

    async def place(self, users: Names, lines: Names) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same for both at once: what is not at hand of either comes in one answer. Two calls must not overlap."""
        wanted = ((self.users, users.after("u:")), (self.lines, lines.after("ul:")))
        found = [residents.find(names) for residents, names in wanted]
        if unread := [text for _, missing in found for text in missing.texts]:
            self.has_read = True
            values = iter(await self._store.read(str(self.number), unread))
            for (residents, names), (places, missing) in zip(wanted, found, strict=True):
                if missing.texts:
                    residents.take_in(missing, list(islice(values, len(missing.texts))))
                    came = places < 0
                    places[came] = residents.look(names.keys[came])
                    assert (places >= 0).all(), "one text has two keys"
        return found[0][0], found[1][0]

    def tell(self, key: str, closed: Closed) -> None:
        """Put an outcome into the outbox, under the next number for its key's outcome partition."""
        cursor = self.cursor
        q = self._q_of.get(key)
        if q is None:
            q = self._q_of[key] = partition_for(key.encode(), self.rules.outcome_partitions)
        number = cursor.numbers[q]
        self._post(q, Outcome(epoch=cursor.epoch, partition=self.number, number=number, key=key, closed=closed, after=self._after(q)))

    def tell_counts(self, tick_ms: int) -> None:
        """Put what was counted and seen since the last tick into the outbox, for the catalogue's writer at outcome partition 0."""
        cursor = self.cursor
        if cursor.counts or cursor.seen:
            seen = in_order(cursor.seen) if cursor.seen else None
            for counts in in_parts(cursor.counts):
                number = cursor.numbers[0]
                told = Counted(epoch=cursor.epoch, partition=self.number, number=number, tick_ms=tick_ms, counts=counts, seen=seen, after=self._after(0))
                self._post(0, told)
                seen = None
            cursor.counts, cursor.seen = {}, Seen()

    def _after(self, q: int) -> tuple[int, int] | None:
        """Return, for the first message of a life, the epoch before it and where that ended."""
        prior = self.cursor.told.prior
        return (prior[q][0], prior[q][1]) if not self.cursor.numbers[q] and prior and prior[q] else None

    def _post(self, q: int, message: Outcome | Counted) -> None:
        self.outbox.post((q, message.epoch, message.number), key_of(message), encode_message(message))
        self.cursor.numbers[q] += 1

    def learned(self, q: int, epoch: int, number: int, *, as_of: int) -> None:
        """Hear that the learner of outcome partition q expects (epoch, number) next of this partition, as was read after the commit of version `as_of`.

        The store may go back to before the learner's commit and still hold this partition's version, so a commit of ours would pass. What the learner had
        learned before a commit of ours began, and has still learned after it, is in every state of the store that holds that commit: only that is let go.
        """
        if epoch != self.cursor.epoch and epoch not in [past.epoch for past in self.cursor.told.before]:
            return  # a life that all have learned to its end, or one of another state of the store
        heard, now = self._heard.get(q), (epoch, number)
        if heard is not None and heard.at <= now and heard.version < self.begun:
            if as_of <= heard.version:
                return  # it was read before the commit that began since was done
            self._let_go(q, *heard.at)
        self._heard[q] = _Heard(self.begun, now)

    def _let_go(self, q: int, epoch: int, number: int) -> None:
        told = self.cursor.told
        self.outbox.learned(q, epoch, number)
        self._learned[q] = epoch, number
        told.before = [past for past in told.before if not all(self._is_learned(q, past) for q in range(len(past.ends)))]

    def _is_learned(self, q: int, past: Past) -> bool:
        return not past.ends[q] or self._learned.get(q, (0, 0)) >= (past.epoch, past.ends[q])

    @property
    def begun(self) -> int:
        """The version of the last commit that has begun, which `version` will be when it is done."""
        return self._next_version if self._committing else self.version

    def changes(self) -> Changes:
        """Return everything since the last commit, as it is now, for the next one. What changes from here on, while that is under way, belongs to the one after."""
        assert not self._committing
        self._committing = True  # and for good, if it fails
        if self.rules.replay:
            self.outbox.forget_sent()
        self.cursor.told.sent = self.outbox.sent(self.cursor.epoch, self.cursor.numbers)
        open_now, closed = self.pending.changes()
        posted, learned = self.outbox.changes()
        return Changes(
            cursor=msgspec.msgpack.encode(self.cursor),
            blocks=[self.users.changes(), self.lines.changes()],
            put={"pending": open_now, OUTBOX: posted},
            drop={"pending": closed, OUTBOX: learned},
            version=self._next_version,
        )

    async def commit(self, changes: Changes | None = None) -> None:
        """Write what `changes` returned, or now returns, in one step. Raises `LostCommit` when the version is not ours, and DependencyDown."""
        changes = changes or self.changes()
        if not await self._store.commit(str(self.number), self.version, changes):
            raise LostCommit(f"partition {self.number}: version {self.version} is no longer the store's")
        self.version, self._next_version, self._committing = self._next_version, self._next_version + 1, False
        for kept in (self.users, self.lines, self.outbox):
            kept.committed()
        self.has_read = False

    async def is_current(self) -> bool:
        """Whether the store's version is still ours: else it went back, or someone else has committed."""
        return (await self._store.load(str(self.number), ())).version == self.version

    def upto(self, q: int) -> int:
        """Return the number that the next outcome for outcome partition q will have."""
        return self.cursor.numbers[q]
