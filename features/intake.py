"""From decoded events to the rows that the kernel reads: hashes, codes and the local time."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.events import Event, Shopper, milliseconds
from features.layout import EVENT

_GENDERS: Final = {"female": 1, "f": 1, "woman": 1, "w": 1, "male": 2, "m": 2, "man": 2}
_QUARTER_MS: Final = 900_000


@dataclass(frozen=True, slots=True)
class Arrived:
    """One valid event as it came: with its kind, its time in ms, and the bytes that settle ties."""

    event: Event
    kind: int
    ts_ms: int
    raw: bytes

    def order(self) -> tuple[int, bytes, int, bytes, bytes]:
        """Return the key by which a tick's events are sorted; equal keys are equal events."""
        return self.ts_ms, self.event.event_id.encode(), self.kind, self.event.user_id.encode(), self.raw


def hash64(text: str) -> int:
    """Return a 64-bit hash that is never 0 (0 marks an empty place)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


def hash32(text: str) -> int:
    """Return a 32-bit hash that is never 0."""
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
        quarter = ts_ms // _QUARTER_MS
        offset_s = self._known.get(quarter)
        if offset_s is None:
            moment = dt.datetime.fromtimestamp(quarter * _QUARTER_MS / 1000, self._zone)
            offset = moment.utcoffset()
            assert offset is not None
            if len(self._known) > 10_000:
                self._known.clear()
            offset_s = self._known[quarter] = int(offset.total_seconds())
        return offset_s


_STRANGER: Final = Shopper()


def rows(batch: list[Arrived], local: LocalTime) -> NDArray[np.void]:
    """Return the batch as EVENT rows (B,); the indices `user`, `line_stats` and `category_stats` are left at 0."""
    out = np.zeros(len(batch), EVENT)
    for i, arrived in enumerate(batch):
        event, row = arrived.event, out[i]
        shopper = event.user or _STRANGER
        row["ts_ms"] = arrived.ts_ms
        row["id_hash"] = hash64(event.event_id)
        row["kind"] = arrived.kind
        row["category"] = hash32(event.category or event.line)
        row["product"] = hash32(event.product_id)
        row["utc_offset_s"] = local.utc_offset_s(arrived.ts_ms)
        row["price"] = np.nan if event.price is None else event.price
        if shopper is not _STRANGER:
            row["age"] = age_code(shopper.age_band)
            row["gender"] = _GENDERS.get(shopper.gender.lower(), 3) if shopper.gender else 0
            row["level"] = 0 if shopper.level is None else shopper.level + 1
            row["region"] = (hash32(shopper.region) % 65_535) + 1 if shopper.region else 0
            row["registered_ms"] = 0 if shopper.registered_ts is None else milliseconds(shopper.registered_ts)
    return out
