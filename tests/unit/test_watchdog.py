"""What counts as standing still: work and no progress, and nothing else."""

from __future__ import annotations

from typing import cast

import pytest

from streams.beats import resident_bytes
from streams.vitals import Place, Vitals
from streams.watchdog import Stalls

STALL_S = 60


class Told:
    """Vitals that a test tells."""

    def __init__(self) -> None:
        self.lag_s = 0.0
        self.still = False
        self.found: list[Place] = []

    def loop_lag_s(self) -> float:
        return self.lag_s

    def stands_still(self) -> bool:
        return self.still

    def places(self) -> list[Place]:
        return self.found


@pytest.fixture
def told() -> Told:
    """A worker that is well."""
    return Told()


def stalls(told: Told, *, max_memory_mb: int = 0, memory: float = 100.0) -> Stalls:
    """What decides."""
    return Stalls(cast(Vitals, told), stall_s=STALL_S, max_memory_mb=max_memory_mb, memory_mb=lambda: memory)


def test_a_partition_with_work_that_does_not_move_is_a_stall(told: Told) -> None:
    """For as long as the setting says, not a second less; the reason names the partition."""
    look = stalls(told).look
    told.found = [Place("partition 0", (5, 5), True), Place("partition 1", (9,), True)]
    assert look(1000.0) == ""
    told.found[1] = Place("partition 1", (10,), True)
    assert look(1000.0 + STALL_S) == ""
    assert look(1001.0 + STALL_S) == "partition 0 has work and has not moved for 61 s"


def test_a_partition_without_work_may_stand_still_for_ever(told: Told) -> None:
    """The time counts from the moment on that there is work."""
    look = stalls(told).look
    told.found = [Place("partition 0", (5,), False)]
    assert [look(s) for s in (0.0, 1e4, 1e5)] == [""] * 3
    told.found = [Place("partition 0", (5,), True)]
    assert look(1e5 + STALL_S - 1) == ""
    assert look(1e5 + STALL_S + 1) != ""


def test_a_partition_that_left_and_came_back_starts_anew(told: Told) -> None:
    """What another worker had meanwhile is no stall of this one."""
    look = stalls(told).look
    told.found = [Place("partition 0", (5,), True)]
    look(0.0)
    told.found = []
    look(50.0)
    told.found = [Place("partition 0", (5,), True)]
    assert look(100.0) == ""
    assert look(161.0) != ""


def test_a_loop_that_does_not_answer_and_a_rebalance_that_does_not_end_are_stalls(told: Told) -> None:
    """Also where no partition is assigned."""
    look = stalls(told).look
    told.lag_s = STALL_S
    assert look(0.0) == ""
    told.lag_s = STALL_S + 1
    assert "event loop" in look(0.0)
    told.lag_s, told.still = 0.0, True
    assert look(10.0) == ""
    told.still = False
    assert look(60.0) == ""
    told.still = True
    assert (look(70.0), "rebalance" in look(131.0)) == ("", True)


def test_a_partition_that_a_rebalance_holds_up_is_told_with_it(told: Told) -> None:
    """Its clock may have begun to run before the rebalance; who reads the reason wants to know of both."""
    look = stalls(told).look
    told.found = [Place("partition 0", (5,), True)]
    look(0.0)
    told.still = True
    assert look(2.0) == ""
    assert look(61.0) == "partition 0 has work and has not moved for 61 s; a rebalance has held up everything for 59 s"


def test_too_much_memory_is_a_reason_only_where_a_limit_is_set(told: Told) -> None:
    """0 is no limit."""
    assert stalls(told, memory=1e6).look(0.0) == ""
    assert "max_memory_mb 50" in stalls(told, max_memory_mb=50).look(0.0)
    assert stalls(told, max_memory_mb=200).look(0.0) == ""
    assert 10e6 < resident_bytes() < 100e9
