"""The feature state and vector once more, in plain Python and one event at a time: what the kernel must equal to the bit.

Written from the descriptions in `features.vector` and the definitions of the architecture, not from the kernel. Stored counters are
rounded to float32 after each event (`f32`), everything else is a Python float or int.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np

from features.events import KINDS, Event, milliseconds
from features.vector import NAMES

HOUR, DAY, WEEK = 3_600.0, 86_400.0, 604_800.0
NEVER_MS = 30 * 86_400_000


def f32(number: float) -> float:
    return float(np.float32(number))


def weight(age_ms: float, half_life_s: float) -> float:
    return math.exp(-math.log(2.0) * age_ms / (1000.0 * half_life_s))


def ln1p_s(ms: float) -> float:
    return math.log1p(max(ms, 0.0) / 1000.0)


@dataclass
class Counters:
    """Events by kind and half-life, as of `as_of_ms`, and when each kind was seen last (whole seconds)."""

    as_of_ms: int | None = None
    counts: dict[tuple[str, float], float] = field(default_factory=lambda: {(k, h): 0.0 for k in KINDS for h in (HOUR, DAY, WEEK)})
    last_s: dict[str, int] = field(default_factory=dict)

    def take(self, kind: str, ts_ms: int) -> None:
        late_ms = 0
        if self.as_of_ms is None:
            self.as_of_ms = ts_ms
        elif ts_ms > self.as_of_ms:
            for key in self.counts:
                self.counts[key] = f32(self.counts[key] * weight(ts_ms - self.as_of_ms, key[1]))
            self.as_of_ms = ts_ms
        else:
            late_ms = self.as_of_ms - ts_ms
        for h in (HOUR, DAY, WEEK):
            self.counts[kind, h] = f32(self.counts[kind, h] + weight(late_ms, h))
        self.last_s[kind] = max(self.last_s.get(kind, 0), ts_ms // 1000)

    def since(self, kind: str, ts_ms: int) -> float:
        return since_s(self.last_s.get(kind), ts_ms)


def since_s(last_s: int | None, ts_ms: int) -> float:
    return ln1p_s(NEVER_MS if last_s is None else min(ts_ms - 1000 * last_s, NEVER_MS))


@dataclass
class Latest:
    """The eight categories or products of latest use: [count over a day, second of the latest]."""

    held: dict[str, list[float]] = field(default_factory=dict)

    def take(self, name: str, ts_ms: int) -> tuple[float, float]:
        second = ts_ms // 1000
        if name not in self.held:
            if len(self.held) == 8:
                del self.held[min(self.held, key=lambda n: self.held[n][1])]
            self.held[name] = [1.0, second]
            return 1.0, ln1p_s(NEVER_MS)
        count, before = self.held[name]
        since = since_s(int(before), ts_ms)
        if second >= before:
            self.held[name] = [f32(count * weight(1000.0 * (second - before), DAY) + 1.0), second]
        else:
            self.held[name] = [f32(count + weight(1000.0 * (before - second), DAY)), before]
        return self.held[name][0], since


@dataclass
class LineState:
    """A user in a line; `visit` is the number of the visit in which an exposure opened or an order barred it."""

    counters: Counters = field(default_factory=Counters)
    categories: Latest = field(default_factory=Latest)
    products: Latest = field(default_factory=Latest)
    visit: int = 0


@dataclass
class UserState:
    """A user over all lines; `told` is what the shop told of the user."""

    counters: Counters = field(default_factory=Counters)
    recent_ids: list[str] = field(default_factory=list)
    matured: int = 0
    converted: int = 0
    visits: int = 0
    lines: int = 0
    visit_start_ms: int = 0
    visit_events: int = 0
    visit_lines: int = 0
    told: dict[str, float] = field(default_factory=dict)


@dataclass
class Stats:
    """One catalogue record: events by (kind, "day" or "week"), labels, and as of when."""

    at_ms: int = 0
    events: dict[tuple[str, str], float] = field(default_factory=dict)
    matured: float = 0.0
    converted: float = 0.0

    def of(self, kind: str, span: str) -> float:
        return self.events.get((kind, span), 0.0)


@dataclass
class Told:
    """What one event gives: its vector (None if it is a duplicate), and whether it opens an exposure in each domain."""

    x: list[float] | None
    opens: list[bool]


class Oracle:
    """Every user's state, in dicts. `catalogue` maps "shop", "line:…", "category:…" to what is known at `at_ms`."""

    def __init__(self, *, ttl_ms: int, timezone: str = "UTC", catalogue: dict[str, Stats] | None = None, at_ms: int = 0) -> None:
        self.users: dict[str, UserState] = {}
        self.lines: dict[tuple[str, str], LineState] = {}
        self.ttl_ms, self.zone, self.catalogue, self.at_ms = ttl_ms, ZoneInfo(timezone), catalogue or {}, at_ms

    def take(self, event: Event, kind: str, domains: list[str]) -> Told:
        """Apply one event in its domains, of which the first is its own line."""
        ts_ms = milliseconds(event.ts)
        user = self.users.setdefault(event.user_id, UserState())
        if self._is_over(user.counters, ts_ms):
            user = self.users[event.user_id] = UserState()
        if event.event_id in user.recent_ids:
            return Told(None, [False] * len(domains))
        user.recent_ids = [*user.recent_ids, event.event_id][-16:]
        states = []
        for domain in domains:
            state = self.lines.get((event.user_id, domain))
            if state is None or self._is_over(state.counters, ts_ms):
                state = self.lines[event.user_id, domain] = LineState()
            states.append(state)
        own = states[0]

        x: dict[str, float] = {}
        for k in KINDS:
            x[f"user_since_{k}"] = user.counters.since(k, ts_ms)
            x[f"line_since_{k}"] = own.counters.since(k, ts_ms)
        newest_ms = user.counters.as_of_ms
        x["visit_gap"] = ln1p_s(NEVER_MS if newest_ms is None else min(ts_ms - newest_ms, NEVER_MS))
        if newest_ms is None or ts_ms - newest_ms > 30 * 60_000:
            user.visits, user.visit_start_ms, user.visit_events, user.visit_lines = user.visits + 1, ts_ms, 0, 0
        user.counters.take(kind, ts_ms)
        user.visit_events += 1
        user.lines += own.counters.as_of_ms is None
        user.visit_lines += own.visit != user.visits
        opens = []
        for state in states:
            opens.append(state.visit != user.visits and kind != "order")
            state.visit = user.visits
            state.counters.take(kind, ts_ms)
        category_n, x["category_since"] = own.categories.take(event.category or event.line, ts_ms)
        product_n, x["product_since"] = own.products.take(event.product_id, ts_ms)

        for k in KINDS:
            for name, h in (("1h", HOUR), ("1d", DAY), ("7d", WEEK)):
                x[f"user_{k}_{name}"] = math.log1p(user.counters.counts[k, h])
                x[f"line_{k}_{name}"] = math.log1p(own.counters.counts[k, h])
            if k != "browse":
                x[f"is_{k}"] = float(k == kind)
        week = {k: user.counters.counts[k, WEEK] for k in KINDS}
        x["user_cart_rate"] = math.log((week["cart"] + 0.25) / (week["browse"] + week["click"] + 5))
        x["user_order_rate"] = math.log((week["order"] + 0.1) / (week["browse"] + week["click"] + 5))
        x["user_conversion_rate"] = math.log((user.converted + 0.25) / (user.matured + 5))
        x["user_matured"] = math.log1p(user.matured)
        x["visit_depth"] = math.log1p(user.visit_events)
        x["visit_age"] = ln1p_s(ts_ms - user.visit_start_ms)
        x["visit_lines"] = math.log1p(user.visit_lines)
        x["user_visits"] = math.log1p(user.visits)
        x["user_lines"] = math.log1p(user.lines)
        x["line_categories"] = math.log1p(len(own.categories.held))
        x["category_count"], x["product_count"] = math.log1p(category_n), math.log1p(product_n)
        local = datetime.fromtimestamp(ts_ms / 1000, self.zone)
        midnight_ms = ((local.hour * 60 + local.minute) * 60 + local.second) * 1000 + ts_ms % 1000
        x["hour_sin"] = math.sin(2 * math.pi * midnight_ms / 86_400_000)
        x["hour_cos"] = math.cos(2 * math.pi * midnight_ms / 86_400_000)
        x |= self._statistics("lines", f"line:{event.line}") | self._statistics("categories", f"category:{event.category or event.line}")
        del x["lines_trend"]
        x["price"] = math.log1p(f32(event.price)) if event.price is not None else 0.0
        x["price_known"] = float(event.price is not None)
        x |= self._demographics(user, event, ts_ms)
        return Told([x[name] for name in NAMES], opens)

    def label(self, user: str, label: int) -> None:
        """One of the user's exposures is final."""
        self.users[user].matured += 1
        self.users[user].converted += label

    def _is_over(self, counters: Counters, ts_ms: int) -> bool:
        return counters.as_of_ms is not None and ts_ms - counters.as_of_ms > self.ttl_ms

    def _statistics(self, what: str, name: str) -> dict[str, float]:
        stats, shop = self.catalogue.get(name, Stats()), self.catalogue.get("shop", Stats())
        now = weight(max(self.at_ms - stats.at_ms, 0), WEEK)
        then = weight(max(self.at_ms - shop.at_ms, 0), WEEK)
        looks, all_looks = ((s.of("browse", "week") + s.of("click", "week")) * w for s, w in ((stats, now), (shop, then)))
        total = looks + (stats.of("cart", "week") + stats.of("order", "week")) * now
        today = (stats.of("browse", "day") + stats.of("click", "day") + stats.of("cart", "day") + stats.of("order", "day")) * weight(
            max(self.at_ms - stats.at_ms, 0), DAY
        )

        def rate(part: float, whole: float, all_part: float, all_whole: float) -> float:
            return math.log((part + 20.0 * ((all_part + 1.0) / (all_whole + 20.0))) / (whole + 20.0))

        return {
            f"{what}_popularity": math.log1p(total),
            f"{what}_trend": math.log((today + 1.0) / (total + 5.0)),
            f"{what}_cart_rate": rate(stats.of("cart", "week") * now, looks, shop.of("cart", "week") * then, all_looks),
            f"{what}_order_rate": rate(stats.of("order", "week") * now, looks, shop.of("order", "week") * then, all_looks),
            f"{what}_conversion_rate": rate(stats.converted * now, stats.matured * now, shop.converted * then, shop.matured * then),
        }

    def _demographics(self, user: UserState, event: Event, ts_ms: int) -> dict[str, float]:
        if (said := event.user) is not None:
            if said.age_band and (found := re.search("[0-9]+", said.age_band)):
                user.told["age"] = min(int(found.group()) // 10 + 1, 12)
            if said.gender:
                user.told["gender"] = {"female": 1, "f": 1, "male": 2, "m": 2}.get(said.gender, 3)
            if said.level is not None:
                user.told["level"] = said.level
            if said.region:
                user.told["region"] = zlib.crc32(said.region.encode()) % 65_535 + 1
            if said.registered_ts is not None:
                user.told["registered_ms"] = milliseconds(said.registered_ts)
        told = user.told
        return {
            "age": float(told.get("age", 0)),
            "female": float(told.get("gender") == 1),
            "male": float(told.get("gender") == 2),
            "level": math.log(told["level"] + 1) if "level" in told else 0.0,
            "tenure": math.log1p(max(ts_ms - told["registered_ms"], 0) / 86_400_000) if "registered_ms" in told else 0.0,
            "region": (told["region"] - 32_768) / 32_768 if "region" in told else 0.0,
        }
