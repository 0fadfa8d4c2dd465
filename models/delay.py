"""Delay bins: when, within the attribution window, a conversion comes; the curve of the sources, and how outcomes adapt it.

Read by head and offset, which learn one closed bin at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError

FIRST_EDGE_S = 900.0
DAY_S = 86_400.0
BUCKETS_IN_A_WINDOW = 64
SHORTEST_BUCKET_MS = 60_000
NEVER_MS = -(2**62)
"""`now_ms` of counts that have heard nothing."""
LEAST_RATIO = 1e-9


def default_edges_s(window_s: float, *, first_s: float = FIRST_EDGE_S) -> NDArray[np.float64]:
    """Edges (K+1,) 0 = τ_0 < … < τ_K = window in seconds, geometric: 4 bins for a day, 7 for a week; each bin costs an outcome."""
    if not (math.isfinite(window_s) and window_s >= 1.0):
        raise InputError(f"the attribution window is {window_s} s; it must be at least 1 s")
    if window_s <= 2 * first_s:
        return np.array([0.0, window_s / 4, window_s])
    up_to_a_day = 1 + 3 * math.log(window_s / first_s) / math.log(DAY_S / FIRST_EDGE_S)
    beyond = 4 + 3 * math.log(window_s / DAY_S) / math.log(7.0)
    inner = np.geomspace(first_s, window_s, min(8, max(2, round(max(up_to_a_day, beyond)))))
    # Whole seconds: bins close at instants that integer milliseconds can express.
    edges = np.concatenate([[0.0], np.round(inner)])
    edges[-1] = window_s
    return edges


def check_edges_s(edges_s: NDArray[np.float64], window_s: float) -> NDArray[np.float64]:
    """The edges as float64 (K+1,), or InputError unless they rise strictly from 0 to the window."""
    edges = np.asarray(edges_s, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or edges[0] != 0.0 or edges[-1] != window_s or not (np.diff(edges) > 0).all():
        raise InputError(f"delay bins must rise strictly from 0 to the window ({window_s:g} s); got {edges.tolist()}")
    return edges


def fit_curve(delays_s: NDArray[np.float64], edges_s: NDArray[np.float64], *, pseudo_count: float = 2.0) -> NDArray[np.float64]:
    """F (K+1,): the share of conversions that have come by each edge; F_0 = 0, F_K = 1, every increment > 0.

    `delays_s` (M,) are the converters' delays in seconds (non-finite ones are passed over; a delay counts in the bin whose upper edge is the first
    at or after it). Smoothed by `pseudo_count` conversions that are spread evenly over the bins.
    """
    delays = delays_s[np.isfinite(delays_s)]
    bins = len(edges_s) - 1
    counts = np.bincount(np.clip(np.searchsorted(edges_s, delays, side="left") - 1, 0, bins - 1), minlength=bins) + pseudo_count / bins
    curve = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    curve[-1] = 1.0
    return curve


@dataclass
class DelayCounts:
    """Orders by delay bin, of one launch or of the sources, counted so that young exposures do not pull the curve to short delays. Mutable.

    Right truncation: of exposures an hour old only the quick orders have come. So a bin is counted only over exposures for which it is closed; for that
    orders are kept by the time of their exposure, in buckets of a 64th of the window (a minute at least), until every bin of a bucket is closed.
    `edges_ms` (K+1,); `ring` (R, K) int64, bucket b of the exposures' time in row b mod R; `settled` (K,) int64: the orders of older buckets;
    `now_ms`: the latest close heard. The counts depend on what was added, not on its order, and add up.
    """

    edges_ms: NDArray[np.int64]
    ring: NDArray[np.int64]
    settled: NDArray[np.int64]
    now_ms: int = NEVER_MS

    @classmethod
    def none(cls, edges_s: NDArray[np.float64]) -> DelayCounts:
        """Nothing heard yet; `edges_s` (K+1,) as `check_edges_s`."""
        edges_ms = np.round(np.asarray(edges_s, dtype=np.float64) * 1000.0).astype(np.int64)
        bins = len(edges_ms) - 1
        return cls(edges_ms, np.zeros((BUCKETS_IN_A_WINDOW + 2, bins), dtype=np.int64), np.zeros(bins, dtype=np.int64))

    @property
    def bucket_ms(self) -> int:
        """How long a bucket is."""
        return max(SHORTEST_BUCKET_MS, -(-int(self.edges_ms[-1]) // BUCKETS_IN_A_WINDOW))

    def add(self, bin_: NDArray[np.int64], close_ms: NDArray[np.int64], hit: NDArray[np.bool_]) -> None:
        """Hear of N closed bins: `bin_` (N,) in 0..K-1, `close_ms` (N,) = the exposure's time + the bin's upper edge, `hit` (N,): an order fell into it.

        ValueError for another shape or a bin out of range; then nothing has been counted.
        """
        n, bins = len(bin_), len(self.settled)
        if bin_.shape != (n,) or close_ms.shape != (n,) or hit.shape != (n,):
            raise ValueError(f"bin {bin_.shape}, close_ms {close_ms.shape}, hit {hit.shape}: expected ({n},) each")
        if not n:
            return
        if int(bin_.min()) < 0 or int(bin_.max()) >= bins:
            raise ValueError(f"bin must be 0..{bins - 1}: outcome refused")
        self._settle(max(self.now_ms, int(close_ms.max())))
        k = bin_[hit.astype(np.bool_)].astype(np.int64)
        bucket = (close_ms[hit.astype(np.bool_)].astype(np.int64) - self.edges_ms[k + 1]) // self.bucket_ms
        old = bucket < self._first_open(self.now_ms)
        np.add.at(self.settled, k[old], 1)
        np.add.at(self.ring, (bucket[~old] % len(self.ring), k[~old]), 1)

    def curve(self, prior_curve: NDArray[np.float64], now_ms: int | None = None, c: float = 60.0) -> NDArray[np.float64]:
        """F (K+1,) adapted from the sources' `prior_curve` (K+1,) by the reverse hazards r_k = (hit_k + c r_k^src) / (tot_k + c), F_{k-1} = F_k (1 - r_k).

        tot_k: orders that came by the upper edge of bin k, hit_k: those in bin k, both over exposures for which it is closed by `now_ms` (event time up to
        which everything has been heard; default: the latest close heard). Rises strictly from 0 to 1. `prior_curve` must, and c be positive: ValueError.
        """
        source = np.asarray(prior_curve, dtype=np.float64)
        if source.shape != self.edges_ms.shape or source[0] != 0.0 or source[-1] != 1.0 or not (np.diff(source) > 0).all() or not 0.0 < c < math.inf:
            raise ValueError(f"the prior curve must rise strictly from 0 to 1 over {len(self.edges_ms)} edges, and c = {c} be positive")
        now = self.now_ms if now_ms is None else now_ms
        first = self._first_open(self.now_ms)
        bucket = first + (np.arange(len(self.ring)) - first) % len(self.ring)
        closed = (bucket[:, None] + 1) * self.bucket_ms + self.edges_ms[1:] <= now
        hit = self.settled + np.where(closed, self.ring, 0).sum(axis=0)
        total = np.cumsum(self.settled) + np.where(closed, np.cumsum(self.ring, axis=1), 0).sum(axis=0)
        ratio = np.clip((hit + c * np.diff(source) / source[1:]) / (total + c), LEAST_RATIO, 1.0 - LEAST_RATIO)
        out = np.zeros(len(source))
        out[-1] = 1.0
        for k in range(len(ratio) - 1, 0, -1):
            out[k] = out[k + 1] * (1.0 - ratio[k])
        return out

    def merge(self, other: DelayCounts) -> None:
        """Take in what another has counted; the same bits as if all had been added here. ValueError for other edges."""
        if not np.array_equal(self.edges_ms, other.edges_ms):
            raise ValueError(f"counts over edges {other.edges_ms.tolist()} ms cannot be added to counts over {self.edges_ms.tolist()} ms")
        other = other.copy()
        now = max(self.now_ms, other.now_ms)
        self._settle(now)
        other._settle(now)
        self.settled += other.settled
        self.ring += other.ring

    def copy(self) -> DelayCounts:
        """Other counts with the same content."""
        return DelayCounts(self.edges_ms.copy(), self.ring.copy(), self.settled.copy(), self.now_ms)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Every bit of the state."""
        return {"edges_ms": self.edges_ms, "ring": self.ring, "settled": self.settled, "now_ms": np.array([self.now_ms], dtype=np.int64)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.generic]]) -> DelayCounts:
        """Exactly what was stored."""
        edges_ms, ring, settled = (arrays[name].astype(np.int64) for name in ("edges_ms", "ring", "settled"))
        return cls(edges_ms, ring, settled, int(arrays["now_ms"][0]))

    def _first_open(self, now_ms: int) -> int:
        """The first bucket of which not every bin is closed."""
        return (now_ms - int(self.edges_ms[-1])) // self.bucket_ms

    def _settle(self, now_ms: int) -> None:
        """Time goes on to `now_ms`: buckets of which every bin is now closed leave the ring."""
        before, after = self._first_open(self.now_ms), self._first_open(now_ms)
        if self.now_ms != NEVER_MS and after > before:
            rows = np.arange(before, min(after, before + len(self.ring))) % len(self.ring)
            self.settled += self.ring[rows].sum(axis=0)
            self.ring[rows] = 0
        self.now_ms = now_ms
