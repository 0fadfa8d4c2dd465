"""Where the figures of a campaign come from: a launch's final exposures, from the topic `outcomes` or from a file, each exposure once.

The arm is computed from the launch's id and the user, as it was for the scores. Users of input partitions whose worker lags are missing until their
outcomes come: when that is has nothing to do with the arm, so what has come may be judged at any time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from features.errors import DependencyDown, InputError, Mismatch
from features.exposures import NONE
from features.hashing import partition_for
from models.uplift import Matured
from streams import launches, namespace
from streams.kafka_access import client_config, consumer_config
from streams.records import Launch, Outcome, decode_message
from streams.settings import Settings
from streams.topics import broker_names, require_reachable, topic_ids

REQUIRED: Final = ("user_id", "arm", "close_ms", "label")

Progress = Callable[[int, int], None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One closed exposure in a file of outcomes. `label` is -1 while it is not final; without an `exposure_id` a user has one exposure for each close_ms."""

    user_id: str | int
    arm: Literal["treated", "holdout"]
    close_ms: int
    label: Literal[-1, 0, 1]
    score: float | None = None
    probability: float | None = None
    exposure_id: str | int | None = None


@dataclass(frozen=True)
class Gathered:
    """Final exposures, how many came again and were left out, and what a reader must know, a line each."""

    matured: Matured
    repeated: int
    notes: tuple[str, ...] = ()


async def find_launch(settings: Settings, name: str) -> Launch:
    """Return the launch from the namespace. Raises InputError if it is not there or holds nobody out, DependencyDown without Redis."""
    store = namespace.open_store(settings, patience_s=5.0)
    try:
        found = await launches.read(store)
    finally:
        await store.close()
    if name not in found:
        raise launches.unknown(name, list(found))
    if not found[name].holdout:
        raise InputError(
            f"launch {name!r} holds nobody out, so there is nothing to compare with: a launch gets its holdout with `headstart launch add --holdout`"
        )
    return found[name]


class TopicReader:
    """Reads the final exposures of a launch off its partition of `outcomes`: what has come since the last time, and what that had found."""

    def __init__(self, settings: Settings, launch: Launch) -> None:
        self._settings, self._launch = settings, launch
        self._topic = ""  # its id
        self._rows: list[Row] = []
        self._next = self._deleted = 0  # where to read on, and how many records were deleted before they were read

    def read(self, *, timeout_s: float, progress: Progress = lambda *_: None) -> Gathered:
        """Read on to the present end, and return everything. Raises DependencyDown when the time is over before, and Mismatch.

        `progress` hears (records read, records there); what it raises ends the reading, which goes on there the next time.
        """
        key = self._launch.id.encode()
        for record in self._records(key, timeout_s, progress):
            if record.key == key:
                try:
                    message = decode_message(record.value)
                except msgspec.MsgspecError as error:
                    raise Mismatch(f"outcomes at offset {record.offset} of launch {self._launch.id!r} is no outcome of this version: {error}") from None
                if isinstance(message, Outcome) and message.closed.label != NONE:
                    self._rows.append(_row(message, self._launch))
            self._next = record.offset + 1
        notes: tuple[str, ...] = ()
        if self._deleted:
            notes = (f"the broker has deleted {self._deleted} outcomes of this partition before they were read (retention): users of that time are missing",)
        return gathered(self._rows, notes)

    def _records(self, key: bytes, timeout_s: float, progress: Progress) -> Iterator[Any]:
        """Yield the partition's records, those of others too."""
        require_reachable(self._settings.broker, client_config(self._settings))
        name = broker_names(self._settings.topic_prefix, self._settings.topic_names)["outcomes"]
        give_up_s = time.monotonic() + timeout_s
        try:
            consumer = KafkaConsumer(**consumer_config(self._settings), max_poll_records=5_000, auto_offset_reset="earliest")
            try:
                there = consumer.partitions_for_topic(name)
                if not there:
                    raise Mismatch(f"the broker at {self._settings.broker} has no topic {name}; create it with `headstart topics create`")
                if (topic := topic_ids(self._settings.broker, [name], client_config=client_config(self._settings))[name]) != self._topic:
                    self._topic, self._rows, self._next, self._deleted = topic, [], 0, 0  # the first time, or it was made anew
                tp = TopicPartition(name, partition_for(key, len(there)))
                consumer.assign([tp])
                first = consumer.beginning_offsets([tp])[tp]
                self._deleted += max(0, first - self._next)
                self._next = max(first, self._next)
                consumer.seek(tp, self._next)
                read, end = self._next, None
                while end is None or read < end:
                    if time.monotonic() > give_up_s:
                        raise DependencyDown(
                            f"{name} was not read to its end within {timeout_s:g} s ({read} of {'?' if end is None else end} records); give more --timeout"
                        )
                    yield from consumer.poll(timeout_ms=500).get(tp, ())
                    end = consumer.highwater(tp)  # what fetches say: the embedded broker's answer to a question for the end can lag behind
                    read = consumer.position(tp)
                    progress(read, end or read)
            finally:
                consumer.close()
        except KafkaError as error:
            raise DependencyDown(f"the broker at {self._settings.broker} does not answer: {error}") from None


def _row(outcome: Outcome, launch: Launch) -> Row:
    closed, exposure = outcome.closed, outcome.closed.exposure
    told: Sequence[float | None] = exposure.said() or (None, None)
    arm = launch.arm(exposure.user)
    assert arm is not None  # `find_launch` refuses a launch without holdout
    return Row(
        user_id=exposure.user, arm="holdout" if arm == "holdout" else "treated", close_ms=closed.close_ms, label=1 if closed.label else 0,
        score=told[0], probability=told[1], exposure_id=exposure.id,
    )  # fmt: skip


def from_file(path: Path) -> Gathered:
    """Read outcomes from .jsonl or .parquet, whose rows are `Row`. Raises InputError that names the first bad row."""
    try:
        rows = list(_parquet(path) if path.suffix == ".parquet" else _jsonl(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    arms: dict[str | int, str] = {}
    labels: dict[str, int] = {}
    for row in rows:
        if arms.setdefault(row.user_id, row.arm) != row.arm:
            raise InputError(f"{path}: user {row.user_id!r} is in both arms; each user must be in one")
        if row.label != NONE and (label := labels.setdefault(_name(row), row.label)) != row.label:
            told = row.exposure_id if row.exposure_id is not None else f"of user {row.user_id!r} at {row.close_ms}"
            raise InputError(f"{path}: exposure {told} has label {label} and label {row.label}")
    return gathered(rows)


def _name(row: Row) -> str:
    return str(row.exposure_id) if row.exposure_id is not None else f"{row.user_id}\x1f{row.close_ms}"


def _jsonl(path: Path) -> Iterator[Row]:
    decode = msgspec.json.Decoder(Row).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                try:
                    yield decode(line)
                except msgspec.MsgspecError as error:
                    raise InputError(f"{path}, line {number}: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    known: tuple[str, ...] = Row.__struct_fields__
    try:
        names = pq.read_schema(path).names
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            raise InputError(f"{path} has no column {', '.join(missing)}; expected {', '.join(known)} (the last three are optional)")
        rows: list[dict[str, Any]] = pq.read_table(path, columns=[name for name in known if name in names]).to_pylist()
    except pa.ArrowException as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from None
    for number, row in enumerate(rows, 1):
        try:
            yield msgspec.convert(row, Row)
        except msgspec.MsgspecError as error:
            raise InputError(f"{path}, row {number}: {error}") from None


def gathered(rows: Iterable[Row], notes: tuple[str, ...] = ()) -> Gathered:
    """Return the rows with a final label, of each exposure the first that came."""
    kept: dict[str, Row] = {}
    repeated = 0
    for row in rows:
        if row.label == NONE:
            continue
        name = _name(row)
        repeated += name in kept
        kept.setdefault(name, row)
    held = list(kept.values())

    def figures(values: Iterable[float | None]) -> np.ndarray:
        return np.array([math.nan if value is None else value for value in values], np.float64)

    matured = Matured(
        exposure=np.array(list(kept), np.str_),
        user=np.array([str(row.user_id) for row in held], np.str_),
        treated=np.array([row.arm == "treated" for row in held], np.bool_),
        close_ms=np.array([row.close_ms for row in held], np.int64),
        label=np.array([row.label for row in held], np.int8),
        score=figures(row.score for row in held),
        probability=figures(row.probability for row in held),
    )
    return Gathered(matured, repeated, notes)
