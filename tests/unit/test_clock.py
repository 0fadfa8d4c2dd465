"""The worker's clock: no jump of the machine's moves it, and a Redis that is wrong alone is not followed."""

from __future__ import annotations

import pytest

from features.errors import InputError
from streams.clock import APART_MS, Clock

START_MS = 1_700_000_000_000


class Machine:
    """A machine whose clocks a test sets."""

    def __init__(self) -> None:
        self.wall_ms, self.monotonic_ms = START_MS, 5_000
        self.clock = Clock(wall_ms=lambda: self.wall_ms, monotonic_ms=lambda: self.monotonic_ms)

    def pass_ms(self, ms: int) -> None:
        """Let time pass."""
        self.wall_ms += ms
        self.monotonic_ms += ms


def test_a_jump_of_the_machines_clock_moves_nothing() -> None:
    """An hour ahead and back: the time goes on as before, and Redis, which agrees with it, is followed."""
    machine = Machine()
    machine.clock.hear(START_MS + 20)
    machine.wall_ms += 3_600_000
    machine.clock.hear(START_MS + 20)
    machine.pass_ms(1_000)
    assert machine.clock.now_ms() == START_MS + 1_020
    machine.wall_ms -= 7_200_000
    assert machine.clock.now_ms() == START_MS + 1_020


def test_the_time_is_redis_time_as_long_as_that_is_plausible() -> None:
    """A slow drift is followed, so that all workers have one time; a Redis that jumps alone is not."""
    machine = Machine()
    for _ in range(10):
        machine.pass_ms(1_000)
        machine.clock.hear(machine.clock.now_ms() + 5)
    assert machine.clock.now_ms() == START_MS + 10_050
    machine.clock.hear(START_MS + 3_600_000)
    assert machine.clock.now_ms() == START_MS + 10_050


def test_a_machine_that_slept_takes_up_the_time_of_the_others() -> None:
    """The monotonic clock stood still: the wall clock and Redis agree against it."""
    machine = Machine()
    machine.clock.hear(START_MS)
    machine.wall_ms += 60_000
    machine.clock.hear(START_MS + 60_000)
    assert machine.clock.now_ms() == START_MS + 60_000


def test_an_answer_that_took_long_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that stood still for a while makes no clock wrong."""
    machine = Machine()
    machine.clock.hear(START_MS)
    machine.pass_ms(20_000)
    machine.clock.hear(START_MS, took_ms=20_000)
    assert machine.clock.now_ms() == START_MS + 20_000
    assert not caplog.records


def test_a_worker_on_a_machine_that_is_far_off_does_not_start() -> None:
    """It says so in one line; later differences are only logged."""
    machine = Machine()
    with pytest.raises(InputError, match="clock differs from Redis' by 31 s: set the clocks right"):
        machine.clock.hear(START_MS + APART_MS + 1_000)


def test_how_old_an_answer_of_the_broker_is_does_not_depend_on_the_wall_clock() -> None:
    """What was stamped with the machine's clock a moment ago was a moment ago, wherever that clock stands."""
    machine = Machine()
    machine.clock.hear(START_MS)
    machine.wall_ms += 3_600_000
    assert machine.clock.now_ms() - machine.clock.of_wall_ms(machine.wall_ms - 40) == 40
