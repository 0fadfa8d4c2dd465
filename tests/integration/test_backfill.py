"""`headstart backfill`: a history goes through the same pipeline into Redis, as a whole or part by part, once; a bad row is found before anything is written."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.memory_store import MemoryStore
from models.model import Model
from streams import cli, namespace
from streams.cutting import cut
from streams.ledger.base import read_base
from streams.log_parts import LogParts
from streams.offline import run
from streams.settings import load_settings
from streams.training import before
from tests.integration.harness import Live, fresh_name
from tests.integration.test_backup import events, headstart
from tests.integration.test_ledger import PARTITIONS, account_of, settle
from tests.integration.worlds import World


@pytest.fixture
def history(world: World, tmp_path: Path) -> Path:
    """The log in three files that follow each other."""
    folder = tmp_path / "history"
    folder.mkdir()
    for i, rows in enumerate(np.array_split(np.arange(world.log.num_rows), 3)):
        pq.write_table(world.log.take(pa.array(rows)), folder / f"{i}.parquet")
    return folder


@pytest.fixture
def at(world: World, broker: str, redis_url: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A fresh namespace with its topics, in the environment."""
    values = {
        "BROKER": broker,
        "REDIS": redis_url,
        "NAMESPACE": fresh_name(),
        "TRUNK": str(world.trunk),
        "TOPIC_PREFIX": topic_prefix,
        "PARTITIONS": PARTITIONS,
    }
    for name, value in values.items():
        monkeypatch.setenv(f"HEADSTART_{name}", str(value))
    assert command(capsys, "topics", "create")[0] == 0


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0), capsys.readouterr().err


def held() -> dict[tuple[str, str], Any]:
    """All records and hashes of the namespace but the cursors, by slot and name."""

    async def read() -> dict[tuple[str, str], Any]:
        redis = namespace.open_store(load_settings(None))
        try:
            found: dict[tuple[str, str], Any] = {}
            async for entry in redis.entries():
                if entry.name != "cursor":
                    found[entry.slot, entry.name] = entry.record if entry.fields is None else {**found.get((entry.slot, entry.name), {}), **entry.fields}
            return found
        finally:
            await redis.close()

    return asyncio.run(read())


@pytest.mark.usefixtures("at")
@pytest.mark.parametrize("by_parts", [False, True])
def test_the_store_holds_what_the_pipeline_makes_of_the_history(
    world: World, history: Path, by_parts: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shoppers' records, open exposures, catalogue and heads are those of the same history worked in memory; a second time it is refused, and changes nothing."""
    pq.write_table(world.log, tmp_path / "whole.parquet")
    source = str(history if by_parts else tmp_path / "whole.parquet")
    code, error = command(capsys, "backfill", source)
    assert code == 0, error
    settings, memory = load_settings(None), MemoryStore()
    rules = namespace.rules_of(settings, world.artifact, replay=True)
    asyncio.run(run(cut(world.log, settings.replay_tick_ms), memory, rules, Model(world.artifact), scoring=False))
    now = held()
    records = {place: value for place, value in now.items() if place[1].startswith(("u:", "ul:"))}
    assert records == memory._records
    assert len(records) > 300
    for place in [*((str(p), "pending") for p in range(PARTITIONS)), ("o0", "heads"), ("o0", "catalogue")]:
        assert memory._hashes[place], f"nothing in {place}: the test shows less than it says"
        assert now[place] == memory._hashes[place]
    code, error = command(capsys, "backfill", source)
    assert code != 0
    assert "has been worked already" in error
    assert held() == now


@pytest.mark.usefixtures("at")
def test_a_history_ends_where_it_is_told_to(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--until` the store holds what the events before that time leave; a time before all of them is refused, and leaves the namespace as it was."""
    pq.write_table(world.log, tmp_path / "whole.parquet")
    ts = np.sort(world.log["ts"].to_numpy())
    code, error = command(capsys, "backfill", str(tmp_path / "whole.parquet"), "--until", str(ts[0]))
    assert (code != 0, "the log has no event before it" in error) == (True, True)
    middle = int(ts[len(ts) // 2])
    code, error = command(capsys, "backfill", str(tmp_path / "whole.parquet"), "--until", str(middle))
    assert code == 0, error
    settings, memory = load_settings(None), MemoryStore()
    rules = namespace.rules_of(settings, world.artifact, replay=True)
    asyncio.run(run(cut(before(world.log, middle), settings.replay_tick_ms), memory, rules, Model(world.artifact), scoring=False))
    assert {place: value for place, value in held().items() if place[1].startswith(("u:", "ul:"))} == memory._records


@pytest.mark.usefixtures("at")
def test_a_bad_row_is_found_before_anything_is_written(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that cannot be, in the last file: one line that names it, and the namespace can still be filled once it is mended."""
    last = pq.read_table(history / "2.parquet")
    price = last["price"].to_pylist()
    price[5] = -1.0
    pq.write_table(last.set_column(last.column_names.index("price"), "price", pa.array(price)), history / "2.parquet")
    code, error = command(capsys, "backfill", str(history))
    assert code != 0
    assert "2.parquet, row 6, column 'price'" in error.strip().splitlines()[-1]
    assert not any(name.startswith(("u:", "ul:")) for _, name in held())
    pq.write_table(last, history / "2.parquet")
    code, error = command(capsys, "backfill", str(history))
    assert code == 0, error
    assert LogParts(history).num_rows


@pytest.mark.usefixtures("at")
def test_what_was_interrupted_begins_anew(world: World, history: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a history lets no worker and no reader in; the same command drops it and takes in the whole, as if it had never been begun. Launches stay."""
    assert command(capsys, "launch", "add", "spring", "--line", "books")[0] == 0

    async def cut_short(ticks: Any, *rest: Any, **more: Any) -> None:
        await run(islice(ticks, 40), *rest, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("streams.commands.backfill.run", cut_short)
        assert command(capsys, "backfill", str(history))[0] == 130
    half = held()
    assert any(name.startswith("u:") for _, name in half)
    for arguments in (("worker",), ("status",), ("backup", str(history / "backup"))):
        code, error = command(capsys, *arguments)
        assert code != 0 and namespace.FILLED in error, arguments
    code, error = command(capsys, "backfill", str(history))
    assert code == 0, error
    settings, memory = load_settings(None), MemoryStore()
    rules = namespace.rules_of(settings, world.artifact, replay=True)
    asyncio.run(run(cut(world.log, settings.replay_tick_ms), memory, rules, Model(world.artifact), scoring=False))
    now = held()
    assert {place: value for place, value in now.items() if place[1].startswith(("u:", "ul:"))} == memory._records
    assert len(now["control", "launches"]) == 1
    assert command(capsys, "status")[0] == 0


@pytest.mark.usefixtures("at")
def test_an_event_that_a_worker_refuses_is_no_part_of_a_history(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name with the character that joins keys is found with its row; and should a check ever miss what the pipeline refuses, it is said, not counted as taken in."""
    rows = world.log.to_pylist()
    rows[7]["user_id"] = "evil\x1fbags"
    pq.write_table(pa.Table.from_pylist(rows, schema=world.log.schema), tmp_path / "log.parquet")
    code, error = command(capsys, "backfill", str(tmp_path / "log.parquet"))
    assert code != 0 and "log.parquet, row 8, column 'user_id': holds a control character" in error
    monkeypatch.setattr("streams.log_rows.NAMES", ())
    code, error = command(capsys, "backfill", str(tmp_path / "log.parquet"))
    assert code != 0 and "an event that a worker refuses (bad_value: user_id holds a control character)" in error


def test_what_a_history_held_already_is_no_loss(
    quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Topics that overlap with the history: what it held is dropped and needs no score; of events after its end the same would be a loss."""
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=PARTITIONS, replay_tick_ms=1_000) as job:
        job.prepare()
        past = list(events("a", 60))
        rows = [{**{name: getattr(e, name) for name in ("event_id", "user_id", "product_id", "line", "ts")}, "kind": kind} for kind, e in past]
        pq.write_table(pa.Table.from_pylist(sorted(rows, key=lambda row: row["ts"])), tmp_path / "history.parquet")
        done = headstart(job, "backfill", str(tmp_path / "history.parquet"))
        assert done.returncode == 0, done.stderr
        job.send([*past[40:], *events("b", 20)])
        worker = job.start_worker()
        settle(job, 60 + 40)
        assert job.stop(worker) == 0
        assert job.totals()["duplicate"] == 20
        account = account_of(job)
        assert account.first == []
        assert (account.sums["known_from_before"], account.sums["applied"]) == (20, 20)

        async def earlier(store: Any) -> Any:
            partitions, learners = await read_base(store)
            return {p: msgspec.structs.replace(base, until_ms=1) for p, base in partitions.items()}, learners

        monkeypatch.setattr("streams.ledger.audit.read_base", earlier)
        assert account_of(job).findings["not_scored"] == 20
