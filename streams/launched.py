"""Which events of a batch belong to open launches, as pairs of an event and a launch: what is done for launches is done for all pairs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.records import Launch


@dataclass(frozen=True)
class Launched:
    """M pairs, in the order of events, and of launches for each of them."""

    by_event: Mapping[int, Sequence[Launch]]
    """The launches of each event that belongs to any, by its place in the batch."""
    first: Mapping[int, int]
    """The number of its first pair."""
    launches: Sequence[Launch]
    """Those that occur, each once."""
    event: NDArray[np.int64]
    """(M,) places in the batch."""
    launch: NDArray[np.int64]
    """(M,) numbers among `launches`."""

    @classmethod
    def of(cls, by_event: Mapping[int, Sequence[Launch]]) -> Launched:
        """The pairs of that."""
        numbers: dict[str, int] = {}
        first, launches, event, of = {}, list[Launch](), list[int](), list[int]()
        for i, there in by_event.items():
            first[i] = len(event)
            for launch in there:
                number = numbers.setdefault(launch.id, len(launches))
                if number == len(launches):
                    launches.append(launch)
                event.append(i)
                of.append(number)
        return cls(by_event, first, launches, np.array(event, np.int64), np.array(of, np.int64))
