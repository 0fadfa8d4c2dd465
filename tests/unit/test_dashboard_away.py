"""What a browser is given while Redis is away, for a launch that is not there, and where a launch has not begun or has an odd name."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from features.errors import DependencyDown
from features.memory_store import MemoryStore
from streams.dashboard.feed import Feed, phase
from streams.dashboard.server import create_app
from streams.http_access import Access
from streams.offline import put_launches
from streams.records import Launch
from streams.view import Reader
from tests.builders import DAY_MS, START_MS
from tests.seen_run import META
from tests.unit.test_trust import look

LAUNCHES = ("shoes", "{launch}", "a/b", "100%", "ünï", "a b?c#d")


class Fitful(MemoryStore):
    """A store that is away, or answers never, when it is told to."""

    away = silent = False

    async def meta(self) -> dict[str, str]:
        """The description, if it is there."""
        if self.away:
            raise DependencyDown("Redis does not answer")
        if self.silent:
            await asyncio.sleep(3_600)
        return await super().meta()


def asked(ask: Callable[[TestClient[Any, Any], Fitful], Awaitable[Any]], *, begun: bool = True) -> Any:
    """What a client gets of a dashboard over such a store."""

    async def go() -> Any:
        store = Fitful()
        if begun:
            await store.put_meta(META)
            await put_launches(store, [Launch(id=name, line="shoes", window_s=60.0) for name in LAUNCHES])
        async with TestClient(TestServer(create_app(Feed(Reader(store, "test"), lag=None, uplift=None, clock_ms=lambda: START_MS), Access()))) as client:
            return await ask(client, store)

    return asyncio.run(go())


async def events(client: TestClient[Any, Any], number: int) -> list[tuple[str, Any]]:
    """The first events of the overview's stream."""
    answer = await client.get("/api/events")
    found = list[tuple[str, Any]]()
    while len(found) < number:
        text = (await asyncio.wait_for(answer.content.readline(), 20)).decode()
        if text.startswith("event: "):
            found.append((text[7:].strip(), json.loads((await answer.content.readline())[6:])))
    answer.close()
    return found


@pytest.mark.parametrize("how", ["away", "silent"])
def test_a_launchs_page_is_drawn_while_redis_is_away(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The page itself comes as HTML, and its stream says what is wrong; what programs ask for stays JSON."""
    monkeypatch.setattr("streams.dashboard.server.SOON_S", 0.05)

    async def ask(client: TestClient[Any, Any], store: Fitful) -> Any:
        setattr(store, how, True)
        page = await client.get("/launches/shoes")
        store.silent, store.away = False, True
        api = await client.get("/api/page")
        return page.status, page.content_type, await page.text(), api.status, await api.json()

    status, kind, text, api, told = asked(ask)
    assert (status, kind, api) == (200, "text/html", 503)
    assert 'data-page="shoes"' in text
    assert told == {"error": "Redis does not answer"}


def test_the_stream_says_soon_that_there_is_no_answer_and_when_there_was_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer it says so while it waits, with when it last read; then the page comes by itself."""
    monkeypatch.setattr("streams.dashboard.server.PUSH_S", 0.01)
    monkeypatch.setattr("streams.dashboard.server.SLOW_S", 0.05)
    monkeypatch.setattr("streams.dashboard.feed.FRESH_S", 0.0)

    async def ask(client: TestClient[Any, Any], store: Fitful) -> Any:
        store.silent = True
        (first,) = await events(client, 1)
        store.silent, store.away = False, True
        (second,) = await events(client, 1)
        store.away = False
        return first, second, *await events(client, 2)

    first, second, page, read = asked(ask)
    assert first[0] == second[0] == "trouble"
    assert "No answer" in first[1]["error"]
    assert second[1] == {"error": "Redis does not answer", "read_ms": 0}
    assert page[0] == "page"
    assert read == ("read", START_MS)


def test_an_empty_namespace_is_a_beginning() -> None:
    """Its stream tells it apart from trouble, and its launches' pages are drawn."""

    async def ask(client: TestClient[Any, Any], store: Fitful) -> Any:
        return (await client.get("/launches/shoes")).status, await events(client, 1)

    status, ((kind, told),) = asked(ask, begun=False)
    assert status == 200
    assert kind == "empty"
    assert "no worker has joined it yet" in told["error"]


def test_a_launch_that_is_not_there_is_said_in_a_page() -> None:
    """404, as HTML, with the launches that there are and the way to the overview; what was asked for is text."""

    async def ask(client: TestClient[Any, Any], store: Fitful) -> Any:
        answer = await client.get(URL("/launches/%3Cb%3Enobody", encoded=True))
        return answer.status, answer.content_type, await answer.text()

    status, kind, text = asked(ask)
    assert (status, kind) == (404, "text/html")
    assert "&lt;b&gt;nobody" in text
    assert 'href="/"' in text
    assert 'href="/launches/a%2Fb"' in text


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_launch_of_any_name_has_its_page_and_tables(name: str) -> None:
    """As the page links to it."""
    path = urllib.parse.quote(name, safe="")

    async def ask(client: TestClient[Any, Any], store: Fitful) -> Any:
        return [(await client.get(URL(where, encoded=True))).status for where in (f"/launches/{path}", f"/api/panels/{path}/funnel.csv")]

    assert asked(ask) == [200, 200]


def test_tiles_lead_to_where_their_panel_is() -> None:
    """That of the flow is on the overview, also from a launch's page."""

    async def ask(client: TestClient[Any, Any], store: Fitful) -> Any:
        pages = [await (await client.get("/api/page", params={"page": page})).json() for page in ("overview", "shoes")]
        return [{v["panel"]: v["href"] for v in page["verdicts"]} for page in pages]

    overview, launch = asked(ask)
    assert overview["flow"] == "#flow"
    assert launch["flow"] == "/#flow"
    assert launch["funnel"] == "#funnel"


def test_a_launch_begins_runs_and_is_closed() -> None:
    """One that is still to begin says when, by the wall clock where the shop is live, else by the replay's."""
    launch = Launch(id="x", line="x", window_s=60.0, from_ms=START_MS + 3 * DAY_MS, closed_ms=START_MS + 5 * DAY_MS)
    told = [phase(look(), launch, START_MS + days * DAY_MS) for days in (0, 3, 4, 5)]
    assert told == ["begins 4 Jan 2024", "", "", "closed"]
    assert phase(look(clock="replay:1000"), launch, 0) == "closed"
