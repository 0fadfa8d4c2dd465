"""Product lines made of categories that behave alike, as told from the first part of a log: no line depends on what comes later.

A category is described by three figures of that part: its smoothed log odds of interest (clicks and carts against browses), of an order
(against all other events), and the logarithm of its number of events. They are standardised, each category counting by its events, and
the categories put in order along their first principal component, which is cut into lines of about equal numbers of events. So lines
differ in behaviour as much as one direction can make them differ, and none is too small to learn from. A category that the first part
does not show has no events there: its smoothed odds are the mean ones, and it falls into the line where that places it.

A line that is launched later lies on the log's past by its categories' early behaviour: launch no sooner than the first part ends.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import InputError
from features.events import BROWSE, CART, CLICK, KINDS, ORDER

FIRST_PART: Final = 1 / 3  # of the log's span
PRIOR_EVENTS: Final = 20.0  # as many events of an average category are added to each before its odds are taken

Floats = np.ndarray[Any, np.dtype[np.float64]]
Whole = np.ndarray[Any, np.dtype[np.int64]]


def behaviour_lines(category: Any, kind: Any, ts: Any, count: int, share: float = FIRST_PART) -> Any:
    """Return the line of each row, "b0" (least interest) to "b{count - 1}"; Arrow columns (N,) in any order, ts in ms → (N,) strings.

    Raises `InputError` when the first `share` of the log's span shows fewer than `count` categories.
    """
    encoded = _whole(category).dictionary_encode()
    known = np.argsort(np.array(encoded.dictionary.to_pylist(), dtype=np.str_), kind="stable")  # by name, wherever the rows stand
    place = np.empty(len(known), np.int64)
    place[known] = np.arange(len(known))
    row = place[np.asarray(encoded.indices)]
    at = np.asarray(_whole(ts), np.int64)
    first, last = int(at.min()), int(at.max())
    early = at <= first + share * (last - first)
    kinds = np.asarray(pc.index_in(_whole(kind), value_set=pa.array(KINDS)), np.int64)
    counts = np.bincount(row[early] * len(KINDS) + kinds[early], minlength=len(known) * len(KINDS)).reshape(len(known), len(KINDS)).astype(np.float64)
    seen = counts.sum(axis=1) > 0
    if seen.sum() < count:
        raise InputError(
            f"lines behaviour:{count}: the first {share:.3g} of the log's time shows {seen.sum()} categories; ask for fewer lines or give more time"
        )
    groups, unseen = behaviour_groups(counts[seen], count)
    group = np.full(len(known), unseen, np.int64)
    group[seen] = groups
    return pa.array([f"b{number}" for number in range(count)]).take(pa.array(group[row]))


def behaviour_groups(counts: Floats, count: int) -> tuple[Whole, int]:
    """Return each category's group by its events of each kind, (C, 4) → (C,), and the group of a category without events.

    Groups are numbered by their smoothed odds of interest, upwards; none is empty if C is at least `count`.
    """
    events = counts.sum(axis=1)
    figures = _figures(counts, counts)
    mean = np.average(figures, axis=0, weights=events)
    spread = np.sqrt(np.average((figures - mean) ** 2, axis=0, weights=events))
    scale = np.where(spread > 1e-9, spread, 1.0)
    standard = (figures - mean) / scale
    axis = np.linalg.eigh((standard * events[:, None]).T @ standard)[1][:, -1]
    axis *= np.where(axis[0] < 0, -1, 1)
    along = standard @ axis
    order = np.argsort(along, kind="stable")
    part = _cut(events[order], count)
    newcomer = (_figures(np.zeros((1, len(KINDS))), counts) - mean) / scale @ axis
    at = int(np.searchsorted(along[order], newcomer[0]))
    groups = np.empty(len(events), np.int64)
    groups[order] = part
    summed = np.stack([counts[groups == group].sum(axis=0) for group in range(count)])
    number = np.empty(count, np.int64)
    number[np.argsort(_figures(summed, counts)[:, 0], kind="stable")] = np.arange(count)
    return number[groups], int(number[part[min(at, len(part) - 1)]])


def _figures(counts: Floats, all_counts: Floats) -> Floats:
    """Return smoothed log odds of interest and of an order, and the log of the volume; (C, 4) → (C, 3)."""
    kinds = all_counts.sum(axis=0)
    others = kinds.sum() - kinds[ORDER]
    interest = (kinds[CLICK] + kinds[CART] + 1) / (kinds[BROWSE] + 1)
    orders = (kinds[ORDER] + 1) / (others + 1)
    events = counts.sum(axis=1)
    return np.stack(
        [
            np.log((counts[:, CLICK] + counts[:, CART] + PRIOR_EVENTS * interest) / (counts[:, BROWSE] + PRIOR_EVENTS)),
            np.log((counts[:, ORDER] + PRIOR_EVENTS * orders) / (events - counts[:, ORDER] + PRIOR_EVENTS)),
            np.log1p(events),
        ],
        axis=1,
    )


def _cut(events: Floats, count: int) -> Whole:
    """Return the part of each item of a row, 0 to count - 1, none empty, with about equal sums of `events`; (C,) → (C,)."""
    parts = np.empty(len(events), np.int64)
    part, filled, left = 0, 0.0, float(events.sum())
    for item, size in enumerate(events):
        parts_after = count - 1 - part
        full = filled + size / 2 > left / (parts_after + 1)
        if filled and parts_after and (full or len(events) - item == parts_after):
            part, left, filled = part + 1, left - filled, 0.0
        parts[item] = part
        filled += float(size)
    return parts


def _whole(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
