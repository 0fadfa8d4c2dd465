"""The worker live: events as they come are scored and learned from, it stops when asked, and ends with one line when something is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from features.events import Event
from features.exposures import NONE
from models.checkpoint import load
from models.launch_head import LaunchHead
from models.shared_heads import SharedHeads
from streams.embedded import EmbeddedBroker, EmbeddedValkey, free_port
from streams.records import SHARED, Outcome, decode_message, decode_score
from streams.replay import read_topic
from tests.integration.harness import Live, connected, wait_until
from tests.integration.worlds import World

USERS = 40
ORDERING = 10  # of them, the first ones


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def browsing(lines: tuple[str, ...] = ("launch", "books"), users: int = USERS) -> Iterator[tuple[str, Event]]:
    """A browse of each user in each line, now."""
    ts = now_ms()
    for user in range(users):
        for i, line in enumerate(lines):
            yield "browse", Event(event_id=f"b{user}-{line}", user_id=f"u{user}", product_id=f"{line}-1", line=line, ts=ts + i)


def ordering(line: str = "launch") -> Iterator[tuple[str, Event]]:
    """An order of each of the ordering users, now."""
    for user in range(ORDERING):
        yield "order", Event(event_id=f"o{user}", user_id=f"u{user}", product_id=f"{line}-1", line=line, ts=now_ms())


def facts(job: Live) -> list[Outcome]:
    """All outcomes on Kafka."""
    messages = (decode_message(value) for _, value in read_topic(job.settings, "outcomes"))
    return [message for message in messages if isinstance(message, Outcome)]


def listening(worker: Popen[bytes]) -> list[str]:
    """The local addresses on which the process listens, from the kernel's tables."""
    folder = Path(f"/proc/{worker.pid}")
    inodes = set()
    for descriptor in (folder / "fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = [line.split() for name in ("tcp", "tcp6") for line in (folder / "net" / name).read_text().splitlines()[1:]]
    assert any(row[9] in inodes for row in rows), "no connection of the worker was found: the test looks at the wrong place"
    return [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]


def test_outcomes_are_learned_as_they_become_final(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """Each event gets its score; when the window is over each exposure has its true label, and shared head, launch and audit trail have learned."""
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=3) as job:
        job.prepare()
        (worker,) = job.start_ready(1)
        job.send(browsing())
        job.send(ordering())
        scores = job.wait_for_scores(2 * USERS + ORDERING)
        assert {decode_score(value).entries[0].launch_id for key, value in scores.items() if key.endswith("-launch")} == {"launch"}

        wait_until(lambda: sum(fact.closed.label != NONE for fact in facts(job)) == 2 * USERS, "every label is final", log=job.log, poll_s=0.5)
        labels = {(fact.key, fact.closed.exposure.user): fact.closed.label for fact in facts(job) if fact.closed.label != NONE}
        assert labels == {(key, f"u{user}"): int(key == "launch" and user < ORDERING) for key in ("launch", SHARED) for user in range(USERS)}

        def heads() -> tuple[int, int]:
            with connected(redis_url) as store:
                held = store.hgetall(f"hs:{job.settings.namespace}:{{o0}}:heads")
            launch, shared = held.get(b"launch"), held.get(b"shared")
            return LaunchHead.from_bytes(launch).n_learned if launch else 0, SharedHeads.from_bytes(shared).n_learned if shared else 0

        told = [fact for fact in facts(job) if fact.closed.bin > 0]
        wait_until(lambda: heads() == (sum(fact.key == "launch" for fact in told), USERS * 2), f"the heads have learned {len(told)} outcomes", log=job.log)
        totals = job.totals()
        assert (totals["read"], totals["applied"], totals["exposures"]) == (2 * USERS + ORDERING, 2 * USERS + ORDERING, 2 * USERS)
        assert job.stop(worker) == 0


def test_a_worker_listens_nowhere_and_stops_quickly(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """No port is open while it works, and SIGTERM ends it in under five seconds with code 0 and without an error in its log."""
    with Live(quick_trunk, broker, redis_url, tmp_path) as job:
        job.prepare()
        worker = job.start_worker()
        job.send(browsing())
        job.wait_for_scores(2 * USERS)
        assert listening(worker) == []
        began_s = time.monotonic()
        assert job.stop(worker) == 0
        assert time.monotonic() - began_s < 5
        assert not [line for line in job.log.read_text().splitlines() if " ERROR " in line or " CRITICAL " in line or "Traceback" in line]


@pytest.mark.parametrize("trouble", ["redis-stopped", "redis-frozen", "broker-stopped"])
def test_a_dependency_that_stays_down_ends_the_worker(quick_trunk: Path, tmp_path: Path, trouble: str) -> None:
    """When Redis or the broker is silent for longer than the setting allows, the process ends with 70 and one line that says so."""
    with (
        EmbeddedBroker() as kafka,
        EmbeddedValkey() as valkey,
        Live(quick_trunk, kafka.address, valkey.url, tmp_path, dependency_timeout_s=2) as job,
    ):
        job.prepare()
        worker = job.start_worker()
        job.send(browsing())
        job.wait_for_scores(2 * USERS)
        if trouble == "redis-frozen":
            valkey.pause()
        else:
            (valkey if trouble == "redis-stopped" else kafka).kill()
        began_s = time.monotonic()
        assert worker.wait(25) == 70, job.log.read_text()
        assert 1 < time.monotonic() - began_s < 20
        valkey.resume()
        last = job.log.read_text().splitlines()[-1]
        assert ("Redis does not answer" if "redis" in trouble else "the broker") in last
        assert "Traceback" not in job.log.read_text()


def test_a_dependency_that_comes_back_is_waited_for(quick_trunk: Path, tmp_path: Path, broker: str) -> None:
    """Redis is killed and started again, with its file, within the time that the setting allows: the worker goes on, and nothing is lost."""
    with (
        EmbeddedValkey(tmp_path / "redis", appendonly=True, config={"appendfsync": "always"}) as valkey,
        Live(quick_trunk, broker, valkey.url, tmp_path, dependency_timeout_s=20) as job,
    ):
        job.prepare()
        worker = job.start_worker()
        job.send(browsing(("launch",)))
        job.wait_for_scores(USERS)
        valkey.kill()
        job.send(browsing(("books",)))
        time.sleep(1)
        valkey.start()
        job.wait_for_scores(2 * USERS)
        wait_until(lambda: job.totals()["applied"] == 2 * USERS, "every event is applied", log=job.log)
        assert job.totals()["read"] == 2 * USERS
        assert worker.poll() is None


def ends(job: Live, **changes: object) -> str:
    """Start a worker that cannot work; return the one line that it leaves, after checking its code."""
    worker = job.start_worker(**changes)
    assert worker.wait(30) not in (0, -9)
    lines = [line for line in job.log.read_text().splitlines() if not line.startswith("worker of namespace")]
    assert len(lines) == 1, lines
    return lines[0]


def test_what_is_missing_at_the_start_is_said_in_one_line(quick_trunk: Path, world: World, broker: str, redis_url: str, tmp_path: Path) -> None:
    """No broker, no Redis, no topics, no trunk, a damaged trunk, another trunk than the namespace's, a folder that cannot be written: one line and a code each."""

    def job(name: str) -> Live:
        (tmp_path / name).mkdir()
        return Live(quick_trunk, broker, redis_url, tmp_path / name, dependency_timeout_s=1)

    nobody = f"127.0.0.1:{free_port()}"
    assert f"no Kafka broker answers at {nobody}" in ends(job("a"), broker=nobody)
    assert "is missing: create the topics with" in ends(job("b"))
    assert str(tmp_path / "nothing") in ends(job("c"), trunk=tmp_path / "nothing")
    (tmp_path / "damaged").mkdir()
    for file in quick_trunk.iterdir():
        (tmp_path / "damaged" / file.name).write_bytes(file.read_bytes()[:-7])
    assert str(tmp_path / "damaged") in ends(job("d"), trunk=tmp_path / "damaged")
    made = job("e")
    made.prepare()
    assert "Redis does not answer" in ends(made, redis=f"redis://127.0.0.1:{free_port()}")
    made = job("f")
    made.prepare()
    with made:
        made.start_worker()
        made.send(browsing())
        made.wait_for_scores(2 * USERS)
    made.log.unlink()
    assert "differs in the trunk" in ends(made, trunk=world.trunk)
    made.log.unlink()
    (tmp_path / "file").write_text("")
    assert "'alive_file'" in ends(made, alive_file=str(tmp_path / "file" / "alive"))
    assert load(quick_trunk).sha256 != world.artifact.sha256
