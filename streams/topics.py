"""Every topic of Headstart in one table, and what the broker is asked about them: create, check, count, identify.

Kafka is reached through kafka-python's admin client; `client_config` is passed to it as it is (SASL, TLS). Functions raise DependencyDown
when no broker answers, InputError for a name, number or permission that is the user's to mend.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import CoordinatorNotAvailableError, IncompatibleBrokerVersion, KafkaError, for_code

from features.errors import DependencyDown, InputError
from features.events import KINDS
from streams.kafka_proof import prove
from streams.setting_values import TOPIC_NAME

# kafka-python logs each failed connection; what matters of it is in our one line, unless the program sets up logging itself.
logging.getLogger("kafka").addHandler(logging.NullHandler())

DAY_MS: Final = 86_400_000
GONE_S: Final = 10.0
COORDINATOR_S: Final = 20.0


@dataclass(frozen=True)
class TopicSpec:
    """One topic. `partitions` is "input" (as many as the four event topics), "outcomes", or a number; writers and readers are roles of `streams.rights`."""

    name: str
    key: str
    value: str
    partitions: Literal["input", "outcomes"] | int
    retention_ms: int
    description: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    cleanup: str = "delete"
    max_message_bytes: int | None = None


TOPICS: Final[tuple[TopicSpec, ...]] = (
    *(
        TopicSpec(
            kind, "user_id", "event, JSON", "input", 30 * DAY_MS, f"{kind} events; kept longer than the oldest Redis backup that one would restore",
            writers=("publisher",), readers=("worker",),
        )
        for kind in KINDS
    ),
    TopicSpec(
        "scores", "user_id", "score, JSON", "input", 7 * DAY_MS, "one record for each valid event that is no duplicate",
        writers=("worker",), readers=("consumer", "dashboard"),
    ),
    TopicSpec(
        "outcomes", "launch_id", "outcome, msgpack", "outcomes", 30 * DAY_MS, "numbered facts about exposures, from which the heads learn",
        writers=("worker",), readers=("learner", "dashboard", "marketer"),
    ),
    TopicSpec(
        "heads", "launch_id", "head snapshot", 1, 90 * DAY_MS, "the audit trail of the heads; nobody reads it to score",
        writers=("learner",), readers=("dashboard",),
    ),
    TopicSpec("alerts", "launch_id", "alert, JSON", 1, 90 * DAY_MS, "what detectors, quality gate and workers have found", writers=("worker", "learner"), readers=("dashboard",)),
    # A refused value can be as large as the broker took it; with the headers that say why, it is larger.
    TopicSpec(
        "rejected", "as received", "the raw bytes", "input", 30 * DAY_MS, "what could not be used; headers say why and where from",
        writers=("worker",), readers=("dashboard",), max_message_bytes=2_097_152,
    ),
)  # fmt: skip
NAMES: Final = tuple(spec.name for spec in TOPICS)


def broker_names(prefix: str = "", names: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return {our name: name on the broker} for all topics: as `names` maps it, else with the prefix.

    A mapped name gets no prefix, so topics of a replay's own need an empty mapping. Raises InputError if a name is unknown, illegal for
    Kafka, or given twice.
    """
    names = names or {}
    for name in names:
        if name not in NAMES:
            raise InputError(f"topic_names: there is no topic {name!r}; the topics are {', '.join(NAMES)}")
    given = {name: names.get(name, prefix + name) for name in NAMES}
    for name, on_broker in given.items():
        if not TOPIC_NAME.fullmatch(on_broker) or on_broker in {".", ".."}:
            raise InputError(f"topic {name}: {on_broker!r} is no Kafka topic name (1 to 249 letters, digits, '.', '_', '-')")
        others = [other for other, theirs in given.items() if theirs == on_broker and other != name]
        if others:
            raise InputError(f"topic_names: {name} and {others[0]} are both called {on_broker!r}")
    return given


def worker_group(namespace: str) -> str:
    """Return the consumer group of a namespace's workers."""
    return f"headstart-{namespace}"


def expected_partitions(spec: TopicSpec, *, partitions: int, outcome_partitions: int) -> int:
    """Return how many partitions a topic should have. Raises InputError for a number below 1."""
    for option, number in (("partitions", partitions), ("outcome_partitions", outcome_partitions)):
        if number < 1:
            raise InputError(f"{option} is {number}; at least 1 is needed")
    if isinstance(spec.partitions, int):
        return spec.partitions
    return partitions if spec.partitions == "input" else outcome_partitions


def create_topics(
    broker: str,
    *,
    prefix: str = "",
    names: Mapping[str, str] | None = None,
    partitions: int,
    outcome_partitions: int,
    replication: int = 1,
    client_config: Mapping[str, object] | None = None,
) -> list[str]:
    """Create what is missing of `TOPICS`, and return one line for each topic that says whether it was created or already there.

    Topics that exist are left as they are: `check_topics` compares them. With a replication of 3 or more, two replicas must have a record
    before it counts as written.
    """
    on_broker = broker_names(prefix, names)
    wanted: dict[str, dict[str, object]] = {}
    for spec in TOPICS:
        configs = {"retention.ms": str(spec.retention_ms), "cleanup.policy": spec.cleanup}
        if spec.max_message_bytes is not None:
            configs["max.message.bytes"] = str(spec.max_message_bytes)
        if replication >= 3:
            configs["min.insync.replicas"] = "2"
        count = expected_partitions(spec, partitions=partitions, outcome_partitions=outcome_partitions)
        wanted[on_broker[spec.name]] = {"num_partitions": count, "replication_factor": replication, "configs": configs}
    with admin_client(broker, client_config) as admin:
        there = _partition_counts(admin, wanted)
        missing = {name: options for name, options in wanted.items() if name not in there}
        if missing:
            response = admin.create_topics(missing, raise_errors=False)
            for topic in response["topics"]:
                _raise_for(topic, "create", brokers=len(admin.describe_cluster()["brokers"]), replication=replication)
            admin.wait_for_topics(list(missing))
    return [
        f"created {name} ({options['num_partitions']} partitions)" if name in missing else f"already there: {name} ({there[name]} partitions)"
        for name, options in wanted.items()
    ]


def _raise_for(topic: Mapping[str, Any], verb: str, *, brokers: int, replication: int) -> None:
    kind = for_code(topic["error_code"]).__name__
    if kind in {"NoError", "TopicAlreadyExistsError"}:
        return
    if kind == "InvalidReplicationFactorError":
        raise InputError(f"cannot {verb} topic {topic['name']}: replication is {replication}, and the cluster has {brokers} broker(s)")
    if "Authorization" in kind:
        raise InputError(f"cannot {verb} topic {topic['name']}: the broker does not allow it to this user ({kind})")
    raise InputError(f"cannot {verb} topic {topic['name']}: {topic.get('error_message') or kind}")


def inspect_topics(
    broker: str,
    *,
    prefix: str = "",
    names: Mapping[str, str] | None = None,
    partitions: int,
    outcome_partitions: int,
    replication: int = 1,
    client_config: Mapping[str, object] | None = None,
) -> tuple[list[str], list[str]]:
    """Return what differs from `TOPICS`, and notes on what could not be checked; both are lines for a person."""
    on_broker = broker_names(prefix, names)
    with admin_client(broker, client_config) as admin:
        topics = _described(admin, on_broker.values())
        configs = _configs(admin, list(topics))
    differ: list[str] = []
    untold: list[str] = []
    for spec in TOPICS:
        name = on_broker[spec.name]
        if name not in topics:
            differ.append(f"{name}: missing")
            continue
        replicas = topics[name]
        count = expected_partitions(spec, partitions=partitions, outcome_partitions=outcome_partitions)
        if len(replicas) != count:
            differ.append(f"{name}: {len(replicas)} partitions, expected {count}")
        if min(replicas, default=0) < replication:
            differ.append(f"{name}: replication {min(replicas, default=0)}, expected at least {replication}")
        if not {"cleanup.policy", "retention.ms"} <= configs.get(name, {}).keys():
            untold.append(name)
        differ += [f"{name}: {line}" for line in _config_differences(spec, configs.get(name, {}))]
    notes = [f"the broker does not tell retention and cleanup policy of {', '.join(untold)}; not checked"] if untold else []
    return differ, notes


def _config_differences(spec: TopicSpec, configs: Mapping[str, str]) -> list[str]:
    """Lines on what the broker reports and the table does not allow. Longer retention and larger records are fine."""
    lines = []
    policy = configs.get("cleanup.policy", spec.cleanup)
    if policy != spec.cleanup:
        lines.append(f"cleanup.policy is {policy}, expected {spec.cleanup}")
    retention = int(configs.get("retention.ms", -1))
    if 0 <= retention < spec.retention_ms:
        lines.append(
            f"retention.ms is {retention} ({retention / DAY_MS:.3g} days), expected at least {spec.retention_ms} ({spec.retention_ms / DAY_MS:.3g} days)"
        )
    if spec.max_message_bytes is not None and int(configs.get("max.message.bytes", spec.max_message_bytes)) < spec.max_message_bytes:
        lines.append(f"max.message.bytes is {configs['max.message.bytes']}, expected at least {spec.max_message_bytes}")
    return lines


def check_topics(
    broker: str,
    *,
    prefix: str = "",
    names: Mapping[str, str] | None = None,
    partitions: int,
    outcome_partitions: int,
    replication: int = 1,
    client_config: Mapping[str, object] | None = None,
) -> list[str]:
    """Return what differs from `TOPICS`, one line each; empty if all is well. What the broker does not tell is not a difference."""
    return inspect_topics(
        broker, prefix=prefix, names=names, partitions=partitions, outcome_partitions=outcome_partitions, replication=replication, client_config=client_config
    )[0]


def delete_topics(broker: str, topics: Iterable[str], *, client_config: Mapping[str, object] | None = None) -> list[str]:
    """Delete topics, given by their names on the broker, with all their records; return those that were there, once they are gone."""
    with admin_client(broker, client_config) as admin:
        there = list(_partition_counts(admin, topics))
        if there:
            for topic in admin.delete_topics(there, raise_errors=False)["topics"]:
                if for_code(topic["error_code"]).__name__ != "UnknownTopicOrPartitionError":
                    _raise_for(topic, "delete", brokers=0, replication=0)
        deadline = time.monotonic() + GONE_S
        while _partition_counts(admin, there):
            if time.monotonic() > deadline:
                raise DependencyDown(f"the broker at {broker} still has {', '.join(there)} {GONE_S:.0f} s after it agreed to delete")
            time.sleep(0.05)
    return there


def cluster_id(broker: str, *, client_config: Mapping[str, object] | None = None, timeout_s: float = 10.0) -> str:
    """Return the cluster's id: another id means that offsets and topics are not those of before."""
    with admin_client(broker, client_config, timeout_s) as admin:
        return str(admin.describe_cluster()["cluster_id"])


def partition_counts(broker: str, topics: Iterable[str], *, client_config: Mapping[str, object] | None = None) -> dict[str, int]:
    """Return {topic: number of partitions}; a topic that is not there is left out."""
    with admin_client(broker, client_config) as admin:
        return _partition_counts(admin, topics)


def group_members(broker: str, group: str, *, client_config: Mapping[str, object] | None = None) -> int:
    """Return how many consumers are in a group now; 0 if there is no such group."""
    with admin_client(broker, client_config) as admin:
        admin._process_acl_operations = lambda described: described  # kafka-python knows not all rights that brokers name, and nobody asks for them here
        deadline = time.monotonic() + COORDINATOR_S
        while True:
            try:
                return len(admin.describe_groups([group]).get(group, {}).get("members") or ())
            except CoordinatorNotAvailableError:  # the cluster's first group: its topic of offsets is being made
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def add_partitions(broker: str, counts: Mapping[str, int], *, client_config: Mapping[str, object] | None = None) -> None:
    """Give topics, by their names on the broker, more partitions. Raises InputError where the broker refuses."""
    with admin_client(broker, client_config) as admin:
        try:
            admin.create_partitions(dict(counts))
            admin.wait_for_topics(list(counts))
        except KafkaError as error:
            raise InputError(f"the broker gives {', '.join(counts)} no more partitions: {error}") from None


def topic_ids(broker: str, topics: Iterable[str], *, client_config: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return {topic: id} where the broker gives ids: a topic that was deleted and made again has another one."""
    with admin_client(broker, client_config) as admin:
        described = admin.describe_topics(list(topics))
    return {topic["name"]: str(topic["topic_id"]) for topic in described if topic["error_code"] == 0 and topic.get("topic_id")}


def _described(admin: Any, topics: Iterable[str]) -> dict[str, list[int]]:
    """{topic: number of replicas of each partition} for those that are there."""
    described = admin.describe_topics(list(topics))
    hidden = [topic["name"] for topic in described if for_code(topic["error_code"]).__name__ == "TopicAuthorizationFailedError"]
    if hidden:
        raise InputError(f"the broker does not show this user the topic {', '.join(hidden)}: see `headstart rights`")
    return {topic["name"]: [len(partition["replica_nodes"]) for partition in topic["partitions"]] for topic in described if topic["error_code"] == 0}


def _partition_counts(admin: Any, topics: Iterable[str]) -> dict[str, int]:
    return {name: len(replicas) for name, replicas in _described(admin, topics).items()}


def _configs(admin: Any, topics: list[str]) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    try:
        told = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in topics], config_filter="all")
    except IncompatibleBrokerVersion:
        return {}
    return {name: {key: str(entry["value"]) for key, entry in entries.items()} for name, entries in told.get("topic", {}).items()}


@contextmanager
def admin_client(broker: str, client_config: Mapping[str, object] | None, timeout_s: float = 10.0) -> Iterator[Any]:
    """An admin client, or DependencyDown with one line. Kafka's own errors inside the block become DependencyDown too."""
    require_reachable(broker, client_config, timeout_s=timeout_s)
    limit_ms = int(timeout_s * 1000)
    config = {"bootstrap_servers": broker.split(","), "bootstrap_timeout_ms": limit_ms, "request_timeout_ms": limit_ms, **(client_config or {})}
    try:
        admin = KafkaAdminClient(**config)
    except (KafkaError, OSError) as error:
        raise DependencyDown(
            f"{broker} takes connections but does not answer as a Kafka broker{_as_asked(client_config)}: {error or type(error).__name__}"
        ) from None
    try:
        with admin:
            yield admin
    except (KafkaError, OSError) as error:
        raise DependencyDown(f"the Kafka broker at {broker} does not do what was asked: {error or type(error).__name__}") from None


def _as_asked(client_config: Mapping[str, object] | None) -> str:
    return f" that speaks {(client_config or {}).get('security_protocol', 'PLAINTEXT')} (setting security_protocol)"


def require_reachable(broker: str, client_config: Mapping[str, object] | None = None, *, timeout_s: float = 10.0) -> None:
    """Return if one of the addresses HOST:PORT[,...] takes a connection, and what `client_config` gives to prove.

    Raises InputError for a malformed address, or where a name, password or certificate is refused; else DependencyDown.
    kafka-python would go on trying until its time is over, and says less.
    """
    places = []
    for address in broker.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise InputError(f"the broker address {address.strip()!r} is not HOST:PORT")
        places.append((host.strip("[]"), int(port)))
    why = ""
    for place in places:
        try:
            socket.create_connection(place, timeout_s).close()
        except OSError as error:
            why = error.strerror or str(error)
            continue
        if client_config:
            prove(place, client_config, timeout_s=timeout_s)
        return
    raise DependencyDown(f"no Kafka broker answers at {broker}: {why}")
