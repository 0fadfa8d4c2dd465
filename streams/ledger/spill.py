"""Rows on disk, sorted into boxes by partition: so that an account of any size needs the memory of one partition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Spill:
    """One file for each box, in a folder that its owner removes."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[np.void]) -> None:
        self._folder, self._name, self._dtype = folder, name, dtype

    def _file(self, box: int) -> Path:
        return self._folder / f"{self._name}-{box}"

    def add(self, rows: list[tuple[Any, ...]], boxes: list[int]) -> None:
        """Append rows, each to its box."""
        table, box = np.array(rows, self._dtype), np.array(boxes, np.int64)
        for number in np.unique(box).tolist():
            with self._file(number).open("ab") as file:
                table[box == number].tofile(file)

    def box(self, number: int) -> NDArray[np.void]:
        """Return a box's rows (N,), in the order in which they came."""
        file = self._file(number)
        return np.fromfile(file, self._dtype) if file.exists() else np.empty(0, self._dtype)
