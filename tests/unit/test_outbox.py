"""The outbox: what leaves, when, and what a later life finds of it."""

from __future__ import annotations

from features.exposures import NONE, Closed, Exposure
from streams.outbox import Outbox, Posted
from streams.records import SHARED, Outcome, encode_message


def message(number: int, key: str = SHARED) -> bytes:
    """An outcome of some exposure."""
    exposure = Exposure(
        id="0" * 16, domain="line:a", user="u", line="a", category="a", counts=True, ts_ms=0, x=b"", predictions=(), delay_ms=[NONE] * 3, bin=1
    )  # fmt: skip
    return encode_message(Outcome(epoch=1, partition=0, number=number, key=key, closed=Closed(exposure=exposure, close_ms=1, bin=1, y=0, label=NONE)))


def test_nothing_leaves_before_it_is_committed() -> None:
    """Then everything does, by outcome partition and number; once it is sent, the next commit drops it."""
    outbox = Outbox({})
    outbox.post(1, 0, b"k", message(0))
    outbox.post(0, 9, b"k", message(9))
    outbox.post(0, 10, b"k", message(10))
    assert outbox.unsent() == []
    put, drop = outbox.changes()
    assert sorted(put) == ["0:000000000000009", "0:000000000000010", "1:000000000000000"]
    assert drop == []
    outbox.committed()
    assert [posted.name for posted in outbox.unsent()] == ["0:000000000000009", "0:000000000000010", "1:000000000000000"]
    outbox.mark_sent()
    assert outbox.unsent() == []
    assert outbox.changes() == ({}, ["0:000000000000009", "0:000000000000010", "1:000000000000000"])
    outbox.committed()
    assert outbox.changes() == ({}, [])


def test_a_later_life_sends_the_same() -> None:
    """What the store held is unsent, in the order of numbers, with the key that its content tells."""
    held = {"1:000000000000002": message(2, "new"), "0:000000000000010": message(10), "0:000000000000009": message(9)}
    assert Outbox(held).unsent() == [
        Posted(0, "0:000000000000009", SHARED.encode(), message(9)),
        Posted(0, "0:000000000000010", SHARED.encode(), message(10)),
        Posted(1, "1:000000000000002", b"new", message(2, "new")),
    ]
