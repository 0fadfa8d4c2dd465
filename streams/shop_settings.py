"""Settings of the simulated shop. Its data is SYNTHETIC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from features.errors import InputError

LINE_NAMES: Final = ("audio", "bags", "books", "coffee", "garden", "kitchen", "lamps", "shoes", "sport", "toys", "watches", "wool")
DRIFTS: Final = ("none", "abrupt", "gradual")
DRIFT_ON: Final = ("all", "launch")


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
