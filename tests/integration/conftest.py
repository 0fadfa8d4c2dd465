"""What is made once for all tests of the whole job."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.worlds import Left, World, in_process, make_live_trunk, make_world

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """kafka-python leaves sockets to the garbage collector, which may come in any later test."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small SYNTHETIC log and a trunk that was trained on its first day."""
    return make_world(tmp_path_factory.mktemp("world") / "trunk")


@pytest.fixture(scope="session")
def evaluated(world: World) -> Left:
    """What the pipeline leaves when it runs over the world's ticks in one process."""
    return in_process(world, world.ticks())


@pytest.fixture(scope="session")
def quick_trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk with a window of four seconds, so that outcomes become final while a test waits."""
    return make_live_trunk(tmp_path_factory.mktemp("live") / "trunk")
