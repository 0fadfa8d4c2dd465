"""A headless Chromium of the system, pages that mind what the console says, and axe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HERE = Path(__file__).parent

Open = Callable[..., Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser beside everything else takes its time; kafka-python leaves sockets to the garbage collector."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(300))
            item.add_marker(pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The browser; tests are skipped where there is none. It ends with its module: Playwright's event loop would hinder every later test of the process."""
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium: {CHROMIUM} does not exist; `apt-get install chromium`, or set CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def page_of(browser: Any) -> Iterator[Open]:
    """Opens an address and waits until it is drawn. At the end: nothing was said on the console, and nothing but this machine was asked for anything."""
    said: list[str] = []
    asked: list[str] = []
    contexts: list[Any] = []

    def opened(url: str, *, scheme: str = "light", width: int = 1280, height: int = 900, drawn: bool = True, **more: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}") if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        if drawn:
            page.wait_for_selector("body[data-drawn=yes]")
            page.wait_for_timeout(700)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []


def faults(page: Any) -> list[str]:
    """Axe's serious and critical findings, a line each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:160]}" for v in found if v["impact"] in ("serious", "critical")]
