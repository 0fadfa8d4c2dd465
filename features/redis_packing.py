"""Commands for Redis packed in C: redis-py has hiredis parse answers, and packs what its asyncio connections send in Python, a microsecond for each argument."""

from __future__ import annotations

from typing import Any

import hiredis


def packing(connection: type[Any]) -> type[Any]:
    """Return the asyncio connection class that packs by hiredis."""

    class Packing(connection):  # type: ignore[misc]
        def pack_command(self, *args: Any) -> list[bytes]:
            name = args[0].encode() if isinstance(args[0], str) else bytes(args[0])
            words: Any = (*name.split(), *args[1:])  # the command's name may be two words
            try:
                return [hiredis.pack_command(words)]
            except TypeError:  # buffers, which are rare
                plain: Any = tuple(bytes(word) if isinstance(word, bytearray | memoryview) else word for word in words)
                return [hiredis.pack_command(plain)]

    Packing.__name__ = Packing.__qualname__ = connection.__name__
    return Packing
