"""Settings of the simulated shop. Its data is SYNTHETIC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from features.errors import InputError

LINE_NAMES: Final = ("audio", "bags", "books", "coffee", "garden", "kitchen", "lamps", "shoes", "sport", "toys", "watches", "wool")
DRIFTS: Final = ("none", "abrupt", "gradual")
DRIFT_ON: Final = ("all", "launch")
LAUNCH_KINDS: Final = ("like", "unrelated", "flipped")


@dataclass(frozen=True)
class Shop:
    """Settings of the simulated shop. Times are in days since `start_ms`; log odds are natural logarithms."""

    users: int = 2500
    lines: int = 8  # the launch line among them
    days: float = 14.0
    launch_line: str = "launch"
    launch_day: float | None = 8.0  # None: no line is launched
    launch_offset: float = 0.5  # what the launch's log odds lie above those of a line like the others
    launch_kind: str = "like"  # its slopes: like (around the shared ones), unrelated (drawn apart from them) or flipped (their opposite); not its level
    launch_delay: float = 1.0  # factor on the delays of its orders; those that fall out of the window are not made up for
    launch_appeal: float = 0.8  # log of how much it draws shoppers, against a typical line; people are curious about what is new
    line_offset: float = 0.3  # standard deviation of the other lines' own levels, in log odds; their categories' levels (0.4) come on top
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
            "launch_delay": (0.01, 100),
            "launch_appeal": (-5, 5),
            "line_offset": (0, 3),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} {getattr(self, name)} is not between {low} and {high}")
        if self.launch_day is not None and not 0 <= self.launch_day < self.days:
            raise InputError(f"launch_day {self.launch_day} is not within the {self.days} days")
        if self.launch_kind not in LAUNCH_KINDS:
            raise InputError(f"launch_kind {self.launch_kind!r} is not one of {', '.join(LAUNCH_KINDS)}")
        if self.drift not in DRIFTS:
            raise InputError(f"drift {self.drift!r} is not one of {', '.join(DRIFTS)}")
        if self.drift_on not in DRIFT_ON:
            raise InputError(f"drift_on {self.drift_on!r} is neither all nor launch")
        if not 1 <= len(self.launch_line) <= 128 or self.launch_line in self.line_names[:-1]:
            raise InputError(f"launch_line {self.launch_line!r} is empty, too long, or the name of another line")

    @property
    def line_names(self) -> tuple[str, ...]:
        """The lines' names; the launch line, if there is one, is the last."""
        sources = self.lines - (self.launch_day is not None)
        names = (*LINE_NAMES[:sources], *(f"line-{number}" for number in range(len(LINE_NAMES), sources)))
        return names if self.launch_day is None else (*names, self.launch_line)
