"""The time that a worker goes by, live: one that no jump of this machine's clock can move.

Bins close by the wall clock, on each worker's own machine. A clock that jumps ahead would close them before their orders come, and when it is set
right again the partition would stand still, since its time never goes back. So time runs on by the monotonic clock, and Redis' clock, which all
workers ask, says what it is. Where Redis disagrees with both the monotonic clock and this machine's, it is not followed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from features.errors import InputError

logger = logging.getLogger(__name__)

AGREE_MS: Final = 1_000
APART_MS: Final = 30_000  # at the start, this machine's clock may differ so much from Redis'


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Clock:
    """`now_ms` is the time; `hear` is told Redis' time now and then."""

    def __init__(self, *, wall_ms: Callable[[], int] = _wall_ms, monotonic_ms: Callable[[], int] = _monotonic_ms) -> None:
        self._wall_ms, self._monotonic_ms = wall_ms, monotonic_ms
        self._ahead_ms = wall_ms() - monotonic_ms()  # of the monotonic clock
        self._started = False
        self._told = ""

    def now_ms(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return self._monotonic_ms() + self._ahead_ms

    def of_wall_ms(self, wall_ms: int) -> int:
        """Return the time at which this machine's clock showed, a moment ago, `wall_ms`."""
        return self.now_ms() - (self._wall_ms() - wall_ms)

    def hear(self, server_ms: int, took_ms: int = 0) -> None:
        """Take in what Redis says the time is, with an answer that took so long, and log when clocks begin to differ.

        Raises InputError if they do by much at the start.
        """
        if took_ms > AGREE_MS:
            return  # the answer is too old to say anything
        server_ms += took_ms // 2
        apart_ms = server_ms - self._wall_ms()
        if not self._started and abs(apart_ms) > APART_MS:
            raise InputError(f"this machine's clock differs from Redis' by {abs(apart_ms) / 1000:.0f} s: set the clocks right (NTP)")
        followed = not self._started or abs(server_ms - self.now_ms()) <= AGREE_MS or abs(apart_ms) <= AGREE_MS
        if followed:
            self._ahead_ms = server_ms - self._monotonic_ms()
        self._started = True
        wrong = "" if abs(apart_ms) <= AGREE_MS else "this machine's" if followed else "Redis' or this machine's"
        if wrong and wrong != self._told:
            logger.warning("%s clock is wrong: they are %.1f s apart; set the clocks right (NTP)", wrong, abs(apart_ms) / 1000)
        self._told = wrong
