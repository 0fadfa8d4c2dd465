"""Small SYNTHETIC logs and tiny trunks for tests of the whole job, and all that a run over them leaves, in this process: the oracle of replays."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from features.log import in_order
from features.memory_store import MemoryStore
from features.vector import SCHEMA_HASH
from models.checkpoint import Artifact, load, save
from models.model import Model
from models.pretrain import PretrainSettings
from models.trunk import TrunkSettings
from streams.cutting import cut
from streams.evaluation import Figures, Judged, as_launch, launched
from streams.offline import put_launches, run
from streams.partition import Cursor, Rules
from streams.records import REASON_HEADER, Launch, Outcome, Outgoing
from streams.shop import Shop, simulate
from streams.ticks import Tick, with_end
from streams.training import edges_ms, train

TINY = PretrainSettings(trunk=TrunkSettings(most_steps=60, check_steps=30, width=32, middle=16), c_grid=(0.02,))
TICK_MS = 3_600_000
WINDOW_S = 21_600.0
DAY_MS = 86_400_000
LIVE_WINDOW_MS = 4_000
SEEN = ("rows", "blocks", "watches", "traffic", "alerts")
"""Of `streams.sight`; examples of refused records are not among them: which are kept depends on the order in which partitions tell."""


@dataclass(frozen=True)
class World:
    """A log, the trunk that was trained on its beginning, and what is launched in the rest: two lines, and some products of a third."""

    log: pa.Table
    trunk: Path
    launches: tuple[Launch, ...]

    @property
    def artifact(self) -> Artifact:
        """The trained trunk with its heads."""
        return load(self.trunk, schema_hash=SCHEMA_HASH)

    def ticks(self, *, final: bool = True) -> list[Tick]:
        """The log's ticks, with a few duplicates and broken records in them; `final` ends with the tick at which every label is final."""
        ticks = troubled(cut(self.log, TICK_MS))
        return list(with_end(ticks, round(1000 * WINDOW_S) + 60_000)) if final else ticks


def make_world(folder: Path) -> World:
    """Simulate 2 days of a shop of four lines, about 3 000 events, and train for the first, unless the folder holds that already."""
    shop = Shop(users=150, lines=4, days=2.0, launch_day=1.0, visits_per_day=1.4, conversion=0.16, window_s=WINDOW_S,
                categories_per_line=2, products_per_category=3, seed=5)  # fmt: skip
    at_ms = shop.start_ms + DAY_MS
    log = launched(simulate(shop).log, ["launch", "bags"], at_ms)
    rules = Rules(edges_ms=edges_ms(WINDOW_S))
    if not (folder / "manifest.json").exists():
        save(train(log, rules, tick_ms=TICK_MS, until_ms=at_ms, seed=1, pseudo=False, settings=TINY), folder)
    lines = [as_launch(line, at_ms, WINDOW_S) for line in ("launch", "bags")]
    some = [f"books-{category}-{number:03d}" for category in (1, 2) for number in (1, 2, 3)][:5]
    products = Launch(id="products", line="books", products=some, window_s=WINDOW_S, from_ms=at_ms + 2 * TICK_MS, holdout=0.3)
    return World(log, folder, (*lines, products))


def make_live_trunk(folder: Path) -> Path:
    """Train a trunk with a window of four seconds, on two days that were pressed into half a minute, unless it is there; returns its folder."""
    if (folder / "manifest.json").exists():
        return folder
    shop = Shop(users=250, lines=4, days=2.0, launch_day=1.9, visits_per_day=1.4, conversion=0.2, window_s=WINDOW_S, seed=6)
    log = simulate(shop).log
    ts = [shop.start_ms + (ms - shop.start_ms) * LIVE_WINDOW_MS // round(1000 * WINDOW_S) for ms in log["ts"].to_pylist()]
    log = in_order(log.set_column(log.column_names.index("ts"), "ts", pa.array(ts)))
    log = log.filter(pc.field("line") != "launch")
    rules = Rules(edges_ms=edges_ms(LIVE_WINDOW_MS / 1000), grace_ms=0)
    save(train(log, rules, tick_ms=1000, until_ms=ts[-1] + 1, seed=1, pseudo=False, settings=TINY), folder)
    return folder


def troubled(ticks: Iterable[Tick]) -> list[Tick]:
    """Send some events twice, at once and a tick later, and put records between them that must be refused."""
    draw = random.Random(3)
    out: list[Tick] = []
    again: list[tuple[int, str, bytes]] = []
    for tick in ticks:
        twice = draw.sample(tick.records, min(3, len(tick.records)))
        user = tick.records[0][1]
        broken = [
            (draw.randrange(4), user, value) for value in (b'{"event_id": ', b"\xff\xfe", b'{"user_id": 3}', twice[0][2].replace(user.encode(), b"someone"))
        ]
        out.append(Tick(tick.end_ms, (*tick.records, *twice, *again, *broken)))
        again = twice[:1]
    return out


def shuffled(ticks: Iterable[Tick], seed: int) -> list[Tick]:
    """Shuffle the records within each tick."""
    draw = random.Random(seed)
    return [Tick(tick.end_ms, tuple(draw.sample(tick.records, len(tick.records)))) for tick in ticks]


@dataclass
class Left:
    """All that a replay leaves, in a form that does not depend on partitions: equal to the bit or not."""

    scores: dict[str, bytes] = field(default_factory=dict)
    rejected: Counter[tuple[bytes, bytes | None]] = field(default_factory=Counter)  # (reason, value)
    outcomes: list[tuple[object, ...]] = field(default_factory=list)
    snapshots: dict[str, bytes] = field(default_factory=dict)  # of the heads, as the topic has them
    figures: dict[str, Figures] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    pending: dict[str, bytes] = field(default_factory=dict)
    heads: dict[str, bytes] = field(default_factory=dict)
    catalogue: dict[str, bytes] = field(default_factory=dict)
    seen: dict[str, bytes] = field(default_factory=dict)  # rolling figures, detectors and alerts
    totals: Counter[str] = field(default_factory=Counter)

    def hear(self, judged: Judged, facts: Iterable[Outcome], window_ms: int) -> None:
        """Take in the outcomes, in any order."""
        self.outcomes = sorted(
            (m.key, m.closed.close_ms, m.closed.exposure.id, m.closed.bin, m.closed.y, m.closed.label, m.closed.exposure.said(), m.closed.exposure.x)
            for m in facts
        )
        self.figures = {launch: judged.figures(launch, until_ms=2**53, window_ms=window_ms) for launch in judged.launches()}


def differences(a: object, b: object) -> list[str]:
    """Return a line for each field in which two results differ: empty when they are equal to the bit."""
    told = []
    for name in (f.name for f in fields(a)):  # type: ignore[arg-type]
        one, other = getattr(a, name), getattr(b, name)
        if repr(one) == repr(other):
            continue
        if isinstance(one, dict):
            keys = [key for key in {**one, **other} if repr(one.get(key)) != repr(other.get(key))]
            told.append(
                f"{name}: {len(keys)} of {len(one)} and {len(other)} differ, {keys[0]!r}: {one.get(keys[0])!r:.200} != {other.get(keys[0])!r:.200}"
                if keys
                else f"{name}: in order"
            )
        else:
            told.append(f"{name}: {len(one)} and {len(other)}, {one!r:.200} != {other!r:.200}")
    return told


def in_process(world: World, ticks: Iterable[Tick], *, partitions: int = 1, outcome_partitions: int = 1) -> Left:
    """Run the pipeline over the ticks in this process, without Kafka and Redis: what every replay is compared with."""
    rules = Rules(edges_ms=edges_ms(WINDOW_S), partitions=partitions, outcome_partitions=outcome_partitions)
    store, left, judged = MemoryStore(), Left(), Judged()
    facts: list[Outcome] = []

    def heard(record: Outgoing) -> None:
        if record.topic == "scores":
            assert record.value is not None
            left.scores[json.loads(record.value)["score_id"]] = record.value
        else:
            left.rejected[dict(record.headers)[REASON_HEADER], record.value] += 1

    def outcome(fact: Outcome) -> None:
        facts.append(fact)
        judged.hear(fact)

    async def all_of_it() -> None:
        await put_launches(store, world.launches)
        await run(ticks, store, rules, Model(world.artifact), heard=heard, on_outcome=outcome)

    asyncio.run(all_of_it())
    left.hear(judged, facts, rules.edges_ms[-1])
    slots = {str(p) for p in range(partitions)}
    left.records = {key: value for (_, key), value in store._records.items()}
    for (slot, name), held in store._hashes.items():
        if slot in slots and name == "pending":
            left.pending.update(held)
        elif slot not in slots and name in ("heads", "catalogue"):
            getattr(left, name).update(held)
        elif slot not in slots and name in SEEN:
            left.seen.update({f"{name} {key}": value for key, value in held.items()})
        elif name == "snapshots":
            left.snapshots.update({key.partition(":")[2] + key.partition(":")[0]: value for key, value in held.items()})
    for slot in slots:
        left.totals.update(msgspec.structs.asdict(msgspec.msgpack.decode(store._cursors[slot][1], type=Cursor).totals))
    return in_fixed_order(left)


def in_fixed_order(left: Left) -> Left:
    """Sort every part by its keys, so that two results can be compared as text."""
    for name in ("scores", "rejected", "snapshots", "records", "pending", "heads", "catalogue", "seen", "totals"):
        held = getattr(left, name)
        setattr(left, name, type(held)(dict(sorted(held.items(), key=repr))))
    return left
