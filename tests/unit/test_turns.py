"""Long work on the event loop lets the rest of it go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from streams import turns as turns_module
from streams.turns import Turns


@pytest.mark.parametrize(("rests", "size"), [(True, 3), (True, 100), (False, 3)])
def test_parts_are_all_of_it_in_order(rests: bool, size: int) -> None:
    """Without rests they are one."""

    async def work() -> list[list[int]]:
        return [list(part) async for part in Turns(rests=rests).parts(range(8), size)]

    parts = asyncio.run(work())
    assert [i for part in parts for i in part] == list(range(8))
    assert [len(part) for part in parts] == ([3, 3, 2] if rests and size == 3 else [8])


def test_no_rows_are_no_part() -> None:
    """Nothing is asked to learn nothing."""

    async def work() -> list[Sequence[int]]:
        nothing: list[int] = []
        return [part async for part in Turns(rests=False).parts(nothing, 5)]

    assert asyncio.run(work()) == []


@pytest.mark.parametrize(("rests", "held_s"), [(True, 0.0), (True, 3600.0), (False, 0.0)])
def test_the_loop_goes_on_between_parts_of_long_work(rests: bool, held_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there are rests, and the work was long: a short one is done sooner than it could be taken up again."""
    monkeypatch.setattr(turns_module, "HELD_S", held_s)
    seen: list[str] = []
    held = threading.Event()

    async def work() -> None:
        async def other() -> None:
            seen.append("other")

        waiting = asyncio.create_task(other())
        async for part in Turns(rests=rests).parts("abc", 1):
            held.wait(0.001)  # the loop is held
            seen.append(part[-1])
        await waiting

    asyncio.run(work())
    assert (seen.index("other") < seen.index("c")) == (rests and not held_s)
