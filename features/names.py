"""The names of records, by which they are found: hashed once for a whole batch, and put together as text only when a text is wanted."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

_SEED: Final = secrets.randbits(64)
"""Of this process: nobody outside can choose two names whose keys are one. Keys are never stored."""


class Names(NamedTuple):
    """N names: their keys, 128 bits each, (N, 2) uint64, and the text of each."""

    keys: NDArray[np.uint64]
    text: Callable[[int], str]

    def after(self, prefix: str) -> Names:
        """Return them with a prefix that all have, and that no key tells."""
        return Names(self.keys, lambda i: prefix + self.text(i))


def names_of(texts: Sequence[str]) -> Names:
    """Return texts (N,) as names."""
    digests = b"".join([xxh3_128_digest(text.encode(), _SEED) for text in texts])
    return Names(np.frombuffer(digests, np.uint64).reshape(-1, 2).copy(), texts.__getitem__)


def behind(names: Names, which: NDArray[np.int64], suffixes: Sequence[str], of: NDArray[np.int64]) -> Names:
    """Return (N,) names of which number i is that at `which[i]` and behind it the suffix at `of[i]`; no name may be one of the suffixes.

    A key is the sum of both parts' keys, so a name that occurs in many is hashed once.
    """
    return Names(names.keys[which] + names_of(suffixes).keys[of], lambda i: names.text(which[i]) + suffixes[of[i]])
