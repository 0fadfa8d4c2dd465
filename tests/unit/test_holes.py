"""What is read over: deleted records are told once, holes that a log has of itself never are."""

from __future__ import annotations

from faust.types import TP

from streams.holes import Holes

P0, P1 = TP("browse", 0), TP("browse", 1)


def test_what_lies_before_the_log_begins_is_gone() -> None:
    """Of a hole that reaches into the log, the part before it; the mark of a transaction or compacted records are none of it; each hole once."""
    holes = Holes()
    for expected, first in ((3, 3), (6, 6), (7, 20), (23, 24), (26, 40)):
        holes.read(P0, expected, first)
    holes.read(P1, 7, 7)
    assert holes.places() == [P0]
    assert holes.gone({P0: 30}) == [(P0, 7, 20), (P0, 23, 24), (P0, 26, 30)]
    assert (holes.places(), holes.gone({})) == ([], [])
    holes.read(P0, 42, 50)
    assert holes.gone({P0: 30}) == []


def test_a_seek_leaves_no_holes() -> None:
    """What a seek passes over is told by whoever seeks."""
    holes = Holes()
    holes.read(P0, 0, 5)
    holes.sought(P0)
    assert (holes.places(), holes.gone({P0: 30})) == ([], [])
