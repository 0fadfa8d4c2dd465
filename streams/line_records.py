"""The names of user-line records, and which of them the events of a batch change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.events import Event
from streams.launched import Launched
from streams.records import Launch


def line_key(user: str, domain: str) -> str:
    """Return the name of a user's record in a domain."""
    return f"{user}\x1f{domain}"


def domain_of(launch: Launch) -> str:
    """The domain whose user-line records belong to a launch: that of its line, or its own if it is one of some products."""
    return f"\x1e{launch.id}" if launch.products else launch.line


class LineRecords(NamedTuple):
    """Which user-line records the events of a batch (B,) change, one after the other: of each event first that of its line.

    A launch of a whole line shares it, one of some products has a record of its own.
    """

    names: list[str]
    """(N,), those of lines first."""
    order: NDArray[np.int64]
    """(N,): which of the names comes when."""
    starts: NDArray[np.int64]
    """(B + 1,): from when to when each event's come."""
    of_pair: NDArray[np.int64]
    """(M,): when that of each pair of an event and a launch comes."""


def line_records(events: Sequence[Event], launched: Launched) -> LineRecords:
    """Find them."""
    names, starts = [line_key(event.user_id, event.line) for event in events], np.arange(len(events) + 1)
    of_products = np.array([bool(launch.products) for launch in launched.launches], np.bool_)[launched.launch]
    if not of_products.any():
        return LineRecords(names, starts[:-1], starts, launched.event)
    own = np.flatnonzero(of_products)
    i = launched.event[own]
    starts[1:] += np.cumsum(np.bincount(i, minlength=len(events)))
    come = i + 1 + np.arange(len(own))
    domains = [domain_of(launch) for launch in launched.launches]
    names += [line_key(events[i].user_id, domains[n]) for i, n in zip(i.tolist(), launched.launch[own].tolist(), strict=True)]
    order = np.empty(len(names), np.int64)
    order[starts[:-1]] = np.arange(len(events))
    order[come] = np.arange(len(events), len(names))
    of_pair = starts[launched.event]
    of_pair[own] = come
    return LineRecords(names, order, starts, of_pair)
