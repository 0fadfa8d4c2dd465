"""What is read of the topic `outcomes` for a campaign's uplift: each record once, whatever comes between, and what retention took is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from kafka import TopicPartition

from features.errors import DependencyDown, Mismatch
from features.exposures import UNMARKED, Closed, Exposure
from streams import uplift as source
from streams.records import Launch, Outcome, encode_message
from streams.settings import Settings
from streams.uplift import Gathered

LAUNCH = Launch(id="held", line="shoes", window_s=3600.0, holdout=0.3)


def outcome(user: str, label: int, *, predictions: Sequence[float] = (0.2, 0.1, 0.3, 0.3)) -> bytes:
    """A closed exposure of a user, as it lies on Kafka."""
    exposure = Exposure(
        id=f"id-{user}",
        domain="held",
        user=user,
        line="shoes",
        category="boots",
        counts=True,
        ts_ms=5,
        x=b"",
        predictions=msgspec.Raw(msgspec.msgpack.encode(predictions)),
        delay_ms=UNMARKED,
        bin=1,
    )
    return encode_message(Outcome(epoch=1, partition=0, number=0, key="held", closed=Closed(exposure=exposure, close_ms=9, bin=1, y=0, label=label)))


class FakeConsumer:
    """A partition that holds records from an offset on, some of which never come."""

    def __init__(self, records: list[tuple[bytes, bytes]], first: int = 0, lost: int = 0) -> None:
        self._records, self._first, self._lost, self._at = records, first, lost, 0

    def __call__(self, *, auto_offset_reset: str, **_: Any) -> FakeConsumer:
        assert auto_offset_reset == "earliest"
        return self

    def partitions_for_topic(self, _: str) -> set[int]:
        return {0}

    def assign(self, _: Any) -> None: ...
    def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, self._first)

    def seek(self, _: Any, offset: int) -> None:
        self._at = offset if self._first <= offset <= self._first + len(self._records) else self._first

    def close(self) -> None: ...

    def poll(self, timeout_ms: int) -> dict[Any, list[Any]]:
        assert timeout_ms > 0
        records = [SimpleNamespace(offset=self._first + i, key=key, value=value) for i, (key, value) in enumerate(self._records)]
        found, self._at = records[self._at - self._first :], self._first + len(records)
        return {TopicPartition("outcomes", 0): found}

    def highwater(self, _: Any) -> int:
        return self._first + len(self._records) + self._lost

    def position(self, _: Any) -> int:
        return self._at


def read(consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch) -> Gathered:
    """What a reader of the topic makes of the fake."""
    monkeypatch.setattr(source, "KafkaConsumer", consumer)
    monkeypatch.setattr(source, "require_reachable", lambda *_: None)
    monkeypatch.setattr(source, "topic_ids", lambda *_, **__: {"outcomes": "id"})
    return source.TopicReader(Settings(), LAUNCH).read(timeout_s=0.05)


def test_outcomes_get_the_arm_of_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Final labels of the launch, each with its user's arm, score and probability; open bins, other keys and missing predictions do no harm."""
    names = [f"u{i}" for i in range(40)]
    records = [(b"held", outcome(name, i % 2)) for i, name in enumerate(names)]
    records += [(b"held", outcome("open", -1)), (b"shared", b"not ours"), (b"held", outcome("bare", 0, predictions=()))]
    found = read(FakeConsumer(records), monkeypatch)
    m = found.matured
    assert m.user.tolist() == [*names, "bare"] and m.label.tolist() == [0, 1] * 20 + [0]
    assert ["treated" if t else "holdout" for t in m.treated] == [LAUNCH.arm(user) for user in m.user.tolist()] and 0 < m.treated.sum() < 41
    assert (m.score[0], m.probability[0]) == (0.2, 0.1) and math.isnan(m.score[-1])
    assert found.notes == ()


def test_what_the_broker_no_longer_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """When retention has taken the first records the report says how many."""
    assert "deleted 7 outcomes" in read(FakeConsumer([(b"held", outcome("u", 1))], first=7), monkeypatch).notes[0]


def test_what_was_read_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is asked again goes on where it stopped, also after it was interrupted; a topic that was made anew is read from its beginning."""
    reader = source.TopicReader(Settings(), LAUNCH)
    monkeypatch.setattr(source, "require_reachable", lambda *_: None)

    def after(records: list[tuple[bytes, bytes]], first: int = 0, topic: str = "id") -> list[str]:
        monkeypatch.setattr(source, "KafkaConsumer", FakeConsumer(records, first))
        monkeypatch.setattr(source, "topic_ids", lambda *_, **__: {"outcomes": topic})
        users: list[str] = reader.read(timeout_s=0.05).matured.user.tolist()
        return users

    def interrupt(read: int, of: int) -> None:
        raise KeyboardInterrupt

    told = [(b"held", outcome("a", 1)), (b"shared", b"not ours"), (b"held", outcome("b", 0)), (b"held", outcome("c", 1))]
    assert after(told[:2]) == ["a"]
    monkeypatch.setattr(source, "KafkaConsumer", FakeConsumer(told[:3]))
    with pytest.raises(KeyboardInterrupt):
        reader.read(timeout_s=0.05, progress=interrupt)
    assert after([(b"held", b"never read again")] * 3 + told[3:]) == ["a", "b", "c"]
    assert after(told) == ["a", "b", "c"]
    assert after([(b"held", outcome("d", 1))], first=9) == ["a", "b", "c", "d"], "what retention takes is told as such"
    assert "deleted 5 outcomes" in reader.read(timeout_s=0.05).notes[0]
    assert after([*told, *told, *told], topic="another") == ["a", "b", "c"]
    assert after([], topic="a third") == []


def test_reading_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that never come, and one of ours that cannot be read, are one line."""
    with pytest.raises(DependencyDown, match=r"not read to its end within 0\.05 s \(1 of 3 records\)"):
        read(FakeConsumer([(b"held", outcome("u", 1))], lost=2), monkeypatch)
    with pytest.raises(Mismatch, match="at offset 0 of launch 'held' is no outcome of this version"):
        read(FakeConsumer([(b"held", b"?")]), monkeypatch)


def test_a_hole_in_the_offsets_is_no_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every offset is a record: the mark of a producer's transaction is none."""

    class Holed(FakeConsumer):
        def poll(self, timeout_ms: int) -> dict[Any, list[Any]]:
            found = super().poll(timeout_ms)
            return {tp: [SimpleNamespace(offset=2 * r.offset, key=r.key, value=r.value) for r in records] for tp, records in found.items()}

    found = read(Holed([(b"held", outcome("a", 1)), (b"held", outcome("b", 0))]), monkeypatch)
    assert (found.matured.user.tolist(), found.notes) == (["a", "b"], ())
