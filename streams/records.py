"""What travels beside the events: scores for the shop, outcomes for the learner, launches, and the raw records between the parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from features.catalogue import Counts
from features.errors import InputError
from features.events import ID_LENGTH, Refused
from features.exposures import Closed
from features.intake import Arrived, arrive

TICK_HEADER: Final = "headstart-tick"
LONGEST_TICK: Final = 18  # digits
REASON_HEADER: Final = "headstart-reason"
SHARED: Final = "shared"  # the key under which the source lines' outcomes travel
SHARED_BEFORE: Final = "shared:before"  # the shared heads' state before their last tick
CATALOGUE: Final = "catalogue"
SHOP: Final = "shop"  # in the place of a launch: the whole shop, in what is seen
JOB: Final = "job"  # in the place of a launch: the job itself, in alerts
OVERVIEW: Final = "overview"  # in the place of a launch: the page of all of them


class Received(msgspec.Struct, frozen=True, gc=False):
    """One record as it came off an input topic, with the event in it, or why it has none; `kind` is the topic's.

    `tick_ms` is set on a replay's tick records, which hold no event.
    """

    kind: int
    offset: int
    key: bytes | None
    value: bytes | None
    arrived: Arrived | None
    refused: Refused | None = None
    tick_ms: int | None = None


def received(kind: int, offset: int, key: bytes | None, value: bytes | None) -> Received:
    """Decode a record; what is not valid keeps the reason."""
    try:
        arrived = arrive(value, kind)
    except Refused as refused:
        return Received(kind, offset, key, value, None, refused)
    if key != arrived.event.user_id.encode():
        return Received(kind, offset, key, value, None, Refused("wrong_key", f"key {key!r:.60}, user_id {arrived.event.user_id!r:.60}"))
    return Received(kind, offset, key, value, arrived)


def tick_of(headers: Sequence[tuple[str, bytes | None]], *, replay: bool) -> int | None:
    """Return the tick that a record of a replay ends, in ms; None for a record that is an event's, as each is where workers live."""
    if replay:
        for name, value in headers:
            if name == TICK_HEADER and value is not None and value.isdigit() and len(value) <= LONGEST_TICK:
                return int(value)
    return None


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record to send; `topic` is the plain name of the table of topics, `partition` None leaves it to the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The transfer ledger of one probability, in logits: `parts` sum to `logit`, and so do `start`, `features`, `others` and `residual`."""

    logit: float
    parts: Annotated[
        dict[str, float],
        Meta(description="s0: old lines when training ended; fresh: what they have taught since; level: this product's own; mixed: other ways of transfer"),
    ]
    heads: Annotated[dict[str, float], Meta(description="the part of each of the old lines' heads in s0 and fresh together")]
    sd: Annotated[float, Meta(description="standard deviation of the logit")]
    experts: Annotated[dict[str, list[float]], Meta(description="of each way of transfer: weight, probability, part of `mixed`")]
    start: Annotated[float, Meta(description="the logit of the mean shopper of the old lines")]
    features: Annotated[dict[str, float], Meta(description="the ten features that moved it most, by integrated gradients")]
    others: float
    residual: float


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What is believed of one event in one launch (or, `launch_id` null, in its line)."""

    # The order counts, here and in `Score`: `streams.pipeline` gives them by place, which takes two thirds of the time.
    launch_id: str | None
    line: str
    exposure_id: Annotated[str | None, Meta(description="set when this event opened an exposure that is followed to its label")]
    arm: Annotated[str | None, Meta(description="treated or holdout; a holdout user must not be targeted")]
    score: Annotated[float, Meta(description="to rank users by; does not move while the launch's level is learned", ge=0, le=1)]
    probability: Annotated[float, Meta(description="chance of an order within the attribution window, to price and to count", ge=0, le=1)]
    explanation: Annotated[Explanation | None, Meta(description="where the event asked for it")] = None


class Score(msgspec.Struct, frozen=True, gc=False):
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


class Example(msgspec.Struct, array_like=True, frozen=True):
    """A refused record: where it lay, why it was refused, and how it began."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    began: str


class Seen(msgspec.Struct, array_like=True):
    """What a partition has seen since its last word (`streams.seen`).

    `domains`: {launch, or SHARED for events of none: events by kind, and Σ probability in millionths}; `read`: records; `refused`: {reason: records}.
    """

    domains: dict[str, list[int]] = {}
    read: int = 0
    refused: dict[str, int] = {}
    examples: list[Example] = []

    def __bool__(self) -> bool:
        return self.read > 0


class Counted(msgspec.Struct, array_like=True, tag="counted", frozen=True, kw_only=True):
    """What one partition counted in a tick, for the catalogue."""

    epoch: int
    partition: int
    number: int
    tick_ms: int
    counts: Counts
    seen: Seen | None = None
    after: tuple[int, int] | None = None


class TickDone(msgspec.Struct, array_like=True, tag="done", frozen=True, kw_only=True):
    """Partition `partition` has committed the tick that ends at `tick_ms`; its numbers below `upto` are all sent."""

    partition: int
    tick_ms: int
    upto: int


Message = Outcome | Counted | TickDone


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A new product, or any domain, that is being learned. It holds the events of `line`, or those of `products` if there are any.

    `learn_share` of its exposures are followed to their label; without one, the namespace's.
    """

    id: str
    line: str
    products: list[str] = []
    window_s: float
    holdout: float = 0.0
    from_ms: int = 0
    closed_ms: int | None = None
    learn_share: float | None = None

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


def checked_id(launch: str) -> str:
    """Return what a launch is to be called. Raises InputError where that means something else already, or cannot be told: those who learn and tell go by the id."""
    taken = (SHARED, SHOP, JOB, OVERVIEW, ".", "..")  # the dots are folders in an address
    if not 0 < len(launch) <= ID_LENGTH or launch in taken or launch.startswith(("line:", f"{SHARED}:")) or not launch.isprintable():
        raise InputError(
            f"a launch cannot be called {launch!r:.80}: not {', '.join(taken)}, nor what begins with line: or {SHARED}:, is longer than {ID_LENGTH} characters or cannot be printed"
        )
    return launch


_json = msgspec.json.Encoder()
encode_json = _json.encode
encode_message = msgspec.msgpack.Encoder().encode
decode_message = msgspec.msgpack.Decoder(Message).decode
decode_score = msgspec.json.Decoder(Score).decode
decode_launch = msgspec.json.Decoder(Launch).decode


def encode_each(records: Sequence[Score]) -> list[bytes]:
    """Return the JSON of each; a quarter sooner than one by one, since all are written into one buffer: JSON itself has no line's end in it."""
    return _json.encode_lines(records).split(b"\n")[:-1]
