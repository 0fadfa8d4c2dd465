"""Which launches an event belongs to, found by its line and product however many launches there are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from features.events import Event
from streams.launched import Launched
from streams.records import Launch

_NONE: Sequence[Launch] = ()
KEPT = 16  # of what is open between two changes


class Launches:
    """The launches of a namespace, in the order given. Immutable."""

    def __init__(self, launches: Sequence[Launch] = ()) -> None:
        self.all = tuple(launches)
        self._place = {launch.id: i for i, launch in enumerate(self.all)}
        self._by_line: dict[str, list[Launch]] = {}
        self._by_product: dict[str, list[Launch]] = {}
        for launch in self.all:
            for product in set(launch.products):
                self._by_product.setdefault(product, []).append(launch)
            if not launch.products:
                self._by_line.setdefault(launch.line, []).append(launch)
        self._changes_ms = sorted({at_ms for launch in self.all for at_ms in (launch.from_ms, launch.closed_ms) if at_ms is not None})
        self._open: dict[int, Launches] = {}

    def forgotten(self, known: Sequence[Launch]) -> list[Launch]:
        """Return those of `known` that are not here, or not closed any more: no command deletes a launch or opens it again, so the store went back."""
        there = {launch.id: launch for launch in self.all}
        return [launch for launch in known if launch.id not in there or (launch.closed_ms is not None and there[launch.id].closed_ms is None)]

    def with_forgotten(self, forgotten: Sequence[Launch]) -> Launches:
        """Return these with some in their place, ordered by id."""
        return Launches([launch for _, launch in sorted({launch.id: launch for launch in (*self.all, *forgotten)}.items())])

    def holding(self, event: Event) -> Sequence[Launch]:
        """Return those that the event belongs to, open or not."""
        of_line, of_product = self._by_line.get(event.line, _NONE), self._by_product.get(event.product_id, _NONE)
        if of_line and of_product:
            return sorted([*of_line, *of_product], key=lambda launch: self._place[launch.id])
        return of_line or of_product

    def open_at(self, at_ms: int) -> Launches:
        """Return those that are open at a time, in their order; remembered until one begins or ends."""
        since = bisect_right(self._changes_ms, at_ms)
        if (found := self._open.get(since)) is None:
            if len(self._open) >= KEPT:
                del self._open[next(iter(self._open))]
            found = self._open[since] = Launches([launch for launch in self.all if launch.is_open(at_ms)])
        return found

    def open_for(self, event: Event, at_ms: int) -> Sequence[Launch]:
        """Return those that the event belongs to and that are open at a time."""
        return self.open_at(at_ms).holding(event)

    def open_for_each(self, events: Sequence[Event], at_ms: int) -> Launched:
        """Return the same of each of the events, as pairs."""
        now = self.open_at(at_ms)
        by_line, by_product = now._by_line, now._by_product
        return Launched.of({i: now.holding(event) for i, event in enumerate(events) if event.line in by_line or event.product_id in by_product})

    def followed(self, event: Event, at_ms: int) -> list[str]:
        """Return the domains whose open exposures an order of this event counts for, whether new ones still open there or not.

        The order of a product that is being launched is no order of the line's other products.
        """
        if not (holding := self.holding(event)):
            return [f"line:{event.line}"]
        names = [launch.id for launch in holding]
        for launch in holding:
            if launch.products and launch.is_open(at_ms):
                return names
        return [f"line:{event.line}", *names]

    def launches_line(self, line: str, at_ms: int) -> bool:
        """Whether the whole line is being launched at a time."""
        return any(launch.is_open(at_ms) for launch in self._by_line.get(line, _NONE))
