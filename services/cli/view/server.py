"""The page's server: assets, a small JSON API (docs/view.md has its shapes), and an event whenever there is more to see."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from services.cli.errors import CliError
from services.cli.view import asked
from services.cli.view.access import LOGIN, Access, add_headers, guard
from services.cli.view.asked import QuestionError
from services.cli.view.assets import FOLDER, assets
from services.cli.view.connection import connection, trace, traces
from services.cli.view.flows import flows
from services.cli.view.graph import AUTO, Graph
from services.cli.view.kept import Kept

State: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]

_EVENT_SECONDS: Final = 0.5
"""No more often is a browser told that there is more."""
_SHARE: Final = 4
_QUIET_SECONDS: Final = 15.0
_MOST_LISTENERS: Final = 32
_SLOW_SECONDS: Final = 5.0
"""How long the pipeline may take to answer."""
_LOGIN_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Wirespan</title>
<link rel="stylesheet" href="/app.css"><main><h1>Wirespan</h1><form method="post" action="/login">
<label>Token <input name="token" type="password" autocomplete="current-password" autofocus></label>
<button>Open</button></form></main></html>"""


@dataclass(frozen=True, slots=True)
class Page:
    """What is shown."""

    kept: Kept
    source: str
    """Where the records come from, in words."""
    pipeline: State | None = None
    """How the pipeline is; None where there is none, as with a file."""


class _Answers:
    """The API."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._listeners = 0
        self._one_at_a_time = asyncio.Lock()
        self._last_graph: tuple[object, Graph] | None = None
        self._took_seconds = 0.0

    async def about(self, _request: web.Request) -> web.Response:
        """Where records come from, what is kept of them, and the words of a search."""
        return _json(self._state() | {"source": self._page.source, "filters": asked.words()})

    async def map(self, request: web.Request) -> web.Response:
        """The map, of a stretch of time, some namespaces folded."""
        graph = self._graph(request)
        return await self._made(request, lambda: graph().as_json())

    async def edge(self, request: web.Request) -> web.Response:
        """What passes from one place of the same map to another."""
        graph, (source, destination) = self._graph(request), (request.query.get(end, "") for end in ("source", "destination"))

        def made() -> dict[str, Any] | None:
            found = graph().edge(source, destination)
            for part in found["parts"] if found else ():
                part["query"] = asked.narrowed(request.query.get("q", ""), part["query"])
            return found

        return await self._made(request, made)

    def _graph(self, request: web.Request) -> Callable[[], Graph]:
        """Return what makes the map that a request asks for, unless that is the one which was made last."""
        query, kept = request.query, self._page.kept
        which, since, until = asked.wanted(query), asked.time_of(query, "since"), asked.time_of(query, "until")
        span = until - since if since is not None and until is not None else None
        folded = query.getall("fold", [AUTO])
        key = kept.last, query.get("q", ""), since, until, tuple(folded)

        def make() -> Graph:
            if self._last_graph is None or self._last_graph[0] != key:
                self._last_graph = key, Graph(kept, which, folded, span_ns=span)
            return self._last_graph[1]

        return make

    async def time_line(self, request: web.Request) -> web.Response:
        """Records and troubles over time."""
        return await self._made(request, self._page.kept.time_line)

    async def flows(self, request: web.Request) -> web.Response:
        """The latest records that are asked for."""
        which, after = asked.wanted(request.query), asked.time_of(request.query, "after") or 0
        return await self._made(request, lambda: flows(self._page.kept, which, after=after))

    async def connection(self, request: web.Request) -> web.Response:
        """One connection."""
        number = _hexadecimal(request.query.get("flow", ""), 64)
        return await self._made(request, lambda: connection(self._page.kept, number))

    async def trace(self, request: web.Request) -> web.Response:
        """The requests of one trace, or without an id which traces there are."""
        given = request.query.get("id", "").lower()
        if not given:
            return await self._made(request, lambda: {"traces": traces(self._page.kept)})
        _hexadecimal(given, 128)
        return await self._made(request, lambda: trace(self._page.kept, given))

    async def pipeline(self, _request: web.Request) -> web.Response:
        """How the pipeline is."""
        state = self._state() | {"source": self._page.source}
        if self._page.pipeline is None:
            return _json(state | {"rows": [], "troubles": [], "ok": True, "ledger": []})
        try:
            async with asyncio.timeout(_SLOW_SECONDS):
                return _json(state | {"ledger": []} | dict(await self._page.pipeline()))
        except (TimeoutError, CliError) as error:
            said = str(error) or f"the bus has not answered for {_SLOW_SECONDS:g} s"
            return _json(state | {"rows": [], "troubles": [said], "ok": False, "ledger": []})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """An event for each change, for as long as somebody listens."""
        if self._listeners >= _MOST_LISTENERS:
            return web.Response(status=503, text="too many pages are open")
        self._listeners += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            while True:
                await response.write(b"data: " + msgspec.json.encode(self._state()) + b"\n\n")
                await self._page.kept.changed(_QUIET_SECONDS)
                # Where an answer takes long, no more than a part of the time goes into answers.
                await asyncio.sleep(min(max(_EVENT_SECONDS, _SHARE * self._took_seconds), _QUIET_SECONDS))
        except ConnectionResetError:
            return response
        finally:
            self._listeners -= 1

    def _state(self) -> dict[str, Any]:
        kept = self._page.kept
        return {
            "begun": kept.begun,
            "last": kept.last,
            "records": kept.records,
            "gone": kept.gone,
            "left_out": kept.left_out,
            "complete": kept.complete,
            "notes": kept.notes,
        }

    async def _made(self, request: web.Request, make: Callable[[], Any]) -> web.Response:
        """Answer with what takes a while to make: beside the loop that takes records in, and one after the other."""
        async with self._one_at_a_time:
            if request.transport is None:
                return web.Response(status=503, text="whoever asked has gone")
            began = time.monotonic()
            made = await asyncio.to_thread(make)
            self._took_seconds = time.monotonic() - began
        return web.Response(status=404, text="nothing of that is kept") if made is None else _json(made)


@contextlib.asynccontextmanager
async def serving(page: Page, access: Access, where: socket.socket, folder: Path = FOLDER) -> AsyncIterator[str]:
    """Serve the page while the block runs; yields its address.

    Raises UsageError where it would be open to others, CliError where it has not been built.
    """
    access.check()
    files = assets(folder)
    answers = _Answers(page)

    async def file(request: web.Request) -> web.Response:
        asset = files.get(request.match_info.get("name") or "index.html")
        if asset is None:
            raise web.HTTPNotFound
        headers = {"ETag": f'"{asset.tag}"', "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=asset.content, content_type=asset.type, charset="utf-8", headers=headers)

    async def login(request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response(text=_LOGIN_PAGE, content_type="text/html")
        token = str((await request.post()).get("token", ""))
        response = web.Response(status=303, headers={"Location": "/"})
        if access.let_in(token, request, response):
            return response
        return web.Response(status=401, text="that is not the token")

    app = web.Application(middlewares=[guard(access), _said], client_max_size=1 << 16)
    app.on_response_prepare.append(add_headers)
    for name in ("about", "map", "edge", "time_line", "flows", "connection", "trace", "pipeline", "events"):
        app.router.add_get(f"/api/{name}", getattr(answers, name))
    app.router.add_get(LOGIN, login)
    app.router.add_post(LOGIN, login)
    app.router.add_get("/{name:[a-z.-]*}", file)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.SockSite(runner, where).start()
        yield f"http://{_host(access.address)}:{where.getsockname()[1]}/"
    finally:
        await runner.cleanup()


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@web.middleware
async def _said(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what cannot be asked with the reason."""
    try:
        return await handler(request)
    except QuestionError as error:
        return web.Response(status=400, text=str(error))


def _hexadecimal(text: str, bits: int) -> int:
    digits = text.removeprefix("0x")
    try:
        number = int(digits, 16)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << bits or not digits.isalnum():
        raise QuestionError(f"{text!r} is no id: up to {bits // 4} hexadecimal digits")
    return number


def _json(content: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")
