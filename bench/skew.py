"""Training-serving skew, measured: every feature vector of a log, made online and offline, compared bit by bit.

    python bench/skew.py [FILE] [--lines hash:8:SALT] [--timezone ZONE]

Online: 12 partitions on a real (embedded) Valkey, with a cache of one user, so that every record is read back from Redis. Offline: one
partition in memory. Without FILE a simulated shop is used. Exits with 1 if a single bit differs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from features.advance import advance
from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from features.store import Store
from streams.cutting import cut
from streams.embedded import EmbeddedValkey
from streams.importing import read_log
from streams.offline import run
from streams.partition import Rules
from streams.shop import Shop, simulate
from streams.training import edges_ms

TICK_MS = 900_000
TTL_MS = 30 * 86_400_000


def vectors(log: Any, store: Store, rules: Rules) -> dict[tuple[int, int], bytes]:
    """Return {(event id's hash, time): vector as bytes} for every event of a log."""
    found: dict[tuple[int, int], bytes] = {}

    def recording(events: Any, *rest: Any, **named: Any) -> Any:
        told = advance(events, *rest, **named)
        for i, event in enumerate(events):
            found[int(event["id_hash"]), int(event["ts_ms"])] = told[0][i].tobytes()
        return told

    with patch("streams.pipeline.advance", recording):
        asyncio.run(run(cut(log, TICK_MS), store, rules, None, scoring=False))
    return found


def main() -> None:
    """Compare, print, and exit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--lines")
    parser.add_argument("--timezone", default="UTC")
    options = parser.parse_args()
    log = read_log(options.file, lines=options.lines) if options.file else simulate(Shop(users=500)).log
    edges = edges_ms(86_400.0)
    offline = vectors(log, MemoryStore(), Rules(edges_ms=edges, timezone=options.timezone))
    with EmbeddedValkey() as valkey:
        store = RedisStore(valkey.url, "skew", ttl_ms=TTL_MS)
        online = vectors(log, store, Rules(edges_ms=edges, timezone=options.timezone, partitions=12, lru_users=1))
    differ = sum(offline[key] != online.get(key) for key in offline)
    print(f"{log.num_rows} events, {len(offline)} vectors offline, {len(online)} online, {differ} differ")
    sys.exit(bool(differ or len(online) != len(offline) or len(offline) != log.num_rows))


if __name__ == "__main__":
    main()
