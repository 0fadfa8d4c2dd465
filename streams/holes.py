"""Holes in what is read of a log: transactions and compaction leave some, and some are records that were deleted before they were read.

Where the broker has deleted what comes next, aiokafka goes on at the beginning of the log by itself, without a word. So each hole is held against the first
offset that the log still has: what lies before that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping

from faust.types import TP


class Holes:
    """The holes that were read over and not looked at yet."""

    def __init__(self) -> None:
        self._found: dict[TP, list[tuple[int, int]]] = {}

    def sought(self, tp: TP) -> None:
        """Forget the holes of a partition: whoever seeks tells what lies before."""
        self._found.pop(tp, None)

    def read(self, tp: TP, expected: int, first: int) -> None:
        """Note that the record at `first` was read where that at `expected` comes next."""
        if first > expected:
            self._found.setdefault(tp, []).append((expected, first))

    def places(self) -> list[TP]:
        """Return the partitions that have holes."""
        return list(self._found)

    def gone(self, firsts: Mapping[TP, int]) -> list[tuple[TP, int, int]]:
        """Return (partition, first, upto) of what is gone, where `firsts` are the beginnings of the logs of `places`; all these holes are looked at then."""
        found = {tp: self._found.pop(tp, []) for tp in firsts}  # a seek may have come between
        cut = ((tp, begin, min(end, firsts[tp])) for tp, several in found.items() for begin, end in several)
        return [(tp, begin, upto) for tp, begin, upto in cut if upto > begin]
