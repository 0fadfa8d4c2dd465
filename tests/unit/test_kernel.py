"""What kernels are given."""

from __future__ import annotations

import numpy as np
import pytest

from features.kernel import CACHE_LINE, aligned


@pytest.mark.parametrize("shape", [(1,), (7, 5), (64, 32)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_an_aligned_copy_begins_with_a_line(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    """Whatever the array's size, type and order: the same numbers, row by row, from a multiple of 64 bytes on, and its own."""
    array = np.asfortranarray(np.arange(np.prod(shape)).reshape(shape).astype(dtype))
    copies = [aligned(array) for _ in range(20)]  # NumPy's own would begin so by chance
    assert all(copy.ctypes.data % CACHE_LINE == 0 and copy.flags.c_contiguous and copy.dtype == array.dtype for copy in copies)
    assert all(np.array_equal(copy, array) and not np.shares_memory(copy, array) for copy in copies)
