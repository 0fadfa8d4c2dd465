"""The names of user-line records, and which of them the events of a batch change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.names import Names, behind
from streams.launched import Launched
from streams.records import Launch


def line_names(users: Names, which: NDArray[np.int64], domains: Sequence[str], of: NDArray[np.int64]) -> Names:
    """Return the names (N,) of the records of user number `which[i]` in domain number `of[i]`."""
    return behind(users, which, [f"\x1f{domain}" for domain in domains], of)


def domain_of(launch: Launch) -> str:
    """The domain whose user-line records belong to a launch: that of its line, or its own if it is one of some products."""
    return f"\x1e{launch.id}" if launch.products else launch.line


class LineRecords(NamedTuple):
    """Which user-line records the events of a batch (B,) change, one after the other: of each event first that of its line.

    A launch of a whole line shares it, one of some products has a record of its own.
    """

    names: Names
    """(N,)"""
    starts: NDArray[np.int64]
    """(B + 1,): from when to when each event's come."""
    of_pair: NDArray[np.int64]
    """(M,): when that of each pair of an event and a launch comes."""


def line_records(users: Names, lines: Sequence[str], launched: Launched) -> LineRecords:
    """Find them for events of these users in these lines (B,)."""
    numbers = {line: number for number, line in enumerate(dict.fromkeys(lines))}
    of_line, starts = np.array([numbers[line] for line in lines], np.int64), np.arange(len(lines) + 1)
    of_products = np.array([bool(launch.products) for launch in launched.launches], np.bool_)[launched.launch]
    if not of_products.any():
        return LineRecords(line_names(users, starts[:-1], list(numbers), of_line), starts, launched.event)
    own = np.flatnonzero(of_products)
    i = launched.event[own]
    starts[1:] += np.cumsum(np.bincount(i, minlength=len(lines)))
    come = i + 1 + np.arange(len(own))
    which, of = np.repeat(np.arange(len(lines)), np.diff(starts)), np.empty(starts[-1], np.int64)
    of[starts[:-1]], of[come] = of_line, len(numbers) + launched.launch[own]
    of_pair = starts[launched.event]
    of_pair[own] = come
    return LineRecords(line_names(users, which, [*numbers, *map(domain_of, launched.launches)], of), starts, of_pair)
