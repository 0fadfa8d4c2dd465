"""What tests order: faults, to prove that the ledger sees them, and what must do no harm. Nobody else sets the variable.

FAULTS_FOR_TESTS_OF_HEADSTART is a list, separated by commas, of: skip_event:N, apply_twice:N, learn_twice:N (once in a process, after N records or
outcomes, with the totals forged, so that nothing but the account of the ids can tell), clock:FILE (this process's wall clock is off by as many seconds as the file says, at any time),
and aside:N (from N events on are computed beside the event loop).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from streams import aside, desk
from streams.learner import Learner
from streams.partition import Partition
from streams.pipeline import Worked
from streams.records import Outcome, Received
from streams.turns import Turns

logger = logging.getLogger(__name__)

VARIABLE: Final = "FAULTS_FOR_TESTS_OF_HEADSTART"
CLOCK_LOOK_S: Final = 0.05


def install() -> None:
    """Install what the variable orders; does nothing where it is not set."""
    for order in filter(None, os.environ.get(VARIABLE, "").split(",")):
        logger.critical("%s orders %s: this worker is for tests alone, and may break its promises", VARIABLE, order)
        name, _, argument = order.partition(":")
        {"skip_event": _skip_event, "apply_twice": _apply_twice, "learn_twice": _learn_twice, "clock": _clock, "aside": _aside}[name](argument)


def _one_of(records: Sequence[Received], half: int) -> list[Received]:
    """The first record of one half of the users, so that what is skipped and what is applied twice are never one user's."""
    return [record for record in records if crc32(record.key or b"") % 2 == half][:1]


def _skip_event(after: str) -> None:
    right, left, done = vars(desk)["work_off"], int(after), False

    async def work_off(partition: Partition, records: Sequence[Received], *arguments: Any, **more: Any) -> Worked:
        nonlocal left, done
        left -= len(records)
        skipped = _one_of(records, 0) if left <= 0 and not done else []
        done = done or bool(skipped)
        worked: Worked = await right(partition, [r for r in records if r not in skipped], *arguments, **more)
        if skipped:
            partition.cursor.totals.read += 1
            partition.cursor.totals.applied += 1
        return worked

    vars(desk)["work_off"] = work_off


def _apply_twice(after: str) -> None:
    right, left, done = vars(desk)["work_off"], int(after), False

    async def work_off(partition: Partition, records: Sequence[Received], *arguments: Any, **more: Any) -> Worked:
        nonlocal left, done
        left -= len(records)
        worked: Worked = await right(partition, records, *arguments, **more)
        applied = partition.cursor.totals.applied
        if twice := _one_of(records, 1) if left <= 0 and not done else []:
            done = True
            user = (twice[0].key or b"").decode()
            place = await partition.place_users([user])
            partition.users.change(place)
            partition.users.rows["ring"][place] = 0
            await right(partition, twice, *arguments, **{**more, "tick_end_ms": None})  # its score never leaves
            partition.cursor.totals.read -= 1
            partition.cursor.totals.applied = applied
        return worked

    vars(desk)["work_off"] = work_off


def _learn_twice(after: str) -> None:
    right, left = Learner._learn, int(after)

    async def learn(self: Learner, outcomes: Sequence[Outcome], turns: Turns) -> dict[str, bytes]:
        nonlocal left
        left -= len(outcomes)
        twice = len(outcomes) > 0 and -len(outcomes) < left <= 0
        changed: dict[str, bytes] = await right(self, [*outcomes, outcomes[-1]] if twice else outcomes, turns)
        return changed

    Learner._learn = learn  # type: ignore[method-assign]


def _clock(file: str) -> None:
    right_s, right_ns = time.time, time.time_ns
    looked_s, ahead_s = 0.0, 0.0

    def ahead() -> float:
        nonlocal looked_s, ahead_s
        if time.monotonic() - looked_s > CLOCK_LOOK_S:
            looked_s = time.monotonic()
            try:
                ahead_s = float(Path(file).read_text() or 0)
            except (OSError, ValueError):
                ahead_s = 0.0
        return ahead_s

    time.time = lambda: right_s() + ahead()
    time.time_ns = lambda: right_ns() + int(1e9 * ahead())


def _aside(many: str) -> None:
    vars(aside)["MANY"] = int(many)
