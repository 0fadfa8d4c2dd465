"""What of a partition's messages counts as learned, as waiting, or as lost, by where its learner stands."""

from __future__ import annotations

import numpy as np
import pytest

from streams.ledger.findings import Account
from streams.ledger.told import TOLD, check_learned, path
from streams.outbox import Past, Told
from streams.partition import Cursor, Totals

E0, E1, E2 = (level << 40 | 5 for level in (1, 2, 3))
TOPIC = {E0: 10, E1: 0, E2: 3}
"""How many messages each life told; they lie on the topic one after the other, from offset 0."""


def standing(expected: tuple[int, int] | None, offset: int, *, let_go: tuple[int, ...] = ()) -> tuple[Account, int]:
    """The account of a learner that stands there, and how many messages it is taken to have learned; the partition has let go of some lives."""
    rows = np.zeros(sum(TOPIC.values()), TOLD)
    rows["epoch"] = np.repeat(list(TOPIC), list(TOPIC.values()))
    rows["number"] = np.concatenate([np.arange(n) for n in TOPIC.values()])
    rows["offset"] = np.arange(len(rows))
    rows["after"][rows["number"] == 0] = [0, E0]
    rows["after_end"][rows["number"] == 0] = [0, TOPIC[E0]]
    told = Told(before=[Past(epoch, [n]) for epoch, n in TOPIC.items() if n and epoch not in (E2, *let_go)], prior=[[E0, TOPIC[E0]]])
    cursor = Cursor(epoch=E2, offsets=[0] * 4, numbers=[TOPIC[E2]], totals=Totals(), told=told)
    account = Account()
    return account, len(check_learned(account, 1, rows, cursor, path(rows, cursor, 0), 0, expected, offset=offset))


@pytest.mark.parametrize(
    ("expected", "offset", "waiting", "learned"),
    [
        ((E2, 3), 13, 0, 13),  # all is learned
        ((E2, 1), 11, 2, 11),  # it was stopped within the present life,
        ((E0, 4), 4, 9, 4),  # or within the one before, which the partition still names
        ((E1, 0), 10, 3, 10),  # a life that told nothing lies between
        (None, 0, 13, 0),  # it has never run
        ((E2, 1), 0, 2, 11),  # it reads again from where it began: what it knows is passed over
    ],
)
def test_what_is_not_read_yet_waits(expected: tuple[int, int] | None, offset: int, waiting: int, learned: int) -> None:
    """What lies on the topic beyond the learner's place is no finding."""
    account, known = standing(expected, offset)
    assert (account.first, account.sums["outcomes_waiting"], known) == ([], waiting, learned)


@pytest.mark.parametrize(
    ("expected", "offset", "let_go", "lost"),
    [
        ((E2, 1), 13, (), 2),  # it has read past them
        ((E0, 4), 13, (), 9),
        ((E0, 4), 4, (E0,), 6),  # the learner went back alone: the partition, which heard that all was learned, has let that life go
        ((4 << 40, 0), 13, (), 13),  # it expects what nobody has told
    ],
)
def test_what_will_never_be_learned_is_a_finding(expected: tuple[int, int], offset: int, let_go: tuple[int, ...], lost: int) -> None:
    """Neither a place beyond messages that are not learned hides them, nor a life that nobody will learn again."""
    account, _ = standing(expected, offset, let_go=let_go)
    assert account.findings == {"not_learned": lost}


def test_more_than_was_told_is_a_finding() -> None:
    """A learner cannot be beyond a life's end."""
    account, _ = standing((E2, 9), 13)
    assert account.findings["learned_twice"] == 1
