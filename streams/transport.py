"""How records come in: Faust's aiokafka transport, but its messages say only that something has come, and reading starts at our own cursors.

Three things differ from the stock driver.

*Inflows.* A message's value is the `Inflow` of one topic partition. The consumer's thread drains into it what is fetched, whatever the app does meanwhile, and
tells the app once until that takes. So Faust's price is not paid for each record, and whoever takes, when it is ready to work, has all that has come by then;
whoever listens to an inflow that an agent was handed is told of what comes further without any message.

*Seeks.* Each seek begins a new inflow of its partition. An older one never gets past the transport; one that is already in an agent's hands is told by
`Consumer.is_current`. So after a seek nothing stale is taken for new, and nothing is lost in a rebalance: no gap or read-offset book-keeping is needed.

*Cursors.* On each assignment, before the flow resumes, reading starts where `Positions.cursors` says. What Kafka has as committed is
written so that its tools can show the lag, and never read.

    app = faust.App(**app_settings(...), autodiscover=False)
    app.transport = Transport(app.conf.broker_consumer, app, positions=positions)
    topic = inflow_topic(app, "browse", "click", "cart", "order")

    @app.agent(topic, name="score")
    async def score(stream):
        async for event in stream.noack().events():
            records = app.consumer.take(event.value)
            ...
            app.consumer.worked(event.value, records[-1].offset + 1)
            event.ack()
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Set
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from aiokafka.errors import IllegalStateError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode.utils.futures import notify

from features.errors import DependencyDown, Mismatch
from streams.consumer_thread import ConsumerThread
from streams.inflow import Inflow, Reading, Record, Waits

logger = logging.getLogger(__name__)

POLL_WAIT_S: Final = 0.1
"""How long one poll waits; what comes wakes it, so this is no latency."""


class Positions(Protocol):
    """Where to read: implemented by the pipeline, out of Redis. All are called on the app's event loop."""

    async def cursors(self, tps: set[TP]) -> Mapping[TP, int]:
        """Return the next offset to read of each partition; a partition that is absent starts at the beginning of its log.

        Called on each assignment with all assigned partitions, before any of their records is delivered. May raise: see `failed`.
        """

    def log_start_above(self, tp: TP, cursor: int, first: int) -> None:
        """Hear that records [cursor, first) are no longer in the log: they are lost, and reading starts at `first`."""

    def records_gone(self, tp: TP, first: int, upto: int) -> None:
        """Hear that records [first, upto) left the log while it was being read, before they were; reading goes on behind them."""

    async def settle(self) -> None:
        """Finish the batch in hand, up to its ack. Called when partitions are revoked and on shutdown; cancelled after `settle_s`."""

    def failed(self, error: BaseException) -> None:
        """Hear that positions could not be found. Should end the process (`hard_exit`): nothing is read until the next assignment."""


class _NoReadOffsets(dict[TP, int | None]):
    """Stands in for Faust's read offsets: inflows tell what is stale. The stock ones would drop what is read again after a seek back."""

    def __getitem__(self, _: TP) -> None:
        return None


class _Drainable(Set[TP]):
    """The partitions to drain, looked up when records have come: active in Faust, not parked and not full. Never empty for aiokafka, to which that means all."""

    def __init__(self, active: set[TP], parked: set[TP], is_full: Callable[[TP], bool]) -> None:
        self._active, self._parked, self._is_full = active, parked, is_full

    def __contains__(self, tp: object) -> bool:
        return tp in self._active and tp not in self._parked and not self._is_full(tp)

    def __iter__(self) -> Any:
        return iter([tp for tp in list(self._active) if tp in self])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __bool__(self) -> bool:
        return True


class Consumer(driver.Consumer):
    """Faust's consumer of inflows. Reach it as `app.consumer`; all methods are for the app's event loop."""

    logger = logging.getLogger("faust.transport.inflows")
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NoReadOffsets()
        self._parked: set[TP] = set()
        self._arrived: deque[Inflow] = deque()
        self._news = asyncio.Event()
        self._drainable: _Drainable | None = None
        self._broken: BaseException | None = None
        self.inflows: dict[TP, Inflow] = {}
        """The present one of each partition; none between its revocation and its first seek. The thread begins them."""

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _own_transport(self) -> Transport:
        return cast(Transport, self.transport)

    def gone(self, tp: TP, first: int, upto: int) -> None:
        """Hear from the thread that records left the log before they were read."""
        if tp in self.inflows:
            self._own_transport.positions.records_gone(tp, first, upto)

    def is_current(self, inflow: Inflow) -> bool:
        """Whether no seek, revocation or assignment of its partition came after it began. Ask before taking from it, and before working what was taken."""
        return self.inflows.get(inflow.tp) is inflow

    # Polling. Rewritten rather than extended: the stock methods drop records of paused partitions, and sleep when all are paused.

    def drainable(self) -> Set[TP] | None:
        """Return the partitions that the thread may drain, None while the flow stands. Called in the thread."""
        return self._drainable if self.flow_active else None

    def came(self, inflows: list[Inflow]) -> None:
        """Hear from the thread that something has come. Who listens is told at once, the rest goes by way of Faust."""
        for inflow in inflows:
            if inflow.listener is not None:
                inflow.listener()
            else:
                self._arrived.append(inflow)
                self._news.set()

    def broke(self, error: BaseException) -> None:
        """Hear from the thread that it has ended reading: the next poll raises what it met."""
        self._broken = error
        self._news.set()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """Yield the inflows to which something has come; waits where a rebalance comes between, and leaves out what it made stale."""
        await self._flows()
        self._drainable = _Drainable(self._get_active_partitions(), self._parked, self._thread.is_full)
        self._news.clear()
        if not self._arrived and self._broken is None and not self.should_stop:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(timeout, POLL_WAIT_S)):
                    await self._news.wait()
        if self._broken is not None:
            raise self._broken
        while self._arrived:
            await self._flows()
            if self.should_stop:
                return
            inflow = self._arrived.popleft()
            if self.is_current(inflow):
                yield inflow.tp, self._to_message(inflow.tp, inflow)

    async def _flows(self) -> None:
        if not self.flow_active:
            await self.wait(cast(Any, self.can_resume_flow))

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        return ConsumerMessage(
            tp.topic, tp.partition, record.next, 0.0, 0, None, None, record, None,
            0, 0, tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    def take(self, inflow: Inflow) -> list[Record]:
        """Return what has come since the last time, perhaps nothing."""
        records, size = inflow.take()
        if self._thread.is_much(len(records), size):
            self._thread.wake()
        return records

    # What Kafka is told. In order and without holes is the pipeline's promise; here the highest one counts.

    def worked(self, inflow: Inflow, upto: int) -> None:
        """Hear that all records below an offset are worked off."""
        if self.is_current(inflow) and self.app.topics.acks_enabled_for(inflow.tp.topic):
            self._acked[inflow.tp].append(upto - 1)
            self._n_acked += 1

    def ack(self, message: Any) -> bool:
        """Let go of a message: that something came is heard. It says nothing of what has become of the records."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)
        return True

    def _new_offset(self, tp: TP) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        highest = max(acked)
        acked[:] = [highest]
        return highest + 1

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Do nothing: compacted logs and transactions have holes, and ours is one number."""

    async def wait_empty(self) -> None:
        """Let the pipeline finish the batch in hand, for at most `settle_s`, and tell Kafka. The stock one waits for every batch that is held, without a bound."""
        transport = self._own_transport
        try:
            await asyncio.wait_for(transport.positions.settle(), transport.settle_s)
        except TimeoutError:
            logger.warning("The batch in hand was not finished within %g s; it will be worked again from the cursor", transport.settle_s)
        await self.commit()

    # Where to read.

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Make what was drained of them stale, after the batch in hand is finished."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self.inflows.pop(tp, None)
        self._parked.difference_update(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Start anew with these partitions: none is parked, and nothing is delivered before `seek_to_committed`."""
        self.inflows.clear()
        self._parked.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every assigned partition to its cursor and return the positions. Faust calls it before it resumes the flow."""
        # Else what came from here on would be cleared from the agents' queues when the rebalance ends, and an inflow tells but once that something has come.
        # Faust stops the flow where something is revoked: not for whoever had nothing, and an older rebalance can have let it go on since.
        self.stop_flow()
        tps = self.assignment()
        # Faust would go on without the seek after its own timeout.
        bound_s = 0.8 * self.app.conf.broker_request_timeout
        try:
            async with asyncio.timeout(bound_s):
                cursors = await self._own_transport.positions.cursors(set(tps))
                return await self._seek_within({tp: cursors.get(tp) for tp in tps})
        except IllegalStateError:
            raise  # assigned anew meanwhile: Faust comes again
        except Exception as error:
            if not self.should_stop and not self.app.should_stop:
                late = DependencyDown(f"where to read was not known within {bound_s:.0f} s: the broker or Redis does not answer")
                self._own_transport.positions.failed(late if isinstance(error, TimeoutError) else error)
            raise

    async def seek_partition(self, tp_to_offset: Mapping[TP, int | None]) -> Mapping[TP, int]:
        """Read on at these offsets (None: at the beginning of the log) and return the positions taken; what was drained before is stale.

        A position differs from its offset only where the log starts above it, after `Positions.log_start_above`. Partitions that
        are not assigned (any more) are left out. Raises Mismatch when a log ends below the offset, KafkaError when the broker does
        not answer.
        """
        try:
            return await self._seek_within(tp_to_offset)
        except IllegalStateError:
            return {}  # a rebalance came between: it seeks all partitions itself

    async def _seek(self, partition: TP, offset: int) -> None:
        await self.seek_partition({partition: offset})

    async def _seek_within(self, tp_to_offset: Mapping[TP, int | None]) -> Mapping[TP, int]:
        mine = self.assignment()
        wanted = {tp: offset for tp, offset in tp_to_offset.items() if tp in mine}
        firsts = await self._firsts(wanted)
        positions = {}
        for tp, offset in wanted.items():
            first = firsts[tp]
            if offset is not None and offset < first:
                self._own_transport.positions.log_start_above(tp, offset, first)
            positions[tp] = first if offset is None else max(offset, first)
        await self.seek_wait(positions)
        for tp, position in positions.items():
            self._acked.pop(tp, None)
            self._committed_offset[tp] = position
        self._thread.wake()
        return positions

    async def _firsts(self, wanted: Mapping[TP, int | None]) -> Mapping[TP, int]:
        """Return the first offset of each log, once it is certain that no log ends below its cursor.

        A new leader can tell an old end for a moment, and the embedded broker tells the beginning of its last batch. So where an end
        lies below the cursor, we fetch there: the answer has the true end.
        """
        deadline, probed = self.loop.time() + self._own_transport.shrunk_log_s, set[TP]()
        while True:
            bounds = await self._thread.bounds(list(wanted)) if wanted else {}
            ends = {tp: max(end, known.end if (known := self.reading(tp)) else 0) for tp, (_, end) in bounds.items()}
            beyond = {tp: offset for tp, offset in wanted.items() if offset is not None and offset > ends[tp]}
            if not beyond:
                return {tp: first for tp, (first, _) in bounds.items()}
            if self.loop.time() > deadline:
                tp, offset = next(iter(beyond.items()))
                raise Mismatch(
                    f"the log of {tp.topic}[{tp.partition}] ends at {ends[tp]}, below the cursor {offset}: the topic was made anew, or this is another cluster"
                )
            await self._thread.probe({tp: ends[tp] for tp in beyond if tp not in probed})
            probed.update(beyond)
            await asyncio.sleep(0.05)

    def pause(self, tps: Iterable[TP]) -> None:
        """Park partitions: nothing more of them is drained. A rebalance unparks all."""
        self._parked.update(TP(*tp) for tp in tps)

    def resume(self, tps: Iterable[TP]) -> None:
        """Unpark partitions; what was fetched meanwhile comes at once."""
        self._parked.difference_update({TP(*tp) for tp in tps})
        self._thread.wake()

    @property
    def paused(self) -> frozenset[TP]:
        """The parked partitions."""
        return frozenset(self._parked)

    def drained(self, tp: TP) -> Reading | None:
        """Return how far the partition was read, and where its log ended, at the last drain since its last seek; None before the first."""
        inflow = self.inflows.get(tp)
        return None if inflow is None else inflow.reading

    def waits(self, tp: TP) -> Waits:
        """Return what was drained of the partition since its last seek, and what of it waits. Callable from any thread."""
        inflow = self.inflows.get(tp)
        return Waits() if inflow is None else inflow.waits()

    def reading(self, tp: TP) -> Reading | None:
        """Return how far the partition is read and where its log ends, as of now, or None before the first fetch response. A parked one is not refreshed."""
        return self._thread.reading(tp)

    # Faust warns of streams that stand still; ours stand still at barriers, and progress is watched by the pipeline's own figures.

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing."""


class Transport(driver.Transport):
    """Set it as `app.transport` before any agent is declared; see the module's docstring.

    `fetch_max_wait_ms`: how long the broker may hold a fetch that has nothing to bring. `full_bytes`: a partition of which so much was drained and not taken is
    not drained further; what one fetch brings may go beyond it. `settle_s`: how long a rebalance or a stop waits
    for the batch in hand; keep it well below the session timeout. `shrunk_log_s`: how long a log may end below its cursor before that is
    taken for true.
    """

    Consumer = Consumer

    def __init__(
        self,
        url: Any,
        app: Any,
        *,
        positions: Positions,
        fetch_max_wait_ms: int = 20,
        full_bytes: int = 1_000_000,
        settle_s: float = 2.0,
        shrunk_log_s: float = 10.0,
    ) -> None:
        super().__init__(url, app)
        self.positions = positions
        self.fetch_max_wait_ms = fetch_max_wait_ms
        self.full_bytes = full_bytes
        self.settle_s = settle_s
        self.shrunk_log_s = shrunk_log_s


def check_copartitioned(assignment: Iterable[TP], input_topics: Iterable[str]) -> list[str]:
    """Return a line for each partition number of which some input topics are assigned here and others are not; empty when all is well."""
    wanted = list(input_topics)
    held: defaultdict[int, set[str]] = defaultdict(set)
    for tp in assignment:
        if tp.topic in wanted:
            held[tp.partition].add(tp.topic)
    return [
        f"partition {number} is split: {', '.join(t for t in wanted if t in topics)} here, {', '.join(t for t in wanted if t not in topics)} elsewhere"
        for number, topics in sorted(held.items())
        if len(topics) < len(set(wanted))
    ]
