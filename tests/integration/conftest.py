"""What is made once for all tests of the whole job."""

from __future__ import annotations

import pytest

from tests.integration.harness import Left, World, in_process, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small SYNTHETIC log and a trunk that was trained on its first day."""
    return make_world(tmp_path_factory.mktemp("world") / "trunk")


@pytest.fixture(scope="session")
def evaluated(world: World) -> Left:
    """What the pipeline leaves when it runs over the world's ticks in one process."""
    return in_process(world, world.ticks())
