"""`headstart uplift` and `headstart audience` on a live launch: its arms are those of the scores, its orders those that came, an outcome told twice counts once, and whom a
campaign reaches is not held out.
"""

from __future__ import annotations

import asyncio
import csv
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from features.events import Event
from features.exposures import NONE
from features.hashing import partition_for
from streams import cli, namespace
from streams.offline import put_launches
from streams.records import Launch, Outcome, decode_message, decode_score
from streams.replay import read_topic
from tests.integration.harness import Live, wait_until
from tests.integration.worlds import LIVE_WINDOW_MS

USERS, ORDERING = 60, 30
HELD = Launch(id="held", line="launch", window_s=LIVE_WINDOW_MS / 1000, holdout=0.4)


def event(user: int, what: str) -> Event:
    """One event of a user on the launched line, now."""
    return Event(event_id=f"{what}{user}", user_id=f"u{user}", product_id="launch-1", line="launch", ts=time.time_ns() // 1_000_000)


def outcomes(job: Live) -> list[tuple[Outcome, bytes]]:
    """The held launch's outcomes on Kafka."""
    messages = [(decode_message(value), value) for _, value in read_topic(job.settings, "outcomes")]
    return [(message, value) for message, value in messages if isinstance(message, Outcome) and message.key == HELD.id]


def ran(job: Live, *arguments: str, command: str = "uplift", capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command on the job's namespace."""
    s = job.settings
    where = ("--redis", s.redis, "--namespace", s.namespace, "--set", f"topic_prefix={s.topic_prefix}", "--set", f"broker={s.broker}")
    with pytest.raises(SystemExit) as ended:
        cli.main((*command.split(), *arguments, *where))
    captured = capsys.readouterr()
    code: Any = ended.value.code
    return code or 0, captured.out, captured.err


def test_a_live_launch_is_judged_on_its_final_outcomes(
    quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before its first label, with all of them, and after every outcome has been sent again; a launch without holdout is one line."""
    with Live(quick_trunk, broker, redis_url, tmp_path, outcome_partitions=3) as job:
        job.prepare()

        async def add() -> None:
            store = namespace.open_store(job.settings)
            try:
                await put_launches(store, [HELD])
            finally:
                await store.close()

        asyncio.run(add())
        code, out, _ = ran(job, "held", capsys=capsys)
        assert code == 0 and "held: Too few users to tell anything yet" in out
        job.start_ready(1)
        job.send(("browse", event(user, "b")) for user in range(USERS))
        job.send(("order", event(user, "o")) for user in range(ORDERING))
        scores = [decode_score(value) for value in job.wait_for_scores(USERS + ORDERING).values()]
        arms = {score.user_id: entry.arm for score in scores for entry in score.entries if entry.launch_id == HELD.id}
        wait_until(lambda: sum(o.closed.label != NONE for o, _ in outcomes(job)) == USERS, "every label is final", log=job.log, poll_s=0.5)

        code, out, _ = ran(job, "held", "--json", "-", capsys=capsys)
        assert code == 0
        told = json.loads(out)
        for arm in ("treated", "holdout"):
            mine = [user for user, of in arms.items() if of == arm]
            ordered = sum(int(user[1:]) < ORDERING for user in mine)
            assert mine and (told[arm]["users"], told[arm]["converted"], told[arm]["conversions"]) == (len(mine), ordered, ordered)
        assert told["targeted"]["users"] == 3 and told["variance_reduction"] is not None and told["repeated"] == 0

        again = [value for _, value in outcomes(job)]
        with closing(KafkaProducer(bootstrap_servers=broker)) as producer:
            for value in again:
                producer.send(job.topics["outcomes"], value, key=HELD.id.encode(), partition=partition_for(HELD.id.encode(), 3))
            producer.send(job.topics["outcomes"], b"of another launch", key=b"another", partition=partition_for(HELD.id.encode(), 3))
        code, out, _ = ran(job, "held", "--json", "-", capsys=capsys)
        repeated = json.loads(out)
        assert code == 0 and repeated.pop("repeated") == USERS and repeated.pop("warnings") == [f"{USERS} exposures came more than once; each counts once."]
        assert repeated == {name: value for name, value in told.items() if name not in ("repeated", "warnings")}

        chosen = tmp_path / "campaign.csv"
        code, out, _ = ran(job, HELD.id, "--top", "100%", "--out", str(chosen), "--json", "-", command="audience", capsys=capsys)
        assert code == 0
        with chosen.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["user_id"] for row in rows} == {user for user, arm in arms.items() if arm == "treated"}, "the holdout, and nobody else, is left out"
        ranks = [float(row["score"]) for row in rows]
        assert ranks == sorted(ranks, reverse=True)
        summary = json.loads(out)
        assert (summary["scored"], summary["held_out"], summary["targeted"]) == (USERS, USERS - len(rows), len(rows))
        assert ran(job, HELD.id, "--top", "5", "--without-buyers", "--out", str(chosen), command="audience", capsys=capsys)[0] == 0
        best = [row["user_id"] for row in rows if int(row["user_id"][1:]) >= ORDERING][:5]
        assert [line.split(",")[0] for line in chosen.read_text(encoding="utf-8").splitlines()[1:]] == best
        assert ran(job, HELD.id, command="launch close", capsys=capsys)[0] == 0
        code, _, err = ran(job, HELD.id, "--out", str(chosen), command="audience", capsys=capsys)
        assert code == 1 and err.endswith("headstart: launch 'held' is closed: its scores are of the past\n")

        for name, said in (("launch", "launch 'launch' holds nobody out"), ("lost", "there is no launch 'lost'; the launches are: held, launch")):
            code, _, err = ran(job, name, capsys=capsys)
            assert code == 1 and err.startswith("headstart: ") and err.count("\n") == 1 and said in err
