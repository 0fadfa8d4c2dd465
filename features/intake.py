"""From decoded events to the rows that the kernel reads: hashes, codes and the local time."""

from __future__ import annotations

import datetime as dt
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from features.events import Event, Shopper, decode, milliseconds
from features.layout import EVENT

_GENDERS: Final = {"female": 1, "f": 1, "woman": 1, "w": 1, "male": 2, "m": 2, "man": 2}
_QUARTER_MS: Final = 900_000
_UNKNOWN: Final = float("nan")


class Arrived(msgspec.Struct, frozen=True, gc=False):
    """One valid event as it came: with its kind, its time in ms, and the bytes that settle ties."""

    event: Event
    kind: int
    ts_ms: int
    raw: bytes

    def order(self) -> tuple[int, bytes, int, bytes, bytes]:
        """Return the key by which a tick's events are sorted; equal keys are equal events."""
        return self.ts_ms, self.event.event_id.encode(), self.kind, self.event.user_id.encode(), self.raw


def arrive(value: bytes | None, kind: int) -> Arrived:
    """Decode what lies on the topic of `kind`. Raises `Refused`."""
    event, ts_ms = decode(value, kind)
    return Arrived(event, kind, ts_ms, value or b"")


def hash64(text: str) -> int:
    """Return a 64-bit hash (XXH3) that is never 0 (0 marks an empty place)."""
    return xxh3_64_intdigest(text.encode()) or 1


def hashes64(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return `hash64` of each text, (N,)."""
    found = np.frombuffer(b"".join([xxh3_64_digest(text.encode()) for text in texts]), ">u8").astype(np.uint64)
    found[found == 0] = 1
    return found


@lru_cache(1 << 16)
def hash32(text: str) -> int:
    """Return a 32-bit hash (CRC-32) that is never 0."""
    return zlib.crc32(text.encode()) or 1


def age_code(band: str | None) -> int:
    """Return an ordinal from 1 for an age band such as "25-34" or "65+" (its first number, by decades); 0 if unknown."""
    found = re.search(r"\d+", band or "")
    return min(int(found.group()[:3]) // 10 + 1, 12) if found else 0


class LocalTime:
    """The offset of a time zone from UTC, looked up once for each quarter of an hour."""

    def __init__(self, timezone: str) -> None:
        self._zone = ZoneInfo(timezone)
        self._known: dict[int, int] = {}

    def utc_offset_s(self, ts_ms: int) -> int:
        """Return the local time less UTC, in seconds, at a time."""
        return self._offset_s(ts_ms // _QUARTER_MS)

    def utc_offsets_s(self, ts_ms: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the same of many times, (N,)."""
        quarters = ts_ms // _QUARTER_MS
        if (quarters == quarters[:1]).all():
            return np.array([self._offset_s(quarter) for quarter in quarters[:1].tolist()] * len(quarters), np.int32)
        distinct, of = np.unique(quarters, return_inverse=True)
        return np.array([self._offset_s(quarter) for quarter in distinct.tolist()], np.int32)[of]

    def _offset_s(self, quarter: int) -> int:
        offset_s = self._known.get(quarter)
        if offset_s is None:
            moment = dt.datetime.fromtimestamp(quarter * _QUARTER_MS / 1000, self._zone)
            offset = moment.utcoffset()
            assert offset is not None
            if len(self._known) > 10_000:
                self._known.clear()
            offset_s = self._known[quarter] = int(offset.total_seconds())
        return offset_s


class _Codes(NamedTuple):
    age: int
    gender: int
    level: int
    region: int
    registered_ms: int


@lru_cache(1 << 16)
def _codes(shopper: Shopper) -> _Codes:
    return _Codes(
        age=age_code(shopper.age_band),
        gender=_GENDERS.get(shopper.gender.lower(), 3) if shopper.gender else 0,
        level=0 if shopper.level is None else shopper.level + 1,
        region=(hash32(shopper.region) % 65_535) + 1 if shopper.region else 0,
        registered_ms=0 if shopper.registered_ts is None else milliseconds(shopper.registered_ts),
    )


def rows(batch: Sequence[Arrived], local: LocalTime) -> NDArray[np.void]:
    """Return the batch as EVENT rows (B,); the indices `user`, `line_stats` and `category_stats` are left at 0."""
    events = [arrived.event for arrived in batch]
    out = np.zeros(len(batch), EVENT)
    out["ts_ms"] = [arrived.ts_ms for arrived in batch]
    out["id_hash"] = hashes64([event.event_id for event in events])
    out["kind"] = [arrived.kind for arrived in batch]
    out["category"] = [hash32(event.category or event.line) for event in events]
    out["product"] = [hash32(event.product_id) for event in events]
    out["utc_offset_s"] = local.utc_offsets_s(out["ts_ms"])
    out["price"] = [_UNKNOWN if event.price is None else event.price for event in events]
    told = [i for i, event in enumerate(events) if event.user is not None]
    if told:
        codes = [_codes(shopper) for event in events if (shopper := event.user) is not None]
        for name, column in zip(_Codes._fields, zip(*codes, strict=True), strict=True):
            out[name][told] = column
    return out
