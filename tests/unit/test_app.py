"""The wire between worker and transport: where a log ends, and what a trunk may be judged on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.record.default_records import DefaultRecord
from faust.types import TP

from features.errors import InputError
from features.events import KINDS, encode
from streams import app
from streams.aside import computed
from streams.clock import Clock
from streams.commands.options import need_past
from streams.inflow import Inflow, Reading, Record
from streams.measuring import Meters, Polls
from streams.namespace import open_store
from streams.records import TICK_HEADER
from streams.settings import load_settings, with_changes
from streams.transport import Consumer
from tests.builders import make_event, make_model, make_rules


def wire(readings: list[Reading]) -> app.FaustWire:
    """A wire whose consumer gives these readings in turn, the last one for ever."""

    def reading(_: Any) -> Reading:
        return readings.pop(0) if len(readings) > 1 else readings[0]

    faust = SimpleNamespace(consumer=SimpleNamespace(drained=reading))
    return app.FaustWire(cast(Any, faust), {name: name for name in (*KINDS, "outcomes")}, Clock())


def test_the_mark_of_a_transaction_at_a_logs_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the consumer has stood at the end for a while nothing is left to be read, though the last offset was never handed out."""
    monkeypatch.setattr(app, "STILL_S", 0.0)
    still = wire([Reading(11, 11, 5)])
    ends = [end.offset for _ in range(app.STILL_LOOKS + 2) if (end := still.end(0, 0)) is not None]
    assert ends == [11] * app.STILL_LOOKS + [0, 0]


def test_a_log_that_is_still_read_has_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """While records are left, or the position moves, the end is what the broker says."""
    monkeypatch.setattr(app, "STILL_S", 0.0)
    behind, moving = wire([Reading(4, 11, 5)]), wire([Reading(n, n, 5) for n in range(1, 40)])
    ends = [end.offset for source in (behind, moving) for _ in range(30) if (end := source.end(0, 0)) is not None]
    assert ends == [11] * 30 + list(range(1, 31))


class Told:
    """A consumer of one inflow, and what Kafka is told."""

    def __init__(self, inflow: Inflow) -> None:
        self.inflow: Inflow | None = inflow
        self.worked_off: list[int] = []

    def is_current(self, inflow: Inflow) -> bool:
        """Until it is taken away."""
        return inflow is self.inflow

    def take(self, inflow: Inflow) -> list[Record]:
        """As the inflow does."""
        return inflow.take()[0]

    def worked(self, inflow: Inflow, upto: int) -> None:
        """Note it."""
        self.worked_off.append(upto)


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
def test_a_tap_draws_what_has_come_decoded_and_says_what_is_worked_off(replay: bool) -> None:
    """All of it at once, with the offset that follows; nothing is None; tick records are told apart in a replay alone."""
    browse = TP("browse", 2)
    inflow = Inflow(browse, 7)
    consumer, polls = Told(inflow), Polls(Meters())
    tap = app.InflowTap(inflow, 0, cast(Consumer, consumer), polls, None, replay)
    assert tap.draw() is None
    tap.listen(polls.oldest_s)
    assert inflow.listener == polls.oldest_s
    event = make_event()
    for offset, value, headers in ((7, encode(event), [(TICK_HEADER, None)]), (8, b"broken", []), (9, b"", [(TICK_HEADER, b"5000")])):
        inflow.put([DefaultRecord(offset, 1, 0, event.user_id.encode(), value, headers)])
    drawn = tap.draw()
    assert drawn is not None
    records, next_offset, ack = drawn
    assert [(r.offset, r.arrived is not None, r.refused is not None, r.tick_ms) for r in records] == [
        (7, True, False, None), (8, False, True, None), (9, False, not replay, 5000 if replay else None),
    ]  # fmt: skip
    assert (next_offset, consumer.worked_off, polls.oldest_s() > 0) == (10, [], True)
    ack()
    assert (consumer.worked_off, polls.oldest_s(), tap.draw(), tap.is_current()) == ([10], 0, None, True)
    consumer.inflow = None
    assert not tap.is_current()


def test_a_trunk_that_has_seen_what_it_is_judged_on_is_refused() -> None:
    """Trained up to the launch is well; trained past it is an error that names the mend."""
    need_past(1000, 1000, Path("trunk"))
    with pytest.raises(InputError, match="--until 1000"):
        need_past(1001, 1000, Path("trunk"))


def test_a_workers_kernels_have_a_thread_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the event loop would wait for each of them, and nothing but a benchmark would tell."""
    monkeypatch.setattr("streams.aside.MANY", 1)
    settings = with_changes(load_settings(None, needs=()), broker="127.0.0.1:1", redis="redis://127.0.0.1:1")
    made = app.create_app(settings, open_store(settings), make_model("shoes"), make_rules(replay=False))
    assert asyncio.run(computed(threading.current_thread, 1, made.worker.knowledge.aside)).name.startswith("kernels")
