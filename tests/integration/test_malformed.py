"""Ten thousand inputs that cannot be used, two thousand that were drawn in five guises each, between good events, into a live worker: nothing crashes, and nothing disappears."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from kafka import KafkaProducer

from features.events import KINDS, MAX_VALUE_BYTES, REASONS
from features.hashing import partition_for
from streams.records import TICK_HEADER
from tests.integration.harness import Live, read_records

PARTITIONS = 2
INPUTS = 10_000
DRAWN = INPUTS // (len(KINDS) + 1)
LARGE = 24  # of about a megabyte
NOW_MS = time.time_ns() // 1_000_000
REQUIRED = ("event_id", "user_id", "product_id", "line", "ts")

Wire = tuple[str, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]  # kind, key, value, headers


class Bad(NamedTuple):
    """One input and the reasons for which it may be refused."""

    reasons: frozenset[str]
    wire: Wire


def good(number: int) -> dict[str, Any]:
    """An event that is as it must be; some have odd names, which are allowed."""
    user = ["plain", "Zoë 😀", 'with "quotes" {}', "%s\\n", "a:b:{0}", "x" * 200][number % 6] + f"-{number % 50}"
    return {"event_id": f"good-{number}", "user_id": user, "product_id": "p", "line": "launch", "ts": NOW_MS + number % 1000}


# Half of all bad inputs carry headers: none of them means anything live, the one of a replay's ticks least of all.
HEADERS = st.one_of(
    st.just(()),
    st.lists(
        st.tuples(
            st.one_of(st.just(TICK_HEADER), st.just("headstart-reason"), st.text(max_size=10)), st.one_of(st.binary(max_size=20), st.just(b"1700000000000"))
        ),
        max_size=3,
    ).map(tuple),
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NUMBERS_THAT_ARE_NONE = ("NaN", "Infinity", "-Infinity", "1e999", "0x10", "01", "1.", "--1", "'1'", "9" * 5000)
WRONG_TIMES: tuple[Any, ...] = (
    -1,
    10**15,
    2**63,
    -(2**70),
    10**400,
    "yesterday",
    "2024-13-01",
    "2024-01-01T25:00",
    "",
    "9999-12-31T23:59:59",
    "0001-01-01T00:00:00+23:59",
)
EVENTS = st.integers(0, 10**6).map(good)


def encoded(event: dict[str, Any]) -> bytes:
    return json.dumps(event, allow_nan=False).encode()


def changed(reasons: str, values: Callable[[dict[str, Any]], st.SearchStrategy[bytes]]) -> st.SearchStrategy[Bad]:
    """Bad inputs made from good events, under the key of their user."""
    return st.tuples(EVENTS, st.sampled_from(KINDS), HEADERS).flatmap(
        lambda t: values(t[0]).map(lambda value: Bad(frozenset(reasons.split()), (t[1], t[0]["user_id"].encode(), value, t[2])))
    )


def with_field(name: st.SearchStrategy[str], value: st.SearchStrategy[Any]) -> Callable[[dict[str, Any]], st.SearchStrategy[bytes]]:
    return lambda event: st.tuples(name, value).map(lambda t: encoded({**event, t[0]: t[1]}))


def spoilt_text(event: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """JSON that is cut off, has bytes that are no UTF-8, or ends in something else."""
    text = encoded(event)
    return st.one_of(
        st.integers(1, len(text) - 1).map(lambda n: text[:n]),
        st.sampled_from([b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\x00", b"\xf0\x28\x8c\x28"]).map(lambda b: text.replace(b"launch", b"la" + b + b"unch")),
        st.sampled_from([b"}", b"{}", b",", b"\x00", b"]"]).map(lambda b: text + b),
        st.sampled_from(NUMBERS_THAT_ARE_NONE).map(lambda number: text[:-1] + f', "price": {number}}}'.encode()),
        st.just(b"[" * 20_000),
        st.just(b'{"a":' * 9_000),
        st.binary(min_size=1, max_size=60).map(lambda b: b"\x80" + b),
    )


SMALL = st.one_of(
    changed("not_json bad_value wrong_shape", spoilt_text),
    changed("wrong_shape", lambda event: st.sampled_from(REQUIRED).map(lambda name: encoded({k: v for k, v in event.items() if k != name}))),
    changed("wrong_shape", with_field(st.sampled_from(REQUIRED), st.sampled_from([None, True, [], {}, 1.5, [1], {"a": 1}]))),
    changed("wrong_shape", with_field(st.sampled_from(REQUIRED[:4]), st.sampled_from([0, 17, "", "x" * 300]))),
    changed("wrong_shape", with_field(st.sampled_from(["category", "channel", "session_id", "user", "price"]), st.sampled_from([[], True, "", [None]]))),
    changed("wrong_shape bad_value", with_field(st.just("user"), st.sampled_from([{"level": -1}, {"level": 2**70}, {"level": "x"}, {"registered_ts": "?"}, {"age_band": 4}]))),
    changed("bad_value wrong_shape not_json", with_field(st.just("ts"), st.sampled_from(WRONG_TIMES))),
    changed("from_the_future", with_field(st.just("ts"), st.integers(NOW_MS + 3_600_000, 4 * 10**12))),
    changed("bad_value wrong_shape", with_field(st.sampled_from(["price", "quantity"]), st.sampled_from([-1, -0.01, 1e300, 10**13, 10**400]))),
    changed("wrong_topic", lambda event: st.just(encoded({**event, "kind": "purchase"}))),
    changed("bad_value wrong_shape not_json", with_field(st.sampled_from(REQUIRED[:4]), st.sampled_from(["a\x00b", "\x1f", "x\ud800y", "\x1e"]))),
    st.tuples(st.sampled_from(KINDS), st.binary(max_size=20), JUNK, HEADERS).map(
        lambda t: Bad(frozenset({"wrong_shape", "not_json"}), (t[0], t[1], encoded({"x": t[2]}), t[3]))
    ),
    st.tuples(st.sampled_from(KINDS), st.binary(min_size=1, max_size=20), st.sampled_from([None, b""]), HEADERS).map(
        lambda t: Bad(frozenset({"empty"}), (t[0], t[1], t[2], t[3]))
    ),
    st.tuples(EVENTS, st.sampled_from(KINDS), st.one_of(st.none(), st.just(b""), st.binary(max_size=20)), HEADERS).map(
        lambda t: Bad(frozenset({"wrong_key"}), (t[1], t[2], encoded(t[0]), t[3]))
    ),
)  # fmt: skip


def gathered(seed: int) -> list[Bad]:
    """Draw inputs, which takes 10 ms each, and send each to all four topics, and once as if it were a replay's tick; add large ones by hand."""
    found: list[Bad] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=DRAWN, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(SMALL)
    def draw(bad: Bad) -> None:
        kind, key, value, headers = bad.wire
        found.extend(Bad(bad.reasons, (kind, key, value, headers)) for kind in KINDS)
        found.append(Bad(bad.reasons, (kind, key, value, (*headers, (TICK_HEADER, b"1700000000000")))))

    draw()
    for i in range(LARGE):
        event = good(i)
        size = (MAX_VALUE_BYTES, 300_000, 1_000_000)[i % 3]
        value = encoded({**event, "session_id": "s" * size}) if i % 2 else b"\xfe" * (size + 1)
        found.append(Bad(frozenset({"too_large"}), (KINDS[i % 4], event["user_id"].encode(), value, ())))
    for i in range(INPUTS + LARGE - len(found)):  # what hypothesis left out as repetitions
        found.append(Bad(frozenset({"not_json"}), (KINDS[i % 4], b"k", f"{{{i}".encode(), ())))
    return found


def test_malformed_inputs_crash_nothing(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """Each of ten thousand bad inputs is on `rejected` byte by byte with its reason and place, each good event between them is scored, and the totals add up."""
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)  # noqa: T201  pytest shows it when the test fails
    bads = gathered(seed)
    assert len({bad.wire for bad in bads}) > INPUTS / 2
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=PARTITIONS) as job:
        job.prepare()
        (worker,) = job.start_ready(1)
        producer = KafkaProducer(bootstrap_servers=broker, acks="all", linger_ms=20, max_request_size=2_000_000)
        sent: dict[tuple[str, int, int], Bad] = {}
        goods: list[dict[str, Any]] = []
        waiting = []
        try:
            for i, bad in enumerate(bads):
                kind, key, value, headers = bad.wire
                partition = partition_for(key, PARTITIONS) if key else i % PARTITIONS
                name = job.topics[kind]
                waiting.append((bad, kind, producer.send(name, key=key, value=value, headers=list(headers), partition=partition)))
                if i % 10 == 0:
                    goods.append(good(i))
                    user = goods[-1]["user_id"].encode()
                    tick = [(TICK_HEADER, b"1")] if i % 20 == 0 else []
                    producer.send(job.topics["browse"], key=user, value=encoded(goods[-1]), headers=tick, partition=partition_for(user, PARTITIONS))
            # Known to be good but for where they lie.
            for i in range(50):
                event = good(10**7 + i)
                user = event["user_id"].encode()
                bad = Bad(frozenset({"wrong_partition"}), ("click", user, encoded(event), ()))
                waiting.append(
                    (bad, "click", producer.send(job.topics["click"], key=user, value=encoded(event), partition=1 - partition_for(user, PARTITIONS)))
                )
            producer.flush(60)
            for bad, kind, future in waiting:
                at = future.get(10)
                sent[kind, at.partition, at.offset] = bad
        finally:
            producer.close()

        scores = job.wait_for_scores(len(goods))
        assert set(scores) == {f"{event['user_id']}:{event['event_id']}" for event in goods}
        found: dict[tuple[str, int, int], Any] = {}

        def arrived() -> bool:
            for record in read_records(job.settings, "rejected"):
                told = dict(record.headers)
                found[told["headstart-topic"].decode(), int(told["headstart-partition"]), int(told["headstart-offset"])] = record
            return len(found) >= len(sent)

        job.wait(lambda: job.totals().get("rejected", 0) >= len(sent), f"{len(sent)} refused records")
        job.wait(arrived, f"{len(sent)} rejected records")
        assert found.keys() == sent.keys()
        for place, record in found.items():
            bad, reason = sent[place], dict(record.headers)["headstart-reason"].decode()
            assert (record.key, record.value) == (bad.wire[1], bad.wire[2]), place
            assert reason in bad.reasons & REASONS.keys(), (reason, bad.reasons, bad.wire[2], dict(record.headers)["headstart-detail"])
        totals = job.totals()
        assert (totals["applied"], totals["rejected"], totals["duplicate"]) == (len(goods), len(sent), 0)
        assert totals["read"] == len(goods) + len(sent)
        assert worker.poll() is None
        assert job.stop(worker) == 0
        assert "Traceback" not in job.log.read_text()
