"""How records come in: Faust's aiokafka transport, but one message for each (partition, poll), and reading starts at our own cursors.

Three things differ from the stock driver.

*Batches.* A message's value is a `Batch`: the raw records of one topic partition out of one poll. Faust's price is paid per poll.

*Epochs.* Each seek begins a new epoch of its partition, and each batch carries the epoch in which it was drained. A batch of an older
epoch never gets past the transport; one that was already in an agent's queue is told by `Consumer.is_current`. So after a seek nothing
stale is taken for new, and nothing is lost in a rebalance: no gap or read-offset book-keeping is needed.

*Cursors.* On each assignment, before the flow resumes, reading starts where `Positions.cursors` says. What Kafka has as committed is
written so that its tools can show the lag, and never read.

    app = faust.App(**app_settings(...), autodiscover=False)
    app.transport = Transport(app.conf.broker_consumer, app, positions=positions)
    topic = batch_topic(app, "browse", "click", "cart", "order")

    @app.agent(topic, name="score")
    async def score(stream):
        async for event in stream.noack().events():
            batch = event.value                       # a Batch
            ...
            event.ack()
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Set
from typing import Any, Final, Protocol, cast

from aiokafka.errors import IllegalStateError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode.utils.futures import notify

from features.errors import DependencyDown, Mismatch
from streams.batches import Batch as Batch
from streams.batches import Reading as Reading
from streams.batches import batch_topic as batch_topic
from streams.consumer_thread import ConsumerThread

logger = logging.getLogger(__name__)

POLL_WAIT_S: Final = 0.1
"""How long one poll waits for records. `resume` and a new fetch wake it, so this is no latency; it bounds how late the end of a pressure is seen."""


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
    """Stands in for Faust's read offsets: epochs tell what is stale. The stock ones would drop what is read again after a seek back."""

    def __getitem__(self, _: TP) -> None:
        return None


class _Fetchable(Set[TP]):
    """The partitions to drain in a poll, looked up when records have come: active in Faust and not parked. Never empty for aiokafka, to which that means all."""

    def __init__(self, active: set[TP], parked: set[TP]) -> None:
        self._active, self._parked = active, parked

    def __contains__(self, tp: object) -> bool:
        return tp in self._active and tp not in self._parked

    def __iter__(self) -> Any:
        return iter(self._active - self._parked)

    def __len__(self) -> int:
        return len(self._active - self._parked)

    def __bool__(self) -> bool:
        return True


class Consumer(driver.Consumer):
    """Faust's consumer of batches. Reach it as `app.consumer`; all methods are for the app's event loop."""

    logger = logging.getLogger("faust.transport.batched")
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NoReadOffsets()
        self._parked: set[TP] = set()
        self._drained: dict[TP, int] = {}
        self._epochs_begun = 0
        self.epochs: dict[TP, int] = {}
        """The present epoch of each partition; absent (0 in a batch) between its revocation and its first seek."""

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _batch_transport(self) -> Transport:
        return cast(Transport, self.transport)

    # Epochs.

    def new_epoch(self, tp: TP) -> None:
        """Begin a new epoch of the partition: what was drained before is stale. Called in the consumer's thread, right after a seek."""
        self._epochs_begun += 1
        self.epochs[tp] = self._epochs_begun
        self._drained.pop(tp, None)

    def gone(self, tp: TP, first: int, upto: int) -> None:
        """Hear from the thread that records left the log before they were read."""
        if tp in self.epochs:
            self._batch_transport.positions.records_gone(tp, first, upto)

    def is_current(self, batch: Batch) -> bool:
        """Whether no seek, revocation or assignment of its partition came after the batch was drained. Ask before working a queued batch."""
        return batch.epoch != 0 and self.epochs.get(batch.tp) == batch.epoch

    # Polling. Rewritten rather than extended: the stock methods drop records of paused partitions, and sleep when all are paused.

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:
        if not self.flow_active:
            await self.wait(cast(Any, self.can_resume_flow))
        if self.should_stop:
            return None, None
        fetchable = _Fetchable(self._get_active_partitions(), self._parked)
        return await self._getmany(active_partitions=cast(Any, fetchable), timeout=min(timeout, POLL_WAIT_S)), None

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """Yield each partition's batch out of one poll; waits where a rebalance comes between, and leaves out what it made stale."""
        records, _ = await self._wait_next_records(timeout)
        for tp, (batch,) in (records or {}).items():
            if not self.flow_active:
                await self.wait(cast(Any, self.can_resume_flow))
            if self.should_stop:
                return
            if self.is_current(batch):
                self.app.monitor.track_tp_end_offset(tp, batch.end)
                self._drained[batch.tp] = batch.next
                yield batch.tp, self._to_message(batch.tp, batch)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        batch: Batch = record
        last = batch.records[-1]
        return ConsumerMessage(
            tp.topic, tp.partition, last.offset, last.timestamp / 1000, last.timestamp_type, None, None, cast(Any, batch), None,
            0, 0, tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    # Acks. In order and without holes is the pipeline's promise; here the highest one counts.

    def ack(self, message: Any) -> bool:
        """Mark the batch as worked off."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        if self.is_current(message.value) and self.app.topics.acks_enabled_for(message.topic):
            self._acked[message.tp].append(message.offset)
            self._n_acked += 1
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
        """Do nothing: compacted logs and transactions have holes, and our batches have none."""

    async def wait_empty(self) -> None:
        """Let the pipeline finish the batch in hand, for at most `settle_s`, and tell Kafka. The stock one waits for every batch that is held, without a bound."""
        transport = self._batch_transport
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
            self.epochs.pop(tp, None)
        self._parked.difference_update(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Start anew with these partitions: none is parked, and nothing is delivered before `seek_to_committed`."""
        self.epochs.clear()
        self._parked.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every assigned partition to its cursor and return the positions. Faust calls it before it resumes the flow."""
        tps = self.assignment()
        # Faust would go on without the seek after its own timeout.
        bound_s = 0.8 * self.app.conf.broker_request_timeout
        try:
            async with asyncio.timeout(bound_s):
                cursors = await self._batch_transport.positions.cursors(set(tps))
                return await self._seek_within({tp: cursors.get(tp) for tp in tps})
        except IllegalStateError:
            raise  # assigned anew meanwhile: Faust comes again
        except Exception as error:
            if not self.should_stop and not self.app.should_stop:
                late = DependencyDown(f"where to read was not known within {bound_s:.0f} s: the broker or Redis does not answer")
                self._batch_transport.positions.failed(late if isinstance(error, TimeoutError) else error)
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
                self._batch_transport.positions.log_start_above(tp, offset, first)
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
        deadline, probed = self.loop.time() + self._batch_transport.shrunk_log_s, set[TP]()
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
        """Park partitions: no further batch of them is delivered, except one that is being delivered now. A rebalance unparks all."""
        self._parked.update(TP(*tp) for tp in tps)

    def resume(self, tps: Iterable[TP]) -> None:
        """Unpark partitions; what was fetched meanwhile is delivered at once."""
        self._parked.difference_update({TP(*tp) for tp in tps})
        self._thread.wake()

    @property
    def paused(self) -> frozenset[TP]:
        """The parked partitions."""
        return frozenset(self._parked)

    def drained(self, tp: TP) -> int:
        """Return the offset after the last record that was given to the agents since the last seek; 0 if none was."""
        return self._drained.get(tp, 0)

    def reading(self, tp: TP) -> Reading | None:
        """Return how far the partition is read and where its log ends, or None before the first fetch response. A parked one is not refreshed."""
        return self._thread.reading(tp)

    # Faust warns of streams that stand still; ours stand still at barriers, and progress is watched by the pipeline's own figures.

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing."""


class Transport(driver.Transport):
    """Set it as `app.transport` before any agent is declared; see the module's docstring.

    `fetch_max_wait_ms`: how long the broker may hold a fetch that has nothing to bring. `settle_s`: how long a rebalance or a stop waits
    for the batch in hand; keep it well below the session timeout. `shrunk_log_s`: how long a log may end below its cursor before that is
    taken for true.
    """

    Consumer = Consumer

    def __init__(self, url: Any, app: Any, *, positions: Positions, fetch_max_wait_ms: int = 20, settle_s: float = 2.0, shrunk_log_s: float = 10.0) -> None:
        super().__init__(url, app)
        self.positions = positions
        self.fetch_max_wait_ms = fetch_max_wait_ms
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
