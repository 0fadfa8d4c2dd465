"""Ends a worker that stands still although there is work, so that its supervisor starts it again. It goes on from its cursors in Redis, and loses nothing.

A rebalance can leave Faust's flow stopped, an agent can end without a word, a callback can block the event loop for ever: the process is there and does
nothing (docs/operations.md). So progress is watched, from a thread of its own that needs none of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from streams.beats import resident_bytes
from streams.vitals import Vitals

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0


class Stalls:
    """Decides. Time is an argument; `look` is called every second or so."""

    def __init__(self, vitals: Vitals, *, stall_s: float, max_memory_mb: int = 0, memory_mb: Callable[[], float] = lambda: resident_bytes() / 1e6) -> None:
        """`stall_s`: how long a partition may have work and get nowhere. `max_memory_mb`: resident memory at most; 0: no limit."""
        self._vitals, self._stall_s, self._max_memory_mb, self._memory_mb = vitals, stall_s, max_memory_mb, memory_mb
        self._moved: dict[str, tuple[tuple[int, ...], float]] = {}
        self._still_since_s: float | None = None

    def look(self, now_s: float) -> str:
        """Return why the worker must be ended, or ""."""
        lag_s = self._vitals.loop_lag_s()
        if lag_s > self._stall_s:
            return f"the event loop has not answered for {lag_s:.0f} s"
        memory = self._memory_mb()
        if self._max_memory_mb and memory > self._max_memory_mb:
            return f"the process has {memory:.0f} MB of memory, more than max_memory_mb {self._max_memory_mb}"
        stuck, still_s = self._stuck(now_s), self._still_s(now_s)
        if still_s is None or not (stuck or still_s > self._stall_s):
            return stuck
        held_up = f"a rebalance has held up everything for {still_s:.0f} s"
        return f"{stuck}; {held_up}" if stuck else held_up

    def _still_s(self, now_s: float) -> float | None:
        """Return for how long a rebalance has held up everything; None if none does."""
        if not self._vitals.stands_still():
            self._still_since_s = None
            return None
        self._still_since_s = now_s if self._still_since_s is None else self._still_since_s
        return now_s - self._still_since_s

    def _stuck(self, now_s: float) -> str:
        places = {place.name: place for place in self._vitals.places()}
        self._moved = {name: moved for name, moved in self._moved.items() if name in places}
        for name, place in places.items():
            come_to, since_s = self._moved.get(name, (None, now_s))
            if place.come_to != come_to or not place.has_work:
                self._moved[name] = (place.come_to, now_s)
            elif now_s - since_s > self._stall_s:
                return f"{name} has work and has not moved for {now_s - since_s:.0f} s"
        return ""


class Watchdog:
    """The thread that looks, and calls `end` with the reason (which should end the process)."""

    def __init__(self, vitals: Vitals, stalls: Stalls, end: Callable[[str], Any], *, look_s: float = LOOK_S) -> None:
        self._vitals, self._stalls, self._end, self._look_s = vitals, stalls, end, look_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more: the worker is being stopped, which has a bound of its own."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._look_s):
            try:
                self._vitals.ask_loop()
                stall = self._stalls.look(time.monotonic())
            except Exception:
                logger.exception("the watchdog could not look; it goes on")
                continue
            if stall and not self._stop.is_set():
                self._vitals.stall = stall
                self._end(f"{stall}; to be started again")
                return
