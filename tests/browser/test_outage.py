"""What the pages say while Redis is away, before anything has begun, and that the keyboard stays where it is while they change."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from features.memory_store import MemoryStore
from streams.evaluation import as_launch
from streams.offline import put_launches
from tests.browser.conftest import Open, faults
from tests.browser.served import Reachable, serving
from tests.builders import START_MS
from tests.seen_run import META, make_run

Serve = Callable[[MemoryStore], str]
LONG = "spring-shoes-of-the-year-2027-in-every-colour-that-there-is-and-then-some-more"


def apart(call: Any, *arguments: Any) -> Any:
    """The result of a function in a thread of its own: Playwright keeps an event loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *arguments).result()


def launch(store: MemoryStore, name: str) -> None:
    """A further launch."""
    apart(asyncio.run, put_launches(store, [as_launch(name, START_MS, 60.0)]))


@pytest.fixture(scope="module")
def store() -> Reachable:
    """A small run's store."""
    return Reachable.of(apart(make_run).store)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts dashboards, which end after the pages that look at them are closed: name it before `page_of`."""
    with ExitStack() as stack:
        yield lambda store: stack.enter_context(serving(store))


def test_old_figures_are_said_to_be_old_and_the_page_recovers(serve: Serve, store: Reachable, page_of: Open) -> None:
    """While Redis is away the dot is red, the header and the tiles say of when the figures are; when it is back, all of that is gone. A reload draws meanwhile, too."""
    address = serve(store)
    page = page_of(address + "/launches/line1")
    store.away = True
    try:
        page.wait_for_selector("body[data-old]")
        assert re.fullmatch(r"last read \d\d:\d\d UTC", page.inner_text("#clock-text"))
        assert page.get_attribute("#live", "class") == "live bad"
        assert re.search(r"does not answer\. What is shown is of \d\d:\d\d UTC\.", page.inner_text("#trouble"))
        assert str(page.get_attribute("#verdicts", "data-of")).startswith("As of ")
        assert "grayscale" in page.evaluate("getComputedStyle(document.querySelector('.verdict')).filter")
        assert faults(page) == []
        page.reload()
        page.wait_for_selector("#trouble:visible")
        assert "does not answer" in page.inner_text("#trouble")
        assert page.inner_text("#clock-text") == "nothing can be read"
    finally:
        store.away = False
    page.wait_for_selector("body[data-drawn=yes]:not([data-old])")
    page.wait_for_selector("#trouble", state="hidden")
    assert "no worker is running" in page.inner_text("#clock-text")
    assert page.query_selector("[data-of]") is None


def test_a_server_that_falls_silent_is_told_from_a_quiet_shop(serve: Serve, store: Reachable, page_of: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing new is told as such; where not even that comes, the page says that it is old."""
    address = serve(store)
    page = page_of(address + "/")
    page.wait_for_timeout(5_000)
    assert not page.is_visible("#trouble")
    monkeypatch.setattr("streams.dashboard.server.PUSH_S", 3_600.0)
    page.wait_for_selector("body[data-old]")
    assert "server is silent" in page.inner_text("#trouble")


def test_an_empty_beginning_is_no_trouble(serve: Serve, page_of: Open) -> None:
    """Before a worker has joined, the page says so without alarm, with the next command; then it fills by itself."""
    store = MemoryStore()
    address = serve(store)
    page = page_of(address + "/", drawn=False)
    page.wait_for_selector("#waiting code")
    assert "no worker has joined it yet" in page.inner_text("#waiting")
    assert "headstart worker" in page.inner_text("#waiting")
    page.click("#to-words")
    assert page.is_visible("#words dt:has-text('Delay bin')")
    assert not page.is_visible("#trouble")
    assert page.inner_text("#clock-text") == "no worker yet"
    apart(asyncio.run, store.put_meta(META))
    page.wait_for_selector("body[data-drawn=yes]")
    assert not page.is_visible("#waiting")


def test_the_keyboard_stays_where_it_is(serve: Serve, store: Reachable, page_of: Open) -> None:
    """What is drawn anew while something has the focus leaves it there; what has not changed is not drawn anew."""
    address = serve(store)
    page = page_of(address + "/")
    tile = page.query_selector(".verdict")
    page.focus("#pages a:has-text('line1')")
    launch(store, "another")
    page.wait_for_selector("#pages a:has-text('another')")
    assert page.evaluate("document.activeElement.textContent") == "line1"
    page.focus(".card:first-child h2 a")
    launch(store, "a first one")
    page.wait_for_selector(".card:first-child h2 a:has-text('a first one')")
    page.wait_for_timeout(2_500)
    assert page.evaluate("document.activeElement.textContent") == "another"
    assert tile.evaluate("(element) => element.isConnected")


@pytest.mark.parametrize("width", [390, 1280])
def test_names_are_text_and_break_nothing(serve: Serve, page_of: Open, width: int) -> None:
    """A name that is long, or looks like HTML, a colour or a route: no page is wider than the screen, nothing becomes a link, and each page opens."""
    store = apart(make_run).store
    names = (LONG, "<a href=https://example.org>x</a>", "@c1", "{launch}", "a/b")
    for name in names:
        launch(store, name)
    address = serve(store)
    page = page_of(address + "/", width=width)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    for name in names:
        page.click(f'#cards [data-launch="{name}"] h2 a')
        page.wait_for_selector("body[data-drawn=yes]")
        assert page.inner_text("h1") == f"Launch {name}"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
        current = page.query_selector("#pages [aria-current]")
        assert current.evaluate("(a) => { const box = a.getBoundingClientRect(); return box.left >= -1 && box.right <= innerWidth + 1; }"), name
        page.go_back()
        page.wait_for_selector("body[data-drawn=yes]")


def test_a_chart_takes_no_name_for_html(serve: Serve, store: Reachable, page_of: Open) -> None:
    """What looks like a link stays text in a legend and on an axis; a name like a colour's stays a name."""
    address = serve(store)
    page = page_of(address + "/")
    page.evaluate("""() => Chart.draw(document.querySelector("#throughput .chart"), { layout: {}, data: ["<a href='https://example.org'>x</a>", "@c1"].map((name) =>
        ({ type: "bar", orientation: "h", name, y: [name], x: [1], marker: { color: "@c1" } })) })""")
    page.wait_for_timeout(300)
    assert page.query_selector("#throughput svg a") is None
    told = page.evaluate("[...document.querySelectorAll('#throughput svg text')].map((t) => t.textContent)")
    assert told.count("<a href='https://example.org'>x</a>") == 2
    assert told.count("@c1") == 2


def test_a_legend_leaves_the_plot_its_room(serve: Serve, store: Reachable, page_of: Open) -> None:
    """On a phone a legend takes several lines; the plot beneath it stays at least 120 pixels high."""
    address = serve(store)
    page = page_of(address + "/launches/line1", width=390)
    page.wait_for_timeout(500)
    for name in ("activity", "mixture"):
        assert page.evaluate(f"document.querySelector('#{name} .chart')._fullLayout._size.h") >= 120
