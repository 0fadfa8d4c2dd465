"""A trunk is promoted and taken back while workers score and learn: no event is lost, nothing is learned twice, and what a launch has taught stays."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.errors import HeadstartError
from features.events import Event
from features.hashing import partition_for
from models.carry import same_scaler
from models.checkpoint import load, save
from models.launch_head import LaunchHead
from models.shared_heads import SharedHeads
from streams import cli
from streams.records import SHARED, Outcome, decode_message, decode_score
from streams.replay import read_topic
from tests.integration.harness import Live, connected, wait_until

USERS = 60
LINES = ("launch", "books")
OUTCOME_PARTITIONS = 3


@pytest.fixture(scope="module")
def refreshed_trunk(quick_trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk with the scaler of the first, and other weights in its last layers: what a refresh leaves."""
    old = load(quick_trunk)
    trunk = replace(old.trunk, w3=old.trunk.w3[:, ::-1].copy(), b3=old.trunk.b3[::-1].copy())
    folder = tmp_path_factory.mktemp("refreshed") / "trunk"
    new = save(replace(old, trunk=trunk), folder)
    assert same_scaler(old, new)
    assert new.sha256 != old.sha256
    return folder


class Load(threading.Thread):
    """Browses and orders without end, a few every tenth of a second, until `stop`."""

    def __init__(self, job: Live) -> None:
        super().__init__(daemon=True)
        self._job, self._over, self.sent = job, threading.Event(), 0
        self.failed: BaseException | None = None

    def run(self) -> None:
        """Send."""
        try:
            wave = 0
            while not self._over.is_set():
                self.sent += self._job.send(self._events(wave))
                wave += 1
                self._over.wait(0.1)
        except BaseException as error:  # noqa: BLE001  told by `stop`
            self.failed = error

    def _events(self, wave: int) -> Iterator[tuple[str, Event]]:
        ts = time.time_ns() // 1_000_000
        for i in range(8):
            user, line = (8 * wave + i) % USERS, LINES[i % 2]
            name = f"u{user}-{wave // USERS}"  # a new shopper now and then: each opens an exposure in each line
            kind = "order" if (wave + i) % 5 == 0 else "browse"
            yield kind, Event(event_id=f"{wave}-{i}", user_id=name, product_id=f"{line}-1", line=line, ts=ts + i)

    def stop(self) -> int:
        """Send no more; returns how many events were sent."""
        self._over.set()
        self.join()
        if self.failed is not None:
            raise self.failed
        return self.sent


def headstart(job: Live, *arguments: str) -> Any:
    """Run one `headstart trunk` command in the job's namespace; returns its JSON."""
    file = job.folder / "said.json"
    where = ["--redis", job.settings.redis, "--namespace", job.settings.namespace, "--json", str(file)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["trunk", *arguments, *where])
    assert not ended.value.code
    return json.loads(file.read_text())


def soon() -> str:
    """In a second, in ms."""
    return str(time.time_ns() // 1_000_000 + 1000)


def heads(job: Live) -> dict[str, LaunchHead | SharedHeads]:
    """The heads in Redis, by name."""
    out: dict[str, LaunchHead | SharedHeads] = {}
    with connected(job.settings.redis) as store:
        for q in range(OUTCOME_PARTITIONS):
            for name, value in store.hgetall(f"hs:{job.settings.namespace}:{{o{q}}}:heads").items():
                out[name.decode()] = (SharedHeads if name.decode() == SHARED else LaunchHead).from_bytes(value)
    return out


def told(job: Live) -> dict[str, int]:
    """How many outcomes teach each head: closed bins of a launch, bins and labels of the source lines; each number once."""
    found: dict[tuple[int, int, int, int], Outcome] = {}
    for q, value in read_topic(job.settings, "outcomes"):
        message = decode_message(value)
        if isinstance(message, Outcome):
            found[q, message.partition, message.epoch, message.number] = message
    return {
        "launch": sum(m.key == "launch" and m.closed.bin > 0 for m in found.values()),
        SHARED: sum(m.key == SHARED and (m.closed.bin > 0 or m.closed.label >= 0) for m in found.values()),
    }


def trunks_in_order(job: Live) -> dict[int, list[str]]:
    """The trunk of each score as the partitions' users saw them, by input partition: what changed, in the order of the topic."""
    out: dict[int, list[str]] = {p: [] for p in range(job.settings.partitions)}
    for _, value in read_topic(job.settings, "scores"):
        score = decode_score(value)
        seen = out[partition_for(score.user_id.encode(), job.settings.partitions)]
        if seen[-1:] != [score.trunk]:
            seen.append(score.trunk)
    return out


def scored_with(job: Live, sha256: str) -> bool:
    """Whether the latest score of every partition is by this trunk."""
    return all(seen[-1:] == [sha256[:16]] for seen in trunks_in_order(job).values())


def test_a_trunk_is_promoted_and_taken_back_under_load(quick_trunk: Path, refreshed_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """Two workers, one of them killed in the middle of the switch, and one that starts after it with the new folder: each event has its score, the
    trunk changes once to the new one and once back, each outcome is learned once, and the launch's level and head from scratch go on from where they were.
    """
    old, new = load(quick_trunk), load(refreshed_trunk)
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=2, outcome_partitions=OUTCOME_PARTITIONS) as job:
        job.prepare()
        first, second = job.start_ready(2)
        events = Load(job)
        events.start()
        job.wait(lambda: "launch" in heads(job) and SHARED in heads(job), "the heads have learned something")

        said = headstart(job, "promote", str(refreshed_trunk), "--from", soon())
        assert (said["sha256"], said["previous"], said["heads_carried"]) == (new.sha256, old.sha256, True)
        wait_until(lambda: time.time_ns() // 1_000_000 > said["from_ms"], "the trunk's time has come")
        second.kill()  # perhaps before its learners have switched, perhaps between two of them: the other worker takes them over
        second.wait()
        job.wait(lambda: scored_with(job, new.sha256), "all partitions score with the new trunk")
        third = job.start_worker(trunk=refreshed_trunk)
        (before,) = (head for name, head in heads(job).items() if name == "launch")

        assert [row["state"] for row in headstart(job, "list")] == ["", "active"]
        said = headstart(job, "rollback", "--from", soon())
        assert (said["sha256"], said["previous"]) == (old.sha256, "")
        job.wait(lambda: scored_with(job, old.sha256), "all partitions score with the old trunk again")
        sent = events.stop()

        found = job.wait_for_scores(sent)
        assert len(found) == sent
        job.wait(lambda: job.totals()["applied"] == sent, "every event is applied")
        assert job.totals()["read"] == sent
        for seen in trunks_in_order(job).values():
            # A worker that was killed may leave scores that are sent once more, by the trunk of then; but no one goes back by itself.
            assert seen == [old.sha256[:16], new.sha256[:16], old.sha256[:16]]
        job.wait(lambda: told(job) == {name: head.n_learned for name, head in heads(job).items()}, "each outcome is learned once")
        after = heads(job)["launch"]
        assert isinstance(before, LaunchHead)
        assert isinstance(after, LaunchHead)
        assert after.n_learned >= before.n_learned > 0
        assert [row["state"] for row in headstart(job, "list")] == ["", "", "active"]
        job.wait_up(first, third)
        for worker in (first, third):
            assert worker.poll() is None
            assert job.stop(worker) == 0
        assert not [line for line in job.log.read_text().splitlines() if " ERROR " in line or "Traceback" in line]


def refused(job: Live, *arguments: str) -> str:
    """Run a `headstart trunk` command that must fail; returns why it does."""
    with pytest.raises(HeadstartError) as told:
        cli.command_line().main(["trunk", *arguments, "--redis", job.settings.redis, "--namespace", job.settings.namespace], standalone_mode=False)
    return str(told.value)


def test_what_has_no_trunk_to_change_refuses(quick_trunk: Path, refreshed_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """A namespace that nobody has joined, a replay's, and one whose trunk has nothing before it: one line each."""
    with Live(quick_trunk, broker, redis_url, tmp_path) as job:
        job.prepare()
        assert "has no worker yet" in refused(job, "promote", str(refreshed_trunk))
        with connected(redis_url) as store:
            meta = {"trunk": load(quick_trunk).sha256, "schema": load(quick_trunk).schema_hash, "outcome_partitions": "1"}
            store.hset(f"hs:{job.settings.namespace}:meta", mapping={**meta, "clock": "replay:1000"})
            for arguments in (("promote", str(refreshed_trunk)), ("rollback",)):
                assert "is a replay's: its trunk is fixed" in refused(job, *arguments)
            store.hset(f"hs:{job.settings.namespace}:meta", mapping={"clock": "live", "schema": "another"})
            assert "feature schema" in refused(job, "promote", str(refreshed_trunk))
            assert "no earlier trunk" in refused(job, "rollback")
