"""What is read over: deleted records are told once, holes that a log has of itself never are."""

from __future__ import annotations

from aiokafka import ConsumerRecord
from faust.types import TP

from streams.batches import Batch
from streams.holes import Holes

P0, P1 = TP("browse", 0), TP("browse", 1)


def batch(tp: TP, first: int, last: int, epoch: int = 1) -> Batch:
    """A batch of the records first..last."""
    return Batch(tp, [ConsumerRecord(*tp, offset, 0, 0, None, None, None, 0, 0, ()) for offset in range(first, last + 1)], epoch, last + 1)


def test_what_lies_before_the_log_begins_is_gone() -> None:
    """Of a hole that reaches into the log, the part before it; the mark of a transaction or compacted records are none of it; each hole once."""
    holes = Holes()
    holes.sought(P0, 3)
    for first, last in ((3, 5), (6, 6), (20, 22), (24, 25), (40, 41)):
        holes.read(batch(P0, first, last))
    holes.read(batch(P1, 7, 9))  # read on from who knows where
    assert holes.places() == [P0]
    assert holes.gone({P0: 30}) == [(P0, 7, 20), (P0, 23, 24), (P0, 26, 30)]
    assert (holes.places(), holes.gone({})) == ([], [])
    holes.read(batch(P0, 50, 51))
    assert holes.gone({P0: 30}) == []


def test_a_seek_and_stale_batches_make_no_holes() -> None:
    """What a seek passes over is told by whoever seeks; a batch that nobody will work has nothing to tell."""
    holes = Holes()
    holes.sought(P0, 0)
    holes.read(batch(P0, 5, 6))
    holes.sought(P0, 10)
    assert (holes.places(), holes.gone({P0: 30})) == ([], [])
    holes.read(batch(P0, 30, 31, epoch=0))
    assert holes.places() == []
