"""The feature vector: one table that names and describes every number the models see.

`advance` fills a row from the states as they are right after the event (`seen after`), save for the recencies, which are those
right before it. Counts and times are already ln(1 + .), rates are log-ratios: models only standardise.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from features.events import KINDS
from features.layout import schema_hash


class Feature(NamedTuple):
    """A position of the vector: its name, and what it says in words a marketer reads."""

    name: str
    meaning: str


_SPANS = (("1h", "hour"), ("1d", "day"), ("7d", "week"))

FEATURES: Final[tuple[Feature, ...]] = (
    *(Feature(f"user_{k}_{h}", f"{k} events of the user, decayed over a {w}, ln(1+n)") for k in KINDS for h, w in _SPANS),
    *(Feature(f"line_{k}_{h}", f"{k} events of the user in this line, decayed over a {w}, ln(1+n)") for k in KINDS for h, w in _SPANS),
    *(Feature(f"user_since_{k}", f"ln(1+seconds) since the user's previous {k} event; 30 days if none") for k in KINDS),
    *(Feature(f"line_since_{k}", f"ln(1+seconds) since the user's previous {k} event in this line; 30 days if none") for k in KINDS),
    Feature("user_cart_rate", "ln((carts + .25) / (browses + clicks + 5)) of the user's last week"),
    Feature("user_order_rate", "ln((orders + .1) / (browses + clicks + 5)) of the user's last week"),
    Feature("user_conversion_rate", "ln((converted + .25) / (matured + 5)) over the user's exposures whose label is final"),
    Feature("user_matured", "ln(1+exposures of the user whose label is final)"),
    Feature("visit_depth", "ln(1+events of this visit)"),
    Feature("visit_age", "ln(1+seconds) since this visit began"),
    Feature("visit_lines", "ln(1+lines seen in this visit)"),
    Feature("visit_gap", "ln(1+seconds) since the user's previous event; 30 days if none"),
    Feature("user_visits", "ln(1+visits of the user)"),
    Feature("user_lines", "ln(1+lines that the user has ever seen)"),
    Feature("line_categories", "ln(1+categories among the user's latest in this line)"),
    Feature("category_count", "events of the user in this category, decayed over a day, ln(1+n)"),
    Feature("category_since", "ln(1+seconds) since the user's previous event in this category; 30 days if none"),
    Feature("product_count", "events of the user with this product, decayed over a day, ln(1+n)"),
    Feature("product_since", "ln(1+seconds) since the user's previous event with this product; 30 days if none"),
    Feature("is_click", "1 if this event is a click"),
    Feature("is_cart", "1 if this event is a cart"),
    Feature("is_order", "1 if this event is an order"),
    Feature("hour_sin", "sine of the local hour of day"),
    Feature("hour_cos", "cosine of the local hour of day"),
    Feature("lines_popularity", "ln(1+events of all users in this line, decayed over a week)"),
    Feature("lines_cart_rate", "ln of the line's carts over browses and clicks of the week, smoothed"),
    Feature("lines_order_rate", "ln of the line's orders over browses and clicks of the week, smoothed"),
    Feature("lines_conversion_rate", "ln of the line's converted over matured exposures, smoothed"),
    Feature("categories_popularity", "ln(1+events of all users in this category, decayed over a week)"),
    Feature("categories_trend", "ln of the category's events of the day over those of the week, smoothed"),
    Feature("categories_cart_rate", "ln of the category's carts over browses and clicks of the week, smoothed"),
    Feature("categories_order_rate", "ln of the category's orders over browses and clicks of the week, smoothed"),
    Feature("categories_conversion_rate", "ln of the category's converted over matured exposures, smoothed"),
    Feature("price", "ln(1+price); 0 if unknown"),
    Feature("price_known", "1 if the event gives a price"),
    Feature("age", "age band, as an ordinal from 1; 0 if unknown"),
    Feature("female", "1 if the user's gender is female"),
    Feature("male", "1 if the user's gender is male"),
    Feature("level", "ln(1+level of the user); 0 if unknown"),
    Feature("tenure", "ln(1+days) since the user registered; 0 if unknown"),
    Feature("region", "the region's hash, spread over -1..1; 0 if unknown"),
)

NAMES: Final = tuple(f.name for f in FEATURES)
WIDTH: Final = len(FEATURES)
SCHEMA_HASH: Final = schema_hash(*(f"{f.name}: {f.meaning}" for f in FEATURES))
ABOUT_LINE: Final = tuple(name for name in NAMES if name.startswith(("line_", "lines_", "categories_", "price")))
"""Features that tell how busy, how old and how dear a line is: they would tell any two lines apart, however alike their shoppers."""
NEVER_MS: Final = 30.0 * 86_400_000.0


def index(name: str) -> int:
    """Return the position of a feature in the vector."""
    return NAMES.index(name)
