"""A release with another feature schema: it refuses what an earlier one stored, rebuilds it beside it, and both work at the same time."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.errors import Mismatch
from features.layout import USER
from features.vector import SCHEMA_HASH
from models.checkpoint import load, save
from streams import namespace
from streams.partition import Partition
from streams.replay import read_topic, start_worker, stop_worker
from streams.settings import ENVIRONMENT_PREFIX, Settings, as_environment, with_changes
from streams.topics import NAMES, create_topics
from tests.integration.harness import Live, connected, wait_until
from tests.integration.test_live import USERS, browsing, ordering

ROOT = Path(__file__).parents[2]
OUT = NAMES[4:]


def earlier(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    """Start a worker of the earlier release."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.integration.earlier_release"], cwd=ROOT, env={**environment, **as_environment(settings)},
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip


@contextmanager
def running(worker: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Stop it at the end."""
    try:
        yield worker
    finally:
        stop_worker(worker)


def scored(settings: Settings) -> set[str]:
    """The ids of all scores on a namespace's topic."""
    return {json.loads(value)["score_id"] for _, value in read_topic(settings, "scores")}


def applied(settings: Settings, redis_url: str, dtype: np.dtype[np.void]) -> dict[str, int]:
    """How many events each user's record has, read with a layout."""
    with connected(redis_url) as store:
        keys = store.keys(f"hs:{settings.namespace}:*:u:*")
        return {key.decode().rpartition(":")[2]: int(np.frombuffer(store.get(key), dtype)[0]["applied"]) for key in keys}


def test_old_and_new_work_side_by_side_and_nothing_is_misread(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """The new release refuses the old namespace in a line, rebuilds all of it in one of its own, and ends with the same counts while the old one goes on."""
    asked = [sys.executable, "-m", "tests.integration.earlier_release", "hash"]
    then = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert then != SCHEMA_HASH
    old_trunk = tmp_path / "old-trunk"
    save(replace(load(quick_trunk), schema_hash=then), old_trunk)
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=2) as job:
        job.prepare()
        old = with_changes(job.settings, trunk=old_trunk)
        new = with_changes(job.settings, namespace=f"{old.namespace}n", topic_names={name: f"{old.topic_prefix}{name}-new" for name in OUT})
        create_topics(broker, prefix=new.topic_prefix, names=new.topic_names, partitions=2, outcome_partitions=1)
        sent = job.send(browsing())
        with running(earlier(old, job.log)):
            wait_until(lambda: len(scored(old)) == sent, "the earlier release has scored all", log=job.log, poll_s=0.5)

            refusing = tmp_path / "refused.log"
            refused = start_worker(job.settings, refusing)
            assert refused.wait(40) == 1
            assert "differs in the feature schema" in refusing.read_text()

            with running(start_worker(new, job.log)):
                wait_until(lambda: len(scored(new)) == sent, "the new release has rebuilt all", log=job.log, poll_s=0.5)
                sent += job.send(ordering())
                wait_until(lambda: scored(new) == scored(old) and len(scored(old)) == sent, "both go on", log=job.log, poll_s=0.5)
        counts = applied(new, redis_url, USER)
        assert len(counts) == USERS and sum(counts.values()) == sent

        # Whatever way a record of the earlier release gets into a namespace of the new one, it is not read as one.
        with connected(redis_url) as store:
            for key in store.keys(f"hs:{old.namespace}:{{0}}:*"):
                store.copy(key, key.replace(old.namespace.encode(), new.namespace.encode()), replace=True)

        async def open_it() -> None:
            held = namespace.open_store(new)
            try:
                await Partition.load(0, held, namespace.rules_of(new, load(quick_trunk), replay=False))
            finally:
                await held.close()

        with pytest.raises(Mismatch, match=f"records of feature schema {then}"):
            asyncio.run(open_it())
