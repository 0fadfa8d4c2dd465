"""Tasks are brought to an end even if they miss a cancellation, and those that do not end are told."""

from __future__ import annotations

import asyncio

from streams.stopping import end_tasks, where


async def _misses(cancellations: int, at_last: BaseException | None = None) -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not cancellations:
                if at_last is not None:
                    raise at_last from None
                raise
            cancellations -= 1


def test_a_task_that_misses_a_cancellation_is_cancelled_again() -> None:
    """As asyncio's wait_for of Python 3.11 does in a rare moment; what a task raises as it ends is of no interest."""

    async def run() -> None:
        tasks = {asyncio.create_task(_misses(0)), asyncio.create_task(_misses(2)), asyncio.create_task(_misses(1, ValueError("late")))}
        await asyncio.sleep(0)
        assert await end_tasks(tasks, within_s=60.0) == set()
        assert all(task.done() for task in tasks)

    asyncio.run(run())


def test_a_task_that_never_ends_is_returned() -> None:
    """After the time, with the place at which it stands."""

    async def run() -> None:
        ends, never = asyncio.create_task(_misses(0)), asyncio.create_task(_misses(10**9), name="stubborn")
        await asyncio.sleep(0)
        assert await end_tasks({ends, never}, within_s=0.3) == {never}
        assert "task stubborn" in where(never)
        assert "await asyncio.Event().wait()" in where(never)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(run())
    loop.close()


def test_nothing_to_end_is_no_wait() -> None:
    """Without tasks, or with tasks that are done, it returns at once."""

    async def run() -> None:
        done = asyncio.create_task(asyncio.sleep(0))
        await done
        assert await end_tasks({done}, within_s=60.0) == set()
        assert await end_tasks((), within_s=60.0) == set()

    asyncio.run(run())
