"""What is computed beside the event loop, and when."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from streams.aside import MANY, computed


@pytest.mark.parametrize(("n", "executor", "aside"), [(MANY, True, True), (MANY - 1, True, False), (MANY, False, False)])
def test_many_events_are_computed_in_another_thread(n: int, executor: bool, aside: bool) -> None:
    """Few are not, since to hand them over costs more; nor where there is none."""
    with ThreadPoolExecutor(1) as thread:
        worked_in = asyncio.run(computed(threading.current_thread, n, thread if executor else None))
    assert (worked_in is not threading.main_thread()) == aside


def test_the_event_loop_goes_on_meanwhile_and_an_error_comes_back() -> None:
    """The work waits for what the loop does only after it was handed over."""
    told = threading.Event()

    def work() -> None:
        assert told.wait(30)
        raise ValueError("no such row")

    async def both() -> None:
        async def tell() -> None:
            told.set()

        with ThreadPoolExecutor(1) as thread, pytest.raises(ValueError, match="no such row"):
            await asyncio.gather(computed(work, MANY, thread), tell())

    asyncio.run(both())
