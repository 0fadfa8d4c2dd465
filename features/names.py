"""The names of records, by which they are found: hashed once for a whole batch, and put together as text only when a text is wanted."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_digest

_SEED: Final = secrets.randbits(64)


class Names(NamedTuple):
    """N names: their keys, 128 bits each, (N, 2) uint64, and the text of each.

    Half of a key is Python's own hash of the text, SipHash under a secret of this process (but with PYTHONHASHSEED), so that nobody can choose two names of one key;
    the other half, XXH3, makes it as good as impossible by chance. Keys are never stored.
    """

    keys: NDArray[np.uint64]
    text: Callable[[int], str]

    def after(self, prefix: str) -> Names:
        """Return them with a prefix in their texts; it does not enter the keys, so what has another prefix must be kept elsewhere."""
        return Names(self.keys, lambda i: prefix + self.text(i))


def names_of(texts: Sequence[str]) -> Names:
    """Return texts (N,) as names."""
    keys = np.empty((len(texts), 2), np.uint64)
    keys[:, 0] = np.array(list(map(hash, texts)), np.int64).view(np.uint64)
    keys[:, 1] = np.frombuffer(b"".join([xxh3_64_digest(text.encode(), _SEED) for text in texts]), np.uint64)
    return Names(keys, texts.__getitem__)


def behind(names: Names, which: NDArray[np.int64], suffixes: Sequence[str], of: NDArray[np.int64]) -> Names:
    """Return (N,) names of which number i is that at `which[i]` and behind it the suffix at `of[i]`; no name may be one of the suffixes.

    A key is the sum of both parts' keys, so a name that occurs in many is hashed once.
    """
    return Names(names.keys[which] + names_of(suffixes).keys[of], lambda i: names.text(which[i]) + suffixes[of[i]])
