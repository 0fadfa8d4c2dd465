"""A simulated shop: a seeded, SYNTHETIC event log whose truth is known, for trying out, testing and measuring regret.

Many product lines share structure (a shopper's propensity, interest, missions, thrift) and keep some of their own (intercepts, slopes,
hours, delays); one line is launched on a later day with an offset of its own. Shoppers come back, go to one or more lines a visit,
browse, click, put into the cart, and order minutes to days later. Nothing here describes a real shop or a real person.

`simulate` makes, in this order: the world, visits, stays in lines and their orders, what is seen of them, the log, and the truth.
Each step draws from a random stream of its own, so that drift, say, changes orders and carts but not who comes when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from features.errors import InputError
from features.events import CART, KINDS, ORDER
from features.log import in_order
from streams.foreign_logs import event_ids
from streams.shop_making import make_world
from streams.shop_settings import Shop
from streams.shop_truth import TRUTH_SCHEMA, exposure_rows, labels, true_probability
from streams.shop_visits import Looks, Stays, draw_stays, draw_visits, look_around
from streams.shop_world import AGE_BANDS, CHANNELS, GENDERS, REGIONS, Array, World

__all__ = ["SYNTHETIC", "Shop", "Simulated", "simulate"]

DAY_MS: Final = 86_400_000
CAMPAIGNS: Final = 6
SYNTHETIC: Final = "SYNTHETIC data of a simulated shop: it describes no real shop and no real person"


@dataclass(frozen=True)
class Simulated:
    """A SYNTHETIC log in `features.log.SCHEMA`, and the truth about each of its exposures in `streams.shop_truth.TRUTH_SCHEMA`."""

    log: pa.Table
    truth: pa.Table


@dataclass(frozen=True)
class _Rows:
    """The log's events as numbers, in the log's order; shapes (M,)."""

    stay: Array
    kind: Array
    product: Array
    ts: Array


def simulate(shop: Shop) -> Simulated:
    """Return the log and the truth of a simulated shop; the same settings give the same bytes. The data is SYNTHETIC.

    Raises `InputError` when the settings bring no event at all.
    """
    draws = [np.random.default_rng(seed) for seed in np.random.SeedSequence(shop.seed).spawn(6)]
    window = shop.window_s / 86_400
    world = make_world(shop, draws[0])
    visits = draw_visits(world, draws[1])
    stays = draw_stays(world, visits, draws[2], draws[3], conversion=shop.conversion, window=window)
    if not len(stays.user):
        raise InputError("the simulated shop had no visits: give it more users, days or visits_per_day")
    looks = look_around(world, stays, draws[4])
    rows = _events(shop, stays, looks, before_ms=shop.start_ms + round(shop.days * DAY_MS))
    if not len(rows.ts):
        raise InputError("the simulated shop had no visits: give it more users, days or visits_per_day")
    log = _log(shop, world, stays, looks, rows, draws[5])
    return Simulated(log, _truth(shop, world, stays, looks, rows, log))


def _events(shop: Shop, stays: Stays, looks: Looks, *, before_ms: int | None = None) -> _Rows:
    """Return what was seen, and the orders, in order of time; `before_ms` is where the log ends."""
    ordering = np.flatnonzero(stays.ordered)
    stay = np.concatenate([looks.stay, ordering])
    kind = np.concatenate([looks.kind, np.full(len(ordering), ORDER)])
    product = np.concatenate([looks.product, looks.product_ordered[ordering]])
    ts = _ms(shop, np.concatenate([looks.t, looks.last[ordering] + stays.delay[ordering]]))
    order = np.lexsort((stay, kind, ts))
    if before_ms is not None:
        order = order[ts[order] < before_ms]
    return _Rows(stay[order], kind[order], product[order], ts[order])


def _ms(shop: Shop, t: Array) -> Array:
    return np.asarray(shop.start_ms + np.floor(t * DAY_MS).astype(np.int64))


def _named(names: Array | list[str], which: Array, known: Array | None = None) -> pa.Array:
    """Return names by number, null where they are not known."""
    return pa.array(names, pa.string()).take(pa.array(which, mask=None if known is None else ~known))


def _log(shop: Shop, world: World, stays: Stays, looks: Looks, rows: _Rows, rng: np.random.Generator) -> pa.Table:
    user, category = stays.user[rows.stay], stays.category[rows.stay]
    per_line = shop.categories_per_line
    lines = shop.line_names
    categories = [f"{lines[line]}-{number % per_line + 1}" for number, line in enumerate(world.line_of_c)]
    products = [f"{name}-{number + 1:03d}" for name in categories for number in range(shop.products_per_category)]
    visit, visits = stays.visit[rows.stay], int(stays.visit[-1]) + 1
    in_campaign = rng.uniform(size=visits) < 0.25
    campaign = rng.integers(CAMPAIGNS, size=visits)
    elsewhere = rng.uniform(size=visits) < 0.15
    other = rng.integers(len(CHANNELS), size=visits)
    channel = np.where(elsewhere[visit], other[visit], world.channel_u[user])
    counted = (rows.kind == CART) | (rows.kind == ORDER)
    quantity = (1 + rng.poisson(0.15, size=len(stays.user)))[rows.stay].astype(float)
    in_visit = (rows.kind != ORDER) | (rows.ts - _ms(shop, looks.last[rows.stay]) < 30 * 60_000)
    known = ~world.silent_u[user]
    registered = np.maximum(_ms(shop, world.registered_u), 0)
    return in_order(
        pa.table(
            {
                "event_id": event_ids(rows.ts, rows.kind, np.arange(len(rows.ts))),
                "kind": _named(list(KINDS), rows.kind),
                "user_id": _named([f"u{number:06d}" for number in range(shop.users)], user),
                "product_id": _named(products, category * shop.products_per_category + rows.product),
                "line": _named(list(lines), stays.line[rows.stay]),
                "ts": rows.ts,
                "category": _named(categories, category),
                "channel": _named(list(CHANNELS), channel),
                "session_id": _named([f"s{number:07d}" for number in range(visits)], visit, in_visit),
                "campaign_id": _named([f"campaign-{number + 1}" for number in range(CAMPAIGNS)], campaign[visit], in_campaign[visit]),
                "price": world.price_cp[category, rows.product],
                "quantity": pa.array(quantity, mask=~counted),
                "age_band": _named(list(AGE_BANDS), world.age_u[user], known),
                "gender": _named(list(GENDERS), world.gender_u[user], known),
                "level": pa.array(world.level_u[user], mask=~known),
                "region": _named(list(REGIONS), world.region_u[user], known),
                "registered_ts": pa.array(registered[user], mask=~known),
            }
        )
    )


def _truth(shop: Shop, world: World, stays: Stays, looks: Looks, rows: _Rows, log: pa.Table) -> pa.Table:
    user, line = stays.user[rows.stay], stays.line[rows.stay]
    opening = exposure_rows(user, line, rows.ts, rows.kind)
    window_ms = round(shop.window_s * 1000)
    every = _events(shop, stays, looks)
    orders = every.kind == ORDER
    ordered = labels(
        user[opening], line[opening], rows.ts[opening], stays.user[every.stay[orders]], stays.line[every.stay[orders]], every.ts[orders], window_ms=window_ms
    )
    taken = log.select(["event_id", "user_id", "line", "ts"]).take(pa.array(opening))
    return pa.table(
        {
            **{name: taken[name] for name in taken.column_names},
            "probability": true_probability(world, stays, looks, rows.stay[opening], window=shop.window_s / 86_400),
            "ordered": ordered,
            "final": rows.ts[opening] + window_ms <= shop.start_ms + round(shop.days * DAY_MS),
        },
        schema=TRUTH_SCHEMA,
    )
