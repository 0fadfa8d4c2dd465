"""What a worker believes during a tick: the heads, the catalogue and the launches, as of the tick before. Read-only between ticks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.catalogue import SHOP, empty
from features.events import Event
from features.layout import CATALOGUE
from features.store import Store
from models.mind import LaunchHead, Maps, Model, SharedHeads, predict_launch, predict_source
from streams.records import SHARED, SHARED_BEFORE, Launch, decode_launch

CONTROL_SLOT = "control"
CHANGED_KEPT = 64  # how many commits of the catalogue's writer say which names they changed

encode_names = msgspec.msgpack.Encoder().encode
decode_names = msgspec.msgpack.Decoder(list[str]).decode


Belief = tuple[float, ...]
"""The predictions for one event in one domain: score and probability of headstart, and in a launch also of frozen and of scratch."""


def outcome_slot(q: int) -> str:
    """Return the store's slot of outcome partition q."""
    return f"o{q}"


class Knowledge:
    """Heads, catalogue and launches. `refresh` takes what the learners have committed since."""

    def __init__(self, store: Store, model: Model | None, outcome_partitions: int) -> None:
        self._store = store
        self.model = model
        self.trunk = model.artifact.sha256[:16] if model else ""
        self._slots = [outcome_slot(q) for q in range(outcome_partitions)]
        self._versions = dict.fromkeys([*self._slots, CONTROL_SLOT], -1)
        self.launches: list[Launch] = []
        self._rows: dict[str, int] = {SHOP: 0}
        self._catalogue = empty()
        self._used = 1
        self._forget()

    def _forget(self) -> None:
        """Believe nothing but the artifact."""
        self._versions = dict.fromkeys(self._versions, -1)
        self.shared: SharedHeads | None = self.model.shared() if self.model else None
        self._heads: dict[str, LaunchHead] = {}
        self._catalogue = np.zeros_like(self._catalogue)

    async def refresh(self) -> None:
        """Bring everything up to the store's present state."""
        control = await self._store.load(CONTROL_SLOT, ())
        if control.version != self._versions[CONTROL_SLOT]:
            control = await self._store.load(CONTROL_SLOT, ("launches",))
            self.launches = [decode_launch(value) for _, value in sorted(control.hashes["launches"].items())]
            self._versions[CONTROL_SLOT] = control.version
        versions = {slot: (await self._store.load(slot, ())).version for slot in self._slots}
        if any(version < self._versions[slot] for slot, version in versions.items()):
            self._forget()  # the store went back: what it has lost must not live on here
        for slot, version in versions.items():
            seen = self._versions[slot]
            if version == seen:
                continue
            now = await self._store.load(slot, ("heads",))
            if now.version < seen:
                await self.refresh()  # it went back just now
                return
            if self.model:
                for name, value in now.hashes["heads"].items():
                    if name == SHARED:
                        self.shared = SharedHeads.from_bytes(value)
                    elif name != SHARED_BEFORE:
                        self._heads[name] = LaunchHead.from_bytes(value)
            if slot == self._slots[0]:
                await self._refresh_catalogue(slot, seen, now.version)
            self._versions[slot] = now.version

    async def _refresh_catalogue(self, slot: str, seen: int, version: int) -> None:
        lists: list[bytes | None] = [None]
        if seen >= 0 and version - seen <= CHANGED_KEPT:
            lists = await self._store.read_hash(slot, "changed", [str(v) for v in range(seen + 1, version + 1)])
        if any(names is None for names in lists):
            held = (await self._store.load(slot, ("catalogue",))).hashes["catalogue"]
            found: list[tuple[str, bytes | None]] = list(held.items())
        else:
            names = sorted({name for changed in lists if changed for name in decode_names(changed)})
            found = list(zip(names, await self._store.read_hash(slot, "catalogue", names), strict=True))
        for name, value in found:
            if value is not None:
                row = self._row(name)  # may put a longer array into the place of this one
                self._catalogue[row] = np.frombuffer(value, CATALOGUE)[0]

    def _row(self, name: str) -> int:
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._used
            self._used += 1
            if row >= len(self._catalogue):
                self._catalogue = np.concatenate([self._catalogue, np.zeros(max(64, len(self._catalogue)), CATALOGUE)])
        return row

    def catalogue_rows(self, events: Sequence[Event]) -> tuple[list[int], list[int], NDArray[np.void]]:
        """Return for each event the rows of its line and of its category, and the records (C,) that they index."""
        lines = [self._row(f"line:{event.line}") for event in events]
        categories = [self._row(f"category:{event.category or event.line}") for event in events]
        return lines, categories, self._catalogue

    def launches_of(self, event: Event, at_ms: int) -> list[Launch]:
        """Return the launches that the event belongs to, as they are at a tick's start."""
        return [launch for launch in self.launches if launch.is_open(at_ms) and launch.holds(event.product_id, event.line)]

    def followed(self, event: Event, at_ms: int) -> list[str]:
        """Return the domains whose open exposures an order of this event counts for, whether new ones still open there or not.

        The order of a product that is being launched is no order of the line's other products.
        """
        holding = [launch for launch in self.launches if launch.holds(event.product_id, event.line)]
        apart = any(launch.products and launch.is_open(at_ms) for launch in holding)
        return [*([] if apart else [f"line:{event.line}"]), *(launch.id for launch in holding)]

    def is_source(self, line: str, at_ms: int) -> bool:
        """Whether a line's outcomes feed the shared heads: the trunk was trained on it, and it is not being launched."""
        if self.model is not None and line not in self.model.artifact.lines:
            return False
        return not any(launch.line == line and not launch.products and launch.is_open(at_ms) for launch in self.launches)

    def maps(self, x: NDArray[np.float32]) -> Maps:
        """Return what the heads read of vectors (N, F): the standardised features and the trunk's output."""
        assert self.model
        return self.model.maps(x)

    def of_lines(self, maps: Maps) -> list[Belief]:
        """Return what the shared heads believe of N rows."""
        assert self.model and self.shared
        told = predict_source(self.model, self.shared, maps)
        return list(zip(told.score.tolist(), told.probability.tolist(), strict=True))

    def head(self, launch: str) -> LaunchHead:
        """Return a launch's head; a fresh one if it has learned nothing."""
        assert self.model
        if launch not in self._heads:
            self._heads[launch] = self.model.launch()
        return self._heads[launch]

    def of_launch(self, launch: str, maps: Maps) -> list[Belief]:
        """Return what headstart, frozen and scratch believe of N rows in a launch."""
        assert self.model and self.shared
        told = predict_launch(self.model, self.head(launch), self.shared, maps)
        return list(zip(*(column.tolist() for expert in told for column in (expert.score, expert.probability)), strict=True))
