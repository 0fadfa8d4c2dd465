"""Training rows: the final exposures of the source lines, one row each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError

TARGETS = ("click", "cart", "order")
"""The columns of `Rows.delay_s`."""


@dataclass(frozen=True)
class Rows:
    """N final exposures: their window is over by the end of the log that made them.

    `x` (N, F) float32; `line` (N,) int32, an index into `lines`; `user` (N,) int64, a group id; `ts_ms` (N,) int64, when the exposure was;
    `delay_s` (N, 3) float64, seconds to the first click, cart and order within the window, inf if none.
    """

    x: NDArray[np.float32]
    line: NDArray[np.int32]
    lines: tuple[str, ...]
    user: NDArray[np.int64]
    ts_ms: NDArray[np.int64]
    delay_s: NDArray[np.float64]
    window_s: float
    feature_names: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.x)
        if self.x.shape != (n, len(self.feature_names)):
            raise ValueError(f"x is {self.x.shape}, expected ({n}, {len(self.feature_names)})")
        if self.line.shape != (n,) or self.user.shape != (n,) or self.ts_ms.shape != (n,) or self.delay_s.shape != (n, len(TARGETS)):
            raise ValueError(f"line {self.line.shape}, user {self.user.shape}, ts_ms {self.ts_ms.shape}, delay_s {self.delay_s.shape}: expected {n} rows each")
        if n and (int(self.line.min()) < 0 or int(self.line.max()) >= len(self.lines)):
            raise ValueError(f"line must index into the {len(self.lines)} lines")

    def __len__(self) -> int:
        return len(self.x)

    def select(self, mask: NDArray[np.bool_] | NDArray[np.int64]) -> Rows:
        """The rows under a boolean mask (N,), or at the given positions."""
        return Rows(self.x[mask], self.line[mask], self.lines, self.user[mask], self.ts_ms[mask], self.delay_s[mask], self.window_s, self.feature_names)

    @property
    def happened(self) -> NDArray[np.float64]:
        """(N, 3): 1 where the exposure had a click, cart, order in its window."""
        return np.isfinite(self.delay_s).astype(np.float64)

    @property
    def ordered(self) -> NDArray[np.float64]:
        """(N,): the final label."""
        return self.happened[:, TARGETS.index("order")]

    @property
    def order_delay_s(self) -> NDArray[np.float64]:
        """(N,): seconds from the exposure to its order, inf if none."""
        return self.delay_s[:, TARGETS.index("order")]


def need_rows(rows: Rows) -> None:
    """InputError unless there is something to learn from: rows, orders and non-orders, and finite features."""
    if len(rows) == 0:
        raise InputError("no final exposures to train on: the log must be longer than the attribution window")
    orders = int(rows.ordered.sum())
    if orders < 10 or orders > len(rows) - 10:
        raise InputError(f"{orders} orders among {len(rows)} final exposures: at least 10 with and 10 without an order are needed")
    if not np.isfinite(rows.x).all():
        raise InputError(f"feature {rows.feature_names[int(np.flatnonzero(~np.isfinite(rows.x).all(0))[0])]!r} is not finite in the training rows")


def user_fold(user: NDArray[np.int64], folds: int, *, salt: int = 0) -> NDArray[np.int64]:
    """The fold of each row, (N,) in 0..folds-1, the same for all rows of a user: splitmix64 of the user id."""
    h = user.astype(np.uint64) + np.uint64((0x9E3779B97F4A7C15 * (salt + 1)) & 0xFFFFFFFFFFFFFFFF)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((h ^ (h >> np.uint64(31))) % np.uint64(folds)).astype(np.int64)
