"""A namespace in a file and back, cursors moved by hand, another number of partitions: with real workers, and each time the ledger balances."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from features.errors import HeadstartError, InputError
from features.events import KINDS, Event
from features.layout import USER
from features.redis_store import RedisStore
from features.store import Changes
from streams import backup, cli
from streams.namespace import RESTORED
from streams.settings import as_environment, with_changes
from tests.integration.harness import Live, connected
from tests.integration.test_ledger import account_of, settle
from tests.kafka_server import KafkaServer

PARTITIONS, MORE = 3, 5
USERS = 80


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def headstart(job: Live, *arguments: str, **changes: Any) -> Ended:
    """Run a command with the job's settings, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, as_environment(with_changes(job.settings, **changes))),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main(arguments)
    return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def events(prefix: str, number: int) -> Iterator[tuple[str, Event]]:
    """Events of now."""
    draw = random.Random(prefix)
    for i in range(number):
        kind, line = KINDS[draw.choice((0, 0, 1, 2, 3))], draw.choice(("launch", "books"))
        yield kind, Event(event_id=f"{prefix}{i}", user_id=f"u{draw.randrange(USERS)}", product_id=f"{line}-1", line=line, ts=time.time_ns() // 1_000_000)


def applied(job: Live) -> Counter[str]:
    """How many events each user's state holds."""
    prefix = f"hs:{job.settings.namespace}:"
    with connected(job.settings.redis) as store:
        keys = list(store.scan_iter(match=f"{prefix}*:u:*"))
        found = {key.decode().rpartition(":u:")[2]: int(np.frombuffer(store.get(key), USER)["applied"][0]) for key in keys}
    assert len(found) == len(keys), "a user is in two partitions"
    return Counter(found)


def work(job: Live, records: int) -> None:
    """Let a worker work off everything."""
    worker = job.start_worker()
    settle(job, records)
    assert job.stop(worker) == 0


@pytest.mark.java
@pytest.mark.timeout(300)
def test_back_to_a_backup_on_to_more_partitions_and_past_records(
    quick_trunk: Path, real_kafka: KafkaServer, redis_url: str, tmp_path: Path
) -> None:  # fmt: skip
    """After a restore what came later is worked again; after a repartition every user's state is where its events lie; what is passed over is told."""
    file = tmp_path / "a.backup"
    with Live(quick_trunk, real_kafka.address, redis_url, tmp_path, partitions=PARTITIONS) as job:
        job.prepare()
        sent: Counter[str] = Counter()

        def send(prefix: str, number: int) -> None:
            batch = list(events(prefix, number))
            sent.update(event.user_id for _, event in batch)
            job.send(batch)

        send("a", 200)
        worker = job.start_worker()
        settle(job, 200)
        refused = headstart(job, "repartition", "--backup", str(tmp_path / "x"), "--partitions", "5")
        assert (refused.returncode, "1 worker(s) of namespace" in refused.stderr) == (1, True), refused.stderr
        assert job.stop(worker) == 0

        # A backup, more events, and back.
        done = headstart(job, "backup", str(file))
        assert done.returncode == 0, done.stderr
        send("b", 150)
        work(job, 350)
        done = headstart(job, "restore", str(file))
        assert (done.returncode, "give --replace" in done.stderr) == (1, True)
        done = headstart(job, "restore", str(file), "--replace")
        assert "150 records came after it, and are worked when workers start" in done.stdout, done.stdout + done.stderr
        assert applied(job).total() == 200
        shown = json.loads(headstart(job, "cursor", "show", "--json", "-").stdout)
        assert sum(row["waiting"] for row in shown["partitions"]) == 150
        work(job, 350)
        assert applied(job) == sent
        assert account_of(job).first == []

        # More partitions.
        send("c", 10)
        refused = headstart(job, "repartition", "--backup", str(tmp_path / "x"), "--partitions", str(MORE))
        assert (refused.returncode, "10 records wait to be worked" in refused.stderr) == (1, True), refused.stderr
        work(job, 360)
        done = headstart(job, "repartition", "--backup", str(tmp_path / "x"), "--partitions", str(MORE))
        assert done.returncode == 0, done.stderr
        job.settings = with_changes(job.settings, partitions=MORE)
        assert applied(job) == sent
        assert account_of(job).first == []
        send("d", 150)
        work(job, 510)
        assert applied(job) == sent
        account = account_of(job)
        assert (account.first, account.sums["applied"]) == ([], 150)

        # And back to before there were more, which is divided again: what came since is worked again.
        done = headstart(job, "restore", str(tmp_path / "x"), "--replace")
        assert (done.returncode, f"run `headstart repartition --partitions {MORE}" in done.stdout) == (0, True), done.stdout + done.stderr
        assert headstart(job, "repartition", "--backup", str(tmp_path / "y"), "--partitions", str(MORE)).returncode == 0
        work(job, 510)
        assert applied(job) == sent
        assert account_of(job).first == []

        # Past records that must not be worked.
        job.send(events("e", 30))
        told = headstart(job, "cursor", "move", "--to", "end", "--partition", "all", "--topic", "all")
        assert "nothing was changed" in told.stdout, told.stderr
        assert headstart(job, "cursor", "move", "--to", "end", "--partition", "all", "--topic", "all", "--yes").returncode == 0
        send("f", 20)
        work(job, 530)
        assert applied(job) == sent
        assert account_of(job).first == []


@pytest.fixture
def store_url(redis_url: str) -> str:
    """An empty Redis."""
    return redis_url


def opened(url: str, namespace: str) -> RedisStore:
    """A store."""
    return RedisStore(url, namespace, ttl_ms=60_000_000)


async def fill(store: RedisStore) -> None:
    """Put something of everything into a namespace."""
    await store.put_meta({"partitions": "2", "outcome_partitions": "1"})
    many = {f"{i:05d}": bytes([i % 256]) * 20 for i in range(3_000)}
    await store.commit("0", 0, Changes(cursor=b"\x00c", records={"u:ä": b"\xff\x00", "ul:ä\x1fb": b"x" * 300}, put={"pending": many, "outbox": {"q": b"1"}}))
    await store.commit("o0", 0, Changes(cursor=b"d", put={"heads": {"launch": b"h" * 5_000}}))
    await store.commit("control", 0, Changes(cursor=b"", put={"launches": {"l": b"{}"}}))


def dump(url: str, namespace: str) -> dict[bytes, Any]:
    """Everything under a namespace."""
    prefix = f"hs:{namespace}:".encode()
    with connected(url) as client:
        return {
            key.removeprefix(prefix): client.hgetall(key) if client.type(key) == b"hash" else client.get(key) for key in client.scan_iter(match=prefix + b"*")
        }


def test_what_is_put_back_is_what_was_there(store_url: str, tmp_path: Path) -> None:
    """Every key of every kind, long hashes in parts, and the time that records have left; also under another name."""

    async def there_and_back() -> None:
        one, two = opened(store_url, "one"), opened(store_url, "two")
        await fill(one)
        header = await backup.write(one, "one", tmp_path / "f")
        assert backup.check(tmp_path / "f") == header
        await two.commit("7", 0, Changes(cursor=b"stale"))
        await backup.put(two, backup.read_entries(tmp_path / "f"), header.meta)
        await one.close()
        await two.close()

    asyncio.run(there_and_back())
    assert dump(store_url, "one") == dump(store_url, "two")
    with connected(store_url) as client:
        assert 50_000_000 < client.pttl("hs:two:{0}:u:ä") <= 60_000_000


def test_a_file_that_is_not_whole_is_refused(store_url: str, tmp_path: Path) -> None:
    """Cut, changed, or something else: one line, before anything is written."""

    async def write() -> None:
        store = opened(store_url, "one")
        await fill(store)
        await backup.write(store, "one", tmp_path / "f")
        await store.close()

    asyncio.run(write())
    raw = (tmp_path / "f").read_bytes()
    plain = gzip.decompress(raw)
    changed = plain.replace(b"h" * 100, b"h" * 99 + b"i", 1)
    for number, (content, told) in enumerate(
        [(raw[: len(raw) // 2], "no whole backup"), (gzip.compress(plain[:-40]), "was cut"), (gzip.compress(changed), "was damaged"), (b"{}", "no whole backup"),
         (gzip.compress(b"\x00\x00\x00\x01x"), "no backup of Headstart")]
    ):  # fmt: skip
        file = tmp_path / str(number)
        file.write_bytes(content)
        with pytest.raises(InputError, match=told):
            backup.check(file)
    with pytest.raises(InputError, match="cannot be read"):
        backup.check(tmp_path / "nothing")
    rng, kept = random.Random(1), list(backup.read_entries(tmp_path / "f"))
    for number in range(300):  # one bit of the file, or of what is in it, is another
        flipped = bytearray(plain if number % 2 else raw)
        flipped[rng.randrange(10, len(flipped))] ^= 1 << rng.randrange(8)
        file.write_bytes(gzip.compress(flipped, 1) if number % 2 else flipped)
        try:
            backup.check(file)
        except InputError:
            continue
        assert list(backup.read_entries(file)) == kept, "some bits of a compressed file mean nothing"


def test_a_backup_of_what_is_being_worked_is_refused(store_url: str, tmp_path: Path) -> None:
    """A version that moves while the keys are read: no file is left, and the line says what to do."""

    async def write() -> None:
        store = opened(store_url, "one")
        await fill(store)
        moved = False

        def move(_: int) -> None:
            nonlocal moved
            if not moved:
                moved = True
                with connected(store_url) as client:
                    client.hset("hs:one:{0}:cursor", "version", "77")

        with pytest.raises(backup.NotAtRest, match="stop the workers, or copy Redis' own snapshot"):
            await backup.write(store, "one", tmp_path / "f", progress=move)
        await store.close()

    # The progress is told at the end, before the versions are compared.
    asyncio.run(write())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_restore_keeps_everybody_out_and_is_done_again(store_url: str, tmp_path: Path) -> None:
    """Whoever joins is refused while keys are missing; the same restore then makes it whole."""

    async def interrupted() -> None:
        one, two, one_more = (opened(store_url, name) for name in ("one", "two", "three"))
        await fill(one)
        header = await backup.write(one, "one", tmp_path / "f")

        def half() -> Iterator[Any]:
            for i, entry in enumerate(backup.read_entries(tmp_path / "f")):
                if i == 3:
                    raise KeyboardInterrupt
                yield entry

        with pytest.raises(KeyboardInterrupt):
            await backup.put(two, half(), header.meta)
        assert (await two.meta())["partitions"] == RESTORED
        for name in ("two", "three"):
            with pytest.raises(HeadstartError, match="namespace '(two|three)' is (being restored|empty)"):
                await backup.write(two if name == "two" else one_more, name, tmp_path / "g")
        assert not (tmp_path / "g").exists()
        await backup.put(two, backup.read_entries(tmp_path / "f"), header.meta)
        for store in (one, two, one_more):
            await store.close()

    asyncio.run(interrupted())
    assert dump(store_url, "one") == dump(store_url, "two")
