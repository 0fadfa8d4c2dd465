"""What a running worker tells of itself, and what ends it: figures, readiness, a stall, a signal under load."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from features.events import KINDS, Event
from streams.embedded import EmbeddedBroker, free_port
from streams.meters import BY_NAME, METERS
from streams.settings import ENVIRONMENT_PREFIX, as_environment, with_changes
from streams.vitals import SILENT_S
from tests.integration.harness import Live, wait_until
from tests.integration.test_live import browsing, listening

TOKEN = "a-t0ken-of-prometheus"
ROOT = Path(__file__).parents[2]


def get(address: str, path: str, token: str | None = TOKEN) -> tuple[int, str]:
    """Status and text of one request."""
    request = urllib.request.Request(f"http://{address}{path}", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def figures(address: str) -> dict[str, dict[tuple[str, ...], float]]:
    """All figures: {name: {label values in the list's order: figure}}."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(get(address, "/metrics")[1]):
        for sample in family.samples:
            labels = BY_NAME[sample.name].labels if sample.name in BY_NAME else sorted(sample.labels)
            found.setdefault(sample.name, {})[tuple(sample.labels[label] for label in labels)] = sample.value
    return found


def test_the_figures_are_those_of_the_cursors_and_only_for_who_may_see_them(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """Every figure of the list is served and nothing else of ours; counts equal the cursors'; without the token neither figures nor health are told."""
    address = f"127.0.0.1:{free_port()}"
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=2, http_address=address, http_token=TOKEN) as job:
        job.prepare()
        (worker,) = job.start_ready(1)
        wait_until(lambda: get(address, "/ready") == (200, "ok\n"), "it is ready", log=job.log)
        assert listening(worker) == ["0100007F:{:04X}".format(int(address.rpartition(":")[2]))]
        broken = Event(event_id="x", user_id="u1", product_id="p", line="launch", ts=5)  # of 1970
        sent = job.send([*browsing(), ("order", broken)])
        wait_until(lambda: job.totals().get("read") == sent, "all is worked", log=job.log)
        wait_until(lambda: bool(figures(address).get("headstart_launch_bins_total")), "a launch's bin is learned", log=job.log, poll_s=0.3)
        told = ("headstart_bins_learned_total", lambda: {(str(q),): learner["tried"] for q, learner in job.cursors().learners.items()})
        wait_until(lambda: figures(address).get(told[0]) == told[1](), "it is committed", log=job.log, poll_s=0.3)

        found, totals, cursors = figures(address), job.totals(), job.cursors()
        events = found["headstart_events_total"]
        for what in ("applied", "duplicate", "rejected"):
            assert sum(number for (_, outcome), number in events.items() if outcome == what) == totals[what]
        assert {reason: number for (reason,), number in found["headstart_rejected_total"].items() if number} == {"too_old": 1.0}
        assert found["headstart_records_sent_total"][("scores",)] == totals["applied"]
        assert found["headstart_bins_learned_total"] == {(str(q),): learner["tried"] for q, learner in cursors.learners.items()}
        assert set(found["headstart_lag_records"]) == {(kind, str(p)) for kind in KINDS for p in range(2)}
        assert sum(found["headstart_lag_records"].values()) == 0
        assert found["headstart_score_delay_seconds_count"][()] >= 1
        assert found["process_resident_memory_bytes"][()] > 1e7
        names = {
            name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum").removesuffix("_created") for name in found if name.startswith("headstart_")
        }
        assert names == {meter.name for meter in METERS} | {
            meter.name.removesuffix("_total") for meter in METERS if f"{meter.name.removesuffix('_total')}_created" in found
        }
        assert found["headstart_live"] == found["headstart_ready"] == {(): 1.0}

        for path in ("/metrics", "/live", "/ready", "/", "/nothing"):
            for token in (None, "guess", TOKEN[:-1]):
                status, said = get(address, path, token)
                assert (status, "headstart_" in said) == (401, False)
        assert get(address, "/nothing")[0] == 404
        assert get(address, "/live") == (200, "ok\n")
        assert TOKEN not in get(address, "/metrics")[1] + job.log.read_text()
        assert job.stop(worker) == 0


def test_a_broker_that_falls_silent_is_told_though_nothing_waits(quick_trunk: Path, redis_url: str, tmp_path: Path) -> None:
    """While there is nothing to deliver: /ready says so after some seconds, the figure behind the alert rises, and both are well again when it answers."""
    address = f"127.0.0.1:{free_port()}"
    with (
        EmbeddedBroker() as kafka,
        Live(quick_trunk, kafka.address, redis_url, tmp_path, http_address=address, http_token=TOKEN, dependency_timeout_s=60) as job,
    ):
        job.prepare()
        (worker,) = job.start_ready(1)
        wait_until(lambda: get(address, "/ready") == (200, "ok\n"), "it is ready", log=job.log)
        kafka.pause()
        wait_until(lambda: "the broker has not answered for" in get(address, "/ready")[1], "it is told", log=job.log, timeout_s=25, poll_s=0.2)
        assert get(address, "/ready")[0] == 503
        assert figures(address)["headstart_dependency_down_seconds"][()] > SILENT_S
        kafka.resume()
        wait_until(lambda: get(address, "/ready") == (200, "ok\n"), "it is ready again", log=job.log, timeout_s=40, poll_s=0.2)
        assert figures(address)["headstart_dependency_down_seconds"] == {(): 0.0}
        assert worker.poll() is None


@contextmanager
def stalling(job: Live, kind: str, begun: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that will stand still."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    with job.log.open("ab") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.stalling_worker", kind, str(begun)],
            cwd=ROOT, env={**inherited, **as_environment(job.settings)}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


@pytest.mark.parametrize(
    ("kind", "why"), [("loop", "the event loop has not answered"), ("desk", "has work and has not moved"), ("flow", "a rebalance has held up everything")]
)
def test_a_worker_that_stands_still_ends_itself_and_the_next_one_goes_on(
    kind: str, why: str, quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path
) -> None:  # fmt: skip
    """A blocked loop, a desk that nothing reaches, a flow that a rebalance left stopped: the process ends with 70 and says why; what was sent is scored by the next."""
    begun, alive = tmp_path / "stand-still", tmp_path / "alive"
    with Live(quick_trunk, broker, redis_url, tmp_path, stall_s=4) as job:
        job.prepare()
        job.settings = with_changes(job.settings, alive_file=str(alive))
        with stalling(job, kind, begun) as worker:
            wait_until(alive.exists, "it has partitions", log=job.log)
            first = job.send(browsing(("books",)))
            assert len(job.wait_for_scores(first)) == first
            begun.touch()
            time.sleep(0.3)
            sent = job.send(browsing(("launch",)))
            assert worker.wait(40) == 70
        assert why in job.log.read_text()
        if kind == "desk":  # the one that lost what it was given
            job.start_worker(stall_s=180)  # its join waits for the session of the one that ended
            assert len(job.wait_for_scores(first + sent)) == first + sent


def test_a_signal_under_load_ends_a_worker_within_five_seconds(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """SIGTERM while events pour in: the batch in hand is committed, the group is left at once, the exit code is 0, and the next worker counts each event once."""
    with Live(quick_trunk, broker, redis_url, tmp_path, partitions=2) as job:
        job.prepare()
        (worker,) = job.start_ready(1)
        job.send(browsing(("books",), users=200))  # the kernels are compiled before it is timed
        job.wait_for_scores(200)
        with ThreadPoolExecutor(1) as thread:
            sending = thread.submit(job.send, browsing(("launch", "audio", "hats"), users=4_000))
            wait_until(lambda: job.totals().get("read", 0) > 400, "it is in the middle of it", log=job.log)
            began_s = time.monotonic()
            worker.terminate()
            code = worker.wait(20)
            took_s = time.monotonic() - began_s
            sent = sending.result()
        assert (code, job.totals()["read"] < sent + 200) == (0, True), job.log.read_text()[-2000:]
        assert took_s < 5, f"{took_s:.1f} s"
        second = job.start_worker()
        wait_until(lambda: job.totals().get("read") == sent + 200, "the next one works off the rest", log=job.log)
        assert (job.totals()["applied"], job.totals()["duplicate"]) == (sent + 200, 0)
        assert job.stop(second) == 0
