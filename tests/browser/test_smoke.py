"""The short form: both pages draw every panel in a real browser, say nothing on the console, and axe finds nothing serious. On a run in this process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.browser.conftest import Open, faults
from tests.browser.served import serving
from tests.seen_run import make_run


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A dashboard over a memory store."""
    with ThreadPoolExecutor(1) as apart:  # Playwright keeps an event loop running in this thread
        store = apart.submit(make_run).result().store
    with serving(store) as found:
        yield found


@pytest.mark.parametrize(("path", "scheme", "width"), [("/", "light", 1280), ("/launches/line1", "dark", 390), ("/launches/quiet", "light", 1280)])
def test_a_page_draws_and_is_accessible(address: str, page_of: Open, path: str, scheme: str, width: int) -> None:
    """Every panel has its chart, its table or what it waits for; nothing is wider than the page; axe finds nothing serious."""
    page = page_of(address + path, scheme=scheme, width=width)
    panels = page.query_selector_all(".panel")
    assert len(panels) >= 6
    for panel in panels:
        chart = panel.query_selector(".chart")
        told = chart.is_visible() and chart.query_selector(".main-svg") is not None
        assert told or panel.query_selector(".empty").is_visible() or panel.query_selector("tbody tr") is not None, panel.get_attribute("id")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    assert faults(page) == []
