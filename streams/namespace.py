"""What all parts of a namespace agree on, written once and compared by each worker, learner and publisher that comes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from features.errors import InputError, Mismatch
from features.events import KINDS
from features.redis_access import RedisAccess
from features.redis_store import RedisStore
from features.store import Store
from features.vector import SCHEMA_HASH
from models.checkpoint import Artifact, load
from models.delay import default_edges_s
from streams.kafka_access import client_config
from streams.partition import Rules
from streams.settings import Settings
from streams.topics import broker_names, cluster_id, partition_counts, topic_ids
from streams.trunks import is_kept

LIVE = "live"
RESTORED: Final = "being restored"
DIVIDED: Final = "being divided anew"
FILLED: Final = "being filled with a history"
"""In the place of how many partitions a namespace has, while what it holds is replaced: whoever comes is refused."""
SHOWN: Final = 80  # characters of a text that differs
WHAT_DIFFERS = {
    "clock": "the clock: a replay needs a namespace of its own",
    "schema": "the feature schema: run the code that made the namespace, or start a new one",
    "trunk": "the trunk: give the one that the namespace was made with, make this one active with `headstart trunk promote`, or start a new namespace",
    "partitions": "the partitions: set the number that the namespace has, or give it this one with `headstart repartition`",
    "outcome_partitions": "the outcome partitions: a changed count needs another namespace",
    "cluster": "the Kafka cluster",
    "topic_ids": "the topics: one was deleted and made again, and the cursors belong to the old one",
    "topics": "the names of the topics",
    "rules": "the settings grace_ms, ttl_s, learn_share, timezone or the window",
}


def redis_access(settings: Settings) -> RedisAccess:
    """Return how the settings say that Redis is reached."""
    return RedisAccess(
        settings.redis, user=settings.redis_username, password=settings.redis_password, cafile=settings.redis_ssl_cafile,
        certfile=settings.redis_ssl_certfile, keyfile=settings.redis_ssl_keyfile, check_hostname=settings.redis_ssl_check_hostname,
        cluster=settings.redis_cluster,
    )  # fmt: skip


def open_store(settings: Settings, *, patience_s: float | None = None) -> RedisStore:
    """Return the store of the settings' namespace; records live in Redis for twice their life in event time."""
    return RedisStore(
        redis_access(settings),
        settings.namespace,
        ttl_ms=2000 * settings.ttl_s,
        durability=settings.durability,
        msetex=settings.redis_msetex,
        patience_s=float(settings.dependency_timeout_s) if patience_s is None else patience_s,
    )


def load_trunk(settings: Settings) -> Artifact:
    """Return the trained artifact. Raises InputError or Mismatch with one line that says what to do."""
    return load(settings.trunk, schema_hash=SCHEMA_HASH)


def rules_of(settings: Settings, artifact: Artifact | None, *, replay: bool, window_s: float | None = None) -> Rules:
    """Return what all partitions agree on; the window is the artifact's, and without one the setting's.

    What a process may hold is that of all its partitions together, see `Rules.shared_by`. A replay and an evaluation follow every exposure, so that no limit
    of memory tells them apart.
    """
    edges_s = artifact.edges_s if artifact is not None else default_edges_s(settings.window_s if window_s is None else window_s)
    return Rules(
        edges_ms=tuple(round(1000 * edge) for edge in edges_s[1:].tolist()),
        partitions=settings.partitions,
        outcome_partitions=settings.outcome_partitions,
        grace_ms=settings.grace_ms,
        ttl_ms=1000 * settings.ttl_s,
        learn_share=settings.learn_share,
        max_pending=sys.maxsize if replay else settings.max_pending,
        max_tick_events=settings.max_tick_events,
        lru_users=settings.lru_users,
        timezone=settings.timezone,
        replay=replay,
        partitioner_check=settings.partitioner_check,
        future_ms=settings.future_ms,
        reacts=settings.drift_actions,
        explains=settings.explain_scores,
    )


def description(settings: Settings, artifact: Artifact, rules: Rules, *, clock: str, broker: dict[str, str]) -> dict[str, str]:
    """Return what the namespace's `meta` says; `broker` is what `check_partitions` found."""
    return {
        "clock": clock,
        "schema": SCHEMA_HASH,
        "trunk": artifact.sha256,
        "partitions": str(rules.partitions),
        "outcome_partitions": str(rules.outcome_partitions),
        **broker,
        "topics": ",".join(broker_names(settings.topic_prefix, settings.topic_names).values()),
        "rules": f"edges={rules.edges_ms} grace={rules.grace_ms} ttl={rules.ttl_ms} share={rules.learn_share} timezone={rules.timezone}",
    }


async def join(store: Store, wanted: dict[str, str], namespace: str) -> dict[str, str]:
    """Claim a new namespace, or check that this process belongs to it; returns its description. Raises Mismatch with one line that says what differs.

    Its trunk need not be the one that the namespace was made with, if it is one of the namespace's: the process takes the active one from the store.
    """
    held = await store.claim_meta(wanted)
    # In this order: where the store was emptied, trunks are put back before the description.
    if held["trunk"] != wanted["trunk"] and await is_kept(store, wanted["trunk"]):
        wanted = {**wanted, "trunk": held["trunk"]}
    compare(held, wanted, f"namespace {namespace!r}")
    return held


def require_murmur2(settings: Settings) -> None:
    """Raise InputError where nobody here can tell in which partition a user's events will lie: the shop has a partitioner of its own."""
    if not settings.partitioner_check and settings.partitions > 1:
        raise InputError(
            "the setting partitioner_check is off, so only your producers know in which partition a user's events lie: this needs murmur2(user_id)"
        )


def compare(held: Mapping[str, str], wanted: Mapping[str, str], subject: str) -> None:
    """Raise Mismatch with one line that says what differs between the description of the subject and what is wanted, if something does."""
    for name, value in wanted.items():
        if held.get(name) != value:
            there, here = _where_they_differ(held.get(name, "nothing"), value)
            raise Mismatch(f"{subject} differs in {WHAT_DIFFERS.get(name, name)} ({there} there, {here} here)")


def _where_they_differ(*texts: str) -> list[str]:
    """Return two texts from the first word on in which they differ, not too much of it."""
    same = next((i for i, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), min(map(len, texts)))
    begin = max(texts[0].rfind(mark, 0, same) + 1 for mark in " ,")
    return [f"{'…' if begin else ''}{text[begin : begin + SHOWN]}{'…' if len(text) > begin + SHOWN else ''}" for text in texts]


class Empty(InputError):
    """Nobody has joined the namespace yet. Operator action: start a worker, or mend the name."""


def sizes_of(held: Mapping[str, str], name: str) -> tuple[int, int]:
    """Return how many partitions and outcome partitions a namespace has. Raises Empty for one that is not there, Mismatch for one that is not whole."""
    if not held:
        raise Empty(f"namespace {name!r} is empty: no worker has joined it yet")
    if not held["partitions"].isdigit():
        raise Mismatch(f"namespace {name!r} is {held['partitions']}: wait for the command that does it, or run that again to its end")
    return int(held["partitions"]), int(held["outcome_partitions"])


def clock_of(held: dict[str, str]) -> str:
    """Return the namespace's clock, `live` or `replay:<tick_ms>`; live if it is new."""
    return held.get("clock", LIVE)


def check_partitions(settings: Settings) -> dict[str, str]:
    """Return the cluster's id and the ids of the topics that are read, after checking that all are there with the partitions of the settings."""
    names = broker_names(settings.topic_prefix, settings.topic_names)
    access = client_config(settings)
    counts = partition_counts(settings.broker, names.values(), client_config=access)
    for plain, name in names.items():
        wanted = settings.outcome_partitions if plain == "outcomes" else settings.partitions if plain in KINDS else None
        if name not in counts:
            raise Mismatch(f"topic {name} is missing: create the topics with `headstart topics create`")
        if wanted is not None and counts[name] != wanted:
            raise Mismatch(f"topic {name} has {counts[name]} partitions, the settings say {wanted}")
    ids = topic_ids(settings.broker, [names[plain] for plain in (*KINDS, "outcomes")], client_config=access)
    return {"cluster": cluster_id(settings.broker, client_config=access), "topic_ids": ",".join(ids[name] for name in sorted(ids))}


def need_window(window_s: float | None, artifact: Artifact) -> float:
    """Return the launch's attribution window, which is the trunk's. Raises InputError if another one is asked for."""
    if window_s is not None and window_s != artifact.window_s:
        raise InputError(f"the trunk was trained for a window of {artifact.window_s:g} s; train another one for {window_s:g} s")
    return artifact.window_s


async def check_publisher(settings: Settings) -> None:
    """Raise Mismatch when what is about to be published does not belong to the settings' namespace; a new one has nothing to say."""
    store = open_store(settings, patience_s=5.0)
    try:
        held = await store.meta()
    finally:
        await store.close()
    if not held:
        return
    names = broker_names(settings.topic_prefix, settings.topic_names)
    access = client_config(settings)
    here = {"clock": LIVE, "cluster": cluster_id(settings.broker, client_config=access), "topics": ",".join(names.values())}
    count = partition_counts(settings.broker, [names["browse"]], client_config=access).get(names["browse"])
    if count is not None:
        here["partitions"] = str(count)
    compare(held, here, f"namespace {settings.namespace!r}")
