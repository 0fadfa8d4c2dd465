"""Which launches an event belongs to, found by its line and product however many launches there are."""

from __future__ import annotations

from collections.abc import Sequence

from features.events import Event
from streams.records import Launch


class Launches:
    """The launches of a namespace, in the order given. Immutable."""

    def __init__(self, launches: Sequence[Launch] = ()) -> None:
        self.all = tuple(launches)
        self._by_line: dict[str, list[int]] = {}
        self._by_product: dict[str, list[int]] = {}
        for i, launch in enumerate(self.all):
            for product in set(launch.products):
                self._by_product.setdefault(product, []).append(i)
            if not launch.products:
                self._by_line.setdefault(launch.line, []).append(i)

    def holding(self, event: Event) -> list[Launch]:
        """Return those that the event belongs to, open or not."""
        found = [*self._by_line.get(event.line, ()), *self._by_product.get(event.product_id, ())]
        return [self.all[i] for i in (sorted(found) if len(found) > 1 else found)]

    def open_for(self, event: Event, at_ms: int) -> list[Launch]:
        """Return those that the event belongs to and that are open at a time."""
        return [launch for launch in self.holding(event) if launch.is_open(at_ms)]

    def followed(self, event: Event, at_ms: int) -> list[str]:
        """Return the domains whose open exposures an order of this event counts for, whether new ones still open there or not.

        The order of a product that is being launched is no order of the line's other products.
        """
        holding = self.holding(event)
        apart = any(launch.products and launch.is_open(at_ms) for launch in holding)
        return [*([] if apart else [f"line:{event.line}"]), *(launch.id for launch in holding)]

    def launches_line(self, line: str, at_ms: int) -> bool:
        """Whether the whole line is being launched at a time."""
        return any(self.all[i].is_open(at_ms) for i in self._by_line.get(line, ()))
