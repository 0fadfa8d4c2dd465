"""How a command shows that long work goes on: a bar on a terminal; elsewhere, as in the log of a job, a line now and then."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn

LINE_EVERY_S: Final = 30.0


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show progress on standard error, and the last state in the end."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True, markup=False)
    with Progress(*columns, console=console, transient=False) as progress:
        if console.is_terminal:
            yield progress
            return
        ended = threading.Event()
        telling = threading.Thread(target=_tell, args=(progress, ended), name="progress", daemon=True)
        telling.start()
        try:
            yield progress
        finally:
            ended.set()
            telling.join()


def _tell(progress: Progress, ended: threading.Event) -> None:
    """Write how far each piece of work is that has moved since it was last told."""
    told: dict[TaskID, float] = {}
    while not ended.wait(LINE_EVERY_S):
        for task in progress.tasks:
            if task.completed != told.get(task.id):
                told[task.id] = task.completed
                print(_line(task), file=sys.stderr, flush=True)


def _line(task: Task) -> str:
    of = f" of {task.total:.0f}" if task.total is not None else ""
    minutes, seconds = divmod(round(task.elapsed or 0.0), 60)
    return f"{task.description}: {task.completed:.0f}{of} after {minutes}:{seconds:02d}"


class Steps:
    """Shows what a long piece of work reports as (step, done, of), one bar for each step."""

    def __init__(self, progress: Progress, prefix: str = "") -> None:
        self._progress, self._prefix = progress, prefix
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, of: int) -> None:
        """Draw one report; what stands in brackets may change within a step."""
        step = self._prefix + step
        name = step.partition(" (")[0]
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(step, total=of, completed=done)  # the thread that tells may look right now
        self._progress.update(self._tasks[name], completed=done, total=of, description=step)
