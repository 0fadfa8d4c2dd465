"""A worker that stands still from the moment on that a file exists, in one of the ways in which workers have stood still: for test_vitals.

python -m tests.integration.stalling_worker loop|desk|flow FILE        settings from the environment, as `headstart worker` takes them
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import streams.cli  # noqa: F401 - sets the number of threads before anything else is imported
from features.errors import HeadstartError
from streams.app import InflowTap, WorkerApp
from streams.commands import worker as command
from streams.settings import load_settings


def stand_still(made: WorkerApp, kind: str, begun: Path) -> None:
    """Wait for the file, and put the fault into the worker's event loop."""
    while not begun.exists():
        time.sleep(0.05)
    if kind == "loop":
        made.app.loop.call_soon_threadsafe(time.sleep, 3600)
    else:
        made.app.loop.call_soon_threadsafe(made.app.consumer.stop_flow)


def main(kind: str, begun: Path) -> None:
    """Run the worker with one fault."""
    create_app, drawing = command.create_app, InflowTap.draw  # type: ignore[attr-defined]

    def with_fault(*arguments: Any, **more: Any) -> WorkerApp:
        made: WorkerApp = create_app(*arguments, **more)
        if kind != "desk":
            threading.Thread(target=stand_still, args=(made, kind, begun), daemon=True).start()
        return made

    def draw(self: InflowTap) -> Any:
        """The desk goes on, and what comes never reaches it."""
        return None if kind == "desk" and begun.exists() else drawing(self)

    command.create_app, InflowTap.draw = with_fault, draw  # type: ignore[attr-defined, method-assign]
    try:
        command.run(load_settings(needs=("broker", "redis")))
    except HeadstartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
