"""What a made-up shop's users do: visits, the lines they go to, what they look at, and what they order. SYNTHETIC.

A *stay* is one visit's time in one line. Whether it ends in an order is drawn from its probability before anything of it is seen;
looking then depends on the same hidden interest, and the cart on the order, so that behaviour tells of orders without deciding them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from features.events import BROWSE, CART, CLICK
from streams.shop_levels import line_intercepts, stay_odds
from streams.shop_world import DELAYS, EXTRA_LINES, MISSION_FADES_DAYS, MISSION_VISITS, NOISE, PURPOSEFUL, Array, World, sigmoid

SECOND = 1 / 86_400  # in days
CART_IF_ORDER = 0.6
FAVOURITE = 0.35  # how often a user looks again at the product they like best in a category


@dataclass(frozen=True)
class Visits:
    """Visits in order of (user, time); shapes (V,)."""

    user: Array
    t: Array


@dataclass(frozen=True)
class Stays:
    """Stays in order of visit and of turn within it; shapes (N,). Times in days."""

    visit: Array
    user: Array
    line: Array
    category: Array
    t: Array  # of the visit's start
    drive: Array  # hidden eagerness, which shows in browsing
    probability: Array  # of an order, before anything of the stay is seen
    ordered: Array
    delay: Array  # from the last look to the order, if there is one
    intercept_l: Array  # what all lines share, and what holds a launch of another kind at its level


@dataclass(frozen=True)
class Looks:
    """What was seen of the stays. Events before orders, shapes (M,), in order of stay and time; stays' own, shapes (N,)."""

    stay: Array
    kind: Array
    product: Array
    t: Array
    first: Array  # (N,) time of the stay's first event
    last: Array  # (N,) and of its last
    afterwards: Array  # (N,) probability of an order once the whole stay has been seen
    product_ordered: Array  # (N,)


def draw_visits(world: World, rng: np.random.Generator) -> Visits:
    """Return all visits up to the horizon: a Poisson process for each user, busier in busy hours and during missions."""
    everyone = np.arange(len(world.visits_u))
    users, times = [], []
    counts = rng.poisson(world.visits_u * world.horizon)
    hours = np.concatenate([[0.0], np.cumsum(world.hours)])
    users.append(np.repeat(everyone, counts))
    times.append(np.interp(rng.uniform(size=counts.sum()) * hours[-1], hours, np.arange(len(hours)) / 24))
    peak = world.hours.max()
    for k in range(world.mission_start_uk.shape[1]):
        expected = world.visits_u * MISSION_VISITS * world.mission_strength_uk[:, k] * MISSION_FADES_DAYS * peak
        counts = rng.poisson(expected)
        user = np.repeat(everyone, counts)
        t = world.mission_start_uk[user, k] + rng.exponential(MISSION_FADES_DAYS, size=len(user))
        kept = (t >= 0) & (t < world.horizon)
        kept &= rng.uniform(size=len(user)) * peak < world.hour_rate(t)
        users.append(user[kept])
        times.append(t[kept])
    user, t = np.concatenate(users), np.concatenate(times)
    kept = (t >= world.registered_u[user]) & (t < world.horizon)
    user, t = user[kept], t[kept]
    order = np.lexsort((t, user))
    return Visits(user[order], t[order])


def draw_stays(world: World, visits: Visits, rng: np.random.Generator, orders: np.random.Generator, *, conversion: float, window: float) -> Stays:
    """Return the lines each visit goes to, no line twice, and whether each stay ends in an order.

    The intercepts are such that about a share `conversion` of the source lines' exposures, without drift, sees an order within `window` days.
    """
    count = len(visits.user)
    weights = np.cumsum(world.category_weights(visits.user, visits.t), axis=1)
    turns = 1 + EXTRA_LINES
    drawn = rng.uniform(size=(count, turns)) * weights[:, -1:]
    category = np.stack([(weights < drawn[:, turn : turn + 1]).sum(axis=1) for turn in range(turns)], axis=1).clip(0, weights.shape[1] - 1)
    line = world.line_of_c[category]
    goes = np.ones((count, turns), bool)
    goes[:, 1:] = rng.uniform(size=(count, EXTRA_LINES)) < world.breadth_u[visits.user][:, None]
    for turn in range(1, turns):
        for before in range(turn):
            goes[:, turn] &= ~(goes[:, before] & (line[:, before] == line[:, turn]))
    purposeful = rng.uniform(size=count) < PURPOSEFUL
    visit, turn_of = np.nonzero(goes)
    line, category = line[visit, turn_of], category[visit, turn_of]
    user, t = visits.user[visit], visits.t[visit]
    noise = rng.normal(size=len(visit))
    mission = world.mission_in(user, category, t)
    odds, alike = (stay_odds(which, user, category, mission, purposeful[visit]) + NOISE * noise for which in (world, replace(world, slopes_lf=world.alike_lf)))
    intercept_l = line_intercepts(world, line, odds, alike, conversion=conversion, window=window)
    probability = sigmoid(odds + intercept_l[line] + world.level_shift(line, t))
    drive = 0.4 * world.interest_uc[user, category] + 0.6 * mission + 0.5 * purposeful[visit] + 0.5 * noise
    ordered = orders.uniform(size=len(visit)) < probability
    part = orders.choice(len(DELAYS), size=len(visit), p=[share for share, _, _ in DELAYS])
    medians, sigmas = np.array([median for _, median, _ in DELAYS])[part], np.array([sigma for _, _, sigma in DELAYS])[part]
    delay = world.delay_l[line] * medians * np.exp(sigmas * orders.normal(size=len(visit)))
    return Stays(visit, user, line, category, t, drive, probability, ordered, delay, intercept_l)


def look_around(world: World, stays: Stays, rng: np.random.Generator) -> Looks:
    """Return the browses, clicks and carts of every stay, seconds to minutes apart."""
    count = len(stays.user)
    browses = 1 + rng.poisson(np.exp(0.2 + 0.35 * np.clip(stays.drive, -3, 3)))
    stay = np.repeat(np.arange(count), browses)
    turn = np.arange(len(stay)) - np.repeat(np.cumsum(browses) - browses, browses)
    favourite = rng.integers(world.price_cp.shape[1], size=world.interest_uc.shape)[stays.user, stays.category]
    shares = world.product_share_cp[stays.category[stay]]
    product = (shares < rng.uniform(size=len(stay))[:, None]).sum(axis=1).clip(0, shares.shape[1] - 1)
    product = np.where(rng.uniform(size=len(stay)) < FAVOURITE, favourite[stay], product)
    clicked = rng.uniform(size=len(stay)) < sigmoid(-1.4 + 0.5 * stays.drive[stay])
    cart_else = sigmoid(-3.3 + 0.7 * stays.drive)
    carted = rng.uniform(size=count) < np.where(stays.ordered, CART_IF_ORDER, cart_else)
    last_product = product[np.cumsum(browses) - 1]

    in_cart = np.flatnonzero(carted)
    of_stay = np.concatenate([stay, stay[clicked], in_cart])
    kind = np.concatenate([np.full(len(stay), BROWSE), np.full(clicked.sum(), CLICK), np.full(len(in_cart), CART)])
    place = np.concatenate([2 * turn, 2 * turn[clicked] + 1, np.full(len(in_cart), 1 << 30)])
    products = np.concatenate([product, product[clicked], last_product[in_cart]])
    # A pause is drawn for every cart that could be: else one cart more would change all that comes after it.
    normal = rng.normal(size=2 * len(stay) + count)
    drawn = np.concatenate([normal[: len(stay)], normal[len(stay) : 2 * len(stay)][clicked], normal[2 * len(stay) :][in_cart]])
    pause = np.clip(35 * np.exp(0.8 * drawn), 1, 600)
    pause = np.where(kind == CLICK, np.maximum(pause / 5, 1), pause) * SECOND
    order = np.lexsort((place, of_stay))
    of_stay, kind, products, pause = of_stay[order], kind[order], products[order], pause[order]

    visit = stays.visit[of_stay]
    starts = np.flatnonzero(np.r_[True, visit[1:] != visit[:-1]]) if len(visit) else np.zeros(0, np.int64)
    pause[starts] = 0.0
    total = np.cumsum(pause)
    since = total - np.repeat(total[starts], np.diff(np.r_[starts, len(visit)]))
    t = stays.t[of_stay] + since
    ends = np.searchsorted(of_stay, np.arange(count), side="right") - 1
    begins = np.searchsorted(of_stay, np.arange(count), side="left")
    yes = stays.probability * np.where(carted, CART_IF_ORDER, 1 - CART_IF_ORDER)
    no = (1 - stays.probability) * np.where(carted, cart_else, 1 - cart_else)
    return Looks(of_stay, kind, products, t, t[begins], t[ends], yes / (yes + no), last_product)
