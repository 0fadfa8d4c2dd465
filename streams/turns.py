"""Long work on the event loop takes turns with what else there is to do there: scores, for which somebody waits, go first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final, TypeVar

HELD_S: Final = 0.002
LONGEST_REST_S: Final = 0.01

T = TypeVar("T")


class Turns:
    """The turns of one piece of work, from its beginning on. Without `rests` it does not stop: where nobody waits."""

    def __init__(self, *, rests: bool) -> None:
        self._rests, self._since_s = rests, time.monotonic()

    async def pass_on(self) -> None:
        """Rest for as long as the work went on since it last did, if that was long: so it has half of the loop at most."""
        held_s = time.monotonic() - self._since_s
        if self._rests and held_s > HELD_S:
            await asyncio.sleep(min(held_s, LONGEST_REST_S))
            self._since_s = time.monotonic()

    async def parts(self, rows: Sequence[T], size: int) -> AsyncIterator[Sequence[T]]:
        """Yield rows in parts of so many, before each of which it may rest; without rests all of them at once."""
        size = size if self._rests else max(1, len(rows))
        for first in range(0, len(rows), size):
            await self.pass_on()
            yield rows[first : first + size]
