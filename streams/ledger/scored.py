"""Which event ids have a score, and which exposures the scores announced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.errors import Mismatch
from features.intake import hash64
from streams.ledger.events import Due, Published, keys
from streams.ledger.findings import Account
from streams.ledger.topics import Topics


class _Entry(msgspec.Struct):
    exposure_id: str | None = None


class _Score(msgspec.Struct):
    """What the ledger reads of a score."""

    user_id: str
    event_id: str
    ts: int
    entries: list[_Entry] = []


_decode = msgspec.json.Decoder(_Score).decode


@dataclass
class Scored:
    """The scores of one partition's users: of each record the event's key, time and a hash of its bytes; of each exposure its id and its record."""

    key: NDArray[np.uint64]
    ts_ms: NDArray[np.int64]
    content: NDArray[np.int64]
    exposure: NDArray[np.uint64]
    of: NDArray[np.int64]  # the record that announced it
    foreign: list[str]  # scores of users of whom nothing was published
    first_at_ms: int  # the broker's time of the oldest score that the log has; 0: it has all


async def read_scored(topics: Topics, number: int, users: Mapping[str, int]) -> Scored:
    """Read one partition of the topic `scores` to its end."""
    user, id_hash, ts, content, exposure, of = ([] for _ in range(6))  # type: ignore[var-annotated]
    foreign: list[str] = []
    first_at_ms = 0
    begin = topics.begin("scores", number)
    async for records in topics.read("scores", number):
        if begin and not first_at_ms:
            first_at_ms = records[0].timestamp
        for record in records:
            try:
                score = _decode(record.value or b"")
            except msgspec.MsgspecError as error:
                raise Mismatch(f"scores[{number}] at offset {record.offset} is no score of this version: {error}") from None
            found = users.get(score.user_id)
            if found is None:
                foreign.append(f"{score.user_id}:{score.event_id}")
                continue
            exposure += [int(entry.exposure_id, 16) for entry in score.entries if entry.exposure_id is not None]
            of += [len(user)] * (len(exposure) - len(of))
            user.append(found)
            id_hash.append(hash64(score.event_id))
            ts.append(score.ts)
            content.append(hash(record.value))
    key = keys(np.array(user, np.int32), np.array(id_hash, np.uint64))
    return Scored(key, np.array(ts, np.int64), np.array(content, np.int64), np.array(exposure, np.uint64), np.array(of, np.int64), foreign, first_at_ms)


def check_scored(
    account: Account, published: Published, due: Due, scored: Scored, known: NDArray[np.uint64],
    *, old: NDArray[np.bool_], dropped: int, replay: bool, others: bool, complete: bool,
) -> None:  # fmt: skip
    """Check that every id has a score and every score an event, and that exposures (`known`, E) are those that were announced.

    Of the ids that are `old` (D,) as many as `dropped` were worked before the account, and need none. `others`: the topic may have scores of events that were not read, before or after those.
    """
    rows, where = published.rows, f"partition {published.number}"
    distinct = rows[due.first]
    wanted = due.key[due.first]
    there = np.isin(wanted, scored.key)
    missing = ~there & ~distinct["maybe"] & (distinct["at_ms"] >= scored.first_at_ms)
    if (missing & old).sum() <= dropped:
        missing &= ~old
    names = [f"{where}: user {published.users[distinct['user'][at]]}, an event of {distinct['ts_ms'][at]} ms" for at in np.flatnonzero(missing)[:5]]
    account.find("not_scored", names, int(missing.sum()))
    account.sums["scored"] += int(there.sum())
    account.sums["scores_on_kafka"] += len(scored.key) + len(scored.foreign)
    strange = ~np.isin(scored.key, wanted)
    if not others and not published.before_log:
        account.find("scored_unpublished", [f"{where}: {name}" for name in scored.foreign])
        account.find("scored_unpublished", [f"{where}: a score of {ts} ms" for ts in scored.ts_ms[strange][:5].tolist()], int(strange.sum()))

    ids, of_id = np.unique(scored.key, return_inverse=True)
    times = np.bincount(of_id, minlength=len(ids))
    if replay:
        low, high = np.full(len(ids), 2**62), np.full(len(ids), -(2**62))
        np.minimum.at(low, of_id, scored.content >> 1)
        np.maximum.at(high, of_id, scored.content >> 1)
        account.find("scored_differently", [f"{where}: {n} event ids"] if (n := int((low != high).sum())) else [], n)
    if not complete or others:
        return
    # An exposure that every score of its event announced must be there; a life that was lost may have announced others.
    announced, of_announced, often = np.unique(scored.exposure, return_inverse=True, return_counts=True)
    event = np.zeros(len(announced), np.int64)
    event[of_announced] = of_id[scored.of]
    always = often >= times[event]
    gone = np.setdiff1d(announced[always], known)
    account.find("forgotten", [f"{where}: exposure {at:016x}" for at in gone[:5].tolist()], len(gone))
    unknown = np.setdiff1d(known, announced)
    account.find("not_announced", [f"{where}: exposure {at:016x}" for at in unknown[:5].tolist()], len(unknown))
