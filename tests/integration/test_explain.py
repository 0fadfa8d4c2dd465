"""`headstart explain` on what a real worker left in Redis: it agrees with the scores on Kafka, adds up, and writes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from features.events import Event
from streams import cli
from streams.records import decode_score
from streams.settings import ENVIRONMENT_PREFIX, as_environment
from tests.integration.harness import Live, connected
from tests.integration.test_live import browsing, now_ms
from tests.integration.worlds import World

USERS = 6


def run(*arguments: str) -> int:
    """The exit code of one command in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


def everything(url: str, namespace: str) -> dict[bytes, bytes | None]:
    """All that Redis holds of a namespace."""
    with connected(url) as store:
        return {key: store.dump(key) for key in sorted(store.scan_iter(match=f"hs:{namespace}:*"))}


def test_a_score_is_explained_from_what_the_worker_left(
    world: World, broker: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an event that was scored it finds the score on Kafka again, to the bit; of one to come it foretells the score; and Redis stays as it was."""
    with Live(world.trunk, broker, redis_url, tmp_path) as job:
        for name, value in as_environment(job.settings).items():
            assert name.startswith(ENVIRONMENT_PREFIX)
            monkeypatch.setenv(name, value)
        job.prepare()
        (worker,) = job.start_ready(1)
        job.send(browsing(users=USERS))
        scores = job.wait_for_scores(2 * USERS)
        assert job.stop(worker) == 0
        before = everything(redis_url, job.settings.namespace)

        told, plot = tmp_path / "told.json", tmp_path / "told.png"
        assert run("explain", "u0", "--launch", "launch", "--event", "b0-launch", "--json", str(told), "--plot", str(plot)) == 0
        book = json.loads(told.read_text(encoding="utf-8"))
        assert book["probability"] == book["probability_when_scored"] == decode_score(scores["u0:b0-launch"]).entries[0].probability
        assert math.isclose(sum(part["logit"] for part in book["parts"]), book["logit"], abs_tol=1e-9)
        assert plot.read_bytes().startswith(b"\x89PNG")
        printed = capsys.readouterr().out
        assert "the old lines, when training ended" in printed
        assert "APPROXIMATION" in printed

        at_ms = now_ms() + 1_000
        to_come = Event(event_id="later", user_id="u1", product_id="launch-2", line="launch", category="launch-c", ts=at_ms)
        wanted = ("--launch", "launch", "--product", "launch-2", "--category", "launch-c", "--kind", "click", "--at", str(at_ms), "--json", str(told))
        assert run("explain", "u1", *wanted) == 0
        assert everything(redis_url, job.settings.namespace) == before
        foretold = json.loads(told.read_text(encoding="utf-8"))["probability"]
        job.start_worker()
        job.send([("click", to_come)])
        said = decode_score(job.wait_for_scores(2 * USERS + 1)["u1:later"]).entries[0].probability
        # The catalogue's figures decay from tick to tick, and the worker is some ticks further.
        assert math.isclose(said, foretold, rel_tol=1e-2)

        capsys.readouterr()
        for arguments, expected in (
            (("nobody", "--launch", "launch"), "nothing is known of user 'nobody'"),
            (("u0", "--launch", "nothing"), "there is no launch 'nothing'; the launches are: launch"),
            (("u0", "--trunk", str(tmp_path / "none")), "no model in"),
            (("u0", "--namespace", "another"), "namespace 'another' is empty"),
        ):
            assert run("explain", *arguments) == 1
            error = capsys.readouterr().err
            assert expected in error
            assert error.count("\n") == 1
