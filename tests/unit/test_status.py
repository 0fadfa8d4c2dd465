"""`headstart status` where Kafka is down: everything that Redis tells is shown, and one line says that the lag is unknown."""

from __future__ import annotations

import asyncio
import json

import pytest

from features.errors import DependencyDown
from features.memory_store import MemoryStore
from streams import cli
from streams.commands import status
from streams.embedded import free_port
from streams.lag import LagReader
from streams.settings import Settings
from streams.view import Reader
from tests.seen_run import make_run


class Kept(MemoryStore):
    """A store whose client is closed when a command ends."""

    async def close(self) -> None:
        """Nothing to do."""


@pytest.fixture(scope="module")
def store() -> Kept:
    """A store with a small run."""
    kept = Kept()
    vars(kept).update(vars(make_run().store))
    return kept


@pytest.fixture
def silent(store: Kept, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a broker that is down, beside the store."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr("streams.namespace.open_store", lambda *_, **__: store)
    for name, value in (("BROKER", address), ("REDIS", "redis://127.0.0.1:1"), ("NAMESPACE", "test")):
        monkeypatch.setenv(f"HEADSTART_{name}", value)
    return address


def test_what_redis_tells_is_shown_where_kafka_is_down(silent: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Launches and verdicts stand on standard output, the one line on standard error, and the command succeeds."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "--json", "-"])
    said = capsys.readouterr()
    assert not ended.value.code
    told = json.loads(said.out)
    assert (set(told["launches"]), told["lag"]) == ({"line1", "quiet"}, {})
    assert said.err.startswith(f"lag unknown: no Kafka broker answers at {silent}") and len(said.err.splitlines()) == 1


@pytest.mark.usefixtures("silent")
def test_watching_goes_on_where_kafka_is_down(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The note stands in the picture, at every look, and the looks go on."""
    looks: list[float] = []

    async def look_again(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(status, "AGAIN_S", 0.0)
    monkeypatch.setattr(asyncio, "sleep", look_again)
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "--watch"])
    assert (ended.value.code, len(looks)) == (130, 3)
    out = capsys.readouterr().out
    assert "lag unknown: no Kafka broker answers" in out and "quiet" in out


def test_a_broker_that_was_down_is_unknown_until_it_is_asked_again(store: Kept, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two questions the failure is told, not an old answer."""
    asked: list[int] = []
    reader = LagReader(Settings(broker=silent, redis="redis://127.0.0.1:1"))

    def ask(partitions: list[int]) -> None:
        asked.append(len(partitions))
        raise DependencyDown("down")

    monkeypatch.setattr(reader, "_ask", ask)

    async def go() -> None:
        look = await Reader(store, "test").look()
        for _ in range(2):
            with pytest.raises(DependencyDown):
                await reader.lags(look.cursors)

    asyncio.run(go())
    assert asked == [2]
