"""The made-up shop's hidden world: its lines, products and shoppers, how often they come, and how likely they are to order. SYNTHETIC.

Everything here is latent: the log shows only what shoppers do. Times are in days since the shop's start; U users, C categories in L lines,
P products a category, K shopping missions a user. A mission is a spell of interest in one category that fades over about a day:
it brings more visits, more of them to that category, deeper browsing and more orders, so recent behaviour tells of orders to come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

TASTES: Final = 6
MISSIONS: Final = 8  # at most, a user
MISSION_FADES_DAYS: Final = 1.2
MISSION_VISITS: Final = 2.0  # how many times the usual visits a fresh mission of strength 1 adds
MISSION_SHARE: Final = 2.0  # and its category's weight, in units of all the others together
EXTRA_LINES: Final = 2  # a visit goes to one line, and perhaps to this many more
PURPOSEFUL: Final = 0.3  # share of visits that mean business

AGE_BANDS: Final = ("18-24", "25-34", "35-44", "45-54", "55+")
GENDERS: Final = ("f", "m", "x")
REGIONS: Final = ("north", "south", "east", "west", "islands")
CHANNELS: Final = ("app", "web", "mini")

# What all lines share: the effect on the log odds of an order. A line's own slopes lie around these.
SLOPES: Final = {"propensity": 0.6, "interest": 0.45, "mission": 0.85, "price": -0.35, "purposeful": 0.8}
NOISE: Final = 0.5  # of a visit to a line, in log odds; it also shows in how deeply the shopper browses

# Delays after the last look: (share, median in days, sigma of the logarithm)
DELAYS: Final = ((0.5, 10 / 1440, 1.0), (0.3, 4 / 24, 0.9), (0.2, 26 / 24, 0.7))

_GRID: Final = np.linspace(-8.0, 8.0, 4001)
_NORMAL: Final = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in _GRID])
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), elementwise."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


@dataclass(frozen=True)
class World:
    """What a seed and the settings fix before anyone visits. Names end in the shape."""

    horizon: float  # days, past the end of the log so that the last exposures have their window
    launch_line: int  # -1 if none
    launch_at: float
    launch_offset: float
    drift_at: float
    drift_size: float
    drift_over: float  # days; 0 is abrupt
    drift_launch_only: bool
    line_of_c: Array
    log_price_c: Array
    price_cp: Array
    product_share_cp: Array  # cumulated
    intercept_c: Array  # of the line and the category, less the one that all share
    slopes_lf: Array  # in the order of SLOPES
    alike_lf: Array  # the same, were the launch's like the others'
    hour_phase_l: Array
    delay_l: Array  # factor on every delay
    visits_u: Array  # a day
    propensity_u: Array
    thrift_u: Array
    breadth_u: Array
    registered_u: Array  # days; negative is before the start
    channel_u: Array
    age_u: Array
    gender_u: Array
    level_u: Array
    region_u: Array
    silent_u: Array  # nothing is known of them
    interest_uc: Array
    weight_uc: Array
    mission_start_uk: Array
    mission_category_uk: Array
    mission_strength_uk: Array
    hours: Array  # visits by hour of the whole horizon, mean 1

    def hour_rate(self, t: Array) -> Array:
        """Return how busy the shop is at times (N,), relative to its mean."""
        return np.asarray(self.hours[np.clip((t * 24).astype(np.int64), 0, len(self.hours) - 1)])

    def missions(self, user: Array, t: Array) -> Array:
        """Return what is left of each mission; user (N,), t (N, M) → (N, M, K)."""
        age = t[..., None] - self.mission_start_uk[user][:, None, :]
        return np.where(age >= 0, self.mission_strength_uk[user][:, None, :] * np.exp(-np.maximum(age, 0) / MISSION_FADES_DAYS), 0.0)

    def open_c(self, t: Array) -> Array:
        """Return which categories are on sale at times (N,); shape (N, C). The launch's are not before their day."""
        return np.asarray((self.line_of_c[None, :] != self.launch_line) | (t[:, None] >= self.launch_at))

    def level_shift(self, line: Array, t: Array) -> Array:
        """Return what launch, drift and hour add to the log odds; shapes broadcast."""
        since = t - self.drift_at
        share = np.clip(since / self.drift_over, 0, 1) if self.drift_over > 0 else (since >= 0).astype(float)
        touched = (line == self.launch_line) | (not self.drift_launch_only)
        hour = 0.15 * np.cos(2 * np.pi * (t - self.hour_phase_l[line]))
        return np.asarray(self.drift_size * share * touched + self.launch_offset * (line == self.launch_line) + hour)

    def steady(self, user: Array, category: Array) -> Array:
        """Return the part of the log odds that time does not move; shapes (N,), (N,) → (N,)."""
        slopes = self.slopes_lf[self.line_of_c[category]]
        return np.asarray(
            self.intercept_c[category]
            + slopes[..., 0] * self.propensity_u[user]
            + slopes[..., 1] * self.interest_uc[user, category]
            + slopes[..., 3] * self.thrift_u[user] * self.log_price_c[category]
        )

    def delayed(self, line: Array, delay: Array) -> Array:
        """Return the share of orders that have come after a delay in days (0 before it); shapes broadcast."""
        logs = np.log(np.maximum(delay / self.delay_l[line], 1e-9))
        return np.asarray(sum(share * np.interp((logs - math.log(median)) / sigma, _GRID, _NORMAL) for share, median, sigma in DELAYS))

    def future_orders(self, user: Array, line: Array, t: Array, *, window: float, intercept_l: Array) -> Array:
        """Return the expected number of orders, within `window` days of t, from visits that are yet to come; shapes (N,) → (N,).

        Visits are a Poisson process given the missions, and each orders at most once a line, so exp(-this) is the chance of no such order.
        """
        members = np.array([np.flatnonzero(self.line_of_c == one) for one in range(len(self.hour_phase_l))])[line]  # (N, C/L)
        nodes = max(24, round(window * 12))
        ahead = (np.arange(nodes) + 0.5) * (window / nodes)
        s = t[:, None] + ahead[None, :]
        missions = self.missions(user, s)
        share = MISSION_SHARE * missions * self._all_weight(user)[:, None, None]
        on_sale = (line[:, None] != self.launch_line) | (s >= self.launch_at)
        total = self._all_weight(user)[:, None] + np.where(s >= self.launch_at, self._launch_weight(user)[:, None], 0.0) + share.sum(axis=2)
        shift = self.level_shift(line[:, None], s) + intercept_l[line][:, None]
        wanted, ordering = np.zeros_like(s), np.zeros_like(s)
        for j in range(members.shape[1]):
            category = members[:, j]
            in_mission = self.mission_category_uk[user] == category[:, None]
            weight = on_sale * self.weight_uc[user, category][:, None] + (share * in_mission[:, None, :]).sum(axis=2)
            mission = (missions * in_mission[:, None, :]).sum(axis=2)
            odds = self.steady(user, category)[:, None] + shift + self.slopes_lf[line, 2][:, None] * mission
            wanted += weight
            ordering += weight * self._mean_probability(odds, self.slopes_lf[line, 4][:, None])
        in_line = wanted / total
        goes = 1 - (1 - in_line) * (1 - self.breadth_u[user][:, None] * in_line) ** EXTRA_LINES
        visits = self.visits_u[user][:, None] * self.hour_rate(s) * (1 + MISSION_VISITS * missions.sum(axis=2))
        arrived = self.delayed(line[:, None], window - ahead[None, :])
        return np.asarray((visits * goes * ordering / np.maximum(wanted, 1e-12) * arrived).sum(axis=1) * (window / nodes))

    def _all_weight(self, user: Array) -> Array:
        """Return the weight of all categories but the launch's; (N,) → (N,)."""
        return np.asarray((self.weight_uc * (self.line_of_c != self.launch_line)).sum(axis=1)[user])

    def _launch_weight(self, user: Array) -> Array:
        return np.asarray((self.weight_uc * (self.line_of_c == self.launch_line)).sum(axis=1)[user])

    @staticmethod
    def _mean_probability(odds: Array, purposeful: Array) -> Array:
        """Return the probability of an order, averaged over a visit's purpose and noise."""
        mean = np.zeros(np.broadcast(odds, purposeful).shape)
        for x, w in zip(_NODES, _WEIGHTS / _WEIGHTS.sum(), strict=True):
            mean += w * ((1 - PURPOSEFUL) * sigmoid(odds + NOISE * x) + PURPOSEFUL * sigmoid(odds + NOISE * x + purposeful))
        return mean

    def category_weights(self, user: Array, t: Array) -> Array:
        """Return how much a visit at t is drawn to each category; shapes (N,), (N,) → (N, C)."""
        weights = self.weight_uc[user] * self.open_c(t)
        share = MISSION_SHARE * self.missions(user, t[:, None])[:, 0, :] * self._all_weight(user)[:, None]
        rows = np.arange(len(user))
        for k in range(share.shape[1]):
            weights[rows, self.mission_category_uk[user, k]] += share[:, k]
        return np.asarray(weights)

    def mission_in(self, user: Array, category: Array, t: Array) -> Array:
        """Return what is left of the user's missions in a category; shapes (N,) → (N,)."""
        left = self.missions(user, t[:, None])[:, 0, :]
        return np.asarray((left * (self.mission_category_uk[user] == category[:, None])).sum(axis=1))
