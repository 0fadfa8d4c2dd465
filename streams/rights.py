"""Who may do what: the roles, and their least rights in Kafka and in Redis. `headstart rights` prints them, docs/rights.md is its output.

Which role writes and reads a topic stands with the topic, in `streams.topics`. The learner runs in the worker's process, so a
process's user has the rights of both.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from features.errors import InputError
from features.events import KINDS
from streams.topics import TOPICS, admin_client


class Right(NamedTuple):
    """One thing that is allowed in Kafka, to a principal that is given elsewhere."""

    resource: Literal["topic", "group"]
    name: str
    operation: str


@dataclass(frozen=True)
class Role:
    """What a user is for. `group`: it is a member of the workers' consumer group. `redis`: the commands that it needs there."""

    name: str
    what: str
    group: bool = False
    redis: tuple[str, ...] = ()


_READ: Final = ("get", "mget", "hget", "hmget", "hgetall", "eval", "evalsha", "script|load", "cluster|slots", "cluster|shards", "command")
_WRITE: Final = ("set", "hset", "hsetnx", "hdel", "wait", "info", "time")

ROLES: Final[dict[str, Role]] = {
    role.name: role
    for role in (
        Role("publisher", "sends the shop's events"),
        Role("worker", "scores events and keeps the shoppers' state", group=True, redis=_READ + _WRITE),
        Role("learner", "learns from outcomes; runs in the worker's process", group=True, redis=_READ + _WRITE),
        Role("consumer", "reads scores: marketing automation, a recommender, a CRM"),
        Role("dashboard", "reads what there is to see, and changes nothing", redis=_READ),
        Role("marketer", "draws a campaign's audience, looks whether it sells more, and changes nothing", redis=(*_READ, "scan")),
        Role(
            "operator",
            "makes, checks and enlarges topics, adds launches, promotes trunks, saves and restores the state, reads everything",
            redis=(*_READ, *_WRITE, "scan", "pttl", "pexpire", "del", "unlink", "config|get"),
        ),
    )
}


def role_named(name: str) -> Role:
    """Return a role. Raises InputError if there is none of that name."""
    if name not in ROLES:
        raise InputError(f"there is no role {name!r}; the roles are {', '.join(ROLES)}")
    return ROLES[name]


def kafka_rights(role: str, names: Mapping[str, str], group: str) -> list[Right]:
    """Return what a role needs in Kafka. `names`: the topics' names on the broker; `group`: the workers' consumer group.

    Raises InputError if there is no such role.
    """
    member = role_named(role).group
    found = []
    for spec in TOPICS:
        operations = {"Describe"} if role == "dashboard" and spec.name in KINDS else set()
        if role in spec.writers:
            operations.add("Write")
        if role in spec.readers:
            operations.add("Read")
        if role == "operator":
            operations |= {"Alter", "Create", "Describe", "DescribeConfigs", "Read"}
        found += [Right("topic", names[spec.name], operation) for operation in sorted(operations)]
    if member or role in ("dashboard", "operator"):
        found.append(Right("group", group, "Read" if member else "Describe"))
    return found


def kafka_command(right: Right, user: str) -> str:
    """Return the line for Kafka's own tool that allows it to a user."""
    words = ["--add", "--allow-principal", f"User:{user}", "--operation", right.operation, f"--{right.resource}", right.name]
    return f"kafka-acls.sh --bootstrap-server $BROKER --command-config $ADMIN {shlex.join(words)}"


def redis_user(role: str, user: str, namespace: str) -> list[str]:
    """Return the words of the command that makes the user in Redis; none if the role needs nothing there. The password is PASSWORD.

    A script runs with its caller's rights, so whoever may call scripts and no writing command cannot write.
    """
    commands = role_named(role).redis
    if not commands:
        return []
    rules = ["+@connection", "-@admin", "-@dangerous", *(f"+{command}" for command in sorted(commands))]
    return ["ACL", "SETUSER", user, "reset", "on", ">PASSWORD", f"~hs:{namespace}:*", *rules]


def apply(broker: str, rights: Iterable[tuple[str, Right]], *, client_config: Mapping[str, object]) -> int:
    """Allow (principal, right) pairs in the cluster; returns how many. What is allowed already stays. Raises DependencyDown and InputError."""
    wanted = [_acl(principal, right) for principal, right in rights]
    with admin_client(broker, client_config) as admin:
        failed = admin.create_acls(wanted)["failed"]  # classes of errors
    if failed:
        raise InputError(
            f"the broker does not take the rights: {failed[0].__name__.removesuffix('Error')} (has it an authorizer, and may this user alter the cluster?)"
        )
    return len(wanted)


def _acl(principal: str, right: Right) -> Any:
    operation = {"DescribeConfigs": "DESCRIBE_CONFIGS"}.get(right.operation, right.operation.upper())
    return ACL(
        principal=principal, host="*", operation=ACLOperation[operation], permission_type=ACLPermissionType.ALLOW,
        resource_pattern=ResourcePattern(ResourceType[right.resource.upper()], right.name),
    )  # fmt: skip
