"""What travels beside the events: scores for the shop, outcomes for the learner, launches, and the raw records between the parts."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from features.catalogue import Counts
from features.exposures import Closed

TICK_HEADER: Final = "headstart-tick"
REASON_HEADER: Final = "headstart-reason"
SHARED: Final = "shared"  # the key under which the source lines' outcomes travel
SHARED_BEFORE: Final = "shared:before"  # the shared heads' state before their last tick
CATALOGUE: Final = "catalogue"


class Received(msgspec.Struct, frozen=True, gc=False):
    """One record as it came off an input topic; `kind` is the topic's, `tick_ms` is set on a replay's tick records."""

    kind: int
    offset: int
    key: bytes | None
    value: bytes | None
    tick_ms: int | None = None


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record to send; `topic` is the plain name of the table of topics, `partition` None leaves it to the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is believed of one event in one launch (or, `launch_id` null, in its line)."""

    launch_id: str | None
    line: str
    exposure_id: Annotated[str | None, Meta(description="set when this event opened an exposure that is followed to its label")]
    arm: Annotated[str | None, Meta(description="treated or holdout; a holdout user must not be targeted")]
    score: Annotated[float, Meta(description="to rank users by; does not move while the launch's level is learned", ge=0, le=1)]
    probability: Annotated[float, Meta(description="chance of an order within the attribution window, to price and to count", ge=0, le=1)]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One record for each valid event that is no duplicate. Holds no wall clock, worker or partition."""

    score_id: Annotated[str, Meta(description="user_id:event_id")]
    user_id: str
    event_id: str
    kind: str
    product_id: str
    ts: Annotated[int, Meta(description="the event's time, milliseconds since the epoch")]
    entries: list[Entry]
    trunk: Annotated[str, Meta(description="the first 16 hex digits of the trunk's sha256")]


class Outcome(msgspec.Struct, array_like=True, tag="outcome", frozen=True, kw_only=True):
    """A closed bin of an exposure, numbered without holes for each (input partition, epoch, outcome partition)."""

    epoch: int
    partition: int
    number: int
    key: str  # a launch's id, or SHARED
    closed: Closed
    after: tuple[int, int] | None = None  # with number 0: the epoch before this one, and the number at which that ended


class Counted(msgspec.Struct, array_like=True, tag="counted", frozen=True, kw_only=True):
    """What one partition counted in a tick, for the catalogue."""

    epoch: int
    partition: int
    number: int
    tick_ms: int
    counts: Counts
    after: tuple[int, int] | None = None


class TickDone(msgspec.Struct, array_like=True, tag="done", frozen=True, kw_only=True):
    """Partition `partition` has committed the tick that ends at `tick_ms`; its numbers below `upto` are all sent."""

    partition: int
    tick_ms: int
    upto: int


Message = Outcome | Counted | TickDone


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A new product, or any domain, that is being learned. It holds the events of `line`, or those of `products` if there are any."""

    id: str
    line: str
    products: list[str] = []
    window_s: float
    holdout: float = 0.0
    from_ms: int = 0
    closed_ms: int | None = None

    def is_open(self, at_ms: int) -> bool:
        """Whether exposures open in it at a time; after its end the open ones run out."""
        return self.from_ms <= at_ms and (self.closed_ms is None or at_ms < self.closed_ms)

    def holds(self, product_id: str, line: str) -> bool:
        """Whether an event on this product belongs to it."""
        return product_id in self.products if self.products else line == self.line

    def arm(self, user_id: str) -> str | None:
        """Return the user's arm by a hash salted with the launch's id; None when the launch has no holdout."""
        if not self.holdout:
            return None
        draw = int.from_bytes(hashlib.blake2b(f"{self.id}\x1f{user_id}".encode(), digest_size=8).digest(), "big") / 2**64
        return "holdout" if draw < self.holdout else "treated"


encode_json = msgspec.json.Encoder().encode
encode_message = msgspec.msgpack.Encoder().encode
decode_message = msgspec.msgpack.Decoder(Message).decode
decode_score = msgspec.json.Decoder(Score).decode
decode_launch = msgspec.json.Decoder(Launch).decode
