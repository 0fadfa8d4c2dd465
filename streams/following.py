"""What a batch of events does to open exposures: clicks, carts and orders mark them, and first events of a visit open new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from features.events import CLICK
from features.exposures import UNMARKED, Exposure, exposure_id, is_followed
from features.intake import Arrived
from features.names import Names
from features.open_rows import NOT_OPENED
from features.pending import Steps
from streams.beliefs import Beliefs
from streams.domains import Launches
from streams.launched import Launched
from streams.pair import Pair, is_source
from streams.partition import Partition

_Opening = tuple[int, int, int, str, str]
"""An exposure that may open: at which step, of which event, in which of its launches (or 0, in its line), its domain and its id."""


def follow(
    partition: Partition, arrived: Sequence[Arrived], users: Names, ts_ms: NDArray[np.int64], pair: Pair | None, launches: Launches, launched: Launched,
    beliefs: Beliefs, x: NDArray[np.float32], opens: NDArray[np.bool_], opens_in_launch: NDArray[np.bool_], touching: NDArray[np.int64],
) -> Mapping[int, Sequence[str | None]]:  # fmt: skip
    """Mark open exposures and open new ones, event by event; returns the new ones' ids by event, for each of its launches, or for its line.

    `users`, `ts_ms` and `x` (B, F) are those of the batch (B,). `opens` (B,): whether an event opens an exposure in its line, `opens_in_launch` (M,) in each of
    its launches. Those in `touching` do anything at all.
    """
    steps, openings = _steps(partition, arrived, pair, launches, launched, opens.tolist(), opens_in_launch.tolist(), touching.tolist())
    if not len(steps):
        return {}
    pending, totals = partition.pending, partition.cursor.totals
    before = len(pending)
    found = pending.follow(steps, users, ts_ms, partition.rules.max_pending).tolist()
    totals.exposures += len(pending) - before
    opened: dict[int, list[str | None]] = {}
    vectors, width = x.tobytes(), x.itemsize * x.shape[1]
    for step, i, k, domain, name in openings:
        place, there = found[step], launched.by_event.get(i)
        names = opened.setdefault(i, [None] * (1 if there is None else len(there)))
        if place == NOT_OPENED:
            totals.untracked += 1
            continue
        if place >= 0:
            event, counts = arrived[i].event, not any(names)
            said = beliefs.kept_in_line(i) if there is None else beliefs.kept_in_launch(launched.first[i] + k)
            # By place, as are those of a score: their order in `Exposure` counts.
            pending.keep(
                place,
                Exposure(
                    name, domain, event.user_id, event.line, event.category or event.line, counts, arrived[i].ts_ms,
                    vectors[i * width : (i + 1) * width], said, UNMARKED, 1,
                ),
            )  # fmt: skip
        names[k] = name
    return opened


def _steps(
    partition: Partition, arrived: Sequence[Arrived], pair: Pair | None, launches: Launches, launched: Launched,
    opens: Sequence[bool], opens_in_launch: Sequence[bool], touching: Sequence[int],
) -> tuple[Steps, list[_Opening]]:  # fmt: skip
    at_ms, share = partition.cursor.tick_ms, partition.rules.learn_share
    sources = {line: f"line:{line}" for line in {arrived[i].event.line for i in touching} if is_source(line, pair, launches, at_ms)}
    steps, openings = Steps(), list[_Opening]()

    def opening(i: int, k: int, domain: str, share: float) -> None:
        event = arrived[i].event
        name = exposure_id(domain, event.user_id, event.event_id)
        openings.append((len(steps), i, k, domain, name))
        steps.open(i, domain, name, is_followed(name, share))

    for i in touching:
        a = arrived[i]
        if a.kind >= CLICK:
            for domain in launches.followed(a.event, at_ms):
                steps.mark(i, domain, a.kind)
        if (there := launched.by_event.get(i)) is None:
            if opens[i] and (source := sources.get(a.event.line)) is not None:
                opening(i, 0, source, share)
            continue
        # What is being launched teaches its launch alone, until it has become a source.
        for k, launch in enumerate(there):
            if opens_in_launch[launched.first[i] + k]:
                opening(i, k, launch.id, share if launch.learn_share is None else launch.learn_share)
    return steps, openings
