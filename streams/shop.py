"""A simulated shop: a seeded, SYNTHETIC event log whose truth is known, for trying out, testing and measuring regret.

Many product lines share structure (a shopper's propensity, interest, missions, thrift) and keep some of their own (intercepts, slopes,
hours, delays); one line is launched on a later day with an offset of its own. Shoppers come back, go to one or more lines a visit,
browse, click, put into the cart and order minutes to days later. Nothing here describes a real shop or a real person.

`simulate` builds, in this order: the world (`streams.shop_world`), visits, each visit's lines, whether each will order, what is seen of it, and the truth
(`streams.shop_truth`). Each part draws from a random stream of its own, so that drift, say, changes the orders and not the visits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from features.errors import InputError
from features.events import BROWSE, CART, CLICK, KINDS, ORDER
from features.log import in_order
from streams.foreign_logs import event_ids
from streams.shop_truth import truth_of
from streams.shop_visits import Segments, draw_segments, draw_visits, look_around
from streams.shop_world import AGE_BANDS, CHANNELS, GENDERS, REGIONS, Array, World
from streams.shop_making import make_world

DAY_MS: Final = 86_400_000
LINE_NAMES: Final = ("audio", "bags", "books", "coffee", "garden", "kitchen", "lamps", "shoes", "sport", "toys", "watches", "wool")
DRIFTS: Final = ("none", "abrupt", "gradual")
SYNTHETIC: Final = "SYNTHETIC data of a simulated shop: it describes no real shop and no real person"


@dataclass(frozen=True)
class Shop:
    """Settings of the simulated shop. Times are in days since `start_ms`; log odds are natural logarithms."""

    users: int = 2500
    lines: int = 8  # the launch line among them
    days: float = 14.0
    launch_line: str = "launch"
    launch_day: float | None = 8.0  # None: no line is launched
    launch_offset: float = 0.5  # what the launch's log odds lie above those of a line like the others
    drift: str = "none"  # none, abrupt or gradual (over two days)
    drift_size: float = 0.5  # log odds
    drift_day: float = 11.0
    drift_on: str = "all"  # all lines, or the launch alone
    own_structure: float = 0.25  # how much a line's slopes differ from the shared ones; 0: not at all
    conversion: float = 0.045  # about this share of the exposures ends in an order
    visits_per_day: float = 0.45  # of a typical user
    categories_per_line: int = 5
    products_per_category: int = 12
    window_s: float = 86_400.0  # the attribution window of the truth
    start_ms: int = 1_704_067_200_000  # Monday 2024-01-01 00:00 UTC
    seed: int = 1

    def __post_init__(self) -> None:
        """Raise `InputError` for a setting that makes no shop."""
        limits = {
            "users": (1, 1_000_000),
            "lines": (2, 200),
            "days": (0.1, 365),
            "own_structure": (0, 3),
            "conversion": (0.0001, 0.9),
            "visits_per_day": (0.001, 50),
            "categories_per_line": (1, 100),
            "products_per_category": (1, 1000),
            "window_s": (60, 90 * 86_400),
            "start_ms": (0, 4_000_000_000_000),
            "seed": (0, 2**63 - 1),
            "drift_size": (-5, 5),
            "launch_offset": (-5, 5),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} {getattr(self, name)} is not between {low} and {high}")
        if self.launch_day is not None and not 0 <= self.launch_day < self.days:
            raise InputError(f"launch_day {self.launch_day} is not within the {self.days} days")
        if self.drift not in DRIFTS:
            raise InputError(f"drift {self.drift!r} is not one of {', '.join(DRIFTS)}")
        if self.drift_on not in ("all", "launch"):
            raise InputError(f"drift_on {self.drift_on!r} is neither all nor launch")
        if not 1 <= len(self.launch_line) <= 128 or self.launch_line in self.line_names[:-1]:
            raise InputError(f"launch_line {self.launch_line!r} is empty, too long, or the name of another line")

    @property
    def line_names(self) -> tuple[str, ...]:
        """The lines' names; the launch line, if there is one, is the last."""
        sources = self.lines - (self.launch_day is not None)
        names = (*LINE_NAMES[:sources], *(f"line-{number}" for number in range(len(LINE_NAMES), sources)))
        return names if self.launch_day is None else (*names, self.launch_line)


@dataclass(frozen=True)
class Simulated:
    """A made-up log in `features.log.SCHEMA`, and the truth about each of its exposures (see `streams.shop_truth`)."""

    log: pa.Table
    truth: pa.Table


def simulate(shop: Shop) -> Simulated:
    """Return the log and the truth of a simulated shop; the same settings give the same bytes. The data is SYNTHETIC.

    `launch_offset` shifts the launch line only. Raises `InputError` when the settings give no event at all.
    """
    world_draws, visit_draws, segment_draws, order_draws, look_draws = (np.random.default_rng(s) for s in np.random.SeedSequence(shop.seed).spawn(5))
    world = make_world(shop, world_draws)
    visits = draw_visits(world, visit_draws)
    segments = draw_segments(world, visits, segment_draws, order_draws, conversion=shop.conversion, window=shop.window_s / 86_400)
    looks = look_around(world, segments, look_draws)
    log = _log_of(shop, world, segments, looks)
    if not log.num_rows:
        raise InputError("the simulated shop had no visits: more users, days or visits_per_day")
    return Simulated(log, truth_of(shop, world, segments, log))
