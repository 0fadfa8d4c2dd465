"""How tasks are brought to an end, and how it is told where those stand that do not end."""

from __future__ import annotations

import asyncio
import io
import sys
import traceback
from collections.abc import Iterable
from types import FrameType
from typing import Any, Final, cast

AGAIN_S: Final = 0.2


async def end_tasks(tasks: Iterable[asyncio.Task[object]], *, within_s: float) -> set[asyncio.Task[object]]:
    """Cancel tasks until they have ended; returns those that have not within the time.

    Once is not enough: in Python 3.11 an `asyncio.wait_for` whose wait is over in the moment of the cancellation forgets it (cpython issue 86296).
    """
    loop = asyncio.get_running_loop()
    until_s, left = loop.time() + within_s, {task for task in tasks if not task.done()}
    while left and loop.time() < until_s:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=AGAIN_S)
        for task in ended:
            if not task.cancelled():
                task.exception()  # else asyncio reports it as one that nobody looked at
    return left


def still_running(loops: Iterable[asyncio.AbstractEventLoop]) -> str:
    """Return where each thread and each task of the loops stands: lines of code, no values. Callable from any thread."""
    told = io.StringIO()
    for frame in sys._current_frames().values():
        print("thread", file=told)
        traceback.print_stack(frame, file=told)
    for loop in loops:
        for task in asyncio.all_tasks(loop):
            print(where(task), file=told)
    return told.getvalue()


def where(task: asyncio.Task[object]) -> str:
    """Return a task's name and the lines of code at which it stands, the innermost last: `Task.print_stack` knows the outermost alone."""
    frames, standing = list[tuple[FrameType, int]](), cast(Any, task.get_coro())
    while standing is not None:
        frame = getattr(standing, "cr_frame", None) or getattr(standing, "gi_frame", None) or getattr(standing, "ag_frame", None)
        if frame is not None:
            frames.append((frame, frame.f_lineno))
        standing = getattr(standing, "cr_await", None) or getattr(standing, "gi_yieldfrom", None) or getattr(standing, "ag_await", None)
    return f"task {task.get_name()}\n" + "".join(traceback.StackSummary.extract(iter(frames)).format())
