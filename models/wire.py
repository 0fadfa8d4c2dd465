"""Arrays as bytes, exactly: a versioned header and the raw little-endian numbers. The same arrays give the same bytes on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.errors import Mismatch

FORMAT = 1
Array = TypeVar("Array")


class _Packed(msgspec.Struct, array_like=True):
    format: int
    kind: str
    arrays: list[tuple[str, str, list[int], bytes]]


def pack(kind: str, arrays: dict[str, NDArray[np.generic]]) -> bytes:
    """Float64 and int64 arrays, in the given order, under the name of what they are."""
    rows = [
        (name, a.dtype.newbyteorder("<").str, list(a.shape), np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<")).tobytes()) for name, a in arrays.items()
    ]
    return msgspec.msgpack.encode(_Packed(FORMAT, kind, rows))


def unpack(kind: str, raw: bytes) -> dict[str, NDArray[np.generic]]:
    """The inverse of `pack`: fresh, writable arrays. Mismatch if the bytes are something else, or of another format."""
    try:
        packed = msgspec.msgpack.decode(raw, type=_Packed)
        arrays = {name: np.frombuffer(data, dtype=np.dtype(dtype)).reshape(shape).copy() for name, dtype, shape, data in packed.arrays}
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise Mismatch(f"these {len(raw)} bytes are no stored {kind}: {error}") from error
    if packed.format != FORMAT or packed.kind != kind:
        raise Mismatch(f"expected a stored {kind} of format {FORMAT}, got {packed.kind} of format {packed.format}")
    return arrays


@contextmanager
def restoring(kind: str) -> Iterator[None]:
    """Raise Mismatch where an array that was stored with what is restored inside is missing, or of another shape or type."""
    try:
        yield
    except (KeyError, IndexError, ValueError, TypeError, AssertionError, OverflowError) as error:
        raise Mismatch(f"what is stored as {kind} is damaged, or of another version: {error!r}") from error


@lru_cache(maxsize=16)
def _upper(d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows, columns = np.triu_indices(d)
    return rows, columns


def triangle(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangle (d (d + 1) / 2,) of an exactly symmetric matrix (d, d)."""
    return np.ascontiguousarray(p[_upper(len(p))])


def square(upper: NDArray[np.float64], d: int) -> NDArray[np.float64]:
    """The inverse of `triangle`."""
    p = np.zeros((d, d))
    rows, columns = _upper(d)
    p[rows, columns] = upper
    p[columns, rows] = upper
    return p


def under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
