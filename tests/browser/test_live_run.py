"""A real run in a real browser: a replay through Kafka, Valkey and a worker, and `headstart dashboard` as a user starts it."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from streams.embedded import EmbeddedBroker, EmbeddedValkey
from streams.records import Outcome, decode_message
from streams.replay import read_topic
from streams.settings import Settings, as_environment
from tests.browser.conftest import Open, faults
from tests.figures import figures_of
from tests.integration.harness import Replay
from tests.integration.worlds import World, make_world

PANELS = {"funnel", "activity", "orders", "calibration", "drift", "shoppers", "ranking", "mixture", "origin", "delay", "uplift", "alerts"}


@contextmanager
def dashboard(settings: Settings, *arguments: str, **more: str) -> Iterator[str]:
    """`headstart dashboard` as a process of its own; yields its address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADSTART_")} | as_environment(settings) | more
    command = [sys.executable, "-m", "streams.cli", "dashboard", "--port", "0", *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.search(r"http://\S+?(?=/\s)", said)
            assert found, said
            yield found.group()
        finally:
            process.terminate()


Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts dashboards, which end after the pages that look at them are closed: name it before `page_of`."""
    with ExitStack() as stack:
        yield lambda settings, *arguments, **more: stack.enter_context(dashboard(settings, *arguments, **more))


@pytest.fixture(scope="module")
def apart() -> Iterator[Callable[..., Any]]:
    """Calls a function in a thread of its own: Playwright keeps an event loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda call, *arguments, **more: pool.submit(call, *arguments, **more).result()


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory, apart: Callable[..., Any]) -> World:
    """A small SYNTHETIC log with launches, one of them with a holdout."""
    made: World = apart(make_world, tmp_path_factory.mktemp("world") / "trunk")
    return made


@pytest.fixture(scope="module")
def halves(
    small_world: World, embedded_broker: EmbeddedBroker, embedded_valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory, apart: Callable[..., Any]
) -> Replay:
    """A replay of which three quarters have been worked off."""
    replay = Replay(small_world, embedded_broker.address, embedded_valkey.url, tmp_path_factory.mktemp("replay"), partitions=2)
    apart(replay.prepare)
    ticks = small_world.ticks()
    last_ms = apart(replay.publish, ticks[: 3 * len(ticks) // 4])
    apart(replay.work, last_ms)
    return replay


def outcomes_of(replay: Replay) -> list[Outcome]:
    """Each outcome that lies on the topic, once."""
    told = {}
    for q, value in read_topic(replay.settings, "outcomes"):
        message = decode_message(value)
        if isinstance(message, Outcome):
            told[q, message.partition, message.number] = message
    return list(told.values())


def funnel(page: Any) -> list[str]:
    """The column `number` of the funnel's table, as it is shown."""
    return [cell.inner_text() for cell in page.query_selector_all("#funnel tbody tr td:nth-child(2)")]


def shown(count: int) -> str:
    """A count as the page writes it."""
    return f"{count:,}".replace(",", "\u202f")


def test_figures_are_live_and_equal_those_of_the_topics(serve: Serve, halves: Replay, small_world: World, page_of: Open, apart: Callable[..., Any]) -> None:
    """What the page shows is what the outcomes on Kafka say, and when the rest is worked off it changes by itself to what they say then."""
    address = serve(halves.settings)
    page = page_of(address + "/launches/launch")
    page.click('#funnel button:has-text("Figures")')
    told = apart(lambda: figures_of(outcomes_of(halves), "launch"))
    expected = [shown(told[name]) for name in ("final", "clicked", "carted", "final_orders")]
    assert told["final"] > 0
    assert funnel(page)[:4] == expected
    last_ms = apart(halves.publish, small_world.ticks()[3 * len(small_world.ticks()) // 4 :])
    apart(halves.work, last_ms)
    told = apart(lambda: figures_of(outcomes_of(halves), "launch"))
    later = [shown(told[name]) for name in ("final", "clicked", "carted", "final_orders")]
    assert later != expected
    give_up_s = time.monotonic() + 60
    while funnel(page)[:4] != later and time.monotonic() < give_up_s:
        page.wait_for_timeout(250)
    assert funnel(page)[:4] == later
    numbers = page.inner_text("#ranking .numbers")
    assert f"{told['auc']:.3f}" in numbers
    assert f"{told['log_loss']:.4f}" in numbers
    assert f"{told['final_came_foretold']:.2f}" in page.inner_text("#calibration .numbers")


def test_every_page_is_accessible_and_says_nothing_on_the_console(serve: Serve, halves: Replay, page_of: Open) -> None:
    """Overview and launches, light and dark, on a desk and on a phone: all panels, no serious fault, no sideways scrolling, and no request beyond this machine."""
    address = serve(halves.settings)
    for path in ("/", "/launches/launch", "/launches/products"):
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390)):
            page = page_of(address + path, scheme=scheme, width=width)
            if path != "/":
                assert {panel.get_attribute("id") for panel in page.query_selector_all(".panel")} == PANELS
            for button in page.query_selector_all('button:has-text("What is this?")'):
                button.click()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), (path, width)
            assert faults(page) == [], (path, scheme, width)


def test_keyboard_exports_and_links(serve: Serve, halves: Replay, page_of: Open) -> None:
    """Without a mouse: the explanation opens, arrow keys say a chart's points, CSV and PNG are saved, and a panel has a link that leads to it."""
    address = serve(halves.settings)
    page = page_of(address + "/launches/launch")
    page.focus('#funnel button:has-text("What is this?")')
    page.keyboard.press("Enter")
    assert page.is_visible("#funnel-explains")
    page.focus("#mixture .chart")
    page.keyboard.press("ArrowRight")
    assert re.match(r"shared: .+, 0?\.?\d", page.inner_text("#said"))
    with page.expect_download() as saved:
        page.click("#funnel a.csv")
    rows = list(csv.reader(Path(saved.value.path()).read_text("utf-8").splitlines()))
    assert rows[0][:2] == ["step", "number"]
    with page.expect_download() as saved:
        page.click("#funnel button.png")
    assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")
    link = page.get_attribute('#delay a:has-text("Link")', "href")
    other = page_of(address + "/launches/launch" + str(link))
    assert other.evaluate("document.querySelector('#delay').getBoundingClientRect().top < innerHeight")


def test_a_login_is_required_when_one_is_set(serve: Serve, halves: Replay, page_of: Open, browser: Any) -> None:
    """Without name and password there is nothing but 401; with them the page and its stream work. Beyond loopback the command refuses to start without."""
    address = serve(halves.settings, HEADSTART_HTTP_USER="ann", HEADSTART_HTTP_PASSWORD="pass word")
    context = browser.new_context()
    answer = context.request.get(address + "/api/page")
    assert answer.status == 401
    assert "WWW-Authenticate" in {name.title().replace("Www", "WWW") for name in answer.headers}
    context.close()
    page = page_of(address + "/", http_credentials={"username": "ann", "password": "pass word"})
    assert page.inner_text("h1") == "Overview"
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", "dashboard", "--host", "0.0.0.0", "--port", "0"],
        env=os.environ | as_environment(halves.settings), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "http_token" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_namespace_says_so(serve: Serve, halves: Replay, page_of: Open) -> None:
    """Before any worker has joined, the page says what is missing, and waits."""
    settings = Settings(redis=halves.settings.redis, namespace="nobody-was-here")
    address = serve(settings)
    page = page_of(address + "/", drawn=False)
    page.wait_for_selector("#waiting code")
    assert "no worker has joined it yet" in page.inner_text("#waiting")
