"""The truth about a simulated shop's exposures, so that regret can be measured. SYNTHETIC.

The truth is the probability of an order within the window, given all that is hidden (propensity, interest, missions, this stay's noise),
what has happened so far, and the future only in expectation. It holds three parts: this stay's own order, orders of earlier stays
that are still on their way, and orders of visits yet to come. No model that sees events alone can know it; none can beat it but by luck.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.events import ORDER
from streams.shop_visits import Looks, Stays
from streams.shop_world import Array, World

VISIT_GAP_MS = 30 * 60_000
CHUNK = 4096
TRUTH_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),  # of the exposure's event
        ("user_id", pa.string()),
        ("line", pa.string()),
        ("ts", pa.int64()),  # milliseconds since the epoch
        ("probability", pa.float64()),  # the true one, of an order within the window
        ("ordered", pa.bool_()),  # whether it came, even if the log ends before
        ("final", pa.bool_()),  # whether the window ends within the log
    ]
)


def exposure_rows(user: Array, line: Array, ts_ms: Array, kind: Array) -> Array:
    """Return the rows that open an exposure, ascending; arrays (N,) of whole numbers, in the order of a log.

    An exposure is the first event other than an order of a user in a line in a visit, unless an order in that line came before it there;
    a visit is a user's events over all lines with gaps of at most 30 min. Written apart from `features`, so that each can check the other.
    """
    order = np.lexsort((np.arange(len(user)), user))
    new_user = np.r_[True, np.diff(user[order]) != 0]
    new_visit = new_user | (np.r_[0, np.diff(ts_ms[order])] > VISIT_GAP_MS)
    visit = np.empty(len(user), np.int64)
    visit[order] = np.cumsum(new_visit)
    group = np.lexsort((np.arange(len(user)), line, visit))
    first = np.r_[True, (np.diff(visit[group]) != 0) | (np.diff(line[group]) != 0)][: len(user)]
    opening = group[first]
    return np.sort(opening[kind[opening] != ORDER])


def labels(user: Array, line: Array, ts_ms: Array, ordered_user: Array, ordered_line: Array, ordered_ms: Array, *, window_ms: int) -> Array:
    """Return whether an order of that user in that line came strictly later, within the window; exposures (N,), orders (M,) → (N,) bool."""
    low = int(min(ts_ms.min(initial=0), ordered_ms.min(initial=0)))
    lines = int(max(line.max(initial=0), ordered_line.max(initial=0))) + 1
    span = int(max(ts_ms.max(initial=0), ordered_ms.max(initial=0))) - low + window_ms + 2
    keys = np.sort((ordered_user * lines + ordered_line) * span + (ordered_ms - low))
    at = (user * lines + line) * span + (ts_ms - low)
    return np.asarray(np.searchsorted(keys, at + window_ms, side="right") > np.searchsorted(keys, at, side="right"))


def true_probability(world: World, stays: Stays, looks: Looks, stay: Array, *, window: float) -> Array:
    """Return the truth of the exposures that open with these stays; (N,) → (N,). `window` in days."""
    user, line, now = stays.user[stay], stays.line[stay], looks.first[stay]
    own = stays.probability[stay] * world.delayed(line, now + window - looks.last[stay])
    none = 1 - own
    order = np.lexsort((looks.first, stays.line, stays.user))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    due = looks.last + stays.delay
    open_, lag = np.arange(len(stay)), 1
    while len(open_):
        at = place[stay[open_]] - lag
        earlier = order[np.maximum(at, 0)]
        same = (at >= 0) & (stays.user[earlier] == user[open_]) & (stays.line[earlier] == line[open_])
        open_, earlier = open_[same], earlier[same]
        came = world.delayed(line[open_], now[open_] - looks.last[earlier])
        comes = world.delayed(line[open_], now[open_] + window - looks.last[earlier])
        p = np.where(looks.last[earlier] <= now[open_], looks.afterwards[earlier], stays.probability[earlier])
        landed = stays.ordered[earlier] & (due[earlier] <= now[open_])
        none[open_] *= np.where(landed, 1.0, 1 - p * (comes - came) / (1 - p * came))
        lag += 1
    future = np.concatenate(
        [np.zeros(0)]
        + [
            world.future_orders(user[i : i + CHUNK], line[i : i + CHUNK], now[i : i + CHUNK], window=window, intercept_l=stays.intercept_l)
            for i in range(0, len(stay), CHUNK)
        ]
    )
    return np.asarray(1 - none * np.exp(-future))
