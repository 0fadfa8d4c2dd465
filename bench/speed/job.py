"""The job that every Python contender does with an event, so that they differ in how events travel and in nothing else.

JSON in; counts of the shopper's four kinds of event for the product, and the time of the last one, out of Redis and back into it; a network of one
hidden layer (5 → 32 → 1); JSON out. It is the job of the Kafka Streams contender, a small part of what Headstart does with an event.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np

KINDS = ("browse", "click", "cart", "order")
EMPTY = bytes(40)

_gauss = random.Random(0).gauss
W1 = np.array([[_gauss(0, 1) for _ in range(32)] for _ in range(5)])
W2 = np.array([_gauss(0, 1) for _ in range(32)])


class Event(msgspec.Struct, gc=False):
    """What the job reads of an event."""

    user_id: str
    product_id: str
    type: str
    ts: int


class Score(msgspec.Struct, gc=False):
    """What it writes."""

    user_id: str
    product_id: str
    p: float


decode = msgspec.json.Decoder(Event).decode
encode = msgspec.json.Encoder().encode


def key_of(event: Event) -> str:
    """Return the key of the state."""
    return f"{event.user_id}:{event.product_id}"


def advance_one(state: bytes | None, event: Event) -> tuple[bytes, float]:
    """Return the next state of 40 bytes, and the score."""
    row = np.frombuffer(state or EMPTY, np.float64).copy()
    row[KINDS.index(event.type)] += 1
    row[4] = event.ts
    return row.tobytes(), float(score(row[None])[0])


def score(rows: np.ndarray) -> np.ndarray:
    """Return the scores (N,) of states (N, 5)."""
    out = np.maximum(rows @ W1, 0.0) @ W2
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(out, -30.0, 30.0))))


def advance_many(events: Sequence[Event], states: dict[str, bytes | None]) -> list[float]:
    """Change the states of the events' keys in place, one event after the other; return the scores."""
    rows = np.empty((len(events), 5))
    now: dict[str, list[float]] = {}
    for i, event in enumerate(events):
        key = key_of(event)
        held = now.get(key)
        if held is None:
            held = now[key] = np.frombuffer(states[key] or EMPTY, np.float64).tolist()
        held[KINDS.index(event.type)] += 1
        held[4] = event.ts
        rows[i] = held
    packed = np.array(list(now.values())).tobytes()
    states.update({key: packed[40 * i : 40 * i + 40] for i, key in enumerate(now)})
    return list(score(rows).tolist())
