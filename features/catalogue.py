"""Statistics of lines and categories over all users: counted as integers where events are, decayed where one writer keeps them.

In a tick a partition counts whole events by (name, kind), and labels by name: integers, whose sum does not depend on order. The one
writer decays by the time since a name last changed and adds them. A name is `line:<line>`, `category:<category>` or `shop`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.events import KINDS
from features.kernel import kernel
from features.layout import CATALOGUE, CATALOGUE_HALF_LIVES_S

SHOP: Final = "shop"
MATURED: Final = 4
CONVERTED: Final = 5
_DAY_S, _WEEK_S = CATALOGUE_HALF_LIVES_S
_LN2: Final = math.log(2.0)

Counts = dict[str, list[int]]
PART_BYTES: Final = 250_000
"""About how much one message of counts has at most: a quarter of what a broker takes."""


def names_of(line: str, category: str) -> tuple[str, str, str]:
    """Return the catalogue names that an event or a label of a line and category counts for."""
    return SHOP, f"line:{line}", f"category:{category}"


def count(counts: Counts, line: str, category: str, what: int) -> None:
    """Add one to `what` (a kind, MATURED or CONVERTED) for every name concerned."""
    for name in names_of(line, category):
        counts.setdefault(name, [0] * 6)[what] += 1


def count_many(counts: Counts, names: Sequence[str], rows: NDArray[np.int64], kinds: NDArray[np.int64]) -> None:
    """Add one to the kind (N,) of the name in each row (R, N) of `names`."""
    for place, n in Counter((rows * len(KINDS) + kinds).ravel().tolist()).items():
        counts.setdefault(names[place // len(KINDS)], [0] * 6)[place % len(KINDS)] += n


def merge(parts: list[Mapping[str, list[int]]]) -> Counts:
    """Return the sum of several partitions' counts, by name in order of name."""
    total: Counts = {}
    for part in parts:
        for name, values in part.items():
            held = total.setdefault(name, [0] * 6)
            for i, value in enumerate(values):
                held[i] += value
    return dict(sorted(total.items()))


def in_parts(counts: Counts) -> list[Counts]:
    """Return the counts, by name in order of name, in parts of which each fits a message; at least one part, of which `merge` makes the whole again.

    How many names a tick has is up to the shop: one that puts its products' numbers into `category` has as many as products.
    """
    parts: list[Counts] = [{}]
    size = 0
    for name, values in sorted(counts.items()):
        weight = len(name.encode()) + 6 * 9  # no integer takes more than nine bytes in MessagePack
        if size and size + weight > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = values
        size += weight
    return parts


def empty() -> NDArray[np.void]:
    """Return one CATALOGUE record (1,) of a name that nobody has seen."""
    return np.zeros(1, CATALOGUE)


def add(records: NDArray[np.void], values: NDArray[np.int64], at_ms: int) -> NDArray[np.void]:
    """Return the records (N,) decayed to `at_ms` with the integers `values` (N, 6) added; `at_ms` never goes back."""
    out = records.copy()
    _add(out, np.ascontiguousarray(values, dtype=np.int64), at_ms)
    return out


@kernel
def _add(records: Any, values: NDArray[np.int64], at_ms: int) -> None:
    for i in range(len(records)):
        record = records[i]
        age_ms = float(max(at_ms - record.at_ms, 0)) if record.at_ms else 0.0
        day = math.exp(-_LN2 * age_ms / (1000.0 * _DAY_S))
        week = math.exp(-_LN2 * age_ms / (1000.0 * _WEEK_S))
        for kind in range(4):
            record.counts[kind, 0] = record.counts[kind, 0] * day + values[i, kind]
            record.counts[kind, 1] = record.counts[kind, 1] * week + values[i, kind]
        record.matured = record.matured * week + values[i, 4]
        record.converted = record.converted * week + values[i, 5]
        record.at_ms = max(at_ms, record.at_ms)
