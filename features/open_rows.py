"""Open exposures as rows of one array, and the kernels that open, mark and close them: found by shopper and domain, and by when they close next.

A *list* holds the exposures of one shopper in one domain, linked by `next`; an open-addressing table knows the first of each. A *queue*, a binary heap,
has (close time, place) of each open exposure, in order of (close time, id). What is unsaid of an exposure here never changes, and is kept elsewhere.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.events import CART, CLICK, ORDER
from features.exposures import NONE
from features.kernel import kernel

NOBODY: Final = -1

OPEN: Final = np.dtype(
    [
        ("id", "u8"),
        ("click_ms", "i8"),  # the delay from the exposure to the first one after it; NONE if none yet
        ("cart_ms", "i8"),
        ("order_ms", "i8"),
        ("bin", "i8"),  # that closes next; 0: nothing is open here
        ("ordered", "?"),  # an order has been told
        ("late_orders", "i8"),
        ("as_opened", "?"),  # nothing of the above has changed since it opened here
        ("touched", "?"),  # it is in `touched`: opened or changed since the last commit
        ("next", "i4"),  # the place of the next one in its list; NOBODY if it is the last
        ("ts_ms", "i8"),
        ("key_a", "u8"),  # of shopper and domain (`features.names`)
        ("key_b", "u8"),
    ],
    align=True,
)

OPENS: Final = 0
UNFOLLOWED: Final = -1
"""Steps: one opens an exposure, or would if it were among those that are followed; a click, cart or order, by its kind, marks those of a list."""

NOT_OPENED: Final = -1
OPEN_BEFORE: Final = -2
MARKED: Final = -3
"""What became of a step that did not open one at a place."""


def empty_table(places: int) -> NDArray[np.int32]:
    """Return a table at least twice as long as there are places, a power of two."""
    return np.full(1 << (2 * places - 1).bit_length(), NOBODY, np.int32)


@kernel
def _find(table: Any, rows: Any, key_a: Any, key_b: Any) -> tuple[Any, Any]:
    """Return where in the table the list of a key stands, or would stand, and the place of its first."""
    mask = np.uint64(table.shape[0] - 1)
    at = key_a & mask
    place = np.int64(table[at])
    while place >= 0 and (rows[place].key_a != key_a or rows[place].key_b != key_b):
        at = (at + np.uint64(1)) & mask
        place = np.int64(table[at])
    return at, place


@kernel
def _forget(table: Any, rows: Any, at: Any) -> None:
    """Empty an entry of the table, and let those move up that were put behind it."""
    mask, one = np.uint64(table.shape[0] - 1), np.uint64(1)
    hole = at
    look = (at + one) & mask
    while table[look] >= 0:
        home = rows[table[look]].key_a & mask
        if ((look - home) & mask) >= ((look - hole) & mask):
            table[hole] = table[look]
            hole = look
        look = (look + one) & mask
    table[hole] = NOBODY


@kernel
def _unlink(table: Any, rows: Any, place: Any) -> None:
    """Take an exposure out of its list."""
    at, first = _find(table, rows, rows[place].key_a, rows[place].key_b)
    after = rows[place].next
    if first == place:
        if after == NOBODY:
            _forget(table, rows, at)
        else:
            table[at] = after
        return
    while rows[first].next != place:
        first = np.int64(rows[first].next)
    rows[first].next = after


@kernel
def _is_sooner(rows: Any, ms: int, place: int, other_ms: int, other: int) -> bool:
    return ms < other_ms or (ms == other_ms and rows[place].id < rows[other].id)


@kernel
def _push(queue: Any, n: int, rows: Any, ms: int, place: int) -> None:
    """Add to a queue of n."""
    at = n
    while at > 0:
        above = (at - 1) // 2
        if not _is_sooner(rows, ms, place, queue[above, 0], queue[above, 1]):
            break
        queue[at, 0], queue[at, 1] = queue[above, 0], queue[above, 1]
        at = above
    queue[at, 0], queue[at, 1] = ms, place


@kernel
def _pop(queue: Any, n: int, rows: Any) -> None:
    """Take the first out of a queue of n."""
    ms, place = queue[n - 1, 0], queue[n - 1, 1]
    at, below = 0, 1
    while below < n - 1:
        if below + 1 < n - 1 and _is_sooner(rows, queue[below + 1, 0], queue[below + 1, 1], queue[below, 0], queue[below, 1]):
            below += 1
        if not _is_sooner(rows, queue[below, 0], queue[below, 1], ms, place):
            break
        queue[at, 0], queue[at, 1] = queue[below, 0], queue[below, 1]
        at, below = below, 2 * below + 1
    queue[at, 0], queue[at, 1] = ms, place


@kernel
def are_due(queue: Any, n: int, until_ms: int, many: int) -> bool:
    """Whether so many of a queue of n close up to `until_ms`; looks at no more of them than that, and at two that close later for each."""
    look = np.empty(2 * many + 1, np.int64)
    look[0], waiting, found = 0, 1, 0
    while waiting > 0 and found < many:
        waiting -= 1
        at = look[waiting]
        if at < n and queue[at, 0] <= until_ms:  # what lies below it in the heap closes no sooner
            found += 1
            look[waiting], look[waiting + 1] = 2 * at + 1, 2 * at + 2
            waiting += 2
    return found == many


@kernel
def _touch(rows: Any, touched: Any, n: Any, place: int) -> None:
    if not rows[place].touched:
        rows[place].touched = True
        touched[n[1]] = place
        n[1] += 1


@kernel
def _mark(row: Any, edges_ms: Any, kind: int, ts_ms: int) -> bool:
    """Note a click, cart or order on an exposure that is strictly earlier and whose window holds it; returns whether that says anything new."""
    delay_ms = ts_ms - row.ts_ms
    if not 0 < delay_ms <= edges_ms[-1]:
        return False
    known = row.click_ms if kind == CLICK else row.cart_ms if kind == CART else row.order_ms
    if kind == ORDER and known == NONE and row.bin > 1 and delay_ms <= edges_ms[row.bin - 2]:
        row.late_orders += 1
    if known != NONE and delay_ms >= known:
        return False
    if kind == CLICK:
        row.click_ms = delay_ms
    elif kind == CART:
        row.cart_ms = delay_ms
    else:
        row.order_ms = delay_ms
    row.as_opened = False
    return True


@kernel
def follow(
    rows: Any, table: Any, queue: Any, touched: Any, n: Any, edges_ms: Any,
    steps: Any, ids: Any, users: Any, domains: Any, ts_ms: Any, room: int, places: Any, found: Any,
) -> int:  # fmt: skip
    """Take steps (M, 3), one after the other: event, domain, and what it is. One opens an exposure with the next of `ids` at the next of `places`, while fewer
    than `room` are open, or marks those of its list. `users` (B, 2) and `domains` (D, 2) are keys, whose sum is that of a list, and `ts_ms` (B,) times.

    `n` counts the open ones and those in `touched`. `found` (M,) says of each step the place, or what became of it; returns how many opened.
    """
    asked, taken = 0, 0
    for m in range(steps.shape[0]):
        event, domain, what = steps[m, 0], steps[m, 1], steps[m, 2]
        key_a, key_b = users[event, 0] + domains[domain, 0], users[event, 1] + domains[domain, 1]
        at, first = _find(table, rows, key_a, key_b)
        place = first
        if what > OPENS:
            while place >= 0:
                if _mark(rows[place], edges_ms, what, ts_ms[event]):
                    _touch(rows, touched, n, place)
                place = np.int64(rows[place].next)
            found[m] = MARKED
            continue
        id = ids[asked]
        asked += 1
        while place >= 0 and rows[place].id != id:
            place = np.int64(rows[place].next)
        if place >= 0:
            found[m] = OPEN_BEFORE
        elif what == UNFOLLOWED or n[0] >= room:
            found[m] = NOT_OPENED
        else:
            found[m] = place = places[taken]
            taken += 1
            row = rows[place]
            row.id, row.ts_ms, row.key_a, row.key_b, row.next = id, ts_ms[event], key_a, key_b, first
            row.click_ms, row.cart_ms, row.order_ms, row.late_orders = NONE, NONE, NONE, 0
            row.bin, row.ordered, row.as_opened = 1, False, True
            table[at] = place
            _push(queue, n[0], rows, row.ts_ms + edges_ms[0], place)
            n[0] += 1
            _touch(rows, touched, n, place)
    return taken


@kernel
def take_touched(rows: Any, touched: Any, n: Any) -> int:
    """Leave in the first places of `touched` those that are open, and nothing touched; returns how many they are."""
    live = 0
    for i in range(n[1]):
        place = touched[i]
        rows[place].touched = False
        if rows[place].bin > 0:
            touched[live] = place
            live += 1
    n[1] = 0
    return live


@kernel
def enter_lists(rows: Any, table: Any, queue: Any, n: int) -> None:
    """Fill an empty table with the lists of all that is in a queue of n."""
    for i in range(n):
        place = queue[i, 1]
        at, first = _find(table, rows, rows[place].key_a, rows[place].key_b)
        rows[place].next = first
        table[at] = place


@kernel
def close(rows: Any, table: Any, queue: Any, touched: Any, n: Any, edges_ms: Any, until_ms: int, before: Any, closed: Any) -> int:
    """Close what is due up to `until_ms`, in order, at most as much as there is room for. `before` (N,) are the rows as they were, `closed` (N, 5) place,
    close time, bin (0 where it tells nothing), y and label (NONE but at a window's end, where a row is emptied); returns how many.
    """
    done = 0
    while done < closed.shape[0] and n[0] > 0 and queue[0, 0] <= until_ms:
        close_ms, place = queue[0, 0], queue[0, 1]
        row = rows[place]
        before[done] = row
        hit = row.order_ms != NONE and row.order_ms <= edges_ms[row.bin - 1]
        tells = not row.ordered  # after an order was told, only the label is left
        ends = row.bin == edges_ms.shape[0]
        closed[done, 0], closed[done, 1] = place, close_ms
        closed[done, 2] = row.bin if tells else 0
        closed[done, 3] = 1 if hit and tells else 0
        closed[done, 4] = (1 if hit else 0) if ends else NONE
        done += 1
        _pop(queue, n[0], rows)
        if ends:
            n[0] -= 1
            _unlink(table, rows, place)
            row.bin = 0
            continue
        row.as_opened = False
        row.ordered = row.ordered or (hit and tells)
        row.bin = edges_ms.shape[0] if row.ordered else row.bin + 1
        _push(queue, n[0] - 1, rows, row.ts_ms + edges_ms[row.bin - 1], place)
        _touch(rows, touched, n, place)
    return done
