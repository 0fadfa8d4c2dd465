"""Kafka's own rule for which partition a key belongs to: Java's murmur2, as kafka-python and aiokafka use it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.kernel import kernel

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return the 32-bit murmur2 of `data`, unsigned. Java's `Utils.murmur2` gives the same bits as a signed int."""
    length = len(data)
    whole = length & ~3
    h = _SEED ^ length
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = (k * _M) & _MASK
        k = ((k ^ (k >> 24)) * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    if length != whole:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


def partition_for(key: bytes, partitions: int) -> int:
    """Return the partition, 0 to `partitions` - 1, on which a record with this key must lie."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def partitions_for(keys: Sequence[bytes], partitions: int) -> NDArray[np.int64]:
    """Return `partition_for` of many keys, (N,)."""
    out = np.empty(len(keys), np.int64)
    ends = np.cumsum(np.array([len(key) for key in keys], np.int64))
    _murmur2_all(np.frombuffer(b"".join(keys), np.uint8), ends, partitions, out)
    return out


@kernel
def _murmur2_all(text: NDArray[np.uint8], ends: NDArray[np.int64], partitions: int, out: NDArray[np.int64]) -> None:
    m, mask = np.uint64(0x5BD1E995), np.uint64(0xFFFFFFFF)
    start = 0
    for i in range(ends.shape[0]):
        length = ends[i] - start
        h = np.uint64(0x9747B28C) ^ np.uint64(length)
        at = start
        while ends[i] - at >= 4:
            k = (
                np.uint64(text[at])
                | np.uint64(text[at + 1]) << np.uint64(8)
                | np.uint64(text[at + 2]) << np.uint64(16)
                | np.uint64(text[at + 3]) << np.uint64(24)
            )
            k = (k * m) & mask
            k = ((k ^ (k >> np.uint64(24))) * m) & mask
            h = ((h * m) & mask) ^ k
            at += 4
        if at < ends[i]:
            rest = np.uint64(0)
            for j in range(ends[i] - at):
                rest |= np.uint64(text[at + j]) << np.uint64(8 * j)
            h = ((h ^ rest) * m) & mask
        h = ((h ^ (h >> np.uint64(13))) * m) & mask
        h = h ^ (h >> np.uint64(15))
        out[i] = np.int64(h & np.uint64(0x7FFFFFFF)) % partitions
        start = ends[i]
