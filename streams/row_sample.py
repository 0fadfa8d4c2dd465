"""Final exposures as training rows, in bounded memory: where there are more than enough, those of a part of the shoppers are kept.

A trunk sees some hundred thousand rows while it is trained, so millions of them teach it nothing that these do not. Whole shoppers are left out, by a hash of
their ids, so rates stay as they are, and what is kept depends on the log alone, not on the order in which exposures become final.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Final

import numpy as np

from features.exposures import Exposure
from features.intake import hash64
from features.vector import NAMES, WIDTH
from models.rows import Rows

MOST_ROWS: Final = 1_000_000
_BITS: Final = 0x7FFFFFFFFFFFFFFF


class RowSample:
    """Rows so far, 320 bytes each; `most`: how many are kept at most. Every halving leaves out half of the shoppers that were left.

    `lines`: the place of each line that exposures may be of, in order.
    """

    def __init__(self, lines: Mapping[str, int], most: int = MOST_ROWS) -> None:
        self._lines, self._most = lines, most
        self.halvings = 0
        self._x = bytearray()
        self._line, self._user, self._ts_ms, self._delay_ms = array("i"), array("q"), array("q"), array("q")

    def __len__(self) -> int:
        return len(self._line)

    def add(self, exposure: Exposure) -> None:
        """Take in a final exposure, if its shopper is among those that are kept."""
        user = hash64(exposure.user) & _BITS
        if user & ((1 << self.halvings) - 1):
            return
        self._x += exposure.x
        self._line.append(self._lines[exposure.line])
        self._user.append(user)
        self._ts_ms.append(exposure.ts_ms)
        self._delay_ms.extend(exposure.delay_ms)
        while len(self) > self._most:
            self._halve()

    def _halve(self) -> None:
        self.halvings += 1
        kept = (np.frombuffer(self._user, np.int64) & ((1 << self.halvings) - 1)) == 0
        self._x = bytearray(np.frombuffer(self._x, np.uint8).reshape(len(kept), -1)[kept].tobytes())
        self._line, self._user, self._ts_ms, self._delay_ms = (
            array(of.typecode, np.frombuffer(of, of.typecode).reshape(len(kept), -1)[kept].tobytes())
            for of in (self._line, self._user, self._ts_ms, self._delay_ms)
        )

    def rows(self, window_ms: int) -> Rows:
        """Return what was kept; `window_ms` is the window of all of them. Nothing can be added any more: the rows are the sample's own memory."""
        n = len(self)
        delay_ms = np.frombuffer(self._delay_ms, np.int64).reshape(n, 3).astype(np.float64)
        return Rows(
            x=np.frombuffer(self._x, np.float32).reshape(n, WIDTH),
            line=np.frombuffer(self._line, np.int32),
            lines=tuple(self._lines),
            user=np.frombuffer(self._user, np.int64),
            ts_ms=np.frombuffer(self._ts_ms, np.int64),
            delay_s=np.where(delay_ms < 0, np.inf, delay_ms / 1000.0),
            window_s=window_ms / 1000.0,
            feature_names=NAMES,
        )
