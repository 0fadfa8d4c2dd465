"""A partition's outbox: outcomes that were told and have not left yet. They leave when the commit that holds them is done, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from features.store import decoded
from streams.records import CATALOGUE, Message, Outcome


class Posted(NamedTuple):
    """A message for outcome partition `q`, and the name under which the store holds it."""

    q: int
    name: str
    key: bytes
    message: bytes


class Outbox:
    """`held` is what the store had. `post` adds, `changes` and `committed` go round a commit, `unsent` and `mark_sent` round a delivery."""

    def __init__(self, held: Mapping[str, bytes]) -> None:
        self._fresh: list[Posted] = []
        self._unsent = sorted(_read(name, message) for name, message in held.items())
        self._sent: list[str] = []

    def post(self, q: int, number: int, key: bytes, message: bytes) -> None:
        """Put a message in, under the next number of outcome partition q."""
        self._fresh.append(Posted(q, f"{q}:{number:015d}", key, message))

    def changes(self) -> tuple[dict[str, bytes], list[str]]:
        """Return what the next commit puts into the store, and what it drops there."""
        return {posted.name: posted.message for posted in self._fresh}, self._sent

    def committed(self) -> None:
        """Note that what `changes` returned is done."""
        self._unsent += sorted(self._fresh, key=lambda posted: posted.q)
        self._fresh, self._sent = [], []

    def unsent(self) -> list[Posted]:
        """Return what is committed and not known to be on Kafka, in the order of numbers."""
        return self._unsent

    def waiting(self) -> int:
        """Return how many are committed and not known to be on Kafka. Callable from any thread."""
        return len(self._unsent)

    def mark_sent(self) -> None:
        """Note that all of `unsent` is on Kafka; the next commit drops it."""
        self._sent += [posted.name for posted in self._unsent]
        self._unsent = []


def _read(name: str, message: bytes) -> Posted:
    told: Message = decoded(message, Message, "an outcome in the outbox")  # type: ignore[arg-type]
    return Posted(int(name.partition(":")[0]), name, (told.key if isinstance(told, Outcome) else CATALOGUE).encode(), message)
