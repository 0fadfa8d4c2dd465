"""Small things that tests are made of: events, records, logs, and a model that nobody trained."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from features.events import KINDS, Event, Shopper, encode
from features.hashing import partition_for
from features.intake import Arrived
from features.log import SCHEMA, in_order
from features.vector import NAMES, SCHEMA_HASH, WIDTH
from models.checkpoint import Artifact
from models.encode import TrunkArrays
from models.experts import BASE_PRIOR
from models.head import Posterior
from models.hierarchy import Hierarchy
from models.mixture import floored
from models.model import Model
from models.trees import TreeArrays
from streams.knowledge import Knowledge
from streams.pair import Pair
from streams.partition import Rules
from streams.records import Received, received

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
START_MS = 1_704_067_200_000  # 2024-01-01 00:00 UTC
EDGES_MS = (15 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS)
TRUNK = "0123456789abcdef"


def make_event(ts_ms: int = START_MS, *, id: str = "e1", who: str = "ann", line: str = "shoes", product: str = "p1", **more: Any) -> Event:
    """An event with its required fields; `more` are optional ones."""
    return Event(event_id=id, user_id=who, product_id=product, line=line, ts=ts_ms, **more)


def arrive(event: Event, kind: str = "browse") -> Arrived:
    """The event as it comes out of `decode`."""
    assert isinstance(event.ts, int)
    return Arrived(event, KINDS.index(kind), event.ts, encode(event))


def receive(event: Event, kind: str = "browse", *, offset: int = 0) -> Received:
    """The event as it lies on its topic, under the right key."""
    return received(KINDS.index(kind), offset, event.user_id.encode(), encode(event))


@dataclass
class Came:
    """What has come of one topic and waits to be drawn by its desk."""

    records: list[Received]
    next_offset: int
    is_current: Callable[[], bool] = lambda: True
    wake: Callable[[], object] | None = None

    def listen(self, wake: Callable[[], object] | None) -> None:
        """Remember whom to wake when more comes."""
        self.wake = wake

    def draw(self) -> tuple[list[Received], int, Callable[[], object]] | None:
        """Hand it over, once."""
        records, self.records = self.records, []
        return (records, self.next_offset, lambda: None) if records else None


def user_of(partition: int, partitions: int, *, prefix: str = "user") -> str:
    """A user id that belongs to a partition."""
    return next(name for name in (f"{prefix}{i}" for i in range(10_000)) if partition_for(name.encode(), partitions) == partition)


def random_events(n: int, *, seed: int = 0, users: int = 12, lines: int = 3, span_ms: int = 2 * DAY_MS, start_ms: int = START_MS) -> list[Arrived]:
    """Events of a few users in order of time; some with price and demographics, more browses than orders."""
    rng = random.Random(seed)
    times = sorted(start_ms + rng.randrange(span_ms) for _ in range(n))
    out = []
    for i, ts_ms in enumerate(times):
        line = f"line{rng.randrange(lines)}"
        shopper = Shopper(
            age_band=rng.choice([None, "18-24", "65+"]), gender=rng.choice([None, "female", "m", "x"]), level=rng.choice([None, 0, 7]),
            region=rng.choice([None, "north", "süd"]), registered_ts=rng.choice([None, start_ms - 90 * DAY_MS, "2023-06-01"]),
        )  # fmt: skip
        event = make_event(
            ts_ms, id=f"e{i:05d}", who=f"user{rng.randrange(users)}", line=line, product=f"{line}-p{rng.randrange(14)}",
            category=rng.choice([None, *(f"{line}-c{k}" for k in range(10))]), price=rng.choice([None, 0.0, round(rng.lognormvariate(3, 2), 2)]),
            user=shopper if rng.random() < 0.3 else None,
        )  # fmt: skip
        out.append(arrive(event, rng.choices(KINDS, (8, 4, 2, 1))[0]))
    return out


def make_log(events: list[Arrived]) -> pa.Table:
    """The events as a log."""
    rows = []
    for a in events:
        row: dict[str, Any] = {name: getattr(a.event, name) for name in SCHEMA.names if hasattr(a.event, name)}
        if a.event.user is not None:
            row |= {name: getattr(a.event.user, name) for name in ("age_band", "gender", "level", "region")}
        rows.append({**row, "kind": KINDS[a.kind], "ts": a.ts_ms})
    return in_order(pa.Table.from_pylist(rows, schema=SCHEMA))


def make_rules(**more: Any) -> Rules:
    """Rules of a replay with short delay bins."""
    return Rules(**{"edges_ms": EDGES_MS, "grace_ms": MINUTE_MS, **more})


def make_artifact(*lines: str, edges_ms: tuple[int, ...] = EDGES_MS, seed: int = 0, trained_until_ms: int = 0) -> Artifact:
    """An artifact with random weights, of the right shapes; its source lines are `lines`."""
    rng = np.random.default_rng(seed)
    n1, n2, n3 = 8, 6, 4
    per_feature = 3

    def weights(*shape: int) -> np.ndarray:
        return (0.3 * rng.normal(size=shape)).astype(np.float32)

    def head(d: int) -> Posterior:
        posterior = Posterior.isotropic(d, variance=0.05, intercept=-2.0, intercept_variance=0.5)
        posterior.m[:-1] = 0.05 * rng.normal(size=d - 1)
        return posterior

    trunk = TrunkArrays(
        mean=np.full(WIDTH, 1.0), std=np.full(WIDTH, 2.0), edges=np.tile(np.array([-1.0, 0.0, 1.5], np.float32), WIDTH),
        starts=np.arange(0, per_feature * WIDTH + 1, per_feature, dtype=np.int64), w1=weights((per_feature - 1) * WIDTH, n1), b1=weights(n1),
        gain=np.ones(n1, np.float32), shift=weights(n1), w2=weights(n1, n2), b2=weights(n2), w3=weights(n2, n3), b3=weights(n3),
    )  # fmt: skip
    heads: Mapping[str, Posterior] = {"raw_final": head(WIDTH + 1), "raw_delay": head(WIDTH + 1), "trunk_delay": head(n3 + 1), "trees_delay": head(2)}
    z = np.concatenate([rng.normal(size=(60, n3)), np.ones((60, 1))], axis=1)
    hierarchy = Hierarchy(np.append(np.zeros(n3), -2.0)[:, None], 0.1 * np.eye(n3 + 1), rng.normal(size=(len(lines), n3 + 1)), np.zeros((len(lines), 0)))
    edges_s = np.array([0.0, *edges_ms]) / 1000.0
    return Artifact(
        feature_names=NAMES, schema_hash=SCHEMA_HASH, lines=lines, window_s=float(edges_s[-1]), edges_s=edges_s,
        curve=np.linspace(0.0, 1.0, len(edges_s)), trunk=trunk, heads=heads, offset_pi=np.full(4, 0.25), deff=1.0,
        trees=TreeArrays.leaves(np.array([-2.0])), hierarchy=hierarchy, profiles=rng.normal(size=(len(lines), n3 + 1)), sample_z=z.astype(np.float32),
        sample_y=(rng.random(60) < 0.2).astype(np.float64), c_trunk=0.1, attribute_names=(), expert_pi=floored(BASE_PRIOR),
        trained_until_ms=trained_until_ms, fingerprint="", metrics={}, settings={}, sha256=TRUNK * 4,
    )  # fmt: skip


def make_model(*lines: str, **more: Any) -> Model:
    """The model made from such an artifact."""
    return Model(make_artifact(*lines, **more))


def pair_of(knowledge: Knowledge) -> Pair:
    """What somebody who has a trunk believes."""
    assert knowledge.pair is not None
    return knowledge.pair
