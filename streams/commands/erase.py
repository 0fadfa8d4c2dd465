"""`headstart erase`: what is kept of shoppers who want to be forgotten."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from features.errors import InputError
from features.redis_store import RedisStore
from streams import erasing, namespace
from streams.commands.options import Config, Json, Namespace, Redis, Set, for_people, write_json
from streams.commands.progress import progress_bar
from streams.settings import Settings, load_settings

AT_ONCE: Final = 500


def erase(
    users: Annotated[list[str] | None, typer.Argument(metavar="[USER]...", help="The shoppers' user ids, as the shop gives them.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option("--users", metavar="FILE", help="A file with further ids, one a line; - is standard input.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what is kept.")] = False,
    redis: Redis = None,
    namespace_: Namespace = None,
    json: Json = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Erase all states that are kept of shoppers in Redis. Workers go on; those that hold the shoppers' partitions read them again, which takes a moment.

    What comes of an erased shopper afterwards is kept as that of a new one: stop sending their events first. Exposures that are open end with their
    window, and are learned; heads hold no shopper's data. Kafka's topics and your backups keep user ids until they are deleted there.
    """
    settings = load_settings(config, needs=("redis",), assignments=assignments or (), redis=redis, namespace=namespace_)
    wanted = list(dict.fromkeys(erasing.check_user(user) for user in [*(users or ()), *_listed(file)]))
    if not wanted:
        raise InputError("whom? Give user ids, or --users FILE")
    found = asyncio.run(_work(settings, wanted, yes=yes))
    if json is not None:
        write_json(json, {"erased": yes, "users": [{"user_id": user, "records": n} for user, n in found.items()]})
    if for_people(json):
        for user, n in found.items():
            typer.echo(f"{user}: {n} {'record' if n == 1 else 'records'} {'erased' if yes else 'kept'}" if n else f"{user}: no state is kept")
        if not yes:
            typer.echo("nothing was changed: give --yes to do it")


async def _work(settings: Settings, users: list[str], *, yes: bool) -> dict[str, int]:
    store, found = namespace.open_store(settings, patience_s=5.0), Counter(dict.fromkeys(users, 0))
    try:
        places = await erasing.homes(store, settings, users)
        with progress_bar() as bar:
            task = bar.add_task("shoppers", total=sum(map(len, places.values())))
            for p, there in places.items():
                for first in range(0, len(there), AT_ONCE):
                    found.update(await _counted(store, p, there[first : first + AT_ONCE], lambda: bar.advance(task), yes=yes))
    finally:
        await store.close()
    return dict(found)


async def _counted(store: RedisStore, partition: int, users: list[str], looked: Callable[[], object], *, yes: bool) -> dict[str, int]:
    if yes:
        return await erasing.erase(store, partition, users, looked)
    found = {}
    for user in users:
        found[user] = len(await erasing.kept(store, partition, user))
        looked()
    return found


def _listed(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--users {file} cannot be read: {error}") from None
    return [user for line in text.split("\n") if (user := line.removesuffix("\r"))]  # an id may hold what Python takes for the end of a line
