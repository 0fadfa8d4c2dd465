"""Whom a campaign should reach: every shopper whose state is kept, scored as of now, the holdout left out, the best first."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import InputError
from models.whole_file import written_whole
from streams import launches, namespace
from streams.current import believer, partition_of, shoppers
from streams.records import Launch
from streams.settings import Settings

COLUMNS: Final = ("user_id", "rank", "score", "probability", "last_seen_ms")
DAY_MS: Final = 86_400_000
AT_ONCE: Final = 4_000


@dataclass(frozen=True)
class Audience:
    """Users that may be targeted, (N,) each; how many were scored, how many of them are held out, and how many were left out for another reason."""

    users: NDArray[np.str_]
    score: NDArray[np.float64]
    probability: NDArray[np.float64]
    last_ms: NDArray[np.int64]
    scored: int = 0
    held_out: int = 0
    left_out: int = 0

    def best(self, *, share: float | None = None, number: int | None = None) -> Audience:
        """Return those with the highest scores, the best first; of equal scores who was seen last, then by name."""
        order = np.lexsort((self.users, -self.last_ms, -self.score))
        count = number if number is not None else math.ceil((share or 0.0) * len(order))
        kept = order[: max(0, count)]
        return Audience(self.users[kept], self.score[kept], self.probability[kept], self.last_ms[kept], self.scored, self.held_out, self.left_out)


def read_share(text: str) -> tuple[float | None, int | None]:
    """Return (share, None) for a text such as 5% or .05, (None, number) for a whole number of users. Raises InputError."""
    try:
        if text.strip().endswith("%"):
            share = float(text.strip()[:-1]) / 100.0
        elif text.strip().isdigit() and int(text) >= 1:
            return None, int(text)
        else:
            share = float(text)
    except ValueError:
        share = math.nan
    if not 0.0 < share <= 1.0:
        raise InputError(f"--top {text}: expected a share such as 5%, above 0 and up to 100%, or a number of users")
    return share, None


async def gather(
    settings: Settings, launch_id: str, *, seen_within_days: float | None = None, without_buyers: bool = False, progress: Callable[[int], None] = lambda _: None
) -> Audience:  # fmt: skip
    """Score every shopper of the namespace in a launch. Raises InputError for an unknown or closed launch or an empty namespace, and DependencyDown."""
    store = namespace.open_store(settings, patience_s=5.0)
    try:
        asked = await believer(store, settings)
        known = {launch.id: launch for launch in asked.knowledge.launches.all}
        if launch_id not in known:
            raise launches.unknown(launch_id, list(known))
        launch, rules = known[launch_id], asked.rules
        if launch.closed_ms is not None:
            raise InputError(f"launch {launch_id!r} is closed: its scores are of the past")
        parts: list[Audience] = []
        scored = held_out = left_out = 0
        for number in range(rules.partitions):
            partition = await partition_of(store, number, rules, time.time_ns() // 1_000_000)
            if partition is None:
                continue
            now_ms = partition.cursor.tick_ms
            seen: set[str] = set()
            async for keys in store.records(str(number), "u:"):
                fresh = sorted({key[2:] for key in keys} - seen)
                seen.update(fresh)
                for first in range(0, len(fresh), AT_ONCE):
                    found = await shoppers(partition, asked.knowledge, launch, fresh[first : first + AT_ONCE], now_ms)
                    held = _held_out(launch, found.users)
                    late = np.zeros(len(held), np.bool_) if seen_within_days is None else now_ms - found.last_ms > seen_within_days * DAY_MS
                    out = ~held & (late | (found.ordered & without_buyers))
                    scored, held_out, left_out = scored + len(held), held_out + int(held.sum()), left_out + int(out.sum())
                    kept = ~held & ~out
                    parts.append(Audience(np.array(found.users, np.str_)[kept], found.score[kept], found.probability[kept], found.last_ms[kept]))
                    progress(scored)
    finally:
        await store.close()
    if not scored:
        raise InputError(f"namespace {settings.namespace!r} knows no shopper yet")
    return Audience(
        np.concatenate([p.users for p in parts]), np.concatenate([p.score for p in parts]), np.concatenate([p.probability for p in parts]),
        np.concatenate([p.last_ms for p in parts]), scored, held_out, left_out,
    )  # fmt: skip


def _held_out(launch: Launch, users: list[str]) -> NDArray[np.bool_]:
    return np.array([launch.arm(user) == "holdout" for user in users], np.bool_)


def write(chosen: Audience, file: Path) -> None:
    """Write users by rank as .csv, .jsonl or .parquet; ids as the shop gave them, since a machine reads them.

    What the file held stays where it cannot be written: then it raises InputError.
    """
    rows = list(
        zip(chosen.users.tolist(), range(1, len(chosen.users) + 1), chosen.score.tolist(), chosen.probability.tolist(), chosen.last_ms.tolist(), strict=True)
    )
    try:
        with written_whole(file) as partial:
            if file.suffix == ".parquet":
                pq.write_table(pa.table({name: [row[k] for row in rows] for k, name in enumerate(COLUMNS)}), partial)
                return
            with partial.open("w", encoding="utf-8", newline="") as out:
                if file.suffix == ".csv":
                    writer = csv.writer(out)
                    writer.writerow(COLUMNS)
                    writer.writerows(rows)
                else:
                    out.writelines(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise InputError(f"--out {file} cannot be written: {error.strerror or error}") from None
