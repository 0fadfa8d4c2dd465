"""Exposures that open, are marked and close, one at a time."""

from __future__ import annotations

import numpy as np

from features.events import BROWSE
from features.exposures import UNMARKED, Exposure
from features.names import names_of
from features.pending import Pending, Steps
from features.predictions import UNSAID

EDGES = (100, 400, 1000)
T = 10_000


def id_of(name: str) -> str:
    """An id, in the order of the names."""
    return name.encode()[:8].ljust(8, b"\0").hex()


def name_of(id: str) -> str:
    """The name that the id was made of."""
    return bytes.fromhex(id).rstrip(b"\0").decode()


def exposed(name: str = "x", ts_ms: int = T, *, user: str = "ann", domain: str = "line:shoes") -> Exposure:
    """An exposure that has just opened."""
    return Exposure(
        id=id_of(name), domain=domain, user=user, line="shoes", category="boots", counts=True, ts_ms=ts_ms, x=b"", predictions=UNSAID, delay_ms=UNMARKED, bin=1
    )


def add(held: Pending, exposure: Exposure) -> None:
    """Follow an exposure from now on."""
    steps = Steps()
    steps.open(0, exposure.domain, exposure.id, True)
    (place,) = held.follow(steps, names_of([exposure.user]), np.array([exposure.ts_ms]), len(held) + 1).tolist()
    held.keep(place, exposure)


def mark(held: Pending, user: str, domains: list[str], kind: int, ts_ms: int) -> None:
    """A click, cart or order comes, or a browse, which marks nothing."""
    steps = Steps()
    for domain in domains if kind != BROWSE else ():
        steps.mark(0, domain, kind)
    held.follow(steps, names_of([user]), np.array([ts_ms]), 0)


def pending(*exposures: Exposure) -> Pending:
    """Nothing else is open."""
    held = Pending(EDGES)
    for exposure in exposures:
        add(held, exposure)
    return held
