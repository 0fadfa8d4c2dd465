"""SIGTERM and SIGHUP end a command as Ctrl-C does, so that what it began is brought to an end: child processes, temporary folders, half-written files."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def as_interrupts() -> Iterator[list[int]]:
    """Within the block the first of these signals interrupts it, and stands in the list; a second one ends the process at once.

    What a parent ignores, as nohup does, stays ignored, and a command may have handlers of its own. Ctrl-C's own path is taken, because asyncio ends
    its tasks on it, where an exception out of a handler would end whichever of them ran.
    """
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    ours, owner = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL], os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        for other in ours:
            signal.signal(other, signal.SIG_DFL)
        if os.getpid() != owner:  # a child that was forked off
            signal.raise_signal(number)
            return
        told.append(number)
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL):  # as a shell's script starts what it runs in the background
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    for number in ours:
        signal.signal(number, end)
    try:
        yield told
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
