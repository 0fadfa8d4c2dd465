"""What every contender is told on its command line."""

from __future__ import annotations

import argparse
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Where to read and write; `name` is fresh for each run: a consumer group, and a prefix of keys. `wait_s`: for how long a batch is filled."""

    broker: str
    redis: str
    inputs: list[str]
    output: str
    name: str
    folder: str
    wait_s: float


def options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    for name in ("broker", "redis", "inputs", "output", "name", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--wait", type=float, default=0.05)
    given = parser.parse_args()
    return Options(given.broker, given.redis, given.inputs.split(","), given.output, given.name, given.folder, given.wait)


class Meter:
    """How many records a contender has written, in eight bytes of a file that the bench looks at: it costs the contender nothing."""

    def __init__(self, folder: str) -> None:
        path = Path(folder) / "written"
        path.write_bytes(bytes(8))
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 8)
        self._n = 0

    def add(self, n: int) -> None:
        """Note that n more are written."""
        self._n += n
        struct.pack_into("<q", self._map, 0, self._n)


def read_meter(path: Path) -> int:
    """Return what a contender has noted."""
    return int(struct.unpack("<q", path.read_bytes())[0]) if path.exists() else 0
