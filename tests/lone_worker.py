"""A worker without Kafka: a broker that takes everything, and a store that is emptied when the test says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from features.memory_store import MemoryStore
from features.store import Slot
from models.model import Model
from streams.gate import End
from streams.partition import Rules
from streams.records import Launch, Outgoing
from streams.worker import Worker
from tests.builders import START_MS, make_rules

RULES = make_rules(replay=False, partitioner_check=False)
LAUNCH = Launch(id="new", line="hats", window_s=21_600.0)


class Everything:
    """A broker that takes everything and has nothing."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.answered: int | None = None

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Keep them."""
        self.sent += records

    async def seek(self, offsets: object) -> None:
        """Nothing to do."""

    def hold(self, topic: int, partition: int, held: bool) -> None:
        """Nothing to do."""

    def end(self, topic: int, partition: int) -> End | None:
        """Nothing is known."""
        return None

    def answered_ms(self, topic: int, partition: int) -> int | None:
        """As the test says, of one partition."""
        return self.answered if topic == 0 else None


def make_worker(store: MemoryStore, model: Model, broker: Everything, patience_s: float = 10, rules: Rules = RULES, **meta: str) -> Worker:
    """A worker on a store."""
    return Worker(
        store, model, rules, tick_ms=60_000, patience_s=patience_s, outlet=broker, wire=broker, hard_exit=lambda *why: pytest.fail(str(why)), clock_ms=lambda: START_MS,
        meta={"trunk": model.artifact.sha256, **meta},
    )  # fmt: skip


class EmptiedStore(MemoryStore):
    """One that is emptied right before the `at`-th of its slots is loaded."""

    at = -1

    async def load(self, slot: str, hashes: Sequence[str]) -> Slot:
        """Count down first."""
        if self.at == 0:
            vars(self).update(vars(MemoryStore()))
        self.at -= 1
        return await super().load(slot, hashes)
