"""What a partition has seen since its last word to the learner: events by kind and launch, what was foretold, and what was refused, with examples.

`streams.records.Seen` lies in the partition's cursor, so it is committed with everything else, and it travels with the catalogue's counts. Whole numbers only: sums do not
depend on their order, and so neither on partitions nor on batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.advance import APPLIED
from features.events import KINDS, REASONS, Refused
from streams.launched import Launched
from streams.records import SHARED, Example, Received, Seen

MILLION: Final = 1_000_000
MOST_EXAMPLES: Final = 5
"""Of each reason, between two words to the learner, and in the store."""
LONGEST: Final = 300
COLUMNS: Final = (*KINDS, "foretold")
"""Of a launch: events by kind, and Σ probability over them in millionths."""
SHOP_COLUMNS: Final = ("read", *REASONS)


def see_refused(seen: Seen, record: Received, refused: Refused, partition: int) -> None:
    """Count a refused record, and keep it as an example if there are few of its reason."""
    count = seen.refused[refused.reason] = seen.refused.get(refused.reason, 0) + 1
    if count <= MOST_EXAMPLES:
        began = (record.value or b"")[:LONGEST].decode("utf-8", "replace")
        seen.examples.append(Example(refused.reason, refused.detail[:LONGEST], KINDS[record.kind], partition, record.offset, began))


def see_events(seen: Seen, kinds: NDArray[np.int64], fate: NDArray[np.uint8], launched: Launched, p: NDArray[np.float64] | None) -> None:
    """Count a batch: kinds and fates (B,) of its events, and what was foretold of each in each of its launches, p (M,), if anything was."""
    applied = fate == APPLIED
    mine, n, width = applied[launched.event], len(launched.launches), len(KINDS)
    launch = launched.launch[mine]
    counts = np.zeros((n, width + 1), np.int64)
    counts[:, :width] = np.bincount(launch * width + kinds[launched.event[mine]], minlength=n * width).reshape(n, width)
    if p is not None:
        counts[:, width] = np.bincount(launch, np.rint(p[mine] * MILLION), n)  # whole numbers, far below 2⁵³
    for of, counted in zip(launched.launches, counts.tolist(), strict=True):
        _add(seen.domains, of.id, counted)
    rest = applied.copy()
    rest[launched.event] = False
    if rest.any():
        _add(seen.domains, SHARED, [*np.bincount(kinds[rest], minlength=width).tolist(), 0])


def _add(domains: dict[str, list[int]], name: str, counts: list[int]) -> None:
    held = domains.get(name)
    domains[name] = counts if held is None else [*map(add, held, counts)]


def merge_seen(parts: Sequence[Seen]) -> Seen:
    """Return what several partitions have seen together."""
    out = Seen()
    for seen in parts:
        for name, counts in seen.domains.items():
            _add(out.domains, name, counts)
        for reason, n in seen.refused.items():
            out.refused[reason] = out.refused.get(reason, 0) + n
        out.read += seen.read
        out.examples += seen.examples
    return out


def in_order(seen: Seen) -> Seen:
    """The same, its parts in order of name, so that equal contents are equal bytes."""
    return Seen(dict(sorted(seen.domains.items())), seen.read, dict(sorted(seen.refused.items())), seen.examples)
