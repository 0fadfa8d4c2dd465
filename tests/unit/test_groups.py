"""The tests that share what takes long to make run in one process, as `pytest -n … --dist loadgroup` promises."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("groups")
def test_a_group_is_seen(request: pytest.FixtureRequest) -> None:
    """pytest-xdist 3.8 writes the group behind the test's id; with pytest 9.2 it does so in vain, and each process makes everything anew."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@groups")
