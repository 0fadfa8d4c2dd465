"""`headstart scores` on a broker: what is printed, of which launch, how many, and that nothing is not silent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer

from features.errors import DependencyDown
from features.events import KINDS
from streams import cli, topic_ends
from streams.embedded import EmbeddedBroker
from streams.publisher import Outgoing, publish_records
from streams.records import Entry, Score, encode_json
from streams.replay import read_topic
from streams.settings import Settings
from streams.topics import create_topics
from tests.integration.harness import fresh_name


@pytest.fixture
def prefix(broker: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Topics of their own, which the environment names."""
    prefix = f"{fresh_name()}."
    create_topics(broker, prefix=prefix, partitions=2, outcome_partitions=1)
    monkeypatch.setenv("HEADSTART_BROKER", broker)
    monkeypatch.setenv("HEADSTART_TOPIC_PREFIX", prefix)
    return prefix


@pytest.fixture
def scores(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], str]]:
    """Runs the command; returns its exit code, the scores' ids and what it says on standard error."""

    def run(*arguments: str) -> tuple[int, list[str], str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(("scores", *arguments))
        said = capsys.readouterr()
        return int(ended.value.code or 0), sorted(json.loads(line)["score_id"] for line in said.out.splitlines()), said.err

    return run


def score(user: str, launch: str | None) -> Score:
    """A score of an event of a user, in a launch or in the line alone."""
    return Score(f"{user}:e", user, "e", "browse", "p", 1_700_000_000_000, [Entry(launch, "books", None, None, 0.5, 0.25)], "0" * 16)


def test_scores_are_printed_and_told_apart_by_launch(broker: str, prefix: str, scores: Callable[..., tuple[int, list[str], str]]) -> None:
    """All of them, those of a launch, so many; somebody else's record in the topic belongs to no launch."""
    kept = [score("ann", "novel"), score("bob", "novel"), score("cleo", None)]
    records = [Outgoing("browse", s.user_id.encode(), encode_json(s)) for s in kept]
    publish_records(broker, records, dict.fromkeys(KINDS, f"{prefix}scores"))
    assert scores() == (0, ["ann:e", "bob:e", "cleo:e"], "")
    publish_records(broker, [Outgoing("browse", b"x", b"{}")], dict.fromkeys(KINDS, f"{prefix}scores"))
    assert scores("--launch", "novel") == (0, ["ann:e", "bob:e"], "")
    code, printed, _ = scores("--launch", "novel", "--max", "1")
    assert (code, len(printed)) == (0, 1)


def test_nothing_to_print_is_told(broker: str, prefix: str, scores: Callable[..., tuple[int, list[str], str]]) -> None:
    """An empty topic is told from a launch of which there is no score, as one that was misspelt."""
    assert scores() == (0, [], f"{prefix}scores holds no score\n")
    publish_records(broker, [Outgoing("browse", b"ann", encode_json(score("ann", "novel")))], dict.fromkeys(KINDS, f"{prefix}scores"))
    assert scores("--launch", "nove") == (0, [], f"records in {prefix}scores: 1; scores of launch 'nove': none\n")


@pytest.fixture
def gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Scores on a broker of its own, which dies when they are first asked for; its address."""
    monkeypatch.setattr(topic_ends, "SILENT_S", 2.0)
    with EmbeddedBroker(tmp_path) as server:
        create_topics(server.address, partitions=2, outcome_partitions=1)
        publish_records(
            server.address, [Outgoing("browse", f"u{i}".encode(), encode_json(score(f"u{i}", "novel"))) for i in range(200)], dict.fromkeys(KINDS, "scores")
        )
        whole = KafkaConsumer.poll

        def poll(consumer: KafkaConsumer, **how: Any) -> Any:
            """The end of the broker, and what comes then."""
            if server.alive:
                server.kill()
            return whole(consumer, **how)

        monkeypatch.setattr(KafkaConsumer, "poll", poll)
        monkeypatch.setenv("HEADSTART_BROKER", server.address)
        yield server.address


def test_a_broker_that_goes_away_is_told(gone: str, scores: Callable[..., tuple[int, list[str], str]]) -> None:
    """One line says that it is not all of it, where the command waited for ever."""
    code, printed, said = scores()
    assert (code, printed) == (1, [])
    assert said.startswith(f"headstart: the broker at {gone} has sent nothing of scores[") and len(said.splitlines()) == 1


def test_a_topic_that_cannot_be_read_to_its_end_is_no_short_topic(gone: str) -> None:
    """Who counts what a topic holds is told, instead of being given less."""
    with pytest.raises(DependencyDown, match="has sent nothing of scores"):
        list(read_topic(Settings(broker=gone), "scores"))
