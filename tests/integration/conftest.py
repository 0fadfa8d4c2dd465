"""What is made once for all tests of the whole job."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.integration.worlds import Left, World, in_process, make_live_trunk, make_world

HERE = Path(__file__).parent
T = TypeVar("T")


def one_at_a_time(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """Call `make` with a folder that all processes of this run share, one of them at a time: it makes what is not there yet."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make(root / name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """kafka-python leaves sockets to the garbage collector, which may come in any later test."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small SYNTHETIC log and a trunk that was trained on its first day."""
    return one_at_a_time(tmp_path_factory, "world-trunk", make_world)


@pytest.fixture(scope="session")
def evaluated(world: World) -> Left:
    """What the pipeline leaves when it runs over the world's ticks in one process."""
    return in_process(world, world.ticks())


@pytest.fixture(scope="session")
def quick_trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk with a window of four seconds, so that outcomes become final while a test waits."""
    return one_at_a_time(tmp_path_factory, "live-trunk", make_live_trunk)
