"""How long Redis and the broker may fail somebody who tries again and again, and the pauses between the tries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 3.2


class Patience:
    """Of one who tries: since when it has failed, and how long the next pause is."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._since_s: float | None = None
        self._pause_s = PAUSE_S

    def down_s(self) -> float:
        """Return for how long it has failed; 0 if it does not. Callable from any thread."""
        since_s = self._since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def is_up(self) -> None:
        """Hear that it works."""
        self._since_s, self._pause_s = None, PAUSE_S

    def is_over(self) -> bool:
        """Hear that it has failed; returns whether it has for too long."""
        now_s = time.monotonic()
        self._since_s = self._since_s or now_s
        return now_s - self._since_s > self._longest_s

    async def pause(self, stopping: Callable[[], bool]) -> None:
        """Wait before the next try, longer each time, but for a stop: each try says again what was said before."""
        pauses, self._pause_s = round(self._pause_s / PAUSE_S), min(2 * self._pause_s, LONGEST_PAUSE_S)
        for _ in range(pauses):
            if not stopping():
                await asyncio.sleep(PAUSE_S)
