"""What has been seen of one domain (a launch, or the old lines together) as figures that roll on: rows in time, and blocks with histograms.

A `Row` is one minute or one hour of event time: counts, and where some figures stood at its end. A `Block` is six hours: histograms of scores and
probabilities with their labels, how features were spread, and each expert's loss. Counts are whole numbers (probabilities and nats in
millionths), so they do not depend on how outcomes were batched. Old rows are dropped and old blocks merged, so a chronicle's size is bounded.
Everything is filed under the time at which a bin closed: that is when it became known.
"""

from __future__ import annotations

import zlib
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import wire
from models.covariates import Moments, Reference
from models.experts import EXPERTS
from models.head import Matrix, Vector
from models.sketches import BINS, MILLION, Histogram, bins_of, millionths, total

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
SPANS_MS: Final = {"m": MINUTE_MS, "h": HOUR_MS}
KEPT: Final = {"m": 240, "h": 60 * 24}
"""How many minutes and hours in which something happened are kept: four hours, and sixty days."""
BLOCK_MS: Final = 6 * HOUR_MS
BLOCKS_KEPT: Final = 60
"""Fifteen days; older ones are merged into `OLDER`, and the first days of the trunk into a block of their own besides."""
OLDER: Final = "older"
FIRST: Final = "first"
FIRST_MS: Final = 4 * BLOCK_MS
FIRST_EXPOSURES: Final = 400
"""What a domain's later days are compared with: as much of its beginning as holds a day and so many exposures."""
KIND: Final = "chronicle"

COUNTS: Final = {
    "heard": "exposures whose first delay bin has closed",
    "said": "orders that were foretold for them, millionths",
    "clicked_soon": "of them, with a click in the first bin",
    "carted_soon": "of them, with a cart in the first bin",
    "closed": "delay bins that closed",
    "expected": "orders that were foretold for those bins, given none before, millionths",
    "hits": "orders that came in those bins",
    "matured": "exposures whose label is final",
    "predicted": "orders that were foretold for them, millionths",
    "clicked": "of them, with a click within the window",
    "carted": "of them, with a cart within the window",
    "ordered": "of them, with an order within the window",
    "loss": "their log-loss, millionths of a nat",
    "s0": "of the exposures whose first bin closed, what the old lines said when training ended: Σ logit, millionths",
    "fresh": "of the same, what the old lines have taught since",
    "level": "of the same, what the launch's own level adds",
    "mixed": "of the same, what the other ways of transfer add",
}
GAUGES: Final = ("level", "level_sd", "evidence", *EXPERTS)
"""The launch's own level in logit and its standard deviation, the e-detector's statistic over its threshold, and the experts' weights."""
PLACE: Final = {name: i for i, name in enumerate(COUNTS)}


def last_day(at_ms: int) -> int:
    """Return where the blocks of the last day begin: 24 to 30 hours ago, so that every hour of the day is in them."""
    return (at_ms - FIRST_MS) // BLOCK_MS * BLOCK_MS


class Row(msgspec.Struct, array_like=True):
    """One minute or hour; `counts` in the order of `COUNTS`, `gauges` of `GAUGES` (empty before the first)."""

    counts: list[int]
    gauges: list[float] = []


class Facts(NamedTuple):
    """N outcomes of one domain in order, (N,) each: what closed, when the exposure was, what had been said, and F before and after the bin.

    `bin_` from 0, -1 if only the label became final; `label` -1 until then; `said` (N, K + 1): probabilities of headstart, and where a label became
    final of its experts, when the exposure was scored, NaN where unknown; `delay_ms` (N, 3) to click, cart and order, -1 if none yet. Where a first
    bin closed, else zeros: `parts` (N, 4): the ledger of what was said, millionths of a logit; x (N, F), z (N, D): `models.covariates.WHO`, standardised.
    """

    close_ms: NDArray[np.int64]
    exposed_ms: NDArray[np.int64]
    bin_: NDArray[np.int64]
    y: NDArray[np.int64]
    label: NDArray[np.int64]
    score: Vector
    said: Matrix
    delay_ms: NDArray[np.int64]
    f_prev: Vector
    f_next: Vector
    parts: NDArray[np.int64]
    x: NDArray[np.float32]
    z: Matrix

    def rows(self, chosen: NDArray[np.bool_]) -> Facts:
        """Some of the outcomes."""
        return Facts._make(a[chosen] for a in self)

    @property
    def hazard(self) -> Vector:
        """The chance of an order in the bin, given none before, as it was said."""
        p = self.said[:, 0]
        return np.asarray(p * (self.f_next - self.f_prev) / (1.0 - p * self.f_prev))


@dataclass
class Block:
    """Six hours. `scored`, `scored_p`: exposures whose first bin closed, and Σ p, by bin of the score; `matured`, `ordered`: final labels by it; `told`
    (3, B): final labels, orders among them and Σ p by bin of the probability; `spread` (F, 10) and `moments` of who came, under `trunk`; `losses` (K + 1,).
    """

    trunk: str
    scored: Histogram
    scored_p: Histogram
    matured: Histogram
    ordered: Histogram
    told: NDArray[np.int64]
    spread: NDArray[np.int64]
    moments: Moments
    losses: NDArray[np.int64]

    @classmethod
    def empty(cls, trunk: str = "", features: int = 0, width: int = 0) -> Block:
        """One in which nothing has happened."""
        none = np.zeros(BINS, np.int64)
        return cls(
            trunk, none, none.copy(), none.copy(), none.copy(), np.zeros((3, BINS), np.int64), np.zeros((features, 10), np.int64), Moments.none(width),
            np.zeros(1 + len(EXPERTS), np.int64),
        )  # fmt: skip

    def see(self, facts: Facts, reference: Reference, trunk: str) -> None:
        """Take in outcomes."""
        if self.trunk != trunk or self.spread.shape != reference.counts.shape or len(self.moments.z) != facts.z.shape[1]:
            self.trunk, self.spread, self.moments = trunk, np.zeros_like(reference.counts), Moments.none(facts.z.shape[1])
        first, final = facts.bin_ == 0, facts.label >= 0
        if first.any():
            bins, p = bins_of(facts.score[first]), millionths(facts.said[first, 0])
            self.scored += np.bincount(bins, minlength=BINS)
            self.scored_p += total(bins, p)
            reference.count(facts.x[first], self.spread)
            self.moments.add(facts.z[first])
        if final.any():
            y, told = facts.label[final], facts.said[final]
            bins = bins_of(facts.score[final])
            self.matured += np.bincount(bins, minlength=BINS)
            self.ordered += total(bins, y)
            bins = bins_of(told[:, 0])
            self.told += np.stack([np.bincount(bins, minlength=BINS), total(bins, y), total(bins, millionths(told[:, 0]))])
            self.losses += losses(told, y).sum(axis=0)

    def merge(self, other: Block) -> None:
        """Take in a later block; who came is kept of the later trunk only."""
        for name in ("scored", "scored_p", "matured", "ordered", "told", "losses"):
            getattr(self, name)[...] += getattr(other, name)
        if other.trunk == self.trunk and other.spread.shape == self.spread.shape:
            self.spread += other.spread
            self.moments.merge(other.moments)
        elif other.trunk:
            self.trunk, self.spread, self.moments = other.trunk, other.spread.copy(), Moments(other.moments.n, other.moments.z.copy(), other.moments.zz.copy())

    def to_bytes(self) -> bytes:
        """Every bit of it."""
        upper = wire.triangle(self.moments.zz)
        arrays: dict[str, NDArray[np.generic]] = {
            "trunk": np.frombuffer(self.trunk.encode().ljust(-(-len(self.trunk) // 8) * 8), np.int64) if self.trunk else np.zeros(0, np.int64),
            **{name: getattr(self, name) for name in ("scored", "scored_p", "matured", "ordered", "told", "spread", "losses")},
            "moments.n": np.array([self.moments.n]), "moments.z": self.moments.z, "moments.zz": upper,
        }  # fmt: skip
        return zlib.compress(wire.pack(KIND, arrays), 1)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Block:
        """Exactly what was stored."""
        a = wire.unpack(KIND, zlib.decompress(raw))
        z = a["moments.z"].astype(np.float64)
        moments = Moments(int(a["moments.n"][0]), z, wire.square(a["moments.zz"].astype(np.float64), len(z)))
        held = {name: a[name].astype(np.int64) for name in ("scored", "scored_p", "matured", "ordered", "told", "spread", "losses")}
        return cls(trunk=a["trunk"].tobytes().decode().strip(), moments=moments, **held)


def losses(p: Matrix, y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each probability's log-loss (N, K) in millionths of a nat, 0 where it is unknown."""
    held = np.clip(p, 1e-9, 1.0 - 1e-9)
    nats = np.where(y[:, None] > 0, np.log(held), np.log1p(-held))
    return np.asarray(np.rint(-MILLION * np.nan_to_num(nats)), np.int64)


def counts_of(facts: Facts) -> dict[int, list[int]]:
    """Return {start of the minute: counts in the order of `COUNTS`}."""
    first, closes, final = facts.bin_ == 0, facts.bin_ >= 0, facts.label >= 0
    click, cart = facts.delay_ms[:, 0] >= 0, facts.delay_ms[:, 1] >= 0
    p = millionths(facts.said[:, 0])
    columns = np.empty((len(COUNTS), len(p)), np.int64)
    for at, column in enumerate(
        (
            first, first * p, first & click, first & cart, closes, closes * millionths(facts.hazard), closes * facts.y, final, final * p, final & click,
            final & cart, final & (facts.label > 0), final * losses(facts.said[:, :1], facts.label)[:, 0],
            *(first * part for part in facts.parts.T),
        )
    ):  # fmt: skip
        columns[at] = column
    minutes, place = np.unique(facts.close_ms // MINUTE_MS, return_inverse=True)
    sums = np.zeros((len(columns), len(minutes)), np.int64)
    for column, into in zip(columns, sums, strict=True):
        np.add.at(into, place, column)
    return {int(minute) * MINUTE_MS: sums[:, i].tolist() for i, minute in enumerate(minutes)}


@dataclass
class Rows:
    """A series in minutes and hours as it is kept: what `name` was, bounded by `KEPT`. Values are raw until they are looked at."""

    held: dict[str, bytes] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        names = sorted(self.held)
        self._names = {span: [name for name in names if name[0] == span] for span in SPANS_MS}

    def add(self, at_ms: int, counts: list[int], gauges: list[float] | None = None) -> None:
        """Add counts to the minute and the hour of a time, and note where the gauges stand."""
        self.add_many({at_ms: counts}, gauges)

    def add_many(self, by_time: Mapping[int, list[int]], gauges: list[float] | None = None) -> None:
        """The same for several times at once."""
        for span, span_ms in SPANS_MS.items():
            sums: dict[int, list[int]] = {}
            for at_ms, counts in by_time.items():
                start = at_ms // span_ms * span_ms
                held = sums.get(start)
                sums[start] = counts if held is None else [a + b for a, b in zip(held, counts, strict=True)]
            for start, counts in sums.items():
                self._add(span, f"{span}{start:015d}", counts, gauges)

    def _add(self, span: str, name: str, counts: list[int], gauges: list[float] | None) -> None:
        known = self.held.get(name)
        if known is not None:
            row = _decode_row(known)
            row.counts = [a + b for a, b in zip(row.counts, counts, strict=True)]
        else:
            row = Row(counts)
            insort(self._names[span], name)
        if gauges is not None:
            row.gauges = gauges
        self.held[name] = _encode_row(row)
        self.touched.add(name)
        self.gone.discard(name)
        while len(self._names[span]) > KEPT[span]:
            oldest = self._names[span].pop(0)
            del self.held[oldest]
            self.touched.discard(oldest)
            self.gone.add(oldest)

    def series(self, span: str) -> list[tuple[int, Row]]:
        """Return (start, row) of every minute ("m") or hour ("h") that has one, in order."""
        return [(int(name[1:]), _decode_row(value)) for name, value in sorted(self.held.items()) if name[0] == span]


_encode_row = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(Row).decode


@dataclass
class Blocks:
    """The blocks of a domain by name, raw until they are looked at: `b` and their start; `OLDER`; `FIRST` and from when to when."""

    held: dict[str, bytes] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    _open: dict[str, Block] = field(default_factory=dict)

    def see(self, facts: Facts, reference: Reference, trunk: str) -> None:
        """File outcomes under the six hours in which they closed."""
        starts = facts.close_ms // BLOCK_MS
        for start in np.unique(starts).tolist():
            name = f"b{int(start) * BLOCK_MS:015d}"
            if name not in self.held and OLDER in self.held and name < self._starts()[0]:
                name = OLDER
            block = self._block(name)
            block.see(facts.rows(starts == start), reference, trunk)
            self._put(name, block)
        self._fold()

    def _starts(self) -> list[str]:
        return sorted(name for name in self.held if name[0] == "b")

    def _block(self, name: str) -> Block:
        if name not in self._open:
            raw = self.held.get(name)
            self._open[name] = Block.from_bytes(raw) if raw is not None else Block.empty()
        return self._open[name]

    def _put(self, name: str, block: Block) -> None:
        self._open = {name: block, **{other: b for other, b in self._open.items() if other != name}}
        while len(self._open) > 3:
            self._open.popitem()
        self.held[name] = block.to_bytes()
        self.touched.add(name)

    def _drop(self, name: str) -> None:
        del self.held[name]
        self._open.pop(name, None)
        self.touched.discard(name)
        self.gone.add(name)

    def _fold(self) -> None:
        for name in self._starts()[:-BLOCKS_KEPT]:
            block, older = self._block(name), self._block(OLDER)
            self._keep_first(int(name[1:]), block)
            older.merge(block)
            self._put(OLDER, older)
            self._drop(name)

    def _keep_first(self, start_ms: int, block: Block) -> None:
        """Add the next block that is folded to the first days of its trunk, as long as these are not whole."""
        first = self._first()
        if first is not None and first.block.trunk == block.trunk:
            if first.is_whole:
                return
            kept, from_ms = first.block, first.from_ms
        else:
            kept, from_ms = Block.empty(), start_ms
        if first is not None:
            self._drop(first.name)
        kept.merge(block)
        name = f"{FIRST}{from_ms:015d}{start_ms + BLOCK_MS:015d}"
        self.gone.discard(name)
        self.held[name] = kept.to_bytes()
        self.touched.add(name)

    def _first(self) -> _First | None:
        name = next((name for name in self.held if name.startswith(FIRST)), None)
        if name is None:
            return None
        from_ms, until_ms = name.removeprefix(FIRST)[:15], name.removeprefix(FIRST)[15:]
        return _First(name, Block.from_bytes(self.held[name]), int(from_ms), int(until_ms))

    def between(self, from_ms: int | None = None, until_ms: int | None = None) -> Block:
        """Return the sum of the blocks that begin in a span of time; all of them, older ones too, without bounds."""
        out = Block.empty()
        if OLDER in self.held and from_ms is None:
            out.merge(Block.from_bytes(self.held[OLDER]))
        for name in self._starts():
            if (from_ms is None or int(name[1:]) >= from_ms) and (until_ms is None or int(name[1:]) < until_ms):
                out.merge(Block.from_bytes(self.held[name]))
        return out

    def first(self) -> tuple[Block, int]:
        """Return the domain's first days under the trunk that is in use, and where they end (ms); the end 0 if there have not been as many yet."""
        starts = self._starts()
        trunk = Block.from_bytes(self.held[starts[-1]]).trunk if starts else ""
        first = self._first()
        if first is None or first.block.trunk != trunk:
            first = _First("", Block.empty(), 0, 0)
        for name in starts:
            if first.is_whole:
                break
            block = Block.from_bytes(self.held[name])
            if block.trunk == trunk:
                start_ms = int(name[1:])
                first.block.merge(block)
                first = _First("", first.block, first.from_ms or start_ms, start_ms + BLOCK_MS)
        return first.block, first.until_ms if first.is_whole else 0


class _First(NamedTuple):
    """First days, as far as they have come."""

    name: str
    block: Block
    from_ms: int
    until_ms: int

    @property
    def is_whole(self) -> bool:
        return self.until_ms - self.from_ms >= FIRST_MS and self.block.moments.n >= FIRST_EXPOSURES
