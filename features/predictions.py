"""What was said of an exposure, as it is stored and sent: a MessagePack array of floats, kept as its bytes, a third of what a tuple of floats takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.errors import Mismatch

UNSAID: Final = msgspec.Raw(msgspec.msgpack.encode(()))
_FLOAT64: Final = 0xCB


@cache
def _row(n: int) -> np.dtype[np.void]:
    """n floats: the array's head, then for each a mark and eight bytes."""
    head = len(msgspec.msgpack.encode([0.0] * n)) - 9 * n
    return np.dtype([("head", f"S{head}"), ("of", [("mark", "u1"), ("number", ">f8")], (n,))])


@cache
def _zeros(n: int) -> NDArray[np.void]:
    return np.frombuffer(msgspec.msgpack.encode([0.0] * n), _row(n))


def packed(said: NDArray[np.float64]) -> tuple[bytes, int]:
    """Return the rows of (N, n) numbers, packed one after the other, and how many bytes each is."""
    rows = np.repeat(_zeros(said.shape[1]), len(said))
    rows["of"]["number"] = said
    return rows.tobytes(), rows.itemsize


def are(predictions: msgspec.Raw, n: int) -> bool:
    """Whether they are as long as n numbers."""
    return len(memoryview(predictions)) == _row(n).itemsize


def unpacked(several: Sequence[msgspec.Raw], n: int) -> NDArray[np.float64]:
    """Return (N, n) numbers. Raises Mismatch where one has not n of them."""
    if not all(are(predictions, n) for predictions in several):
        raise Mismatch(f"an exposure has other than {n} predictions: what another version wrote, or damaged")
    of = np.frombuffer(b"".join(several), _row(n))["of"]
    if not (of["mark"] == _FLOAT64).all():
        raise Mismatch("an exposure's predictions are no floats: damaged")
    return of["number"].astype(np.float64)


def as_numbers(predictions: msgspec.Raw) -> tuple[float, ...]:
    """Return those of one exposure. Raises Mismatch for what are none."""
    try:
        return msgspec.msgpack.decode(predictions, type=tuple[float, ...])
    except msgspec.MsgspecError as error:
        raise Mismatch(f"an exposure's predictions are no floats: damaged: {error}") from None
