"""The intake: takes copies of spans at its doors, makes questions of them, and puts those to the captures.

Flows come first. Requests are answered before they are looked at; one thread looks at them a few MiB at a time, and rests for
as long as it has worked; what is more than it manages is passed over, and counted. (A low priority would do the flows harm: a
thread that waits for a processor while it holds Python's lock has all others wait.)
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import structlog

from proto.subjects import MAX_BATCH_BYTES
from services.enricher.errors import IntakeError
from services.enricher.index.index import Index
from services.enricher.index.source import IndexSource
from services.enricher.intake.counts import ASKED, IntakeCounts
from services.enricher.intake.door import Authorization, Door, Waiting
from services.enricher.intake.grpc_server import serve_grpc
from services.enricher.intake.http_server import serve_http
from services.enricher.intake.locals import Locals
from services.enricher.intake.names import NamesSeen
from services.enricher.intake.peers import Peers
from services.enricher.intake.questions import Questions
from services.enricher.intake.scan import library
from services.enricher.intake.settings import IntakeSettings
from services.runtime.nats.bus import Bus
from services.runtime.telemetry import Telemetry

logger = structlog.get_logger()

_GATHER_SECONDS: Final = 0.2
_TURN_BYTES: Final = 4 << 20
"""Requests that are looked at in one go."""
_MOST_ROWS: Final = 1 << 16
"""Rows that are piled up before they are sent, whatever the time."""
_SEND_SECONDS: Final = 2.0
"""What all messages that are sent in one go may take, with what the server says of them."""
_HEADERS_ROOM: Final = 1024


class Intake:
    """What there is behind the doors."""

    def __init__(
        self, settings: IntakeSettings, source: IndexSource, bus: Bus, telemetry: Telemetry, names: NamesSeen | None = None
    ) -> None:
        """Read what the settings name. Raises IntakeError where that cannot be used."""
        library()
        self._settings = settings
        self._source = source
        self._bus = bus
        self.counts = IntakeCounts(telemetry)
        self._first = asyncio.Event()
        self._door = Door(self.counts, queue_bytes=settings.intake_queue_bytes, on_first=self._first.set)
        telemetry.gauge("wirespan.enricher.intake.waiting", "Requests that wait", "By", lambda: self._door.waiting_bytes)
        self._authorization = Authorization(settings.intake_authorization_file)
        locals_ = Locals(this_host=socket.gethostname(), node=settings.intake_node)
        self._questions = Questions(self.counts, locals_, Peers(names or NamesSeen()))
        telemetry.gauge(
            "wirespan.enricher.intake.clock.ahead",
            "How far the clock of that sender is ahead at least that was farthest within the last minute",
            "s",
            lambda: self._questions.clocks.largest_seconds(time.time_ns()),
        )
        self.grpc_port = 0
        self.http_port = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Take requests while the block runs. Raises IntakeError where it cannot listen."""
        async with AsyncExitStack() as doors:
            try:
                if self._settings.intake_grpc_port:
                    self.grpc_port = await doors.enter_async_context(
                        serve_grpc(self._settings, self._door, self._authorization)
                    )
                if self._settings.intake_http_port:
                    self.http_port = await doors.enter_async_context(
                        serve_http(self._settings, self._door, self._authorization)
                    )
            except OSError as error:  # of the certificate or its key
                raise IntakeError(f"the intake cannot use its certificate: {error}") from error
            logger.info("intake.opened", grpc_port=self.grpc_port, http_port=self.http_port)
            yield

    async def run(self, stopping: asyncio.Event) -> None:
        """Look at requests and ask, until told to stop; what waits then is passed over, as it would be too old for the next."""
        stop: asyncio.Future[Any] = asyncio.ensure_future(stopping.wait())
        with ThreadPoolExecutor(1, "intake") as thread:
            try:
                while not stopping.is_set():
                    await _first_of(stop, self._first.wait())
                    await _first_of(stop, asyncio.sleep(_GATHER_SECONDS))
                    self._first.clear()
                    gathering_since = time.monotonic()
                    while len(self._door) and not stopping.is_set():
                        view = await self._source.view(0, stopping)
                        turn, began = self._door.drain(_TURN_BYTES), time.monotonic()
                        await asyncio.get_running_loop().run_in_executor(thread, self._look_at, turn, view.index)
                        ended = time.monotonic()
                        if self._questions.rows >= _MOST_ROWS or ended - gathering_since > _GATHER_SECONDS:
                            await self._ask(thread)
                            gathering_since = ended
                        await _first_of(stop, asyncio.sleep(ended - began))
                    await self._ask(thread)
            finally:
                stop.cancel()

    def _look_at(self, requests: list[Waiting], index: Index | None) -> None:
        now = time.time_ns()
        for request in requests:
            self._questions.add(request, index, now)

    async def _ask(self, thread: ThreadPoolExecutor) -> None:
        """Send what is piled up."""
        limit = min(MAX_BATCH_BYTES, self._bus.max_payload - _HEADERS_ROOM)
        loop = asyncio.get_running_loop()
        asked = await loop.run_in_executor(thread, self._questions.messages, limit)
        told = [(subject, message) for subject, _, _, message in asked]
        heard = await self._bus.tell(told, timeout_seconds=_SEND_SECONDS) if told else []
        for (_, questions, rows, message), somebody in zip(asked, heard, strict=True):
            if somebody is None:
                self.counts.spans.add("unpublished", questions)
            else:
                self.counts.spans.add(ASKED if somebody else "unheard", questions)
                self.counts.published(rows, len(message))


async def _first_of(stop: asyncio.Future[Any], other: Coroutine[Any, Any, object]) -> None:
    task = asyncio.ensure_future(other)
    try:
        await asyncio.wait({stop, task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
