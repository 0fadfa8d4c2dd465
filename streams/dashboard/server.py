"""The dashboard's HTTP server: two pages, their data as JSON and as a stream of events, CSV, and the scores of one user. Reads Redis and topics only.

Every page is one shell that draws what `/api` sends; what changes is pushed over server-sent events, while somebody looks. All assets are local:
plotly.js comes with the Python package, the rest lies beside this file.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import importlib.resources
import importlib.util
import io
import json
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

from aiohttp import web
from jinja2 import Environment, PackageLoader, select_autoescape

from features.errors import DependencyDown, HeadstartError, InputError, Mismatch
from streams import namespace
from streams.dashboard.feed import Feed
from streams.http_access import CHALLENGE, Access
from streams.records import OVERVIEW

logger = logging.getLogger(__name__)

PUSH_S: Final = 2.0
SOON_S: Final = 1.0
"""A page that is opened waits for Redis no longer than this before it is drawn, empty."""
SLOW_S: Final = 3.0
"""After so long without an answer the page says that there is none, while it is still waited for."""
ASSETS: Final = {"page.js": "text/javascript", "chart.js": "text/javascript", "page.css": "text/css"}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Scores(Protocol):
    """Answers what one shopper's scores are now."""

    async def of(self, user: str) -> list[dict[str, Any]]:
        """Return an entry for each open launch. Raises InputError for a shopper who is not known."""


def create_app(feed: Feed, access: Access, *, scores: Scores | None = None) -> web.Application:
    """Return the server's application."""
    pages = Environment(loader=PackageLoader("streams.dashboard", "."), autoescape=select_autoescape(default=True))
    shell, lost = pages.get_template("page.html.jinja"), pages.get_template("lost.html.jinja")
    plotly = _plotly()
    assets = {name: importlib.resources.files("streams.dashboard").joinpath(name).read_bytes() for name in ASSETS}
    version = hashlib.sha256(b"".join(assets.values()) + str(plotly.stat().st_size).encode()).hexdigest()[:12]

    async def overview(request: web.Request) -> web.Response:
        return web.Response(text=shell.render(page=OVERVIEW, title="Overview", version=version), content_type="text/html")

    async def launch(request: web.Request) -> web.Response:
        name = request.match_info["launch"]
        there = await _launches(feed)
        if there is not None and name not in there:
            return web.Response(text=lost.render(name=name, there=there, version=version), content_type="text/html", status=404)
        return web.Response(text=shell.render(page=name, title=f"Launch {name}", version=version), content_type="text/html")

    async def document(request: web.Request) -> web.Response:
        return _json(await _document(feed, request.query.get("page", OVERVIEW)))

    async def panel(request: web.Request) -> web.Response:
        found = await feed.panel(request.match_info["page"], request.match_info["panel"])
        return web.Response(text=_csv(found), content_type="text/csv", headers={"Content-Disposition": f'attachment; filename="{found["id"]}.csv"'})

    async def events(request: web.Request) -> web.StreamResponse:
        return await _stream(request, feed, request.query.get("page", OVERVIEW))

    async def asset(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        cached = {"Cache-Control": "public, max-age=31536000, immutable"}
        if name == "plotly.min.js":
            return web.FileResponse(plotly, headers=cached)
        if name not in assets:
            raise web.HTTPNotFound(text="there is no such file\n")
        return web.Response(body=assets[name], content_type=ASSETS[name], charset="utf-8", headers=cached)

    async def user(request: web.Request) -> web.Response:
        if access.is_open:
            return _json({"error": "scores of a user are given only where http_token, or http_user and http_password, is set"}, 403)
        if scores is None:
            return _json({"error": "no trunk was given, and the namespace holds none: start the dashboard with --trunk"}, 503)
        return _json({"user_id": request.match_info["user"], "scores": await scores.of(request.match_info["user"])})

    async def healthy(request: web.Request) -> web.Response:
        return web.Response(text=f"ok {os.getpid()}\n")

    app = web.Application(middlewares=[_guard(access), _errors])
    app.router.add_get("/", overview)
    app.router.add_get("/launches/{launch:.+}", launch)
    app.router.add_get("/api/page", document)
    app.router.add_get("/api/events", events)
    app.router.add_get("/api/panels/{page:.+}/{panel}.csv", panel)
    app.router.add_get("/api/users/{user:.+}/scores", user)
    app.router.add_get("/assets/{name}", asset)
    app.router.add_get("/healthz", healthy)
    return app


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _guard(access: Access) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not access.allows(request.headers.get("Authorization"), request.headers.get("Host")):
            logger.warning("refused %s from %s: %s", request.raw_path, request.remote, access.asks_for)  # as it came, so that it is one line
            return web.Response(status=401, text=f"{access.asks_for}\n", headers={"WWW-Authenticate": CHALLENGE})
        response = await handler(request)
        if not response.prepared:
            response.headers.update(HEADERS)
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    return guard


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (InputError, Mismatch) as error:
        return _json({"error": str(error)}, 404)
    except DependencyDown as error:
        return _json({"error": str(error)}, 503)


async def _launches(feed: Feed) -> list[str] | None:
    """The launches that there are; None where that is not known now: the page's stream tells why, and when it is over."""
    try:
        async with asyncio.timeout(SOON_S):
            return list((await feed.look()).launches)
    except (HeadstartError, TimeoutError):
        return None


async def _document(feed: Feed, page: str) -> dict[str, Any]:
    return await (feed.overview() if page == OVERVIEW else feed.launch(page))


async def _stream(request: web.Request, feed: Feed, page: str) -> web.StreamResponse:
    """Push the page's document whenever it differs from what was sent, until the browser goes away."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no", **HEADERS})
    await response.prepare(request)
    sent, kind = b"", ""
    reading: asyncio.Task[tuple[str, bytes]] | None = None
    try:
        while True:
            reading = reading or asyncio.create_task(_told(feed, page))
            await asyncio.wait({reading}, timeout=SLOW_S)
            if reading.done():
                (kind, text), reading = reading.result(), None
            elif kind != "trouble":  # else what is known to be wrong is not said in two ways by turns
                kind, text = "trouble", _trouble(feed, f"No answer for {SLOW_S:g} seconds; it is tried on")
            if (seen := hashlib.sha256(_steady(text)).digest()) != sent:
                sent = seen
                await response.write(f"event: {kind}\ndata: ".encode() + text + b"\n\n")
            else:
                await response.write(f"event: read\ndata: {feed.read_ms}\n\n".encode() if kind == "page" else b": still here\n\n")
            if reading is None:
                await asyncio.sleep(PUSH_S)
    except (ConnectionResetError, asyncio.CancelledError):
        return response
    finally:
        if reading is not None:
            reading.cancel()


async def _told(feed: Feed, page: str) -> tuple[str, bytes]:
    """What a page's stream tells now: its document, that nobody has begun, or what is wrong."""
    try:
        return "page", _text(await _document(feed, page))
    except namespace.Empty as error:
        return "empty", _trouble(feed, str(error))
    except HeadstartError as error:
        return "trouble", _trouble(feed, str(error))


def _trouble(feed: Feed, what: str) -> bytes:
    return _text({"error": what, "read_ms": feed.read_ms})


def _steady(text: bytes) -> bytes:
    """The document without the wall clock: what a reader would see change."""
    document = json.loads(text)
    document.pop("wall_ms", None)
    return json.dumps(document, sort_keys=True).encode()


def _text(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=_text(document) + b"\n", status=status, content_type="application/json")


def _csv(panel: dict[str, Any]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(panel["columns"])
    writer.writerows([[_cell(value) for value in row] for row in panel["rows"]])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: a user's text may begin with anything."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def _plotly() -> Path:
    """The path of plotly.min.js in the package `plotly`, which is not imported for it: that takes its time."""
    found = importlib.util.find_spec("plotly")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "package_data" / "plotly.min.js"
