"""The dashboard over HTTP: figures that equal those of the outcomes, every panel with data and with none, CSV, and nobody without the token."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from features.memory_store import MemoryStore
from features.store import Changes
from streams.dashboard import server
from streams.dashboard.feed import Feed
from streams.dashboard.server import create_app
from streams.evaluation import as_launch
from streams.http_access import Access
from streams.offline import put_launches
from streams.panels_launch import figures
from streams.view import Reader
from tests.builders import START_MS
from tests.figures import figures_of
from tests.seen_run import META, Run, make_run


@pytest.fixture(scope="module")
def left() -> Run:
    """A small run, and the outcomes that it told."""
    return make_run()


def asked(store: MemoryStore, ask: Callable[[TestClient[Any, Any]], Awaitable[Any]], access: Access | None = None) -> Any:
    """What a client gets of a server on the store."""

    async def go() -> Any:
        feed = Feed(Reader(store, "test"), lag=None, uplift=None)
        async with TestClient(TestServer(create_app(feed, access or Access()))) as client:
            return await ask(client)

    return asyncio.run(go())


async def document(client: TestClient[Any, Any], page: str) -> Any:
    """A page's document."""
    answer = await client.get("/api/page", params={"page": page})
    return await answer.json()


def test_figures_equal_those_of_the_outcomes(left: Run) -> None:
    """Exposures, orders, rates, predicted over observed, AUC, Precision@5 % and log-loss are those computed from the outcomes one by one."""
    shown, told = asked(left.store, lambda client: document(client, "line1"))["figures"], figures_of(left.outcomes, "line1")
    assert told["final_orders"] > 20
    for name, value in told.items():
        assert shown[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("page", ["overview", "line1"])
def test_every_panel_has_data_after_a_run(left: Run, page: str) -> None:
    """No panel is empty but those that have nothing to tell: no alert, no worker, nothing refused, no holdout, too few days for a comparison."""
    panels = {panel["id"]: panel for panel in asked(left.store, lambda client: document(client, page))["panels"]}
    bare = {name for name, panel in panels.items() if not panel["data"]}
    assert bare <= {"alerts", "workers", "rejects", "shoppers", "flow"}
    assert all(panel["empty"] for name, panel in panels.items() if name in bare)
    assert all(len(row) == len(panel["columns"]) for panel in panels.values() for row in panel["rows"])
    assert all(panel["explains"] and panel["title"] for panel in panels.values())


def test_every_panel_says_what_it_waits_for_where_there_is_nothing(left: Run) -> None:
    """A launch without an event, and a namespace that has just begun, show every panel, each with a reason for its emptiness."""
    new = MemoryStore()

    async def begin() -> None:
        await new.put_meta(META)
        await put_launches(new, [as_launch("young", START_MS, 60.0)])

    asyncio.run(begin())
    for store, page in ((left.store, "quiet"), (new, "young"), (new, "overview")):
        found = asked(store, partial(document, page=page))
        bare = [panel for panel in found["panels"] if not panel["data"]]
        assert len(bare) >= 3
        assert all(panel["empty"] for panel in bare)
        assert {verdict["state"] for verdict in found["verdicts"]} <= {"none", "good", "warn", "bad"}


def test_a_panels_csv_holds_its_table(left: Run) -> None:
    """The CSV has the table's columns and rows; a text that a spreadsheet would take for a formula is marked as text."""

    async def ask(client: TestClient[Any, Any]) -> tuple[str, Any]:
        answer = await client.get("/api/panels/line1/funnel.csv")
        return await answer.text(), await document(client, "line1")

    text, found = asked(left.store, ask)
    panel = next(panel for panel in found["panels"] if panel["id"] == "funnel")
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == panel["columns"]
    assert len(rows) == 1 + len(panel["rows"])


def test_what_is_not_there_is_said_in_a_line(left: Run) -> None:
    """An unknown launch or panel is 404 with what there is; an empty namespace is 404 with a reason; both as JSON."""

    async def ask(client: TestClient[Any, Any]) -> list[tuple[int, str]]:
        answers = [await client.get(path) for path in ("/api/page?page=nobody", "/api/panels/line1/nothing.csv", "/launches/nobody", "/assets/secret.py")]
        return [(answer.status, await answer.text()) for answer in answers]

    found = asked(left.store, ask)
    assert [status for status, _ in found] == [404] * 4
    assert "the launches are: line1, quiet" in found[0][1]
    assert "there are" in found[1][1]

    async def ask_empty(client: TestClient[Any, Any]) -> tuple[int, str]:
        answer = await client.get("/api/page")
        return answer.status, await answer.text()

    assert asked(MemoryStore(), ask_empty)[0] == 404


def test_nobody_gets_in_without_token_or_password(left: Run) -> None:
    """With a token and a password set, every path but none asks for one; both kinds open it, a wrong one does not."""
    access = Access(token="t0ken", user="ann", password="päss")

    def basic(text: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}

    async def ask(client: TestClient[Any, Any]) -> tuple[list[int], list[int], str]:
        paths = ("/", "/launches/line1", "/api/page", "/api/events", "/api/panels/line1/funnel.csv", "/assets/page.js", "/api/users/user1/scores")
        shut = [(await client.get(path)).status for path in paths]
        given = (
            {"Authorization": "Bearer t0ken"},
            basic("ann:päss"),
            {"Authorization": "Bearer wrong"},
            basic("ann:wrong"),
            basic("bob:päss"),
            {"Authorization": "x"},
        )
        opened = [(await client.get("/api/page", headers=headers)).status for headers in given]
        return shut, opened, (await client.get("/")).headers["WWW-Authenticate"]

    shut, opened, challenge = asked(left.store, ask, access)
    assert shut == [401] * 7
    assert opened == [200, 200, 401, 401, 401, 401]
    assert challenge.startswith("Basic")


def test_who_is_refused_writes_one_line_into_the_log(left: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for."""
    monkeypatch.setattr(server, "logger", logger := Mock())

    async def ask(client: TestClient[Any, Any]) -> int:
        return (await client.get(URL("/x%0A2026-01-01%20CRITICAL%20forged", encoded=True))).status

    assert asked(left.store, ask, Access(token="t0ken")) == 401
    (told, *given), _ = logger.warning.call_args
    assert "\n" not in told % tuple(given)


def test_scores_of_a_user_are_never_given_without_a_token(left: Run) -> None:
    """On an open dashboard the scores of a user are refused, with what to set."""

    async def ask(client: TestClient[Any, Any]) -> tuple[int, str]:
        answer = await client.get("/api/users/user1/scores")
        return answer.status, await answer.text()

    status, text = asked(left.store, ask)
    assert status == 403
    assert "http_token" in text


def test_the_stream_tells_what_has_changed(left: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first event holds the page; when an alert is committed, a further one holds it."""
    monkeypatch.setattr("streams.dashboard.server.PUSH_S", 0.05)
    monkeypatch.setattr("streams.dashboard.feed.FRESH_S", 0.0)
    alert = {
        "alert_id": "1",
        "launch_id": "line1",
        "kind": "calibration",
        "severity": "page",
        "at_ms": START_MS,
        "since_ms": START_MS,
        "text": "Look!",
        "evidence": {"direction": 1},
        "done": "",
        "trunk": "",
    }

    async def ask(client: TestClient[Any, Any]) -> tuple[Any, Any]:
        answer = await client.get("/api/events", params={"page": "line1"})

        async def event() -> Any:
            while not (text := await answer.content.readline()).startswith(b"data: "):
                pass
            return json.loads(text[6:])

        first = await asyncio.wait_for(event(), 20)
        slot = await left.store.load("o0", ())
        await left.store.commit("o0", slot.version, Changes(cursor=slot.cursor, put={"alerts": {"1": json.dumps(alert).encode()}}))
        second = await asyncio.wait_for(event(), 20)
        slot = await left.store.load("o0", ())
        await left.store.commit("o0", slot.version, Changes(cursor=slot.cursor, drop={"alerts": ["1"]}))
        answer.close()
        return first, second

    first, second = asked(left.store, ask)
    alerts = [next(panel for panel in told["panels"] if panel["id"] == "alerts")["rows"] for told in (first, second)]
    assert not any("Look!" in row for row in alerts[0])
    assert any("Look!" in row for row in alerts[1])


def test_a_look_reads_a_slot_again_only_when_it_moved_on(left: Run) -> None:
    """Two looks at a quiet namespace share what was read."""
    reader = Reader(left.store, "test")

    async def twice() -> tuple[Any, Any]:
        return await reader.look(), await reader.look()

    first, second = asyncio.run(twice())
    assert first.rows["line1"] is second.rows["line1"]
    assert figures(first, "line1")["exposures"] == figures(second, "line1")["exposures"] > 0
