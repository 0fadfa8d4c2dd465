"""What was published for one partition: every record of the four topics, and per user what must have been applied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.events import KINDS, Refused, decode
from features.hashing import partition_for
from features.intake import hash64
from features.layout import RING
from streams.ledger.topics import Topics
from streams.records import tick_of

BY_TIME: Final = {"too_old", "from_the_future"}  # reasons that depend on when a record was worked
NEAR_MS: Final = 2_000  # by so much, and by how far events' times lie from their publishing, the order of working may differ from that of publishing
ROW: Final = np.dtype([("user", "i4"), ("line", "i4"), ("id", "u8"), ("ts_ms", "i8"), ("at_ms", "i8"), ("kind", "i1"), ("maybe", "?")])


class Rejected(NamedTuple):
    """A record on the topic `rejected`, by what its headers say."""

    reason: str
    value: int  # the hash of key and value
    at_ms: int
    cut: bool


@dataclass
class Published:
    """Partition `number`'s records below the cursor; `users` and `lines` ((user, line) pairs) are what the columns of `rows` (N,) index."""

    number: int
    rows: NDArray[np.void]
    users: list[str]
    lines: list[tuple[int, str]]
    read: int = 0
    refused: int = 0
    ticks: int = 0  # tick records of a replay
    before_log: int = 0  # records between where accounting begins and the log's present beginning
    wrong: list[tuple[str, str]] = field(default_factory=list)  # findings about rejects: (kind, text)
    reasons: Counter[str] = field(default_factory=Counter)


def same_bytes(key: bytes | None, value: bytes | None) -> int:
    """Return a hash by which a record and its reject are compared."""
    return hash((key, value))


async def read_published(
    topics: Topics, number: int, partitions: int, *, starts: Sequence[int], ends: Sequence[int], rejected: Mapping[tuple[int, int], Rejected], check_partition: bool,
    replay: bool,
) -> Published:  # fmt: skip
    """Read the four topics of a partition from `starts` (4,) to `ends` (4,); `rejected` is by (kind, offset).

    In a replay's namespace tick records are told apart, as its workers do.
    """
    users: dict[str, int] = {}
    lines: dict[tuple[int, str], int] = {}
    parts: list[NDArray[np.void]] = []
    out = Published(number, np.empty(0, ROW), [], [])
    for kind, topic in enumerate(KINDS):
        out.before_log += max(0, min(topics.begin(topic, number), ends[kind]) - starts[kind])
        async for records in topics.read(topic, number, start=starts[kind], end=ends[kind]):
            rows = []
            for record in records:
                if tick_of(record.headers, replay=replay) is not None:
                    out.ticks += 1
                    continue
                out.read += 1
                reject = rejected.get((kind, record.offset))
                try:
                    event, ts_ms = decode(record.value, kind)
                    if record.key != event.user_id.encode():
                        raise Refused("wrong_key", "")
                    if check_partition and partition_for(record.key, partitions) != number:
                        raise Refused("wrong_partition", "")
                except Refused as refused:
                    out.refused += 1
                    out.reasons[refused.reason] += 1
                    out.wrong += _about_reject(f"{topic}[{number}]:{record.offset}", refused.reason, reject, same_bytes(record.key, record.value))
                    continue
                maybe = reject is not None
                if reject is not None and reject.reason not in BY_TIME:
                    out.wrong.append(("rejected_wrongly", f"{topic}[{number}]:{record.offset} as {reject.reason}"))
                if reject is not None:
                    out.reasons[reject.reason] += 1
                user = users.setdefault(event.user_id, len(users))
                line = lines.setdefault((user, event.line), len(lines))
                rows.append((user, line, hash64(event.event_id), ts_ms, record.timestamp, kind, maybe))
            parts.append(np.array(rows, ROW))
    out.rows = np.concatenate(parts) if parts else out.rows
    out.users, out.lines = list(users), list(lines)
    return out


def _about_reject(place: str, reason: str, reject: Rejected | None, value: int) -> list[tuple[str, str]]:
    if reject is None:
        return [("not_rejected", f"{place} ({reason})")]
    if reject.reason != reason and reject.reason not in BY_TIME:
        return [("not_rejected", f"{place} is {reason}, and was rejected as {reject.reason}")]
    if not reject.cut and reject.value != value:
        return [("not_rejected", f"{place} ({reason}): the bytes differ")]
    return []


@dataclass
class Due:
    """What must have become of a partition's published events: distinct ids, and by user and by user-line pair how many."""

    key: NDArray[np.uint64]  # (N,) of each record: equal for equal (user, event id)
    first: NDArray[np.int64]  # (D,) the record that came first of each id, by the broker's time
    repeats: int
    by_user: NDArray[np.int64]
    by_line: NDArray[np.int64]
    maybe: NDArray[np.int64]  # by user: ids that were refused at least once by their time, and may have been applied in another life
    again: NDArray[np.int64]  # by user: repeats that came so late that the ring had forgotten the id
    unclear: NDArray[np.bool_]  # by user: which events were applied, or in which order, cannot be told


def keys(users: NDArray[np.int32], ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a 64-bit key (N,) of (user, event id hash)."""
    with np.errstate(over="ignore"):
        return ids ^ (users.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)


def due(published: Published, *, ttl_ms: int, erased: NDArray[np.bool_]) -> Due:
    """Return what must have become of a partition's events, some of whose users (N,) were erased."""
    rows, n_users, n_lines = published.rows, len(published.users), len(published.lines)
    key = keys(rows["user"], rows["id"])
    order = np.lexsort((rows["at_ms"], key))
    starts = np.ones(len(rows), np.bool_)
    starts[1:] = key[order][1:] != key[order][:-1]
    first, again = order[starts], order[~starts]
    of_first = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]]  # in order: the first record of the same id
    unclear = np.zeros(n_users, np.bool_)
    for name in ("ts_ms", "kind", "line"):
        unclear[rows["user"][order[rows[name][order] != rows[name][of_first]]]] = True
    distinct = rows[first]
    late = np.zeros(n_users, np.int64)
    if len(again):
        by_time = first[np.lexsort((rows["at_ms"][first], rows["user"][first]))]
        users, times = rows["user"][by_time], rows["at_ms"][by_time]
        at = np.searchsorted(users, np.arange(n_users + 1))
        slack = np.full(n_users, 0, np.int64)
        np.maximum.at(slack, rows["user"], np.abs(rows["at_ms"] - rows["ts_ms"]))
        slack += NEAR_MS
        for i, began in zip(again, of_first[~starts], strict=True):
            user = rows["user"][i]
            mine = times[at[user] : at[user + 1]]
            between = np.searchsorted(mine, rows["at_ms"][i] + slack[user], "right") - np.searchsorted(mine, rows["at_ms"][began] - slack[user])
            late[user] += between > RING
    late[erased] = np.bincount(rows["user"][again], minlength=n_users)[erased]
    unclear |= late > 0
    maybe = np.bincount(distinct["user"][distinct["maybe"]], minlength=n_users)
    unclear |= maybe > 0
    # A state without an event for longer than its life begins anew, and so does one that was erased.
    by_ts = distinct[np.lexsort((distinct["ts_ms"], distinct["user"]))]
    renewed = (np.diff(by_ts["ts_ms"]) > ttl_ms) & (np.diff(by_ts["user"]) == 0)
    for anew in (by_ts["user"][1:][renewed], np.flatnonzero(erased)):
        unclear[anew] = True
        maybe[anew] = len(rows)
    return Due(
        key=key, first=first, repeats=len(again), by_user=np.bincount(distinct["user"], minlength=n_users), by_line=np.bincount(distinct["line"], minlength=n_lines),
        maybe=maybe, again=late, unclear=unclear,
    )  # fmt: skip
