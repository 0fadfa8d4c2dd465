"""Signs of life: what each worker says of itself every two seconds, for the dashboard and `headstart status`. Best effort, and no part of any commit."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from features.errors import DependencyDown
from features.store import Store
from streams.desk import Desk
from streams.gate import End

EVERY_S: Final = 2.0
ALIVE_MS: Final = 10_000
"""A worker that has said nothing for so long is taken for dead."""
FORGOTTEN_MS: Final = 3_600_000


class PartitionBeat(msgspec.Struct):
    """Where one partition of a worker is: its event time, and how many records are on Kafka and not worked off, None before the broker has answered.

    `time_ms`: the end of the last tick that it closed. A quiet tick is not written to the partition's cursor, so this may be later.
    """

    partition: int
    time_ms: int
    lag: int | None


class Beat(msgspec.Struct, kw_only=True):
    """One worker. `cpu_s`: seconds of processor time since it started; `lost`: records that were gone from the log before they were read."""

    worker: str
    host: str
    pid: int
    started_ms: int
    at_ms: int
    partitions: list[PartitionBeat]
    learns: list[int]
    rss_bytes: int
    cpu_s: float
    lost: int
    trunk: str


decode_beat = msgspec.json.Decoder(Beat).decode


class Pulse:
    """Writes the beats of one worker; what it has to say is asked at each."""

    def __init__(self, store: Store, *, clock_ms: Callable[[], int]) -> None:
        self._store, self._clock_ms = store, clock_ms
        self._host, self._started_ms, self._due_s = socket.gethostname(), clock_ms(), 0.0
        self._name = f"{self._host}:{os.getpid()}:{secrets.token_hex(3)}"
        self._cleaned = False

    async def beat(self, desks: Sequence[Desk], learns: Sequence[int], ends: Callable[[int], Sequence[End | None]], *, trunk: str, lost: int) -> None:
        """Say where everything is, if it is time to. That Redis does not answer is for others to mind."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + EVERY_S
        now_ms = self._clock_ms()
        beat = Beat(
            worker=self._name, host=self._host, pid=os.getpid(), started_ms=self._started_ms, at_ms=now_ms,
            partitions=[PartitionBeat(desk.number, desk.partition.cursor.tick_ms, _lag(desk, ends(desk.number))) for desk in desks], learns=list(learns),
            rss_bytes=resident_bytes(), cpu_s=time.process_time(), lost=lost, trunk=trunk,
        )  # fmt: skip
        try:
            if not self._cleaned:
                await self._store.drop_beats([name for name, raw in (await self._store.beats()).items() if now_ms - decode_beat(raw).at_ms > FORGOTTEN_MS])
                self._cleaned = True
            await self._store.put_beat(self._name, msgspec.json.encode(beat))
        except DependencyDown:
            return

    async def stop(self) -> None:
        """Say that the worker has ended as it should."""
        try:
            await self._store.drop_beats([self._name])
        except DependencyDown:
            return


def _lag(desk: Desk, ends: Sequence[End | None]) -> int | None:
    if any(end is None for end in ends):
        return None
    return sum(max(0, end.offset - offset) for end, offset in zip(ends, desk.partition.cursor.offsets, strict=True) if end is not None)


def resident_bytes() -> int:
    """Return this process's resident memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
