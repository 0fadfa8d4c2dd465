"""The shop's events: what arrives, and why some of it is refused.

An event is one JSON object on one of four topics; the topic says its kind. `decode` returns either an `Event` or raises
`Refused` with a reason from the closed list `REASONS`. Nothing here knows Kafka, a clock, or where the bytes came from.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Final

import msgspec
from msgspec import Meta

KINDS: Final = ("browse", "click", "cart", "order")
BROWSE, CLICK, CART, ORDER = range(4)

MAX_VALUE_BYTES: Final = 65_536
MAX_NUMBER: Final = 1e12
MIN_TS_MS: Final = 0
MAX_TS_MS: Final = 4_294_967_295_999  # 2106-02-07, where the stored seconds (32 bits) end

REASONS: Final[dict[str, str]] = {
    "too_large": f"the value is longer than {MAX_VALUE_BYTES} bytes",
    "empty": "the record has no value",
    "not_json": "the value is not UTF-8 JSON",
    "wrong_shape": "a required field is missing, or a field has the wrong type or length",
    "bad_value": "a number is not finite or out of range, a time cannot be read, or an id holds a control character",
    "wrong_topic": "the event names another kind than its topic",
    "wrong_key": "the record's key is not the event's user_id",
    "wrong_partition": "the record lies in another partition than murmur2(user_id) says; set partitioner=murmur2_random in the producer",
    "too_old": "the event's time lies further back than any state is kept",
    "from_the_future": "the event's time lies too far ahead of the wall clock",
}


class Refused(ValueError):
    """The event cannot be used. Operator action: mend the producer. Never retried; the raw bytes go to `rejected`."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail[:300]}")
        self.reason, self.detail = reason, detail[:300]


ID_LENGTH: Final = 256
LABEL_LENGTH: Final = 128
Id = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH)]
Label = Annotated[str, Meta(min_length=1, max_length=LABEL_LENGTH)]
Timestamp = Annotated[int | str, Meta(description="milliseconds since the epoch, or ISO 8601 with an offset (UTC if none)")]


class Shopper(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the shop knows of the user; every field may be absent, and the latest one given counts."""

    age_band: Label | None = None
    gender: Label | None = None
    level: int | None = None
    region: Label | None = None
    registered_ts: Timestamp | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thing a user did with one product. `kind` is the topic's; if it is given it must agree."""

    event_id: Id
    user_id: Id
    product_id: Id
    line: Label
    ts: Timestamp
    kind: Label | None = None
    category: Label | None = None
    channel: Label | None = None
    session_id: Label | None = None
    campaign_id: Label | None = None
    price: float | None = None
    quantity: float | None = None
    user: Shopper | None = None
    explain: Annotated[bool | None, Meta(description="ask for the transfer ledger on the score record, where the setting explain_scores is on")] = None


_decoder = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder(order="deterministic")


def milliseconds(ts: int | str) -> int:
    """Return a time as integer milliseconds since the epoch. Raises `Refused` (bad_value)."""
    if isinstance(ts, str):
        try:
            moment = dt.datetime.fromisoformat(ts)
        except ValueError:
            raise Refused("bad_value", f"time {ts[:40]!r} is neither milliseconds nor ISO 8601") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        ts = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)
    if not MIN_TS_MS <= ts <= MAX_TS_MS:
        raise Refused("bad_value", f"time {ts} is outside 1970 to 2106")
    return ts


def encode(event: Event) -> bytes:
    """Return the event as the JSON that goes on the wire; the same event gives the same bytes."""
    return _encoder.encode(event)


def decode(value: bytes | None, kind: int) -> tuple[Event, int]:
    """Return the event and its time in ms, or raise `Refused`. `kind` is the topic's, an index into `KINDS`."""
    if not value:
        raise Refused("empty", "no value")
    if len(value) > MAX_VALUE_BYTES:
        raise Refused("too_large", f"{len(value)} bytes")
    try:
        event = _decoder.decode(value)
    except msgspec.ValidationError as error:
        raise Refused("wrong_shape", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("not_json", str(error)[:200]) from None
    if event.kind is not None and event.kind != KINDS[kind]:
        raise Refused("wrong_topic", f"kind {event.kind[:40]!r} on the topic for {KINDS[kind]}")
    if b"\\" in value:  # control characters come escaped only; the store joins its keys with them
        for name in ("event_id", "user_id", "product_id", "line", "category"):
            if any(character < " " for character in getattr(event, name) or ""):
                raise Refused("bad_value", f"{name} holds a control character")
    if event.price is not None and not 0 <= event.price <= MAX_NUMBER:  # NaN and infinities fail too
        raise Refused("bad_value", f"price {event.price!r}")
    if event.quantity is not None and not 0 <= event.quantity <= MAX_NUMBER:
        raise Refused("bad_value", f"quantity {event.quantity!r}")
    if event.user is not None:
        if event.user.level is not None and not 0 <= event.user.level <= 1_000_000:
            raise Refused("bad_value", f"user.level {event.user.level}")
        if event.user.registered_ts is not None:
            milliseconds(event.user.registered_ts)
    return event, milliseconds(event.ts)
