"""Exposures, their delay bins, and the outcomes that close.

An exposure is the first event other than an order of a user in a domain (a line or a launch) in a visit, unless an order in that
domain came before it in that visit. It is followed through the delay bins (`edges_ms`) to the end of its window. When a bin
closes, one outcome is final: ordered in this bin, or not yet. At the window's end its label is final.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec

from features.predictions import as_numbers

NONE = -1
UNMARKED: Final = (NONE, NONE, NONE)


class Exposure(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One exposure, as it is stored and told. Delays are milliseconds to the first click, cart and order after it, -1 if none yet."""

    id: str
    domain: str
    user: str
    line: str
    category: str
    counts: bool  # its label counts for the user and the catalogue; of the exposures that one event opens, one does
    ts_ms: int
    x: bytes  # the vector (F,) float32, as it was scored
    predictions: msgspec.Raw  # `features.predictions`: score and probability of headstart, in a launch also of each of its experts; none without a trunk
    delay_ms: tuple[int, int, int]
    bin: Annotated[int, msgspec.Meta(ge=1)]  # the bin that closes next; len(edges) when only the window's end is left
    ordered: bool = False  # an order has been told
    late_orders: int = 0

    def said(self) -> tuple[float, ...]:
        """The predictions, as numbers."""
        return as_numbers(self.predictions)


class Closed(msgspec.Struct, array_like=True, kw_only=True):
    """One final fact: in bin `bin` (0: none) `y` says whether the order came; `label` is 0 or 1 at the window's end, else -1."""

    exposure: Exposure
    close_ms: int
    bin: int
    y: int
    label: int


def exposure_id(domain: str, user: str, event_id: str) -> str:
    """Return the 16 hex digits that name an exposure."""
    return hashlib.blake2b(f"{domain}\x1f{user}\x1f{event_id}".encode(), digest_size=8).hexdigest()


def is_followed(exposure: str, learn_share: float) -> bool:
    """Whether an exposure is followed to its label; depends on its id alone."""
    return learn_share >= 1.0 or int(exposure[:8], 16) < learn_share * 2**32
