"""The thread with the aiokafka consumer: reading, leaving the group, telling Kafka offsets. `streams.transport` says what differs from the stock driver.

Whatever touches aiokafka's client runs on this thread's event loop; the app's loop reaches it by `call_thread`.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Set
from functools import cached_property, partial
from itertools import islice
from typing import Any, Final, Protocol, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.utils.futures import notify

from streams.holes import Holes
from streams.inflow import Inflow, Reading
from streams.stopping import end_tasks, where

logger = logging.getLogger(__name__)

COMMIT_TIMEOUT_S: Final = 5.0
DRAIN_WAIT_S: Final = 0.1
"""How long one drain waits for records. `wake` and a new fetch end it, so this is no latency."""
STANDS_S: Final = 0.01
"""How often it is asked, while the flow stands, whether it goes on."""
REST_S, LONGEST_REST_S = 0.005, 0.05
REST_S_A_PARTITION = 0.0025
REST_S_A_RECORD, MUCH_OF_ONE = 5e-5, 100
"""From a drain that brought something to the next fetch. What is drained costs a portion for each partition, some 3 ms however small it is, and a round trip
to the broker, so it had better be more; and the next is the less urgent the more waits to be taken, of many partitions. Not from fetch to drain: what comes
to the broker in the meantime would have missed the one, and waited for the next."""
FULL_RECORDS: Final = 2_000
"""An inflow in which so many wait is not added to until they are taken."""
LEAVE_S: Final = 3.0
LOOK_S: Final = 1.0
"""How often, at most, it is asked whether holes in what is read are records that left the log."""


class Told(Protocol):
    """What the thread tells its consumer, which lives on the app's event loop."""

    inflows: dict[TP, Inflow]
    loop: asyncio.AbstractEventLoop

    def drainable(self) -> Set[TP] | None:
        """Return the partitions to drain, None while nothing may be: asked in the thread."""

    def came(self, inflows: list[Inflow]) -> None:
        """Hear that something has come: on the app's loop."""

    def broke(self, error: BaseException) -> None:
        """Hear that reading has ended: on the app's loop."""

    def gone(self, tp: TP, first: int, upto: int) -> None: ...


class Waiting(Protocol):
    """What it asks its transport."""

    fetch_max_wait_ms: int
    full_bytes: int


Actions = tuple[Any, ...]
"""What aiokafka's fetcher does next: fetches, resets, how long it may wait before it looks again (s), and two more."""


class Fetched(OrderedDict[TopicPartition, Any]):
    """What aiokafka has fetched of each partition. It would copy each record into a dataclass of its own, which takes 1.6 µs and is what we read off it anyway,
    and hand them over one by one.
    """

    def __setitem__(self, tp: TopicPartition, fetched: Any) -> None:
        if isinstance(fetched, FetchResult):
            fetched._partition_records._consumer_record = _as_it_is
            fetched.getall = partial(_all_at_once, weakref.ref(fetched))  # else it would be a cycle, and stay
        super().__setitem__(tp, fetched)


def _as_it_is(_: TopicPartition, record: Any) -> Any:
    return record


def _all_at_once(whose: weakref.ref[FetchResult], max_records: int) -> list[Any]:
    """Return what `FetchResult.getall` does, by one call."""
    fetched = whose()
    assert fetched is not None
    if not fetched.check_assignment(fetched._topic_partition) or not fetched.has_more():
        return []
    records = list(islice(fetched._partition_records._records_iterator, max_records))
    fetched._update_position()
    if len(records) < max_records:
        fetched._partition_records = None
    return records


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread with the aiokafka consumer. Inflows begin and are filled here, so a drain lies wholly before or after a seek."""

    logger = logging.getLogger("faust.transport.inflows")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._holes, self._looked_s = Holes(), 0.0
        self._rest_from_s = self._rest_until_s = 0.0  # monotonic; until 0: none is under way
        self._rest_partitions = 0
        self._draining: asyncio.Task[None] | None = None

    @property
    def _told(self) -> Told:
        return cast(Told, self.consumer)

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # aiokafka has one fetch in flight for each broker. While it waits for idle partitions, one that has been drained, sought or
        # resumed meanwhile is not asked for; so the wait is the price of each round trip through a barrier. Faust's is 1 500 ms.
        consumer._fetch_max_wait_ms = cast(Waiting, self.transport).fetch_max_wait_ms
        return consumer

    async def on_start(self) -> None:
        """Start the consumer in this thread."""
        await super().on_start()
        # The same price again: aiokafka holds a broker's next fetch back while what a partition had fetched is not drained.
        fetcher = self._ensure_consumer()._fetcher
        fetcher._prefetch_backoff = cast(Waiting, self.transport).fetch_max_wait_ms / 1000
        fetcher._records = Fetched(fetcher._records)
        fetcher._get_actions_per_node = self._after_a_rest(fetcher._get_actions_per_node)
        self._draining = asyncio.create_task(self._drain_on(), name="draining")

    def _after_a_rest(self, look: Callable[[Any], Actions]) -> Callable[[Any], Actions]:
        """Put off what aiokafka would ask of its brokers until the rest is over, when it looks again; it then asks from where partitions are read by then."""

        def looking(assignment: Any) -> Actions:
            fetches, resets, timeout_s, *others = look(assignment)
            left_s = self._rest_until_s - time.monotonic()
            if left_s <= 0:
                self._rest_until_s = 0.0
            return (fetches, resets, timeout_s, *others) if left_s <= 0 or not fetches else ([], resets, min(timeout_s, left_s), *others)

        return looking

    def _rest(self, partitions: int) -> None:
        """Begin a rest, after a drain of so many partitions; or make the present one longer, if aiokafka has not looked since: several brokers answer."""
        if not self._rest_until_s:
            self._rest_from_s, self._rest_partitions = time.monotonic(), 0
        self._rest_partitions += partitions
        waiting = sum(min(len(inflow), MUCH_OF_ONE) for inflow in self._told.inflows.copy().values())
        rest_s = max(REST_S, self._rest_partitions * REST_S_A_PARTITION, waiting * REST_S_A_RECORD)
        self._rest_until_s = self._rest_from_s + min(LONGEST_REST_S, rest_s)

    async def on_thread_stop(self) -> None:
        """Leave the group and stop the consumer, within `LEAVE_S`."""
        if self._draining is not None:
            await end_tasks({self._draining}, within_s=LEAVE_S)
        coordinator = self._consumer._coordinator if self._consumer is not None else None
        if coordinator is not None and coordinator.generation == 0:
            # aiokafka takes generation 0 for none, and would not leave. It is the first one of the embedded broker.
            coordinator.generation = 1
        # A task, since mode swallows the cancellation by which a timeout would end it.
        leaving = asyncio.create_task(self._leave(coordinator), name="leaving")
        await asyncio.wait({leaving}, timeout=LEAVE_S)
        if leaving.done():
            leaving.result()
            return
        logger.warning("The group could not be left within %g s: its other workers take over when the session has timed out", LEAVE_S)
        await end_tasks({leaving}, within_s=1.0)

    async def _leave(self, coordinator: Any) -> None:
        if coordinator is not None and coordinator._coordination_task is not None:
            # It would first see a rebalance to its end that is under way, which waits for every other member.
            await end_tasks({coordinator._coordination_task}, within_s=LEAVE_S)
        await super().on_thread_stop()

    async def _gather_remaining_tasks(self) -> None:
        for task in await end_tasks(asyncio.all_tasks() - {asyncio.current_task()}, within_s=LEAVE_S):
            logger.warning("left behind when the consumer stopped:\n%s", where(task))

    def close(self) -> None:
        """Do nothing. Faust calls it when a rebalance comes while the app stops; the driver's closes client and coordinator from another thread's loop."""

    async def _drain_on(self) -> None:
        """Drain what is fetched at once, whatever the app does meanwhile; then the broker is asked for what comes next, after a rest."""
        try:
            while True:
                wanted = self._told.drainable()
                if wanted is None:
                    await asyncio.sleep(STANDS_S)
                elif partitions := await self._drain(wanted):
                    self._rest(partitions)
                    await asyncio.sleep(0)  # for seeks, heartbeats and answers: while much is fetched a drain does not wait
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  the app decides
            self._tell(self._told.broke, error)

    async def _drain(self, wanted: Set[TP]) -> int:
        """Drain once; returns of how many partitions, each of several topics, anything came."""
        consumer = self._ensure_consumer()
        found = await self._fetch_records(consumer, cast(Any, wanted), timeout=DRAIN_WAIT_S, max_records=consumer._max_poll_records)
        # No await from the drain to here, so no seek comes between.
        inflows, news = self._told.inflows.copy(), []
        for tp, present in inflows.items():
            present.reading = self.reading(tp)
        for tp, records in found.items():
            if (inflow := inflows.get(tp)) is not None:
                self._holes.read(inflow.tp, inflow.next, records[0].offset)
                if inflow.put(records):
                    news.append(inflow)
        if news:
            self._tell(self._told.came, news)
        if (places := self._holes.places()) and time.monotonic() - self._looked_s >= LOOK_S:
            self._looked_s = time.monotonic()
            await self._look_at_holes(consumer, places)
        return len({tp.partition for tp in found})

    def _tell(self, hear: Callable[..., None], *what: Any) -> None:
        if not self._told.loop.is_closed():
            self._told.loop.call_soon_threadsafe(hear, *what)

    def is_full(self, tp: TP) -> bool:
        """Whether so much of a partition waits that no more is drained. Callable from any thread."""
        inflow = self._told.inflows.get(tp)
        return inflow is not None and self.is_much(len(inflow), inflow.bytes)

    def is_much(self, records: int, size: int) -> bool:
        """Whether an inflow in which so many records wait, of about so many bytes, is full."""
        return records >= min(FULL_RECORDS, self._most_of_a_poll) or size >= cast(Waiting, self.transport).full_bytes

    @cached_property
    def _most_of_a_poll(self) -> int:
        """As the settings say: Faust takes its time to look one up."""
        return int(self.app.conf.broker_max_poll_records)

    async def _look_at_holes(self, consumer: AIOKafkaConsumer, places: list[TP]) -> None:
        try:
            firsts = await asyncio.wait_for(consumer.beginning_offsets([TopicPartition(*tp) for tp in places]), COMMIT_TIMEOUT_S)
        except (KafkaError, TimeoutError):
            return  # the next look finds them
        for tp, first, upto in self._holes.gone({tp: firsts[TopicPartition(*tp)] for tp in places}):
            self._tell(self._told.gone, tp, first, upto)

    async def _seek_wait(self, consumer: AIOKafkaConsumer, partitions: Mapping[TP, int]) -> None:
        for tp, offset in partitions.items():
            consumer.seek(TopicPartition(*tp), offset)
            self._holes.sought(tp)
            self._told.inflows[tp] = Inflow(tp, offset)
        self._rest_until_s = 0.0  # whoever seeks waits for it

    async def probe(self, partitions: Mapping[TP, int]) -> None:
        """Have the broker fetch at these offsets, so that `reading` becomes true; what it brings is stale."""

        async def seek() -> None:
            for tp, offset in partitions.items():
                self._ensure_consumer().seek(TopicPartition(*tp), offset)
                self._told.inflows.pop(tp, None)
            self._rest_until_s = 0.0

        await self.call_thread(seek)

    async def bounds(self, tps: list[TP]) -> dict[TP, tuple[int, int]]:
        """Return each partition's first offset, and the offset after its last, which the embedded broker puts too low."""

        async def ask() -> dict[TP, tuple[int, int]]:
            consumer, keys = self._ensure_consumer(), [TopicPartition(*tp) for tp in tps]
            first, end = await consumer.beginning_offsets(keys), await consumer.end_offsets(keys)
            return {tp: (first[key], end[key]) for tp, key in zip(tps, keys, strict=True)}

        return cast(dict[TP, tuple[int, int]], await self.call_thread(ask))

    def wake(self) -> None:
        """End the wait of a poll in flight, so that it looks again at what may be drained. Callable from any thread."""
        if self._consumer is not None and not self.thread_loop.is_closed():
            self.thread_loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        fetcher = self._ensure_consumer()._fetcher
        for waiter in list(fetcher._fetch_waiters) if fetcher is not None else ():
            notify(waiter)

    def reading(self, tp: TP) -> Reading | None:
        """Return how far the partition is read, or None before the first fetch response or when it is not ours."""
        consumer, key = self._consumer, TopicPartition(*tp)
        if consumer is None or not consumer._subscription.is_assigned(key):
            return None
        try:
            state = consumer._subscription.subscription.assignment.state_value(key)
        except (AttributeError, AssertionError):
            return None  # the thread is just giving it away
        if state.timestamp is None or state.highwater is None or not state.has_valid_position:
            return None
        return Reading(state.position, state.highwater, state.timestamp)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Tell Kafka the offsets. Only its tools read them: a failure is logged, and the next commit tells newer ones."""
        consumer, mine = self._ensure_consumer(), self.assignment()
        telling = {TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items() if tp in mine}
        try:
            if telling:
                await asyncio.wait_for(consumer.commit(telling), COMMIT_TIMEOUT_S)
        except (KafkaError, TimeoutError) as error:
            logger.warning("Kafka was not told the offsets (its tools show an old lag): %s", str(error) or type(error).__name__)
            return False
        return True
