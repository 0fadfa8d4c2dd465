"""Drawing a made-up shop's world from its settings and a seed. SYNTHETIC."""

from __future__ import annotations

import numpy as np

from streams.shop_settings import Shop
from streams.shop_world import AGE_BANDS, CHANNELS, GENDERS, MISSIONS, REGIONS, SLOPES, TASTES, Array, World

AGES = (0.2, 0.3, 0.22, 0.16, 0.12)
THRIFT = (0.6, 0.2, 0.0, -0.2, -0.3)  # by age band
GRADUAL_DAYS = 2.0


def make_world(shop: Shop, rng: np.random.Generator) -> World:
    """Return the world; the same settings and draws give the same one."""
    launched = shop.launch_day is not None
    horizon = shop.days + shop.window_s / 86_400
    lines, categories = shop.lines, shop.lines * shop.categories_per_line
    line_of_c = np.repeat(np.arange(lines), shop.categories_per_line)

    line_taste = rng.normal(size=(lines, TASTES))
    taste_c = (0.7 * line_taste[line_of_c] + 0.7 * rng.normal(size=(categories, TASTES))) / np.sqrt(TASTES)
    log_price_c = 0.5 * rng.normal(size=lines)[line_of_c] + 0.4 * rng.normal(size=categories)
    price_cp = np.round(np.exp(3.2 + log_price_c[:, None] + 0.35 * rng.normal(size=(categories, shop.products_per_category))), 2)
    popularity = np.exp(rng.normal(size=price_cp.shape))
    appeal_l, own_appeal = 0.4 * rng.normal(size=lines), 0.5 * rng.normal(size=categories)
    level_l, own_level = shop.line_offset * rng.normal(size=lines), 0.4 * rng.normal(size=categories)
    if launched:  # its categories differ from each other, but their mean is fixed, so that `launch_offset` is the whole shift
        appeal_l[-1], level_l[-1] = shop.launch_appeal, 0.0
        for own in (own_appeal, own_level):
            own[line_of_c == lines - 1] -= own[line_of_c == lines - 1].mean()
    appeal_c, intercept_c = appeal_l[line_of_c] + own_appeal, level_l[line_of_c] + own_level
    shared = np.array(list(SLOPES.values()))
    alike_lf = shared * (1 + shop.own_structure * rng.normal(size=(lines, len(shared))))
    slopes_lf = _with_launch_kind(shop, alike_lf, shared, rng) if launched else alike_lf
    hour_phase_l = rng.uniform(size=lines)
    delay_l = np.exp(0.2 * rng.normal(size=lines))
    if launched:
        delay_l[-1] *= shop.launch_delay

    users = shop.users
    age, gender = rng.choice(len(AGE_BANDS), users, p=AGES), rng.choice(len(GENDERS), users, p=(0.52, 0.45, 0.03))
    taste = (
        0.5 * rng.normal(size=(len(AGE_BANDS), TASTES))[age] + 0.5 * rng.normal(size=(len(GENDERS), TASTES))[gender] + 0.8 * rng.normal(size=(users, TASTES))
    )
    propensity = rng.normal(size=users)
    level = np.clip(np.round(3 + 1.2 * propensity + 1.2 * rng.normal(size=users)), 0, 7).astype(np.int64)
    thrift = np.array(THRIFT)[age] - 0.15 * (level - 3) + 0.7 * rng.normal(size=users)
    region, channel = rng.integers(len(REGIONS), size=users), rng.choice(len(CHANNELS), users, p=(0.6, 0.25, 0.15))
    interest = taste @ taste_c.T
    weight_uc = np.exp(appeal_c + 0.8 * interest)
    visits = shop.visits_per_day * np.exp(0.7 * rng.normal(size=users))
    breadth = rng.beta(2, 5, size=users)
    registered = np.where(rng.uniform(size=users) < 0.08, rng.uniform(0, shop.days, size=users), -np.minimum(rng.exponential(400, size=users), 3000))
    silent = rng.uniform(size=users) < 0.1

    start, category, strength = _missions(shop, horizon, line_of_c, weight_uc, rng)
    return World(
        horizon=horizon,
        launch_line=lines - 1 if launched else -1,
        launch_at=float(shop.launch_day or 0.0),
        launch_offset=shop.launch_offset,
        drift_at=shop.drift_day,
        drift_size=0.0 if shop.drift == "none" else shop.drift_size,
        drift_over=GRADUAL_DAYS if shop.drift == "gradual" else 0.0,
        drift_launch_only=shop.drift_on == "launch",
        line_of_c=line_of_c,
        log_price_c=log_price_c,
        price_cp=price_cp,
        product_share_cp=np.cumsum(popularity / popularity.sum(axis=1, keepdims=True), axis=1),
        intercept_c=intercept_c,
        slopes_lf=slopes_lf,
        alike_lf=alike_lf,
        hour_phase_l=hour_phase_l,
        delay_l=delay_l,
        visits_u=visits,
        propensity_u=propensity,
        thrift_u=thrift,
        breadth_u=breadth,
        registered_u=registered,
        channel_u=channel,
        age_u=age,
        gender_u=gender,
        level_u=level,
        region_u=region,
        silent_u=silent,
        interest_uc=interest,
        weight_uc=weight_uc,
        mission_start_uk=start,
        mission_category_uk=category,
        mission_strength_uk=strength,
        hours=_busy_hours(horizon),
    )


def _with_launch_kind(shop: Shop, alike_lf: Array, shared: Array, rng: np.random.Generator) -> Array:
    """Return the slopes with the launch's, which are last, of its kind; (L, F) → (L, F). Draws from a stream of its own: all else stays as it was."""
    slopes_lf = alike_lf.copy()
    if shop.launch_kind == "flipped":
        slopes_lf[-1] *= -1
    elif shop.launch_kind == "unrelated":
        slopes_lf[-1] = np.sqrt(np.mean(shared**2)) * rng.spawn(1)[0].normal(size=len(shared))
    return slopes_lf


def _missions(shop: Shop, horizon: float, line_of_c: Array, weight_uc: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return when missions start, for what, and how strong; each (U, K). Those that a user does not have, or for what is not on sale yet, have strength 0."""
    shape = (shop.users, MISSIONS)
    start = rng.uniform(-3.0, horizon, size=shape)
    cumulated = np.cumsum(weight_uc, axis=1)
    drawn = rng.uniform(size=shape) * cumulated[:, -1:]
    category = np.stack([(cumulated < drawn[:, k : k + 1]).sum(axis=1) for k in range(MISSIONS)], axis=1).clip(0, weight_uc.shape[1] - 1)
    count = np.minimum(rng.poisson((horizon + 3) / 8, size=shop.users), MISSIONS)
    strength = rng.uniform(0.5, 1.5, size=shape) * (np.arange(MISSIONS) < count[:, None])
    if shop.launch_day is not None:
        strength *= (line_of_c[category] != shop.lines - 1) | (start >= shop.launch_day)
    return start, category, strength


def _busy_hours(horizon: float) -> Array:
    """Return how busy each hour is, (H,), mean 1: little by night, two peaks by day, more on Saturdays and Sundays after a Monday start."""
    hour = np.arange(int(np.ceil(horizon * 24)))
    of_day, day = hour % 24, (hour // 24) % 7
    shape = 0.15 + np.exp(-(((of_day - 12.5) / 3) ** 2)) + 1.4 * np.exp(-(((of_day - 20.5) / 2.2) ** 2))
    busy = shape * np.where(day >= 5, 1.25, 1.0)
    return np.asarray(busy / busy.mean())
