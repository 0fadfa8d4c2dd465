"""What each promise of Redis is worth: a loss that the setting allows costs work that is done again, and nothing else."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

import pytest

from tests.chaos.conftest import OUTCOMES, Stages
from tests.chaos.faults import Fault, redis_failed_over, redis_killed, redis_put_back
from tests.chaos.outcomes import note
from tests.chaos.stage import Stage
from tests.integration.harness import connected

pytestmark = [pytest.mark.java, pytest.mark.timeout(900)]

NEVER: Mapping[str, str] = {"appendonly": "no"}
EVERYSEC: Mapping[str, str] = {"appendfsync": "everysec"}


def power_lost(stage: Stage, draw: random.Random) -> None:
    """Redis comes back without what it wrote in the last seconds."""
    redis_put_back(stage, draw)


def failed_over_late(stage: Stage, draw: random.Random) -> None:
    """The replica stood still for some seconds when the leader died, and leads without what came meanwhile."""
    assert stage.standby is not None
    old, new = stage.redis, stage.standby
    new.pause()
    time.sleep(draw.uniform(2, 4))
    old.kill()
    new.resume()
    with connected(new.url) as client:
        client.ping()
    new.lead()
    stage.redis, stage.standby = new, old
    for seat in stage.seats:
        seat.wire.move(new.port)
    old.start()
    old.follow(new)


CASES: dict[str, tuple[str, Mapping[str, str], bool, Fault]] = {
    "memory, no file: Redis restarts empty": ("memory", NEVER, False, redis_killed),
    "memory, everysec: Redis killed": ("memory", EVERYSEC, False, redis_killed),
    "memory, everysec: power lost": ("memory", EVERYSEC, False, power_lost),
    "disk, always: Redis killed": ("disk", {}, False, redis_killed),
    "memory, late replica: failed over": ("memory", EVERYSEC, True, failed_over_late),
    "replica: failed over": ("replica", EVERYSEC, True, redis_failed_over),
    "replica, late replica: failed over": ("replica", EVERYSEC, True, failed_over_late),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_setting_allows_to_be_lost_is_worked_again(stages: Stages, case: str) -> None:
    """Whatever Redis forgets, no event is lost or applied twice; how much had to be scored and told again is written down."""
    durability, config, replica, fault = CASES[case]
    with stages.apart(durability=durability, redis_config=dict(config), replica=replica) as stage:
        outcome = stage.suffer(fault.__name__, fault)
    outcome.fault = case
    OUTCOMES.append(outcome)
    note(outcome)
