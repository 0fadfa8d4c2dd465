"""The wire between worker and transport: where a log ends, and what a trunk may be judged on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from features.errors import InputError
from features.events import KINDS
from streams import app
from streams.batches import Reading
from streams.clock import Clock
from streams.commands.options import need_past


def wire(readings: list[Reading]) -> app.FaustWire:
    """A wire whose consumer gives these readings in turn, the last one for ever."""

    def reading(_: Any) -> Reading:
        return readings.pop(0) if len(readings) > 1 else readings[0]

    faust = SimpleNamespace(consumer=SimpleNamespace(reading=reading))
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


def test_a_trunk_that_has_seen_what_it_is_judged_on_is_refused() -> None:
    """Trained up to the launch is well; trained past it is an error that names the mend."""
    need_past(1000, 1000, Path("trunk"))
    with pytest.raises(InputError, match="--until 1000"):
        need_past(1001, 1000, Path("trunk"))
