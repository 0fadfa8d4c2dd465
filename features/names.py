"""The names of records, by which they are found: hashed once for a whole batch, and put together as text only when a text is wanted."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
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
    return Names(names.keys[which] + suffix_keys(suffixes)[of], lambda i: names.text(which[i]) + suffixes[of[i]])


def suffix_keys(suffixes: Iterable[str]) -> NDArray[np.uint64]:
    """Return the keys (N, 2) of what stands behind names."""
    return np.frombuffer(b"".join(map(_key, suffixes)), np.uint64).reshape(-1, 2)


@lru_cache(1 << 14)
def _key(suffix: str) -> bytes:
    """Return the key of a text, as `names_of` has it, as bytes: few come, again and again."""
    return hash(suffix).to_bytes(8, sys.byteorder, signed=True) + xxh3_64_digest(suffix.encode(), _SEED)
