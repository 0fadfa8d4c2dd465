"""What partitions told their learners, from the topic `outcomes`: which lives count, and whether each exposure's bins were told once, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.catalogue import SHOP
from features.errors import Mismatch
from features.events import KINDS
from features.exposures import Exposure
from streams.ledger.findings import Account
from streams.ledger.spill import Spill
from streams.ledger.topics import Topics
from streams.outbox import is_earlier
from streams.partition import Cursor
from streams.records import Outcome, TickDone, decode_message

TOLD: Final = np.dtype(
    [("q", "u4"), ("epoch", "u8"), ("number", "i8"), ("content", "i8"), ("after", "u8"), ("after_end", "i8"), ("exposure", "u8"), ("bin", "i2"), ("y", "i1"),
     ("label", "i1"), ("launch", "i4"), ("counted", "i4", (len(KINDS),)), ("is_outcome", "?"), ("offset", "i8")]
)  # fmt: skip
"""`exposure` is its id as a number, `launch` an index into `Topic.launches`, `counted` the shop's events of each kind."""


@dataclass
class Topic:
    """All of `outcomes`, on disk, by input partition."""

    spill: Spill
    launches: dict[str, int] = field(default_factory=dict)
    first: list[int] = field(default_factory=list)  # for each outcome partition the first offset that the log still has


async def read_told(topics: Topics, outcome_partitions: int, folder: Path) -> Topic:
    """Read the topic to its end, into a folder."""
    topic = Topic(Spill(folder, "told", TOLD))
    for q in range(outcome_partitions):
        topic.first.append(topics.begin("outcomes", q))
        async for records in topics.read("outcomes", q):
            rows, boxes = [], []
            for record in records:
                try:
                    message = decode_message(record.value or b"")
                except msgspec.MsgspecError as error:
                    raise Mismatch(f"outcomes[{q}] at offset {record.offset} is no outcome of this version: {error}") from None
                if isinstance(message, TickDone):
                    continue
                place = (q, message.epoch, message.number, hash(record.value), *(message.after or (0, 0)))
                if isinstance(message, Outcome):
                    closed = message.closed
                    launch = topic.launches.setdefault(message.key, len(topic.launches))
                    rows.append((*place, int(closed.exposure.id, 16), closed.bin, closed.y, closed.label, launch, [0] * len(KINDS), True, record.offset))
                else:
                    rows.append((*place, 0, 0, 0, 0, -1, message.counts.get(SHOP, [0] * len(KINDS))[: len(KINDS)], False, record.offset))
                boxes.append(message.partition)
            topic.spill.add(rows, boxes)
    return topic


def path(rows: NDArray[np.void], cursor: Cursor, q: int, base: tuple[int, int] = (0, 0)) -> list[tuple[int, int, int]]:
    """Return (epoch, start, end) of the lives that count for an outcome partition, from the oldest to the present one, which the cursor names.

    What was told before `base`, an (epoch, number), does not belong to the account.
    """
    links = {int(row["epoch"]): (int(row["after"]), int(row["after_end"])) for row in rows[(rows["q"] == q) & (rows["number"] == 0)]}
    lives: list[tuple[int, int, int]] = []
    prior = cursor.told.prior[q] if cursor.told.prior else []
    following = (cursor.epoch, cursor.numbers[q])
    while following[0]:
        epoch, end = following
        if epoch == base[0]:
            lives.append((epoch, base[1], end))
            break
        lives.append((epoch, 0, end))
        following = (prior[0], prior[1]) if epoch == cursor.epoch and prior else links.get(epoch, (0, 0)) if epoch != cursor.epoch else (0, 0)
    return [life for life in reversed(lives) if life[2] > life[1] or life[0] == cursor.epoch]


@dataclass
class Learned:
    """What an outcome partition's learner must have learned of all partitions: by launch, for each bin, how many were tried and hit."""

    tried: Counter[tuple[int, int]] = field(default_factory=Counter)  # by (launch, bin)
    hit: Counter[tuple[int, int]] = field(default_factory=Counter)


def counting(
    account: Account, number: int, rows: NDArray[np.void], cursor: Cursor, q: int, *, base: tuple[int, int], complete: bool, refilled: int
) -> NDArray[np.void]:  # fmt: skip
    """Return the messages to outcome partition q that count, each once, as it was sent last. `complete`: the topic has all that was told; `refilled`: but so many."""
    mine = rows[rows["q"] == q]
    mine = mine[np.lexsort((-mine["offset"], mine["number"], mine["epoch"]))]
    kept = [mine[:0]]
    for epoch, start, end in path(rows, cursor, q, base):
        life = mine[(mine["epoch"] == epoch) & (mine["number"] >= start) & (mine["number"] < end)]
        numbers, places = np.unique(life["number"], return_index=True)
        same = life["content"] == life["content"][places][np.searchsorted(numbers, life["number"])]
        account.find("told_differently", [f"partition {number}, epoch {epoch}, outcomes[{q}] number {n}" for n in np.unique(life["number"][~same]).tolist()])
        missing = np.setdiff1d(np.arange(start, end), numbers)
        account.sums["told_and_not_on_kafka"] += len(missing)
        if len(missing) > refilled and complete:
            account.find("hole", [f"partition {number}, epoch {epoch}, outcomes[{q}] number {n}" for n in missing[:5].tolist()], len(missing))
        kept.append(life[places])
    counted = np.concatenate(kept)
    account.sums["told"] += len(counted)
    account.sums["told_again"] += len(mine) - len(counted)
    return counted


def check_learned(
    account: Account, number: int, counted: NDArray[np.void], cursor: Cursor, lives: list[tuple[int, int, int]], q: int,
    expected: tuple[int, int] | None, *, offset: int,
) -> NDArray[np.void]:  # fmt: skip
    """Check that the learner of outcome partition q has learned all that a partition told and that does not wait for it; returns those messages.

    It expects (epoch, number) next, and reads the topic from `offset` on. What lies there and is not learned waits, if it is of a life that the
    partition's `cursor` still names: what the partition has let go would be taken for learned, so it is lost.
    """
    at, upto = expected if expected is not None else (0, 0)
    epochs = [epoch for epoch, _, _ in lives]
    start = end = 0
    if at in epochs:
        ahead, (_, first, end) = lives[epochs.index(at) + 1 :], lives[epochs.index(at)]
        start = max(first, upto)
        if upto > end:
            account.find("learned_twice", [f"partition {number}: outcomes[{q}] is at {upto}, {end} were told"])
    elif is_earlier(max(epochs, default=0), at):
        ahead = lives  # it expects what is none of this partition's
    else:
        ahead = [life for life in lives if not is_earlier(life[0], at)]  # a life that told nothing, or one that was cut off
    new = (counted["epoch"] == at) & (counted["number"] >= start) | np.isin(counted["epoch"], [epoch for epoch, _, _ in ahead])
    named = [cursor.epoch, *(past.epoch for past in cursor.told.before)]
    waits = new & (counted["offset"] >= offset) & np.isin(counted["epoch"], named)
    account.sums["outcomes_waiting"] += int(waits.sum())
    unlearned = max(0, end - start) + sum(after - begin for _, begin, after in ahead) - int(waits.sum())
    where = f"has learned epoch {at} up to {upto} of {end}" if at in epochs else f"expects epoch {at}, which is none that counts"
    account.find("not_learned", [f"partition {number}: outcomes[{q}] {where}"], unlearned)
    learned: NDArray[np.void] = counted[~waits]
    return learned


def learn(learned: Learned, messages: NDArray[np.void]) -> None:
    """Add what a learner must have learned of messages."""
    tried = messages[messages["is_outcome"] & (messages["bin"] > 0)]
    learned.tried.update(_pairs(tried["launch"], tried["bin"]))
    hit = tried[tried["y"] == 1]
    learned.hit.update(_pairs(hit["launch"], hit["bin"]))


def _pairs(a: NDArray[np.int32], b: NDArray[np.int16]) -> dict[tuple[int, int], int]:
    both, counts = np.unique(np.stack([a.astype(np.int64), b.astype(np.int64)]), axis=1, return_counts=True)
    return {(int(x), int(y)): int(n) for x, y, n in zip(*both, counts, strict=True)} if len(a) else {}


def check_exposures(
    account: Account, number: int, facts: NDArray[np.void], pending: Mapping[int, Exposure], *, bins: int, opened: int, complete: bool
) -> NDArray[np.uint64]:  # fmt: skip
    """Check that each exposure's bins were told once, in order, up to its label, or so far as it is open; returns the ids (E,) of all exposures.

    `facts` are the outcomes that count. `opened` is how many exposures the partition says it opened; `complete`: the topic has all that was told.
    """
    facts = facts[np.lexsort((facts["label"], facts["bin"], facts["exposure"]))]
    ids = np.unique(facts["exposure"])
    index = np.searchsorted(ids, facts["exposure"])
    is_bin, is_label = facts["bin"] > 0, facts["label"] >= 0
    n_bins = np.bincount(index[is_bin], minlength=len(ids))
    last = np.zeros(len(ids), np.int64)
    np.maximum.at(last, index, facts["bin"].astype(np.int64))
    repeated = np.zeros(len(ids), np.bool_)
    twice = (facts["exposure"][1:] == facts["exposure"][:-1]) & (facts["bin"][1:] == facts["bin"][:-1]) & is_bin[1:]
    repeated[index[1:][twice]] = True
    hits = np.bincount(index[facts["y"] == 1], minlength=len(ids))
    hit_at = np.zeros(len(ids), np.int64)
    np.maximum.at(hit_at, index[facts["y"] == 1], facts["bin"][facts["y"] == 1].astype(np.int64))
    labels = np.bincount(index[is_label], minlength=len(ids))
    label = np.full(len(ids), -1)
    label[index[is_label]] = facts["label"][is_label]

    open_bin, open_ordered = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    held = np.array(sorted(pending), np.uint64)
    is_open = np.isin(ids, held)
    for at in np.flatnonzero(is_open):
        exposure = pending[int(ids[at])]
        open_bin[at], open_ordered[at] = exposure.bin, exposure.ordered

    wrong = repeated | (n_bins != last) | (hits > 1) | ((hits == 1) & (hit_at != last)) | (labels > 1)
    wrong |= (labels == 1) & is_open
    wrong |= (labels == 1) & (label != hits)
    wrong |= (labels == 1) & (hits == 0) & (last != bins)
    wrong |= (labels == 0) & ~is_open
    wrong |= is_open & (open_ordered != (hits == 1))
    wrong |= is_open & ~open_ordered & (open_bin != last + 1)
    if not complete:
        wrong &= repeated | (labels > 1) | ((labels == 1) & is_open)
    names = [
        f"partition {number}: exposure {int(ids[at]):016x} was told bins {facts['bin'][index == at].tolist()} with {facts['y'][index == at].tolist()}, "
        f"label {facts['label'][index == at].tolist()}, and is {'open' if is_open[at] else 'closed'}"
        for at in np.flatnonzero(wrong)[:5]
    ]
    account.find("bins", names, int(wrong.sum()))
    fresh = np.setdiff1d(held, ids)
    early = [e for e in (pending[int(at)] for at in fresh) if e.bin != 1]
    if complete:
        account.find("bins", [f"partition {number}: exposure {e.id} is open at bin {e.bin}, and no bin was told" for e in early[:5]], len(early))
        account.expect("exposures", f"partition {number}: exposures opened", opened, int((labels > 0).sum()) + len(held))
    account.sums["exposures_open"] += len(held)
    account.sums["exposures_final"] += int((labels > 0).sum())
    account.sums["exposures_ordered"] += int(((labels > 0) & (label == 1)).sum())
    return np.union1d(ids, held)


def counted_by_kind(rows: NDArray[np.void]) -> Sequence[int]:
    """Return how many events of each kind (4,) the messages that count told the catalogue."""
    return [int(n) for n in rows["counted"].sum(axis=0)] if len(rows) else [0] * len(KINDS)
