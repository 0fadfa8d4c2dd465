"""What arrives is an event or is refused with a reason; nothing else can come out of `decode`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.events import KINDS, MAX_TS_MS, MAX_VALUE_BYTES, REASONS, Event, Refused, Shopper, decode, encode, milliseconds
from tests.builders import START_MS, make_event

VALID: dict[str, Any] = {"event_id": "e1", "user_id": "ann", "product_id": "p1", "line": "shoes", "ts": START_MS}
FIELDS = [*Event.__struct_fields__, "unknown"]


def reason(value: bytes | None, kind: int = 0) -> str:
    """Why a value is refused."""
    with pytest.raises(Refused) as refused:
        decode(value, kind)
    return refused.value.reason


def like(**changes: Any) -> bytes:
    """A valid event's JSON with some fields changed, or left out (`...`)."""
    return json.dumps({k: v for k, v in {**VALID, **changes}.items() if v is not ...}).encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b" " * (MAX_VALUE_BYTES + 1), "too_large"),
        (b"x" * 1_000_000, "too_large"),
        (b"hello", "not_json"),
        (like()[:-1], "not_json"),
        (like() + b"{}", "not_json"),
        (like().replace(b"ann", b"\xff\xfe"), "not_json"),
        (like().replace(b"ann", rb"\ud800"), "not_json"),
        (like().replace(b"ann", b"a\x1fn"), "not_json"),
        (b"[" * 60_000, "wrong_shape"),
        (b'{"unknown":' + b"[" * 60_000, "not_json"),
        (like().replace(str(START_MS).encode(), b"NaN"), "not_json"),
        (b"null", "wrong_shape"),
        (b"[]", "wrong_shape"),
        (like(user_id=...), "wrong_shape"),
        (like(user_id=""), "wrong_shape"),
        (like(user_id=17), "wrong_shape"),
        (like(line="x" * 129), "wrong_shape"),
        (like(ts=1.5), "wrong_shape"),
        (like(ts=True), "wrong_shape"),
        (like(ts=None), "wrong_shape"),
        (like(ts=777).replace(b"777", b"9" * 5000), "wrong_shape"),
        (like(price="cheap"), "wrong_shape"),
        (like(price=1).replace(b'"price": 1', b'"price": 1e999'), "wrong_shape"),
        (like(user="ann"), "wrong_shape"),
        (like(kind="order"), "wrong_topic"),
        (like(kind="purchase"), "wrong_topic"),
        (like(ts=-1), "bad_value"),
        (like(ts=MAX_TS_MS + 1), "bad_value"),
        (like(ts=10**400), "bad_value"),
        (like(ts="yesterday"), "bad_value"),
        (like(ts="2024-13-01"), "bad_value"),
        (like(ts="1969-12-31T23:59:59Z"), "bad_value"),
        (like(ts="0001-01-01T00:00:00+23:59"), "bad_value"),
        (like(ts="9999-12-31T23:59:59-23:59"), "bad_value"),
        (like(price=-1), "bad_value"),
        (like(price=1e13), "bad_value"),
        (like(quantity=-0.5), "bad_value"),
        (like(user={"level": -1}), "bad_value"),
        (like(user={"level": 10**30}), "bad_value"),
        (like(user={"registered_ts": "soon"}), "bad_value"),
        (like(user_id="a\x1fb"), "bad_value"),
        (like(category="a\nb"), "bad_value"),
    ],
)
def test_what_is_wrong_is_refused_with_its_reason(value: bytes | None, expected: str) -> None:
    """One value for each way to be wrong; the rest of the reasons are the pipeline's, which knows key, partition and clock."""
    assert reason(value) == expected


def test_every_reason_is_tested() -> None:
    """The closed list has no reason that `decode` or the pipeline (tests/unit/test_pipeline.py) does not give."""
    ours = {mark.args[1][i][1] for mark in test_what_is_wrong_is_refused_with_its_reason.pytestmark for i in range(len(mark.args[1]))}  # type: ignore[attr-defined]
    assert ours | {"wrong_key", "wrong_partition", "too_old", "from_the_future"} == set(REASONS)


@pytest.mark.parametrize(
    ("ts", "expected"),
    [
        (START_MS, START_MS),
        (0, 0),
        (MAX_TS_MS, MAX_TS_MS),
        ("2024-01-01", START_MS),
        ("2024-01-01T00:00:00", START_MS),
        ("2024-01-01T00:00:00Z", START_MS),
        ("2024-01-01T08:00:00+08:00", START_MS),
        ("2023-12-31 19:00:00.000-05:00", START_MS),
        ("20240101T000000.001Z", START_MS + 1),
        ("2024-01-01T00:00:00.0019Z", START_MS + 1),
        ("2106-02-07T06:28:15.999Z", MAX_TS_MS),
    ],
)
def test_times_are_milliseconds_or_iso_8601(ts: int | str, expected: int) -> None:
    """With an offset, or in UTC without one; parts of a millisecond are cut off."""
    assert milliseconds(ts) == expected
    assert decode(like(ts=ts), 0)[1] == expected


texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30)
events = st.builds(
    Event, event_id=texts, user_id=texts, product_id=texts, line=texts, ts=st.integers(0, MAX_TS_MS), category=st.none() | texts, channel=st.none() | texts,
    session_id=st.none() | texts, campaign_id=st.none() | texts, price=st.none() | st.floats(0, 1e12), quantity=st.none() | st.floats(0, 1e12),
    user=st.none() | st.builds(Shopper, age_band=st.none() | texts, level=st.none() | st.integers(0, 10**6), region=st.none() | texts),
)  # fmt: skip


@given(events)
@settings(max_examples=200, deadline=None)
def test_an_event_survives_the_wire(event: Event) -> None:
    """What is encoded is decoded again, and the same event gives the same bytes."""
    value = encode(event)
    assert decode(value, 2) == (event, event.ts)
    assert encode(decode(value, 2)[0]) == value


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([10**30, -1, "2024-01-01", "x" * 300, KINDS[0], "a\x1fb"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
near_misses = st.dictionaries(st.sampled_from(FIELDS), anything, max_size=5).map(lambda d: json.dumps({**VALID, **d}).encode())


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A near miss with a few bytes cut out, doubled or replaced."""
    value = draw(near_misses)
    start, length = draw(st.integers(0, len(value))), draw(st.integers(0, 5))
    return value[:start] + draw(st.binary(max_size=4)) + value[start + length :]


@given(st.binary(max_size=60) | near_misses | broken(), st.integers(0, 3))
@settings(max_examples=600, deadline=None)
def test_nothing_but_an_event_or_a_refusal_comes_out(value: bytes, kind: int) -> None:
    """Whatever the bytes: no other exception, a known reason, a short detail that can be sent; an event's time is in range."""
    refused = None
    try:
        event, ts_ms = decode(value, kind)
    except Refused as refusal:
        refused = refusal
    if refused is not None:
        assert refused.reason in REASONS
        assert len(refused.detail) <= 300
        assert refused.detail.encode("utf-8", "replace")
    else:
        assert 0 <= ts_ms <= MAX_TS_MS
        assert decode(encode(event), kind) == (event, ts_ms)


def test_unknown_fields_are_ignored_and_a_kind_may_agree() -> None:
    """A shop may send more than we read."""
    assert decode(like(kind="cart", colour="red", nested={"a": [1, None]}), KINDS.index("cart"))[0] == make_event(kind="cart")
