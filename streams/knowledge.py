"""What a worker believes during a tick: trunk and heads, the catalogue and the launches, as of the tick before. Read-only between ticks.

Trunk and heads are a pair. While the learners carry the heads over to a new trunk, each in its own commit, the old pair is believed: of a learner that
is ahead, the heads that it kept from before. When the last one has stamped the new trunk, everything changes in one step, with no await in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.catalogue import SHOP, empty
from features.errors import DependencyDown
from features.events import Event
from features.hashing import partition_for
from features.layout import CATALOGUE
from features.store import Slot, Store
from models.launch_head import LaunchHead
from models.model import Model
from models.shared_heads import SharedHeads
from streams import trunks
from streams.domains import Launches
from streams.pair import Pair
from streams.records import SHARED, SHARED_BEFORE, Launch, decode_launch

logger = logging.getLogger(__name__)

CONTROL_SLOT = trunks.CONTROL_SLOT
HEADS = "heads"
HEADS_BEFORE = "heads_before"  # of the trunk before the one that the slot's stamp names
LOOKS, LOOK_AGAIN_S = 100, 0.01  # at slots that move on while they are read
CHANGED = {HEADS: "heads_changed", "catalogue": "changed"}
"""Beside a hash, by version: the names of its fields that the commit wrote."""
CHANGED_KEPT = 64  # how many commits say what they changed

encode_names = msgspec.msgpack.Encoder().encode
decode_names = msgspec.msgpack.Decoder(list[str]).decode


def outcome_slot(q: int) -> str:
    """Return the store's slot of outcome partition q."""
    return f"o{q}"


class Knowledge:
    """Trunk and heads, catalogue and launches. `refresh` takes what the learners have committed since.

    With a `shelf` (live) the trunk is the one that the heads in the store belong to; without one (replays, offline) it is `model` for good.
    """

    def __init__(
        self, store: Store, model: Model | None, outcome_partitions: int, *, shelf: trunks.Shelf | None = None, aside: Executor | None = None
    ) -> None:  # fmt: skip
        """`aside`: where whoever asks has many events computed, if not at once (`streams.aside`)."""
        self._store, self._shelf, self.aside = store, shelf, aside
        self.pair = None if model is None else Pair.untaught(model)
        """As of now. Pair, launches and catalogue are never changed: others take their place, so who waits while it works keeps to those that it has."""
        self._number = 0 if shelf is None else -1  # the activation that trunk and heads belong to
        self._slots = [outcome_slot(q) for q in range(outcome_partitions)]
        self._versions = dict.fromkeys(self._slots, -1)
        self._control_version = -1
        self.cursors: dict[str, bytes] = {}
        """The learners' cursors, by slot, as they were stored."""
        self.went_back = False  # the learners' state; whoever draws the conclusions clears it
        self.launches = Launches()
        self.forgotten: Sequence[Launch] = ()
        """Launches that were known, and that the control records have no more, or not as closed: the store went back. They go on as they were."""
        self.catalogue = empty()  # (C,) CATALOGUE, the whole shop in row 0
        self.catalogue_names = [SHOP]
        self._rows: dict[str, int] = {SHOP: 0}
        self._rows_of_lines: dict[str, int] = {}
        self._rows_of_categories: dict[str, int] = {}
        self._forget()

    @property
    def model(self) -> Model | None:
        """The trunk that is believed, ready to score."""
        return self.pair.model if self.pair is not None else None

    @property
    def trunk(self) -> str:
        """The first 16 digits of its SHA-256; empty without one."""
        return self.pair.trunk if self.pair is not None else ""

    def _forget(self) -> None:
        """Believe nothing but the artifact. The launches stay as they are: only their own slot tells whether they went back too."""
        self._versions = dict.fromkeys(self._versions, -1)
        self.pair = None if self.pair is None else Pair.untaught(self.pair.model)
        self.catalogue = np.zeros_like(self.catalogue)

    async def refresh(self) -> None:
        """Bring everything up to the store's present state."""
        await self.refresh_control()
        await self.refresh_heads()

    async def refresh_control(self) -> bool:
        """Bring launches and trunks up to the store's present state; returns whether the control records have changed."""
        control = await self._store.load(CONTROL_SLOT, ())
        if control.version == self._control_version:
            return False
        control = await self._store.load(CONTROL_SLOT, ("launches", trunks.ACTIVATIONS))
        if self._shelf is not None:
            await self._shelf.take(control.hashes[trunks.ACTIVATIONS])
        stored = Launches([decode_launch(value) for _, value in sorted(control.hashes["launches"].items())])
        self.forgotten = stored.forgotten(self.launches.all)
        self.launches = stored.with_forgotten(self.forgotten)
        self._control_version = control.version
        return True

    def look_at_control_again(self) -> None:
        """Let the next look read the control records, whatever their version: it may be what it was, and they not."""
        self._control_version = -1

    async def refresh_heads(self) -> None:
        """Bring heads and catalogue up to the store's present state."""
        for _ in range(LOOKS):
            if await self._refresh_slots():
                return
            await asyncio.sleep(LOOK_AGAIN_S)
        if self._number >= 0:
            logger.warning("the outcome partitions' heads belong to different trunks for long; what was known is believed on")
            return
        # Who has just started must learn for the partitions that are behind, else nobody does.
        logger.warning(
            "the outcome partitions' heads belong to trunks that are too far apart; those that are ahead are not believed until the others have caught up"
        )
        if not await self._refresh_slots(begin=True):
            raise DependencyDown("the store moves on, or goes back, whenever it is read")

    async def _refresh_slots(self, *, begin: bool = False) -> bool:
        """Take up what the learners have committed; False if the store moved on, or went back, while it was read: look again.

        `begin`: heads that are too far ahead of the slowest are left out, and new ones stand in for them.
        """
        stamp = () if self._shelf is None else (trunks.STAMP,)
        found = {slot: await self._store.load(slot, stamp) for slot in self._slots}
        self.cursors = {slot: now.cursor for slot, now in found.items()}
        if any(now.version < self._versions[slot] for slot, now in found.items()):
            self._forget()  # the store went back: what it has lost must not live on here
            self.went_back = True
        stamps = {slot: trunks.Stamp() if self._shelf is None else trunks.stamp_in(now) for slot, now in found.items()}
        # Nobody is more than one activation ahead of the slowest: the slowest one's trunk is the one for which all slots have heads.
        slowest = min(stamps.values(), key=lambda s: s.number)
        model, swapped = self.model, False
        if self._shelf is not None:
            model = await self._shelf.model(slowest.sha256)
            swapped = slowest.number != self._number or model is not self.model  # the number alone may be another trunk's, where the store went back
        taken: dict[str, tuple[int, Mapping[str, bytes]]] = {}
        whole: set[str] = set()
        for slot, seen in ((slot, self._versions[slot]) for slot in self._slots):
            if found[slot].version == seen and not swapped:
                continue
            name = HEADS if stamps[slot].number == slowest.number else HEADS_BEFORE
            # A thousand launches have 70 MB of heads: those that changed are read, where the store says which they are.
            changed = None
            if name == HEADS and not swapped:
                changed = await self._changed(slot, HEADS, seen, found[slot].version)
            now = await self._store.load(slot, (*stamp, name) if changed is None else stamp)
            if now.version < seen:
                self._forget()
                self.went_back = True
                return False
            if self._shelf is not None:
                found_stamp = trunks.stamp_in(now)
                if slowest.number != (found_stamp.number if name == HEADS else found_stamp.before):
                    if not begin:
                        return False
                    now, changed = Slot(-1, b"", {name: {}}), None
            # What was read one by one may be newer than the version that it is noted under: then it is read once more.
            taken[slot] = (now.version, now.hashes[name]) if changed is None else (found[slot].version, changed)
            if changed is None:
                whole.add(slot)
        if (first := taken.get(self._slots[0])) is not None and first[0] != self._versions[self._slots[0]]:
            await self._refresh_catalogue(self._slots[0], self._versions[self._slots[0]], first[0])
        # From here on nothing waits: whoever scores sees the old pair or the new one.
        if swapped and model is not None:
            if self._number >= 0:
                logger.info("trunk %s takes the place of %s", model.artifact.sha256[:16], self.trunk)
            self.pair, self._number = Pair.untaught(model), slowest.number
        for slot, (version, told) in taken.items():
            if self.pair is not None:
                self.pair = self._taught(self.pair, told, forgetting=slot if slot in whole else None)
            self._versions[slot] = version
        return True

    def _taught(self, pair: Pair, told: Mapping[str, bytes], *, forgetting: str | None) -> Pair:
        """Return a pair with what is told of some of its heads.

        `forgetting` a slot, what was known of its heads is left out: where the store went back and the learner has gone on since, what was lost must not live on here.
        """
        shared, heads = pair.shared, dict(pair.heads)
        if forgetting is not None:
            here = {name for name in (SHARED, *heads) if outcome_slot(partition_for(name.encode(), len(self._slots))) == forgetting}
            heads = {name: head for name, head in heads.items() if name not in here}
            shared = SharedHeads.of(pair.model) if SHARED in here else shared
        for name, value in told.items():
            if name == SHARED:
                shared = SharedHeads.from_bytes(value)
            elif name != SHARED_BEFORE:
                heads[name] = LaunchHead.from_bytes(value)
        return replace(pair, shared=shared, heads=heads)

    async def _changed(self, slot: str, of: str, seen: int, version: int) -> dict[str, bytes] | None:
        """Return the fields of a hash that a slot's commits changed after version `seen`; None if the store does not say."""
        if seen < 0 or version - seen > CHANGED_KEPT:
            return None
        lists = await self._store.read_hash(slot, CHANGED[of], [str(v) for v in range(seen + 1, version + 1)])
        if any(names is None for names in lists):
            return None
        names = sorted({name for listed in lists if listed for name in decode_names(listed)})
        values = await self._store.read_hash(slot, of, names) if names else []
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    async def _refresh_catalogue(self, slot: str, seen: int, version: int) -> None:
        found: Mapping[str, bytes] | None = await self._changed(slot, "catalogue", seen, version)
        if found is None:
            found = (await self._store.load(slot, ("catalogue",))).hashes["catalogue"]
            self.catalogue = np.zeros_like(self.catalogue)
        rows = [self._row(name) for name in found]
        catalogue = self.catalogue.copy()
        for row, value in zip(rows, found.values(), strict=True):
            catalogue[row] = np.frombuffer(value, CATALOGUE)[0]
        self.catalogue = catalogue

    def _row(self, name: str) -> int:
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = len(self.catalogue_names)
            self.catalogue_names.append(name)
            if row >= len(self.catalogue):
                self.catalogue = np.concatenate([self.catalogue, np.zeros(max(64, len(self.catalogue)), CATALOGUE)])
        return row

    def catalogue_rows(self, events: Sequence[Event]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each event (B,) the rows of `catalogue`, and of `catalogue_names`, of its line and of its category."""
        lines, categories = self._rows_of_lines, self._rows_of_categories
        try:
            of_lines, of_categories = [lines[event.line] for event in events], [categories[event.category or event.line] for event in events]
        except KeyError:  # seldom: a shop has few names
            for event in events:
                if event.line not in lines:
                    lines[event.line] = self._row(f"line:{event.line}")
                if (category := event.category or event.line) not in categories:
                    categories[category] = self._row(f"category:{category}")
            of_lines, of_categories = [lines[event.line] for event in events], [categories[event.category or event.line] for event in events]
        return np.array(of_lines, np.int64), np.array(of_categories, np.int64)
