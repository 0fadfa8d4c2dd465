"""What a partition has seen since its last word to the learner: events by kind and launch, what was foretold, and what was refused, with examples.

`streams.records.Seen` lies in the partition's cursor, so it is committed with everything else, and it travels with the catalogue's counts. Whole numbers only: sums do not
depend on their order, and so neither on partitions nor on batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.advance import APPLIED
from features.events import KINDS, REASONS, Refused
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


def see_events(
    seen: Seen, kinds: NDArray[np.integer[Any]], fate: NDArray[np.integer[Any]], members: Mapping[str, tuple[Sequence[int], NDArray[np.float64] | None]]
) -> None:  # fmt: skip
    """Count a batch: kinds and fates (B,) of its events, and {launch: (places of its events, what was foretold of each)}."""
    applied = fate == APPLIED
    rest = applied.copy()
    for launch, (places, p) in members.items():
        at = np.asarray(places, np.int64)
        mine = applied[at]
        told = int(np.rint(p[mine] * MILLION).sum()) if p is not None else 0
        _add(seen.domains, launch, [*np.bincount(kinds[at[mine]], minlength=len(KINDS)).tolist(), told])
        rest[at] = False
    if rest.any():
        _add(seen.domains, SHARED, [*np.bincount(kinds[rest], minlength=len(KINDS)).tolist(), 0])


def _add(domains: dict[str, list[int]], name: str, counts: list[int]) -> None:
    held = domains.get(name)
    domains[name] = counts if held is None else [a + b for a, b in zip(held, counts, strict=True)]


def in_order(seen: Seen) -> Seen:
    """The same, its parts in order of name, so that equal contents are equal bytes."""
    return Seen(dict(sorted(seen.domains.items())), seen.read, dict(sorted(seen.refused.items())), seen.examples)
