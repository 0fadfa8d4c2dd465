"""What is packed here is what redis-py packs."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio as redis

from features.redis_packing import MANY, packing

WORDS: list[tuple[Any, ...]] = [
    ("GET", "ü\x1f \n"),
    ("SCRIPT LOAD", "return 1"),
    (b"CONFIG GET", b"append*"),
    ("EVALSHA", "0" * 40, 1, "k", b"\x00\xff" * 40_000, memoryview(b"ab"), bytearray(b"c"), 12, "", -3, 2**70, 1.5, b"x" * 1_023, b"x" * 1_024),
]


def packed(*words: Any) -> bytes:
    """What a connection of ours sends."""
    return b"".join(packing(redis.Connection)().pack_command(*words))


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("more", [0, MANY - 3, MANY, 5_000])
def test_the_same_bytes_are_sent(words: tuple[Any, ...], more: int) -> None:
    """Commands of two words, numbers, long and binary values, buffers and what is not ASCII; few words and many."""
    every = (*words, *("ä" * (i % 7) for i in range(more)))
    assert packed(*every) == b"".join(bytes(part) for part in redis.Connection().pack_command(*every))


@pytest.mark.parametrize("more", [0, MANY])
@pytest.mark.parametrize("word", [None, True, [1], object()])
def test_what_is_no_word_is_refused(more: int, word: object) -> None:
    """Before anything of the command is sent, however many words it has."""
    with pytest.raises(TypeError):
        packed("SET", "k", word, *["x"] * more)
