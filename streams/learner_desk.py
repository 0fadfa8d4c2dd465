"""Where one outcome partition is learned: a loop that feeds the learner, lets it commit, and sends the heads' snapshots."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from features.errors import DependencyDown, HeadstartError
from streams.alerts import Alert
from streams.learner import Learner
from streams.partition import LostCommit
from streams.patience import Patience
from streams.pipeline import Outlet
from streams.records import Message, decode_message
from streams.turns import Turns

logger = logging.getLogger(__name__)

IDLE_S = 0.5
HELD_MESSAGES = 20_000
STEP_MESSAGES, HURRIED_STEP_MESSAGES = 1_000, 5_000  # live, so many are learned in a step, and so many, without rests, by who is that far behind
RECEIVE_AT_ONCE = 250
HOLES_S = 3.0  # between two looks for what the broker has lost
GATHER_S = 0.25  # live, what comes so soon after the first is learned with it: a step has its price, however little it learns

_Taken = tuple[list[tuple[int, bytes | None]], int, Callable[[], Any], Callable[[], bool]]


class LearnerDesk:
    """Outcome partition `q` of a worker. `load` makes a learner from the store; `seek` reads the topic on at its offset."""

    def __init__(
        self, learner: Learner, *, load: Callable[[int], Awaitable[Learner]], seek: Callable[[int, int], Awaitable[None]], outlet: Outlet,
        hold: Callable[[int, bool], None], end: Callable[[int], int | None], tell: Callable[[Alert], None], patience_s: float,
        learned: Callable[[], None], crashed: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        """`end` says where the topic ended a moment ago, None if that is not known; `tell` sends an alert, sooner or later."""
        self.learner, self.q, self._end, self._alert = learner, learner.q, end, tell
        self._load, self._seek, self._hold, self._outlet, self._learned, self._crashed = load, seek, hold, outlet, learned, crashed
        self._held = False
        self._patience = Patience(patience_s)
        self._queue: deque[tuple[int, bytes | None]] = deque()
        self._acks: deque[tuple[int, Callable[[], Any]]] = deque()
        self._news = asyncio.Event()
        self._looked_s = 0.0
        self._stopping = self._reload = False
        self._unsettled = False  # what was received is not learned: that the store can be read again says nothing of it
        self._meanwhile: list[_Taken] | None = None  # what comes while the desk starts over
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to learn."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"learner-{self.q}")

    async def stop(self) -> None:
        """Finish the commit in hand, and learn no more."""
        self._stopping = True
        self._news.set()
        if self._task is not None:
            await asyncio.wait({self._task})  # whoever stops waiting does not cancel what is in hand

    def stopping(self) -> bool:
        """Whether the desk learns nothing further."""
        return self._stopping

    def down_s(self) -> float:
        """Return for how long Redis or the broker has failed it; 0 if they do not."""
        return self._patience.down_s()

    def load_again(self) -> None:
        """Drop everything and start from the store."""
        self._reload = True
        self._news.set()

    def take(self, records: list[tuple[int, bytes | None]], next_offset: int, ack: Callable[[], Any], is_current: Callable[[], bool]) -> None:
        """Queue what one poll brought; what comes during a start over is kept until `is_current` can tell whether it is from after the seek."""
        if self._meanwhile is not None:
            self._meanwhile.append((records, next_offset, ack, is_current))
        elif not self.stopping():
            self._queue.extend(records)
            self._acks.append((next_offset, ack))
            self._set_hold(len(self._queue) > HELD_MESSAGES)
            self._news.set()

    def _set_hold(self, held: bool) -> None:
        if held != self._held:
            self._held = held
            self._hold(self.q, held)

    async def _run(self) -> None:
        quiet = False
        try:
            while not self.stopping():
                self._news.clear()
                try:
                    if self._reload or (quiet and not await self.learner.is_current()):  # or: the store went back, and nothing that comes would tell
                        await self._start_over()
                    await self._work()
                    await self._look_for_holes()
                    if not self._unsettled:
                        self._patience.is_up()
                except LostCommit as lost:
                    logger.warning("%s; starting over", lost)
                    self._reload = True
                    await asyncio.sleep(0.05)
                    continue
                except DependencyDown as down:
                    if self._patience.is_over():
                        raise
                    logger.warning("outcomes[%d]: %s; starting over", self.q, down)
                    self._reload = True
                    await self._patience.pause(self.stopping)
                    continue
                quiet = False
                try:
                    async with asyncio.timeout(IDLE_S):
                        await self._news.wait()
                    if self.learner.is_live:
                        await asyncio.sleep(GATHER_S)
                except TimeoutError:
                    quiet = True
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  whatever it is, the process must not go on
            self._crashed(error)

    async def _work(self) -> None:
        await self._tell()
        left = len(self._queue)  # what comes meanwhile waits for the next time: there is more to do than to learn
        rests = left < HURRIED_STEP_MESSAGES
        received, at_once, turns = 0, STEP_MESSAGES if rests else HURRIED_STEP_MESSAGES, self._turns(rests)
        while left and not self.stopping() and not self._reload:
            left -= 1
            message = await self._receive()
            received += 1
            if received % RECEIVE_AT_ONCE == 0:
                await turns.pass_on()
            if not left or self.learner.is_tick_end(message) or received % at_once == 0:
                await self._step(rests)
                turns = self._turns(rests)
        self._set_hold(len(self._queue) > HELD_MESSAGES)
        await self._step(rests)
        if received:
            self._unsettled = False

    def _turns(self, rests: bool) -> Turns:
        return Turns(rests=rests and self.learner.is_live)

    async def _receive(self) -> Message:
        offset, value = self._queue.popleft()
        try:
            message: Message = decode_message(value or b"")
        except msgspec.MsgspecError as error:
            raise HeadstartError(f"outcomes[{self.q}] at offset {offset} is no outcome of ours: {error}") from None
        self._unsettled = True
        await self.learner.receive(message, offset)
        return message

    async def _look_for_holes(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._looked_s < HOLES_S and not self.learner.is_full():
            return
        self._looked_s = now_s
        if self.learner.is_live and len(self._queue) <= STEP_MESSAGES:  # a few come all the time; of a backlog nobody knows yet what is missing
            while self._queue:
                await self._receive()
        end = self._end(self.q)
        if await self.learner.look_for_holes(all_read=not self._queue and end is not None and self.learner.read_to >= end):
            self._unsettled = True
            await self._step()
            self._unsettled = False

    async def _step(self, rests: bool = True) -> None:
        learned = False
        while await self.learner.step(rests=rests):
            learned, self._unsettled = True, False
        for alert in self.learner.alerts:
            self._alert(alert)
        self.learner.alerts.clear()
        if not learned:
            return
        self._learned()
        await self._tell()
        while self._acks and self._acks[0][0] <= self.learner.cursor.offset:
            self._acks.popleft()[1]()

    async def _tell(self) -> None:
        unsent = self.learner.unsent()
        if unsent:
            await self._outlet.deliver(unsent)
            self.learner.mark_sent()

    async def _start_over(self) -> None:
        if self.stopping():
            return  # who has the partition next would not know that it is held
        self._reload = False
        self._meanwhile = []
        self._queue.clear()
        self._acks.clear()
        self._set_hold(True)  # what comes before the seek is of no use, and could be much
        before, self.learner = self.learner, await self._load(self.q)
        if self.learner.version != before.version:  # the commit was done, though its answer was lost, or somebody else's was
            self._unsettled = False
        if self.stopping():
            return
        await self._seek(self.q, self.learner.cursor.offset)
        self._set_hold(False)
        meanwhile, self._meanwhile = self._meanwhile, None
        for taken in meanwhile:
            if taken[-1]():
                self.take(*taken)
