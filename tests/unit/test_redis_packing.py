"""What hiredis packs is what redis-py packs."""

from __future__ import annotations

import pytest
import redis.asyncio as redis

from features.redis_packing import packing


@pytest.mark.parametrize(
    "words",
    [("GET", "ü\x1f \n"), ("SCRIPT LOAD", "return 1"), (b"CONFIG GET", b"append*"), ("EVALSHA", "0" * 40, 1, "k", b"\x00\xff" * 40_000, memoryview(b"ab"), bytearray(b"c"), 12, "")],
)  # fmt: skip
def test_the_same_bytes_are_sent(words: tuple[bytes, ...]) -> None:
    """Commands of two words, numbers, long and binary values, buffers and what is not ASCII."""
    assert b"".join(packing(redis.Connection)().pack_command(*words)) == b"".join(bytes(part) for part in redis.Connection().pack_command(*words))
