"""/healthz, /readyz and /metrics over HTTP.

Healthy: the process answers. Ready: every named check passes and the service is not draining.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiohttp import web

from services.runtime.lifecycle import Lifecycle
from services.runtime.settings import HealthSettings
from services.runtime.telemetry import PROMETHEUS_CONTENT_TYPE, Telemetry

logger = structlog.get_logger()

_SHUTDOWN_SECONDS: Final = 1.0


class Health:
    """What readiness depends on. Without a check, a service is ready until it drains."""

    def __init__(self, lifecycle: Lifecycle | None = None) -> None:
        self._checks: dict[str, Callable[[], bool]] = {}
        if lifecycle is not None:
            self.check("not_draining", lambda: not lifecycle.stopping.is_set())

    def check(self, name: str, passes: Callable[[], bool]) -> None:
        """Make readiness depend on `passes`, which must answer at once."""
        self._checks[name] = passes

    def failing(self) -> list[str]:
        """Return the names of the checks that do not pass now."""
        return [name for name, passes in self._checks.items() if not passes()]


@asynccontextmanager
async def serve(settings: HealthSettings, health: Health, telemetry: Telemetry | None = None) -> AsyncIterator[None]:
    """Serve while the block runs; nothing at all where the port is 0. Raises OSError where the port is taken."""
    if settings.port == 0:
        yield
        return

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        failing = health.failing()
        return web.Response(text="".join(f"{name}\n" for name in failing), status=503) if failing else web.Response(text="ok\n")

    async def metrics(_request: web.Request) -> web.Response:
        body = telemetry.prometheus() if telemetry is not None else b""
        return web.Response(body=body, headers={"Content-Type": PROMETHEUS_CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
        logger.info("health.served", host=settings.host, port=settings.port)
        yield
    finally:
        await runner.cleanup()
