"""Which life a learner goes on with when its own is no longer named: none is learned again, and none is given up."""

from __future__ import annotations

from streams.inbox import Expected, Inbox, Passed
from streams.outbox import Past, Told
from streams.partition import Cursor, Totals
from streams.records import Counted

E1, E2, E3, OTHER_E2 = (level << 40 | low for level, low in ((1, 9), (2, 9), (3, 9), (2, 4)))


def cursor(present: tuple[int, int], *before: tuple[int, int]) -> Cursor:
    """What a partition has committed: of its present life and of earlier ones that it still names, (epoch, how many were told); all of it is on Kafka."""
    past = [Past(epoch, [n]) for epoch, n in before]
    return Cursor(epoch=present[0], offsets=[0] * 4, numbers=[present[1]], totals=Totals(), told=Told(before=past, sent=[present[1]]))


def messages(epoch: int, numbers: range) -> list[Counted]:
    """What a life has told."""
    return [Counted(epoch=epoch, partition=0, number=n, tick_ms=1, counts={}) for n in numbers]


def learned(inbox: Inbox, told: list[Counted], now: Cursor) -> list[tuple[int, int]]:
    """(epoch, number) of what is learned when these have come and the partition has committed that."""
    for offset, message in enumerate(told):
        inbox.take(message, offset)
    found, _ = inbox.due({0: now})
    return [(m.epoch, m.number) for m in found]


def missing(inbox: Inbox, now: Cursor) -> list[int]:
    """The partitions that, at a second look, have a message that never came."""
    inbox.holes({0: now}, all_read=True)
    return inbox.holes({0: now}, all_read=True)


def test_a_life_that_told_nothing_is_no_way_back() -> None:
    """A learner that has gone on to a life that then tells nothing learns the next one, not the one before again; nothing is said to be missing."""
    inbox = Inbox(0, {})
    assert learned(inbox, messages(E1, range(3)), cursor((E2, 0), (E1, 3))) == [(E1, 0), (E1, 1), (E1, 2)]
    inbox.due({0: cursor((E2, 0), (E1, 3))})
    assert inbox.expected[0] == Expected(E2, 0)
    for told in (0, 2):
        now = cursor((E3, told), (E1, 3))  # E2 told nothing, and left no trace
        assert learned(inbox, messages(E3, range(told)), now) == [(E3, n) for n in range(told)]
        assert missing(inbox, now) == []
    held = {(E1, 2): messages(E1, range(3))[2]}  # its outbox may still hold what was learned
    assert inbox.fill(0, now, held, 9, all_read=True) == (0, 0)
    assert inbox.expected[0] == Expected(E3, 2)


def test_what_a_store_that_went_back_tells_anew_is_learned() -> None:
    """The partition went back to within the life before and began another one: that one is learned from its beginning, and the one before not again."""
    inbox = Inbox(0, {0: Expected(E2, 5)})
    assert learned(inbox, messages(OTHER_E2, range(2)), cursor((OTHER_E2, 2), (E1, 3))) == [(OTHER_E2, 0), (OTHER_E2, 1)]


def test_a_partition_that_went_back_by_lives_is_learned_from_its_present_one() -> None:
    """Where all lives that are named began before the learner's, the present one is new all the same."""
    inbox = Inbox(0, {0: Expected(E3, 5)})
    assert learned(inbox, messages(OTHER_E2, range(2)), cursor((OTHER_E2, 2), (E1, 3))) == [(OTHER_E2, 0), (OTHER_E2, 1)]


def test_a_learner_that_went_back_learns_what_is_named() -> None:
    """Its place is before a life that the partition has let go: what is still named is learned, in order."""
    inbox = Inbox(0, {0: Expected(E1, 1)})
    told = messages(E2, range(2)) + messages(E3, range(1))
    assert learned(inbox, told, cursor((E3, 1), (E2, 2))) == [(E2, 0), (E2, 1), (E3, 0)]


def test_of_two_lives_from_one_state_of_the_store_the_other_one_is_learned_before_the_next() -> None:
    """The partition went back to within the life before and began another one, and then one more: neither is passed over."""
    inbox = Inbox(0, {0: Expected(E2, 5)})
    told = messages(OTHER_E2, range(2)) + messages(E3, range(1))
    assert learned(inbox, told, cursor((E3, 1), (E1, 3), (OTHER_E2, 2))) == [(OTHER_E2, 0), (OTHER_E2, 1), (E3, 0)]


def test_what_is_learned_to_its_end_and_let_go_is_a_duplicate() -> None:
    """A message of a life before all that are named was not forgotten by the store, and nobody is told so."""
    inbox = Inbox(0, {0: Expected(E3, 0)})
    inbox.take(messages(E1, range(1))[0], 0)
    assert inbox.due({0: cursor((E3, 0), (E2, 1))}) == ([], Passed(duplicates=1))


def test_a_learner_that_is_ahead_goes_back_to_what_is_told() -> None:
    """The store has forgotten that the partition told more: what its life then tells is learned, under the numbers that come again."""
    inbox = Inbox(0, {0: Expected(E1, 5)})
    assert inbox.due({0: cursor((E1, 3))}) == ([], Passed(ahead={0: 2}))
    assert learned(inbox, messages(E1, range(3, 4)), cursor((E1, 4))) == [(E1, 3)]


def test_a_hole_is_not_filled_with_what_has_not_left_yet() -> None:
    """It will come by itself, and would be learned out of its order among what others tell."""
    now = cursor((E1, 2))
    now.told.sent = [1]
    held = {(m.epoch, m.number): m for m in messages(E1, range(2))}
    assert Inbox(0, {}).fill(0, now, held, 9, all_read=True) == (1, 0)


def test_a_hole_is_filled_up_to_what_has_come() -> None:
    """As long as the topic is not read to its end: what lies behind the next message may still come."""
    inbox, (*_, come, last) = Inbox(0, {}), messages(E1, range(4))
    inbox.take(come, 0)
    held = {(m.epoch, m.number): m for m in (*messages(E1, range(2)), last)}
    assert inbox.fill(0, cursor((E1, 4)), held, 9, all_read=False) == (2, 0)
