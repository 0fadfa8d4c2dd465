"""A replay through Kafka, Redis and real workers leaves the same bits as the evaluation in one process, however the work is cut up."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from features.errors import InputError, Mismatch
from streams import namespace
from streams.aside import MANY
from streams.faults import VARIABLE
from streams.replay import read_outcomes
from streams.ticks import Tick
from tests.integration.harness import Replay
from tests.integration.worlds import WINDOW_S, Left, World, differences, in_process, shuffled


@pytest.mark.parametrize(
    ("partitions", "number", "polled", "outcome_partitions", "seed"),
    [(1, 1, 50, 1, 7), (1, 3, 2000, 3, None), (12, 1, 2000, 1, None), (12, 3, 50, 3, 8)],
    ids=["1-partition-polls-of-50-shuffled-within-ticks", "3-workers-3-learners", "12-partitions", "12-partitions-3-workers-3-learners-shuffled"],
)
def test_a_replay_leaves_the_bits_of_the_evaluation(
    world: World, evaluated: Left, broker: str, redis_url: str, tmp_path: Path,
    partitions: int, number: int, polled: int, outcome_partitions: int, seed: int | None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Scores, rejects, outcomes with their vectors and predictions, figures, snapshots, and all state in Redis are equal byte by byte.

    Where there are three workers, they compute every event beside the event loop.
    """
    monkeypatch.setenv(VARIABLE, f"aside:{1 if number == 3 else MANY}")
    ticks = world.ticks() if seed is None else shuffled(world.ticks(), seed)
    replay = Replay(world, broker, redis_url, tmp_path, partitions=partitions, outcome_partitions=outcome_partitions, max_poll_records=polled)
    left = replay.run(ticks, number=number)
    assert differences(evaluated, left) == []
    window_ms = round(1000 * WINDOW_S)
    judged = read_outcomes(replay.settings)
    assert {launch: judged.figures(launch, until_ms=2**53, window_ms=window_ms) for launch in judged.launches()} == left.figures
    assert {event["event_id"] for event in world.log.to_pylist()} == {score.split(":", 1)[1] for score in left.scores}


def test_there_is_something_to_compare(evaluated: Left) -> None:
    """The world that is compared has launches with orders, three heads that learned, duplicates, rejects of several kinds, and user-line records."""
    assert set(evaluated.figures) == {"launch", "bags", "products"}
    assert all(told["headstart"]["conversions"] >= 1 for told in evaluated.figures.values()), evaluated.figures
    assert {"shared", "launch", "bags", "products"} <= set(evaluated.heads)
    assert {reason for reason, _ in evaluated.rejected} == {b"not_json", b"wrong_shape", b"wrong_key"}
    totals = evaluated.totals
    assert totals["read"] == totals["applied"] + totals["duplicate"] + totals["rejected"]
    assert min(totals["applied"], totals["exposures"], totals["duplicate"], totals["rejected"], len(evaluated.records)) > 100
    assert not evaluated.pending


@pytest.mark.parametrize("partitions", [2, 12])
def test_the_evaluation_does_not_depend_on_partitions_and_order_within_ticks(world: World, evaluated: Left, partitions: int) -> None:
    """The oracle itself gives the same bits with other partitions, other learners, and a log that is shuffled within its ticks."""
    assert differences(evaluated, in_process(world, shuffled(world.ticks(), partitions), partitions=partitions, outcome_partitions=partitions // 2)) == []


def test_the_comparison_sees_one_changed_event(world: World, evaluated: Left) -> None:
    """One click less among thousands of events changes scores, states and what is learned, and the comparison says so."""
    ticks = world.ticks()
    place = next(i for i, (kind, _, _) in enumerate(ticks[20].records) if kind == 1)
    ticks[20] = dataclasses.replace(ticks[20], records=(*ticks[20].records[:place], *ticks[20].records[place + 1 :]))
    told = {line.partition(":")[0] for line in differences(evaluated, in_process(world, ticks))}
    assert {"scores", "outcomes", "snapshots", "records", "heads", "catalogue", "seen", "totals"} <= told


def test_a_tick_that_is_too_large_ends_the_replay_with_the_remedy(world: World, broker: str, redis_url: str, tmp_path: Path) -> None:
    """More events in a tick than the setting allows end the worker, and the replay says which setting makes ticks shorter."""
    replay = Replay(world, broker, redis_url, tmp_path, max_tick_events=20)
    with pytest.raises(InputError, match=r"more than 20.*shorter ticks \(replay_tick_ms\)"):
        replay.run(world.ticks())


def test_a_replay_refuses_a_namespace_in_use(world: World, broker: str, redis_url: str, tmp_path: Path) -> None:
    """A second replay into the same namespace is refused with one line, and changes nothing there."""
    replay = Replay(world, broker, redis_url, tmp_path)
    replay.prepare()
    with pytest.raises(Mismatch, match="already in use: a replay needs a fresh one"):
        replay.prepare()


def test_a_log_that_was_published_twice_is_refused(world: World, broker: str, redis_url: str, tmp_path: Path) -> None:
    """A log that was published twice into one replay ends the worker with a line, instead of being learned twice."""
    replay = Replay(world, broker, redis_url, tmp_path)
    replay.prepare()
    ticks = [Tick(tick.end_ms, tick.records[:5]) for tick in world.ticks()[:3]]
    replay.publish(ticks)
    replay.publish(ticks)
    with pytest.raises(InputError, match="ticks must rise: .* publish the log once, into a fresh namespace"):
        replay.work(ticks[-1].end_ms + 1)


def test_a_worker_with_other_rules_is_refused(world: World, broker: str, redis_url: str, tmp_path: Path) -> None:
    """A worker whose settings differ from the namespace's ends with a line that names what differs."""
    replay = Replay(world, broker, redis_url, tmp_path)
    replay.prepare()
    other = Replay(world, broker, redis_url, tmp_path, grace_ms=1)
    other.settings = dataclasses.replace(replay.settings, grace_ms=1)
    worker = other.start_worker()
    assert worker.wait(30) == 1
    assert "differs in the settings grace_ms" in other.log.read_text()
    asyncio.run(namespace.open_store(replay.settings).close())
