"""What the ledger says in the end: the sums, and what does not balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

FINDINGS: Final[dict[str, str]] = {
    "not_applied": "a user's state has fewer events than were published for the user",
    "applied_twice": "a user's state has more events than were published for the user",
    "counters": "a user's decayed counters are not those of the events that were published",
    "ring": "a user's ring of event ids holds one twice, or one that was not published for the user",
    "unknown_user": "Redis holds the state of a user of whom no event was published",
    "totals": "a partition's totals do not add up with its topics",
    "not_scored": "an event id has no score",
    "scored_unpublished": "a score is of an event id that nobody published",
    "scored_differently": "in a replay, an event id was scored twice, differently",
    "not_rejected": "a record that cannot be used is not on the topic rejected, or with another reason or other bytes",
    "rejected_wrongly": "a record on the topic rejected could have been used",
    "told_differently": "an outcome was sent twice under one number, differently",
    "hole": "an outcome was told and is not on Kafka",
    "bins": "an exposure's bins were not told each once, in order, up to its label",
    "exposures": "the exposures of a partition are not those that are open or have their label",
    "not_announced": "an exposure was opened that no score announced",
    "forgotten": "an exposure was announced, and is neither open nor has it a label",
    "not_learned": "outcomes were told and are not learned",
    "learned_twice": "a learner has learned more than was told",
    "catalogue": "what the partitions counted for the catalogue is not the events that they applied",
}


@dataclass
class Account:
    """Sums by name, findings by kind, and the first findings in words. It balances if there are none."""

    sums: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    named: int = 20

    @property
    def balances(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def find(self, kind: str, texts: Iterable[str], number: int | None = None) -> None:
        """Note findings of one kind: `number` of them, of which `texts` name the first."""
        assert kind in FINDINGS, kind
        told = list(texts)
        found = len(told) if number is None else number
        if not found:
            return
        self.findings[kind] += found
        mine = sum(line.startswith(f"{kind}: ") for line in self.first)
        self.first += [f"{kind}: {text}" for text in told[: max(0, min(self.named - len(self.first), self.named // 2 - mine))]]

    def expect(self, kind: str, what: str, found: int, expected: int, most: int | None = None) -> None:
        """Note a finding unless expected <= found <= most (expected, if it is not given)."""
        most = expected if most is None else most
        if not expected <= found <= most:
            self.find(kind, [f"{what} is {found}, expected {expected}" + (f" to {most}" if most != expected else "")])

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {"balances": self.balances, "sums": dict(self.sums), "findings": dict(self.findings), "first": self.first, "notes": self.notes}
