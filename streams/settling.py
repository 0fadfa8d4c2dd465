"""What a desk has worked off and not settled: scores that wait to leave, and the one commit that is under way.

Scores leave when the commit before theirs is in the store, and a commit begins when its scores, and the outcomes of the one before, have left. So the scores that
a crash could take back are those of one commit, and what is worked off meanwhile, in memory, has told nobody anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from features.store import Changes, Store
from streams.gate import Portion
from streams.partition import Partition
from streams.pipeline import Outlet, Worked, deliver, publish_outbox

TURNS_TO_WRITE: Final = 2
"""Of the event loop, until a commit has been written to its socket: working off may leave it no further one before all is worked."""
ENOUGH: Final = 1_000
"""Events: if so many wait for a commit, nothing more is worked off until it is done. They leave together, and their own commit holds up Redis for all."""

Lost = tuple[int, int, int]
"""Records that left the log before they were read: their topic, the first of them, the one after the last."""


@dataclass
class Unsaid:
    """What was worked off and has said nothing yet: of how many records, what it says, the offsets (4,) that follow it, and the tick that ends with it."""

    records: int = 0
    says: Worked = field(default_factory=Worked)
    offsets: Sequence[int] = ()
    tick_end_ms: int | None = None


class Settling:
    """Sees the portions of one desk settled, one commit after the other. `committed` is called when one is done and its outcomes have left, `wake` whenever there is more to do."""

    def __init__(self, outlet: Outlet, store: Store, *, replay: bool, committed: Callable[[Unsaid], None], wake: Callable[[], None]) -> None:
        self._outlet, self._store, self._replay, self._committed, self._wake = outlet, store, replay, committed, wake
        self._unsaid: Unsaid | None = None
        self._commit: asyncio.Task[None] | None = None  # and what follows from it
        self._stored = asyncio.Event()  # or it has failed, and has ended
        self._gone: list[Lost] = []  # not counted as lost yet
        self._counting: Sequence[Lost] = ()  # by the last commit that has begun

    def waits(self) -> bool:
        """Whether something was worked off that has said nothing yet."""
        return self._unsaid is not None

    def is_full(self) -> bool:
        """Whether enough of that waits."""
        return self._unsaid is not None and self._unsaid.records >= ENOUGH

    def may_send(self) -> bool:
        """Whether something waits, and for no commit."""
        return self._unsaid is not None and (self._commit is None or self._stored.is_set())

    def is_under_way(self) -> bool:
        """Whether a commit is, or what follows from it."""
        return self._commit is not None and not self._commit.done()

    def gone(self, lost: Lost) -> None:
        """Hear of lost records; the commit that goes past them counts them."""
        self._gone.append(lost)

    def add(self, portion: Portion, worked: Worked) -> None:
        """Take what the next portion has to say."""
        unsaid = self._unsaid = self._unsaid or Unsaid()
        unsaid.records += len(portion.records)
        unsaid.says.add(worked)
        unsaid.offsets, unsaid.tick_end_ms = portion.offsets, portion.tick_end_ms

    async def send(self, partition: Partition) -> None:
        """Let what waits leave, when the last commit is in the store, and begin the next. Raises DependencyDown, and what `done` does."""
        if self._commit is not None:
            await self._stored.wait()
            if self._commit.done():
                await self.done()
        unsaid, self._unsaid = self._unsaid, None
        assert unsaid is not None
        await deliver(unsaid.says, self._outlet)
        await self.done()
        self._counting = self._passed(partition)
        partition.cursor.totals.lost += sum(upto - first for _, first, upto in self._counting)
        self._stored.clear()
        self._commit = asyncio.create_task(self._settle(partition, partition.changes(), unsaid), name=f"commit-{partition.number}")
        self._commit.add_done_callback(self._ended)
        for _ in range(TURNS_TO_WRITE):
            await asyncio.sleep(0)

    async def done(self) -> None:
        """See the last commit done, and what follows from it. Raises `LostCommit` and DependencyDown."""
        commit, self._commit = self._commit, None
        if commit is not None:
            await commit

    def start_over(self, before: Partition, now: Partition) -> None:
        """Drop what waits: the partition was loaded anew."""
        self._unsaid = None
        if before.version < before.begun == now.version:  # the commit was done, though its answer was lost
            self._forget_counted()
        self._counting = ()
        self._gone = self._passed(now)  # of what lies ahead of the cursor the seek tells again

    def cancel(self) -> None:
        """Let a commit go that is under way: nobody waits for it any more."""
        if self._commit is not None:
            self._commit.cancel()

    async def _settle(self, partition: Partition, changes: Changes, unsaid: Unsaid) -> None:
        try:
            await partition.commit(changes)
            self._forget_counted()
        finally:  # whoever waits for it finds a commit that failed at its end
            self._stored.set()
            self._wake()
        await publish_outbox(partition, self._outlet, self._store, tick_done_ms=unsaid.tick_end_ms if self._replay else None)
        self._committed(unsaid)

    def _ended(self, commit: asyncio.Task[None]) -> None:
        if not commit.cancelled():
            commit.exception()  # else asyncio reports one that nobody waits for, since something else has failed too
        self._wake()

    def _passed(self, partition: Partition) -> list[Lost]:
        return [(kind, first, upto) for kind, first, upto in self._gone if upto <= partition.cursor.offsets[kind]]

    def _forget_counted(self) -> None:
        self._gone = [one for one in self._gone if one not in self._counting]
        self._counting = ()
