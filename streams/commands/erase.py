"""`headstart erase`: what is kept of shoppers who want to be forgotten."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from features.errors import HeadstartError, InputError
from features.redis_store import RedisStore
from streams import erasing, namespace
from streams.commands.options import Config, Json, Namespace, Redis, Set, for_people, write_json
from streams.commands.progress import progress_bar
from streams.settings import Settings, load_settings

AT_ONCE: Final = 500
LEFT: Final = "their open exposures end with their window; topics, backups and Redis' own files keep what they have until it is deleted there"


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
    """Erase the states that are kept of shoppers in Redis. Workers go on; those that hold the shoppers' partitions read them again, which takes a moment.

    What comes of an erased shopper afterwards is kept as that of a new one, also what is sent again: stop sending their events first. Exposures that are
    open end with their window, and are learned; heads hold no shopper's data. Kafka's topics and your backups keep ids and events until they are deleted
    there. Shoppers are looked for in all keys of Redis, in one pass for up to 500 of a partition: give many at once.
    """
    settings = load_settings(config, needs=("redis",), assignments=assignments or (), redis=redis, namespace=namespace_)
    wanted = list(dict.fromkeys(erasing.check_user(user) for user in [*(users or ()), *_listed(file)]))
    if not wanted:
        raise InputError("whom? Give user ids, or --users FILE")
    found: Counter[str] = Counter()
    try:
        asyncio.run(_work(settings, wanted, found, yes=yes))
    except HeadstartError:
        if for_people(json):
            _tell({user: found[user] for user in wanted if found[user]}, yes=yes)  # what was done by then
        raise
    if json is not None:
        write_json(json, {"erased": yes, "users": [{"user_id": user, "records": found[user]} for user in wanted]})
    if for_people(json):
        _tell({user: found[user] for user in wanted}, yes=yes)
        typer.echo(LEFT if yes else "nothing was changed: give --yes to do it")


async def _work(settings: Settings, users: list[str], found: Counter[str], *, yes: bool) -> None:
    store = namespace.open_store(settings, patience_s=5.0)
    try:
        places = await erasing.homes(store, settings, users)
        with progress_bar() as bar:
            task = bar.add_task("shoppers", total=sum(map(len, places.values())))
            for p, there in places.items():
                for first in range(0, len(there), AT_ONCE):
                    some = there[first : first + AT_ONCE]
                    found.update(await _counted(store, p, some, yes=yes))
                    bar.advance(task, len(some))
    finally:
        await store.close()


async def _counted(store: RedisStore, partition: int, users: list[str], *, yes: bool) -> dict[str, int]:
    if yes:
        return await erasing.erase(store, partition, users)
    return {user: len(names) for user, names in (await erasing.kept(store, partition, users)).items()}


def _tell(found: Mapping[str, int], *, yes: bool) -> None:
    for user, n in found.items():
        typer.echo(f"{user}: {n} {'record' if n == 1 else 'records'} {'erased' if yes else 'kept'}" if n else f"{user}: no state is kept")


def _listed(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        text = sys.stdin.read().removeprefix("\ufeff") if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--users {file} cannot be read: {error}") from None
    return [user for line in text.split("\n") if (user := line.removesuffix("\r"))]  # an id may hold what Python takes for the end of a line
