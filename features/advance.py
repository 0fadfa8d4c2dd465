"""How one event changes the shopper's state, and the vector that the models see right after it.

One kernel, event by event, float64 between loads and stores (`np.float64`: numba's `float` leaves a float32 as it is): a batch of
1, 7 or 1 000 gives the same bits, and so do the online and the offline path, which both call it. Counters are order-insensitive;
duplicates are dropped by the ring of event ids.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.events import ORDER
from features.kernel import kernel
from features.layout import CATALOGUE_HALF_LIVES_S, HALF_LIVES_S, LATEST, RING, VISIT_GAP_MS
from features.vector import NEVER_MS, WIDTH, index

APPLIED: Final = 0
DUPLICATE: Final = 1

_LINE = index("line_browse_1h")
_SINCE = index("user_since_browse")
_LINE_SINCE = index("line_since_browse")
_RATES = index("user_cart_rate")
_CLICK = index("is_click")
_HOUR = index("hour_sin")
_LINES = index("lines_popularity")
_CATEGORIES = index("categories_popularity")
_PRICE = index("price")
_DAY_S = HALF_LIVES_S[1]
_WEEK = 2  # index of the 7 d half-life
_SMOOTH = 20.0  # pseudo-events with the shop's own rate
_SMOOTH_CONVERSIONS = 20.0
_CATALOGUE_DAY_S, _CATALOGUE_WEEK_S = CATALOGUE_HALF_LIVES_S
_HALF_LIVES = np.array(HALF_LIVES_S)
_LN2 = math.log(2.0)


@kernel
def weight(age_ms: float, half_life_s: float) -> float:
    """Return 2^(-age / half-life) for an age >= 0 in milliseconds.

    A counter is kept as of a reference time r. An event at t adds 2^(-(r' - t) / half-life) with r' = max(r, t), so a late event lands
    with the weight that it would have had on time. Values are float32 between events; the arithmetic is float64.
    """
    return math.exp(-_LN2 * age_ms / (1000.0 * half_life_s))


@kernel
def _log1p_s(age_ms: float) -> float:
    """Return ln(1 + age in seconds), with a negative age (a late event) read as 0."""
    return math.log1p(max(age_ms, 0.0) / 1000.0)


@kernel
def _count(counts: Any, ref_ms: int, ts_ms: int, kind: int) -> None:
    """Bring the counters (4, 3) from ref_ms to max(ref_ms, ts_ms) and add one event of `kind`."""
    if ref_ms > 0 and ts_ms > ref_ms:
        for h in range(3):
            w = weight(float(ts_ms - ref_ms), _HALF_LIVES[h])
            for k in range(4):
                counts[k, h] = np.float32(counts[k, h] * w)
    late_ms = float(ref_ms - ts_ms) if ref_ms > ts_ms else 0.0
    for h in range(3):
        counts[kind, h] = np.float32(counts[kind, h] + weight(late_ms, _HALF_LIVES[h]))


@kernel
def _since(last_s: Any, ts_ms: int) -> float:
    return _log1p_s(NEVER_MS) if last_s == 0 else _log1p_s(min(float(ts_ms - last_s * 1000), NEVER_MS))


@kernel
def _remember(hashes: Any, counts: Any, seen_s: Any, wanted: int, ts_ms: int) -> tuple[float, float]:
    """Count an event of `wanted` among the latest eight; returns (decayed count with it, ln(1+s) since the previous)."""
    now_s = ts_ms // 1000
    place, oldest = -1, 0
    for i in range(LATEST):
        if hashes[i] == wanted:
            place = i
            break
        if seen_s[i] < seen_s[oldest]:
            oldest = i
    if place < 0:
        hashes[oldest] = wanted
        counts[oldest] = np.float32(1.0)
        seen_s[oldest] = now_s
        return 1.0, _log1p_s(NEVER_MS)
    since = _since(seen_s[place], ts_ms)
    before_s = np.int64(seen_s[place])
    if now_s >= before_s:
        counts[place] = np.float32(counts[place] * weight(1000.0 * (now_s - before_s), _DAY_S) + 1.0)
        seen_s[place] = now_s
    else:
        counts[place] = np.float32(counts[place] + weight(1000.0 * (before_s - now_s), _DAY_S))
    return np.float64(counts[place]), since


@kernel
def _advance_line(line: Any, event: Any, visit: Any, ttl_ms: int) -> tuple[bool, bool]:
    """Apply one event to a user-line record; returns (first event in this line in this visit, an exposure opens)."""
    ts_ms = event.ts_ms
    if line.ref_ms > 0 and ts_ms - line.ref_ms > ttl_ms:
        line.ref_ms = 0
        line.applied = 0
        line.visit_seen = 0
        for k in range(4):
            line.last_s[k] = 0
            for h in range(3):
                line.counts[k, h] = np.float32(0.0)
        for i in range(LATEST):
            line.category[i] = 0
            line.category_count[i] = np.float32(0.0)
            line.category_s[i] = 0
            line.product[i] = 0
            line.product_count[i] = np.float32(0.0)
            line.product_s[i] = 0
    _count(line.counts, line.ref_ms, ts_ms, event.kind)
    line.ref_ms = max(line.ref_ms, ts_ms)
    line.last_s[event.kind] = max(np.int64(line.last_s[event.kind]), ts_ms // 1000)
    line.applied += 1
    first = np.int64(line.visit_seen) != visit
    line.visit_seen = visit
    return first, first and event.kind != ORDER


@kernel
def _log_rate(part: float, whole: float, all_part: float, all_whole: float, strength: float) -> float:
    """ln of part/whole, shrunk with `strength` pseudo-events towards the shop's own smoothed rate."""
    prior = (all_part + 1.0) / (all_whole + 20.0)
    return math.log((part + strength * prior) / (whole + strength))


@kernel
def _statistics(stats: Any, shop: Any, at_ms: int, out: Any, start: int, with_trend: bool) -> None:
    """Write popularity, [trend], cart, order and conversion rate of one catalogue record, decayed to at_ms."""
    week = weight(float(max(at_ms - stats.at_ms, 0)), _CATALOGUE_WEEK_S)
    all_week = weight(float(max(at_ms - shop.at_ms, 0)), _CATALOGUE_WEEK_S)
    seen = (stats.counts[0, 1] + stats.counts[1, 1]) * week
    total = seen + (stats.counts[2, 1] + stats.counts[3, 1]) * week
    all_seen = (shop.counts[0, 1] + shop.counts[1, 1]) * all_week
    out[start] = math.log1p(total)
    start += 1
    if with_trend:
        day = weight(float(max(at_ms - stats.at_ms, 0)), _CATALOGUE_DAY_S)
        today = (stats.counts[0, 0] + stats.counts[1, 0] + stats.counts[2, 0] + stats.counts[3, 0]) * day
        out[start] = math.log((today + 1.0) / (total + 5.0))
        start += 1
    out[start] = _log_rate(stats.counts[2, 1] * week, seen, shop.counts[2, 1] * all_week, all_seen, _SMOOTH)
    out[start + 1] = _log_rate(stats.counts[3, 1] * week, seen, shop.counts[3, 1] * all_week, all_seen, _SMOOTH)
    out[start + 2] = _log_rate(stats.converted * week, stats.matured * week, shop.converted * all_week, shop.matured * all_week, _SMOOTH_CONVERSIONS)


@kernel
def _renew(user: Any) -> None:
    """Make a user record read as empty."""
    user.ref_ms = 0
    user.registered_ms = 0
    user.visit_start_ms = 0
    user.applied = 0
    user.matured = 0
    user.converted = 0
    user.visits = 0
    user.lines = 0
    user.visit_events = 0
    user.visit_lines = 0
    user.level = 0
    user.region = 0
    user.age = 0
    user.gender = 0
    user.ring_next = 0
    for i in range(RING):
        user.ring[i] = 0
    for k in range(4):
        user.last_s[k] = 0
        for h in range(3):
            user.counts[k, h] = np.float32(0.0)


@kernel
def _advance(
    events: Any, users: Any, lines: Any, domain_rows: Any, domain_start: Any, catalogue: Any, at_ms: int, ttl_ms: int, x: Any, fate: Any, opens: Any
) -> None:
    for i in range(len(events)):
        e = events[i]
        u = users[e.user]
        ts_ms = e.ts_ms
        if u.ref_ms > 0 and ts_ms - u.ref_ms > ttl_ms:
            _renew(u)
        twice = False
        for r in range(RING):
            if u.ring[r] == e.id_hash:
                twice = True
        if twice:
            fate[i] = DUPLICATE
            continue
        fate[i] = APPLIED
        u.ring[u.ring_next % RING] = e.id_hash
        u.ring_next = (u.ring_next + 1) % RING
        row = x[i]
        own = lines[domain_rows[domain_start[i]]]
        own_expired = own.ref_ms > 0 and ts_ms - own.ref_ms > ttl_ms

        for k in range(4):
            row[_SINCE + k] = _since(np.int64(u.last_s[k]), ts_ms)
            row[_LINE_SINCE + k] = _since(np.int64(0) if own_expired else np.int64(own.last_s[k]), ts_ms)
        gap_ms = float(ts_ms - u.ref_ms) if u.ref_ms > 0 else NEVER_MS
        if u.ref_ms == 0 or ts_ms - u.ref_ms > VISIT_GAP_MS:
            u.visits += 1
            u.visit_start_ms = ts_ms
            u.visit_events = 0
            u.visit_lines = 0
        _count(u.counts, u.ref_ms, ts_ms, e.kind)
        u.ref_ms = max(u.ref_ms, ts_ms)
        u.last_s[e.kind] = max(np.int64(u.last_s[e.kind]), ts_ms // 1000)
        u.applied += 1
        u.visit_events += 1
        if e.age:
            u.age = e.age
        if e.gender:
            u.gender = e.gender
        if e.level:
            u.level = e.level
        if e.region:
            u.region = e.region
        if e.registered_ms:
            u.registered_ms = e.registered_ms

        visit = np.int64(u.visits)
        if own.ref_ms == 0 or own_expired:
            u.lines += 1
        for d in range(domain_start[i], domain_start[i + 1]):
            first, opened = _advance_line(lines[domain_rows[d]], e, visit, ttl_ms)
            opens[d] = opened
            if d == domain_start[i] and first:
                u.visit_lines += 1
        category_n, category_since = _remember(own.category, own.category_count, own.category_s, e.category, ts_ms)
        product_n, product_since = _remember(own.product, own.product_count, own.product_s, e.product, ts_ms)
        categories = 0
        for c in range(LATEST):
            if own.category[c]:
                categories += 1

        for k in range(4):
            for h in range(3):
                row[3 * k + h] = math.log1p(np.float64(u.counts[k, h]))
                row[_LINE + 3 * k + h] = math.log1p(np.float64(own.counts[k, h]))
        seen = np.float64(u.counts[0, _WEEK]) + np.float64(u.counts[1, _WEEK]) + 5.0
        row[_RATES] = math.log((np.float64(u.counts[2, _WEEK]) + 0.25) / seen)
        row[_RATES + 1] = math.log((np.float64(u.counts[3, _WEEK]) + 0.1) / seen)
        row[_RATES + 2] = math.log((float(u.converted) + 0.25) / (float(u.matured) + 5.0))
        row[_RATES + 3] = math.log1p(float(u.matured))
        row[_RATES + 4] = math.log1p(float(u.visit_events))
        row[_RATES + 5] = _log1p_s(float(ts_ms - u.visit_start_ms))
        row[_RATES + 6] = math.log1p(float(u.visit_lines))
        row[_RATES + 7] = _log1p_s(min(gap_ms, NEVER_MS))
        row[_RATES + 8] = math.log1p(float(u.visits))
        row[_RATES + 9] = math.log1p(float(u.lines))
        row[_RATES + 10] = math.log1p(float(categories))
        row[_RATES + 11] = math.log1p(category_n)
        row[_RATES + 12] = category_since
        row[_RATES + 13] = math.log1p(product_n)
        row[_RATES + 14] = product_since
        for k in range(1, 4):
            row[_CLICK + k - 1] = 1.0 if e.kind == k else 0.0
        local_ms = (ts_ms + 1000 * np.int64(e.utc_offset_s)) % 86_400_000
        turn = 2.0 * math.pi * float(local_ms) / 86_400_000.0
        row[_HOUR] = math.sin(turn)
        row[_HOUR + 1] = math.cos(turn)
        _statistics(catalogue[e.line_stats], catalogue[0], at_ms, row, _LINES, False)
        _statistics(catalogue[e.category_stats], catalogue[0], at_ms, row, _CATEGORIES, True)
        known = not math.isnan(e.price)
        row[_PRICE] = math.log1p(np.float64(e.price)) if known else 0.0
        row[_PRICE + 1] = 1.0 if known else 0.0
        row[_PRICE + 2] = float(u.age)
        row[_PRICE + 3] = 1.0 if u.gender == 1 else 0.0
        row[_PRICE + 4] = 1.0 if u.gender == 2 else 0.0
        row[_PRICE + 5] = math.log(float(u.level)) if u.level else 0.0
        row[_PRICE + 6] = math.log1p(max(float(ts_ms - u.registered_ms), 0.0) / 86_400_000.0) if u.registered_ms else 0.0
        row[_PRICE + 7] = (float(u.region) - 32768.0) / 32768.0 if u.region else 0.0


def advance(
    events: NDArray[np.void],
    users: NDArray[np.void],
    lines: NDArray[np.void],
    domain_rows: NDArray[np.int64],
    domain_start: NDArray[np.int64],
    catalogue: NDArray[np.void],
    *,
    at_ms: int,
    ttl_ms: int,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]:
    """Apply events (B,) in their order to the records, in place, and return what the models and exposures need.

    `users` (U,) USER and `lines` (L,) USER_LINE are the batch's records; event i touches `users[events[i].user]` and the lines
    `domain_rows[domain_start[i] : domain_start[i+1]]`, of which the first is that of its own product line, and the others those of
    launches. `catalogue` (C,) CATALOGUE has the whole shop in row 0; its figures are decayed to `at_ms`.

    Returns the vectors x (B, F) float32 as of right after each event, the fate (B,) APPLIED or DUPLICATE (then x is zero), and
    (D,) for each touched domain whether the event opens an exposure there. Not idempotent, but for the ring of event ids.
    """
    x = np.zeros((len(events), WIDTH), np.float32)
    fate = np.zeros(len(events), np.uint8)
    opens = np.zeros(len(domain_rows), np.bool_)
    _advance(events, users, lines, domain_rows, domain_start, catalogue, at_ms, ttl_ms, x, fate, opens)
    return x, fate, opens
