"""Where a namespace begins: cursors for partitions that nobody has worked, at the end, at a time, and after a history; the ledger balances."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kafka import TopicPartition

from features.events import KINDS
from streams.at_rest import bounds
from streams.topics import admin_client
from tests.integration.harness import Live, connected
from tests.integration.test_backup import applied, events, headstart, work
from tests.integration.test_ledger import account_of, settle
from tests.kafka_server import KafkaServer

# The embedded broker tells the end of a log, and the offset of a time, too low.
pytestmark = [pytest.mark.java, pytest.mark.timeout(300)]

PARTITIONS = 3
ALL = ("--partition", "all", "--topic", "all")


def move(job: Live, *arguments: str) -> str:
    """What the command says; it must succeed."""
    done = headstart(job, "cursor", "move", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def keys_of(job: Live) -> set[bytes]:
    """Every key of the namespace."""
    with connected(job.settings.redis) as store:
        return set(store.scan_iter(match=f"hs:{job.settings.namespace}:*"))


def test_a_namespace_begins_now_and_goes_on_at_a_time(quick_trunk: Path, real_kafka: KafkaServer, redis_url: str, tmp_path: Path) -> None:
    """What lies on the topics before `--to end`, or before a time, is not worked and not lost; a running worker and a wrong time are refused."""
    with Live(quick_trunk, real_kafka.address, redis_url, tmp_path, partitions=PARTITIONS) as job:
        job.prepare()
        before = keys_of(job)
        job.send(events("a", 40))
        missing = headstart(job, "cursor", "move", *ALL, "--to", "end", trunk=tmp_path / "nothing")
        assert (missing.returncode, "no model in" in missing.stderr) == (1, True), missing.stderr
        for partition in ("²", str(PARTITIONS), "9" * 5000):
            wrong = headstart(job, "cursor", "move", "--partition", partition, "--topic", "all", "--to", "end")
            assert (wrong.returncode, f"expected a number below {PARTITIONS}, or all" in wrong.stderr) == (1, True), wrong.stderr
        assert "nothing was changed" in move(job, *ALL, "--to", "end")
        assert keys_of(job) == before
        assert "done; start the workers" in move(job, *ALL, "--to", "end", "--yes")
        sent = list(events("b", 20))
        job.send(sent)
        worker = job.start_worker()
        settle(job, 20)
        refused = headstart(job, "cursor", "move", *ALL, "--to", "end", "--yes")
        assert (refused.returncode, "1 worker(s) of namespace" in refused.stderr) == (1, True), refused.stderr
        assert job.stop(worker) == 0
        assert applied(job).total() == 20
        assert job.totals()["lost"] == 0
        assert account_of(job).first == []

        job.send(events("c", 10))
        time.sleep(0.05)
        now = dt.datetime.now(dt.UTC)
        time.sleep(0.05)
        job.send(events("d", 7))
        assert "expected an offset, beginning, end, or a time" in headstart(job, "cursor", "move", *ALL, "--to", "soon").stderr
        assert move(job, *ALL, "--to", now.isoformat(), "--yes").count("passed over") == 4 * PARTITIONS
        work(job, 27)
        assert applied(job).total() == 27
        assert account_of(job).first == []


def test_after_a_history_work_goes_on_where_it_ends(quick_trunk: Path, real_kafka: KafkaServer, redis_url: str, tmp_path: Path) -> None:
    """What a history shares with the topics counts once when the cursors are moved past it; what Kafka had deleted before is not lost."""
    with Live(quick_trunk, real_kafka.address, redis_url, tmp_path, partitions=PARTITIONS, replay_tick_ms=1_000) as job:
        job.prepare()
        job.send(events("0", 40))
        names = [job.topics[kind] for kind in KINDS]
        with admin_client(job.settings.broker, {}) as admin:  # as retention does
            admin.delete_records({TopicPartition(*place): end for place, (_, end) in bounds(job.settings, names).items()})
        past = list(events("a", 60))
        job.send(past)
        rows = [{**{name: getattr(e, name) for name in ("event_id", "user_id", "product_id", "line", "ts")}, "kind": kind} for kind, e in past]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "history.parquet")
        done = headstart(job, "backfill", str(tmp_path / "history.parquet"))
        assert done.returncode == 0, done.stderr
        begins = bounds(job.settings, names)
        assert {p: cursor["offsets"] for p, cursor in job.cursors().partitions.items()} == {p: [begins[n, p][0] for n in names] for p in range(PARTITIONS)}
        assert sum(first for first, _ in begins.values()) == 40
        told = move(job, *ALL, "--to", "end", "--yes")
        assert sum(int(line.split()[-5]) for line in told.splitlines() if line.endswith("passed over")) == 60
        job.send(events("b", 20))
        work(job, 60 + 20)
        assert applied(job).total() == 60 + 20
        assert job.totals()["lost"] == job.totals()["duplicate"] == 0
        assert account_of(job).first == []
