"""Statistics of lines and categories over all users: counted as integers where events are, decayed where one writer keeps them.

In a tick a partition counts whole events by (name, kind), and labels by name: integers, whose sum does not depend on order. The one
writer decays by the time since a name last changed and adds them. A name is `line:<line>`, `category:<category>` or the shop (``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.advance import weight
from features.layout import CATALOGUE, CATALOGUE_HALF_LIVES_S

SHOP: Final = "shop"
MATURED: Final = 4
CONVERTED: Final = 5

Counts = dict[str, list[int]]


def names_of(line: str, category: str) -> tuple[str, str, str]:
    """Return the catalogue names that an event or a label of a line and category counts for."""
    return SHOP, f"line:{line}", f"category:{category}"


def count(counts: Counts, line: str, category: str, what: int) -> None:
    """Add one to `what` (a kind, MATURED or CONVERTED) for every name concerned."""
    for name in names_of(line, category):
        counts.setdefault(name, [0] * 6)[what] += 1


def merge(parts: list[Mapping[str, list[int]]]) -> Counts:
    """Return the sum of several partitions' counts, by name in order of name."""
    total: Counts = {}
    for part in parts:
        for name, values in part.items():
            held = total.setdefault(name, [0] * 6)
            for i, value in enumerate(values):
                held[i] += value
    return dict(sorted(total.items()))


def empty() -> NDArray[np.void]:
    """Return one CATALOGUE record (1,) of a name that nobody has seen."""
    return np.zeros(1, CATALOGUE)


def add(record: NDArray[np.void], values: list[int], at_ms: int) -> NDArray[np.void]:
    """Return the record (1,) decayed to `at_ms` with the integers `values` (6,) added; `at_ms` never goes back."""
    out = record.copy()
    age_ms = float(max(at_ms - int(record["at_ms"][0]), 0)) if record["at_ms"][0] else 0.0
    for h, half_life_s in enumerate(CATALOGUE_HALF_LIVES_S):
        w = weight(age_ms, half_life_s)
        for kind in range(4):
            out["counts"][0, kind, h] = record["counts"][0, kind, h] * w + values[kind]
    week = weight(age_ms, CATALOGUE_HALF_LIVES_S[1])
    out["matured"][0] = record["matured"][0] * week + values[MATURED]
    out["converted"][0] = record["converted"][0] * week + values[CONVERTED]
    out["at_ms"][0] = max(at_ms, int(record["at_ms"][0]))
    return out
