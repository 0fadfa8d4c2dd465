"""How high a made-up shop's lines lie: the intercept that all share, and what holds a launch with slopes of another kind at its level. SYNTHETIC."""

from __future__ import annotations

import numpy as np

from streams.shop_world import Array, World, sigmoid

ORDERS_SHARED = 0.62  # an order counts for about 1 / this exposures: those before it in its line, within the window


def stay_odds(world: World, user: Array, category: Array, mission: Array, purposeful: Array) -> Array:
    """Return the log odds that stays end in an order, without what all share, moves with time, or is noise; shapes (N,) → (N,)."""
    slopes = world.slopes_lf[world.line_of_c[category]]
    return np.asarray(world.steady(user, category) + slopes[:, 2] * mission + slopes[:, 4] * purposeful)


def line_intercepts(world: World, line: Array, odds: Array, alike: Array, *, conversion: float, window: float) -> Array:
    """Return what is added to each line's log odds; stays (N,) → (L,).

    All share one intercept, with which about a share `conversion` of the source lines' exposures sees an order within `window` days.
    A launch's differs if its slopes are of another kind: its stays then order as often, on average, as with odds `alike`, so that
    kind changes who orders, and `launch_offset` alone how many.
    """
    sources = line != world.launch_line
    shared = _intercept(odds[sources], ORDERS_SHARED * conversion / float(world.delayed(np.zeros(1, np.int64), np.array([window]))[0]))
    intercepts = np.full(len(world.slopes_lf), shared)
    if not np.array_equal(odds, alike):
        level = shared + world.launch_offset
        intercepts[world.launch_line] += _intercept(odds[~sources] + level, float(sigmoid(alike[~sources] + level).mean()))
    return intercepts


def _intercept(odds: Array, wanted: float) -> float:
    """Return the x for which the mean of sigmoid(odds + x) is `wanted`, by halving."""
    low, high = -20.0, 20.0
    for _ in range(60 if len(odds) else 0):
        middle = (low + high) / 2
        if sigmoid(odds + middle).mean() < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2
