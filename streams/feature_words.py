"""The feature vector in a shopkeeper's words: what each number is called, which group it belongs to, and its value in plain units."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from features.vector import FEATURES, NEVER_MS

BROWSING: Final = "browsing of this shopper"
CARTS: Final = "carts of this shopper"
ORDERS: Final = "orders of this shopper"
IN_LINE: Final = "what they did in this line"
CATEGORY: Final = "what they did in this category"
SELLING: Final = "how line and category sell to everyone"
TIME: Final = "time of day"
PRICE: Final = "price"
SHOPPER: Final = "who the shopper is"
OTHER: Final = "other"
GROUPS: Final = (BROWSING, CARTS, ORDERS, IN_LINE, CATEGORY, SELLING, TIME, PRICE, SHOPPER, OTHER)


class Words(NamedTuple):
    """A feature for a reader: its group, its name, and how its value is written."""

    group: str
    label: str
    write: Callable[[float], str]


def words(name: str) -> Words:
    """Return the words for a feature; one that this table does not know keeps the description of the vector."""
    return WORDS.get(name) or Words(OTHER, _MEANINGS.get(name, name), _plain)


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _number(value: float) -> str:
    """A count that the vector holds as ln(1 + n); decayed counts are not whole."""
    n = math.expm1(min(value, 50.0))
    return f"{n:.1f}".removesuffix(".0") if n < 100 else f"{n:,.0f}"


def _share(value: float) -> str:
    """A rate that the vector holds as its logarithm."""
    share = math.exp(min(value, 5.0))
    return f"{share:.1%}" if share < 1 else f"{share:.1f} each"


def _span(value: float) -> str:
    """A time that the vector holds as ln(1 + seconds)."""
    seconds = math.expm1(min(value, 50.0))
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{seconds:.0f} s"


def _ago(value: float) -> str:
    return "never" if value >= math.log1p(NEVER_MS / 1000) - 1e-3 else f"{_span(value)} ago"


def _yes(value: float) -> str:
    return "yes" if value > 0.5 else "no"


def _days(value: float) -> str:
    return f"{math.expm1(min(value, 50.0)):.0f} d" if value > 0 else "unknown"


def _money(value: float) -> str:
    return f"{math.expm1(min(value, 50.0)):,.2f}" if value else "unknown"


def _age(value: float) -> str:
    return f"{10 * (int(value) - 1)} to {10 * int(value)} years" if value >= 1 else "unknown"


_PLURAL: Final = {"browse": "views", "click": "clicks", "cart": "carts", "order": "orders"}
_ONE: Final = {"browse": "view", "click": "click", "cart": "cart", "order": "order"}
_SPANS: Final = {"1h": "last hour", "1d": "last day", "7d": "last week"}
_GROUP_OF: Final = {"browse": BROWSING, "click": BROWSING, "cart": CARTS, "order": ORDERS}


def _of_kinds() -> dict[str, Words]:
    """The counts and times that are there for each kind of event."""
    found = {}
    for kind, plural in _PLURAL.items():
        for span, told in _SPANS.items():
            found[f"user_{kind}_{span}"] = Words(_GROUP_OF[kind], f"{plural} in the shop, {told}", _number)
            found[f"line_{kind}_{span}"] = Words(IN_LINE, f"{plural} in this line, {told}", _number)
        found[f"user_since_{kind}"] = Words(_GROUP_OF[kind], f"previous {_ONE[kind]} in the shop", _ago)
        found[f"line_since_{kind}"] = Words(IN_LINE, f"previous {_ONE[kind]} in this line", _ago)
    return found


WORDS: Final[dict[str, Words]] = {
    **_of_kinds(),
    "user_cart_rate": Words(CARTS, "carts per view, last week", _share),
    "user_order_rate": Words(ORDERS, "orders per view, last week", _share),
    "user_conversion_rate": Words(ORDERS, "their visits to a line that ended in an order", _share),
    "user_matured": Words(ORDERS, "their visits to a line with known outcome", _number),
    "visit_depth": Words(BROWSING, "events in this visit", _number),
    "visit_age": Words(BROWSING, "length of this visit so far", _span),
    "visit_lines": Words(BROWSING, "lines seen in this visit", _number),
    "visit_gap": Words(BROWSING, "previous event", _ago),
    "user_visits": Words(BROWSING, "visits to the shop", _number),
    "user_lines": Words(BROWSING, "lines they have ever seen", _number),
    "line_categories": Words(IN_LINE, "categories seen in this line", _number),
    "category_count": Words(CATEGORY, "events in this category, last day", _number),
    "category_since": Words(CATEGORY, "previous event in this category", _ago),
    "product_count": Words(IN_LINE, "events with this product, last day", _number),
    "product_since": Words(IN_LINE, "previous event with this product", _ago),
    "is_click": Words(BROWSING, "this event is a click", _yes),
    "is_cart": Words(CARTS, "this event is a cart", _yes),
    "is_order": Words(ORDERS, "this event is an order", _yes),
    "hour_sin": Words(TIME, "local time, morning (1) or evening (-1)", _plain),
    "hour_cos": Words(TIME, "local time, midnight (1) or noon (-1)", _plain),
    "lines_popularity": Words(SELLING, "everyone's events in this line, last week", _number),
    "lines_cart_rate": Words(SELLING, "everyone's carts per view in this line", _share),
    "lines_order_rate": Words(SELLING, "everyone's orders per view in this line", _share),
    "lines_conversion_rate": Words(SELLING, "visits to this line that ended in an order", _share),
    "categories_popularity": Words(SELLING, "everyone's events in this category, last week", _number),
    "categories_trend": Words(SELLING, "today's share of the category's week", _share),
    "categories_cart_rate": Words(SELLING, "everyone's carts per view in this category", _share),
    "categories_order_rate": Words(SELLING, "everyone's orders per view in this category", _share),
    "categories_conversion_rate": Words(SELLING, "visits to this category that ended in an order", _share),
    "price": Words(PRICE, "price", _money),
    "price_known": Words(PRICE, "the price is known", _yes),
    "age": Words(SHOPPER, "age", _age),
    "female": Words(SHOPPER, "is a woman", _yes),
    "male": Words(SHOPPER, "is a man", _yes),
    "level": Words(SHOPPER, "customer level", _number),
    "tenure": Words(SHOPPER, "registered for", _days),
    "region": Words(SHOPPER, "region (a code)", _plain),
}
_CLOCK: Final = ("hour_sin", "hour_cos")
_MEANINGS: Final = {feature.name: re.sub(r", ln\(1\+n\)$", "", feature.meaning) for feature in FEATURES}


_DIRECTIONS: Final[dict[str, tuple[str, str]]] = {
    "user_since_browse": ("longer away", "away less long"),
    "visit_depth": ("more", "fewer"),
    "visit_age": ("longer", "shorter"),
    "visit_lines": ("more", "fewer"),
    "visit_gap": ("longer ago", "more recent"),
    "is_click": ("more clicks", "fewer clicks"),
    "is_cart": ("more carts", "fewer carts"),
    "price": ("dearer", "cheaper"),
    "price_known": ("known more often", "known less often"),
    "age": ("older", "younger"),
    "female": ("more women", "fewer women"),
    "male": ("more men", "fewer men"),
}
UNMOVED_SD: Final = 0.1
"""A mean that has moved by less, in standard deviations, gives no direction: then the spread is another."""


def direction(name: str, moved_sd: float) -> str:
    """Return in words which way a feature's mean has moved."""
    if abs(moved_sd) < UNMOVED_SD:
        return "spread otherwise"
    up, down = _DIRECTIONS.get(name, ("higher", "lower"))
    return up if moved_sd > 0 else down


def mean_of(name: str, value: float) -> str:
    """Return the mean of a feature over many shoppers in plain units: a share where one shopper has yes or no, an age in years."""
    write = words(name).write
    if write is _yes:
        return f"{max(0.0, min(1.0, value)):.0%}"
    return f"{max(0.0, 10 * value - 5):.0f} years" if write is _age else write(value)


class Reason(NamedTuple):
    """One thing about a shopper that moved a score: the features that it sums up, the value in words, and its share of the logit."""

    names: tuple[str, ...]
    group: str
    label: str
    value: str
    share: float


def reasons(names: Sequence[str], x: Sequence[float], shares: Sequence[float]) -> list[Reason]:
    """Return the reasons behind a vector (F,) with its shares (F,), the strongest first; equal ones in the order of the vector.

    The two numbers that hold the time of day are one reason.
    """
    told = {name: (float(value), float(share)) for name, value, share in zip(names, x, shares, strict=True)}
    found = []
    if all(name in told for name in _CLOCK):
        (sine, one), (cosine, other) = (told.pop(name) for name in _CLOCK)
        minutes = round(math.atan2(sine, cosine) / math.tau * 1440) % 1440
        found.append(Reason(_CLOCK, TIME, "local time", f"{minutes // 60}:{minutes % 60:02d}", one + other))
    for name, (value, share) in told.items():
        group, label, write = words(name)
        found.append(Reason((name,), group, label, write(value), share))
    return sorted(found, key=lambda reason: -abs(reason.share))


def by_group(found: Sequence[Reason]) -> dict[str, float]:
    """Return the sum of the shares of each group that is there, the strongest first."""
    totals = {group: sum(reason.share for reason in found if reason.group == group) for group in GROUPS if any(r.group == group for r in found)}
    return dict(sorted(totals.items(), key=lambda item: -abs(item[1])))
