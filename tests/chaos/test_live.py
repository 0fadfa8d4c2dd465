"""Live, under a steady load: whatever breaks, every event id is applied exactly once and every exposure's bins are learned once; and it goes on by itself."""

from __future__ import annotations

import pytest

from tests.chaos.conftest import OUTCOMES, Stages
from tests.chaos.faults import ONE_BROKER, THREE_BROKERS, Fault
from tests.chaos.outcomes import note

pytestmark = [pytest.mark.java, pytest.mark.timeout(900)]


@pytest.mark.faults(ONE_BROKER)
def test_one_broker(stages: Stages, fault: Fault) -> None:
    """After the fault all partitions move within 30 s, the lag goes, the ledger balances, memory is bounded, and no bug was logged."""
    OUTCOMES.append(stages.get(1).suffer(fault.__name__, fault))
    note(OUTCOMES[-1])


@pytest.mark.faults(THREE_BROKERS)
def test_three_brokers(stages: Stages, fault: Fault) -> None:
    """The same with replication 3, two replicas in sync, and a Redis with a replica that must confirm."""
    outcome = stages.get(3).suffer(fault.__name__, fault)
    outcome.fault += " (3 brokers)"
    OUTCOMES.append(outcome)
    note(outcome)
