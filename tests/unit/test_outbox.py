"""The outbox: what leaves, when, and what a later life finds of it."""

from __future__ import annotations

import pytest

from features.errors import Mismatch
from features.exposures import NONE, Closed, Exposure
from streams.outbox import Outbox, field
from streams.records import SHARED, Outcome, TickDone, encode_message

EPOCH = 7


def message(number: int, key: str = SHARED, epoch: int = EPOCH) -> bytes:
    """An outcome of some exposure."""
    exposure = Exposure(
        id="0" * 16, domain="line:a", user="u", line="a", category="a", counts=True, ts_ms=0, x=b"", predictions=(), delay_ms=[NONE] * 3, bin=1
    )  # fmt: skip
    return encode_message(Outcome(epoch=epoch, partition=0, number=number, key=key, closed=Closed(exposure=exposure, close_ms=1, bin=1, y=0, label=NONE)))


def test_nothing_leaves_before_it_is_committed() -> None:
    """Then everything does, by outcome partition and number; what is sent stays until it is learned, and the next commit drops it."""
    outbox = Outbox({}, epoch=EPOCH, sent=(0, 0))
    places = [(0, EPOCH, 9), (0, EPOCH, 10), (1, EPOCH, 0)]
    for place in places:
        outbox.post(place, b"k", message(place[2]))
    assert outbox.unsent() == []
    put, drop = outbox.changes()
    assert (sorted(put), drop) == ([field(place) for place in places], [])
    outbox.committed()
    assert [(q, key) for q, key, _ in outbox.unsent()] == [(0, b"k"), (0, b"k"), (1, b"k")]
    assert outbox.waiting() == 3
    outbox.mark_sent()
    assert (outbox.unsent(), outbox.waiting()) == ([], 0)
    outbox.learned(0, EPOCH, 10)
    assert outbox.changes() == ({}, [field(places[0])])
    outbox.learned(0, EPOCH, 11)
    outbox.learned(1, EPOCH, 1)
    assert outbox.changes() == ({}, [field(place) for place in places[1:]])
    assert outbox.changes() == ({}, [])


def test_a_later_life_sends_the_same() -> None:
    """What the store held and is not on Kafka is unsent, in the order of numbers, with the key that its content tells."""
    held = {field((q, EPOCH, number)): message(number, key) for q, number, key in ((1, 2, "new"), (0, 10, SHARED), (0, 9, SHARED), (0, 8, SHARED))}
    outbox = Outbox(held, epoch=EPOCH, sent=(9, 0))
    assert outbox.unsent() == [(0, SHARED.encode(), message(9)), (0, SHARED.encode(), message(10)), (1, b"new", message(2, "new"))]


@pytest.mark.parametrize("value", [b"", b"\x00", encode_message(TickDone(partition=0, tick_ms=1, upto=1))])
def test_what_is_no_outcome_is_refused(value: bytes) -> None:
    """A damaged store is told of, not believed."""
    with pytest.raises(Mismatch, match="outbox"):
        Outbox({"0:1": value}, epoch=EPOCH, sent=(0,))
