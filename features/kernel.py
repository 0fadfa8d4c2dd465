"""How the inner loops are compiled: strict IEEE arithmetic, one thread, each row's sums its own and in one order, so that its bits never depend on its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., object])
CACHE_LINE: Final = 64  # bytes


def kernel(function: F) -> F:
    """Compile `function` without fastmath and without threads; the machine code is kept on disk where there is a place for it.

    A kernel must not call a kernel of another file: numba's disk cache looks at the age of one file only.
    """
    try:
        return cast(F, numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")(function))
    except RuntimeError:  # neither the source folder nor the user's cache folder can be written
        return cast(F, numba.njit(nogil=True, fastmath=False, error_model="numpy")(function))


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return a C-contiguous copy that begins with a line of the cache; NumPy's own begin at any 16 bytes, and then every other vector may lie across two."""
    room = np.empty(array.nbytes + CACHE_LINE, np.uint8)
    begin = -room.ctypes.data % CACHE_LINE
    copy = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
