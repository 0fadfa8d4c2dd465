"""`headstart rights`: the least rights of each role in Kafka and Redis."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Annotated

import typer

from features.errors import InputError
from streams.commands.options import Broker, Config, Namespace, Set
from streams.kafka_access import client_config
from streams.rights import ROLES, Right, apply, kafka_command, kafka_rights, redis_user, role_named
from streams.settings import Settings, load_settings
from streams.topics import TOPICS, broker_names, worker_group

LETTERS = {"Read": "read", "Write": "write", "Describe": "describe", "Create": "create", "Alter": "alter", "DescribeConfigs": "describe configs"}


def rights(
    users: Annotated[
        list[str] | None, typer.Option("--as", metavar="ROLE=USER", help="Who fills a role, may be given again; by default a user called as the role.")
    ] = None,
    apply_: Annotated[
        bool, typer.Option("--apply", help="Allow it in the cluster, instead of printing the commands. Needs an administrator's settings.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a page with a table, as docs/rights.md.")] = False,
    broker: Broker = None,
    namespace: Namespace = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Print what each role (publisher, worker, learner, consumer, dashboard, marketer, operator) must be allowed, and no more.

    The lines are for kafka-acls.sh and redis-cli. The learner runs in the worker's process, so by default it is the worker's user.
    USER is Kafka's principal without "User:"; with client certificates it is the certificate's whole name, as CN=worker,O=shop.
    """
    settings = load_settings(config, needs=("broker",) if apply_ else (), assignments=assignments or (), broker=broker, namespace=namespace)
    who = _who(users or ())
    found = {role: kafka_rights(role, broker_names(settings.topic_prefix, settings.topic_names), worker_group(settings.namespace)) for role in ROLES}
    if apply_:
        pairs = dict.fromkeys((f"User:{who[role]}", right) for role, all_of_it in found.items() for right in all_of_it)
        typer.echo(f"{apply(settings.broker, pairs, client_config=client_config(settings))} rights are allowed; Redis' users are yours to make")
        return
    for line in _page(settings, who, found) if markdown else _commands(settings, who, found):
        typer.echo(line)


def _who(users: list[str] | tuple[str, ...]) -> dict[str, str]:
    who = {role: role for role in ROLES}
    given = {}
    for text in users:
        role, equals, user = text.partition("=")
        if not equals or not user:
            raise InputError(f"--as {text}: expected ROLE=USER")
        given[role_named(role).name] = user
    who |= given
    who["learner"] = given.get("learner", who["worker"])
    return who


def _commands(settings: Settings, who: Mapping[str, str], found: Mapping[str, list[Right]]) -> Iterator[str]:
    for role, all_of_it in found.items():
        yield f"# {role}: {ROLES[role].what}"
        yield from (kafka_command(right, who[role]) for right in all_of_it)
        words = redis_user(role, who[role], settings.namespace)
        if words and not (role == "learner" and who[role] == who["worker"]):
            yield f"redis-cli {shlex.join(words)}"
            if role == "worker":
                yield "# with the setting redis_msetex: +msetex too"


def _page(settings: Settings, who: Mapping[str, str], found: Mapping[str, list[Right]]) -> Iterator[str]:
    names = broker_names(settings.topic_prefix, settings.topic_names)
    group = worker_group(settings.namespace)
    yield "# Who may do what"
    yield ""
    yield "Made by `headstart rights --markdown`, out of the table of topics (`streams/topics.py`) and of roles (`streams/rights.py`); a test compares."
    yield "`headstart rights` prints the commands for your topic names, namespace and users; `headstart rights --apply` allows the Kafka part."
    yield ""
    yield f"| | {' | '.join(ROLES)} |"
    yield f"| --- |{' --- |' * len(ROLES)}"
    for spec in TOPICS:
        yield f"| topic `{names[spec.name]}` | {' | '.join(_told(found[role], 'topic', names[spec.name]) for role in ROLES)} |"
    yield f"| group `{group}` | {' | '.join(_told(found[role], 'group', group) for role in ROLES)} |"
    yield f"| Redis keys `hs:{settings.namespace}:*` | {' | '.join(_in_redis(role) for role in ROLES)} |"
    yield ""
    for role in ROLES.values():
        yield f"* **{role.name}**: {role.what}."
    yield ""
    yield "A process of `headstart worker` is worker and learner at once. Consumers that use a consumer group of their own need `Read` on it besides."
    yield ""
    yield "## The commands"
    yield ""
    yield "```bash"
    yield from _commands(settings, who, found)
    yield "```"


def _told(rights_: list[Right], resource: str, name: str) -> str:
    return ", ".join(LETTERS[right.operation] for right in rights_ if (right.resource, right.name) == (resource, name))


def _in_redis(role: str) -> str:
    commands = ROLES[role].redis
    return "read, write" if "set" in commands else "read" if commands else ""
