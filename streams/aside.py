"""Computing beside the event loop: kernels hold no lock of Python's, so while many events are computed its thread goes on with other partitions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, TypeVar

MANY: Final = 256
"""From how many events on it is worth while: they take some 3 ms, and to hand them over a tenth or two of one."""

T = TypeVar("T")


async def computed(work: Callable[[], T], n: int, aside: Executor | None) -> T:
    """Return what comes of some work on n events; of many, by way of the executor, if there is one. Raises what the work raises."""
    if aside is None or n < MANY:
        return work()
    return await asyncio.get_running_loop().run_in_executor(aside, work)
