"""Up to where a learner has learned, as it lies in the store: for the learner, and for who looks at it from outside."""

from __future__ import annotations

import msgspec

from features.store import decoded
from streams.inbox import Expected


class LearnerCursor(msgspec.Struct, array_like=True, kw_only=True):
    """Up to where all outcomes are in the heads. `stamp_ms` is the end of the last tick that was learned in a replay."""

    offset: int = 0
    stamp_ms: int = 0
    expected: dict[int, Expected] = {}
    tried: int = 0
    hit: int = 0
    duplicates: int = 0
    refilled: int = 0  # messages that the broker had lost, taken from the partitions' outboxes
    lost: int = 0  # those that were not there any more


def stamp_of(cursor: bytes) -> int:
    """Return the stamp in a learner's stored cursor; 0 if there is none."""
    return decoded(cursor, LearnerCursor, "a learner's cursor").stamp_ms if cursor else 0


def expected_in(cursor: bytes) -> dict[int, Expected]:
    """Return what a learner's stored cursor expects of each input partition."""
    return decoded(cursor, LearnerCursor, "a learner's cursor").expected if cursor else {}
