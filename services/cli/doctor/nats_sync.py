"""What a NATS server says of how often it syncs its files, where its monitoring port may be asked."""

from __future__ import annotations

import contextlib
import json
from http.client import HTTPConnection, HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

from services.runtime.settings import NatsSettings

MONITORING_PORT: Final = 8222
SYNC_FIX: Final = (
    "jetstream { sync_interval: 1s } (in the chart nats.syncInterval), or twice the interval as WIRESPAN_NATS_UNSYNCED_SECONDS"
)
_SECONDS: Final = 1.0
_MOST_BYTES: Final = 1 << 20
_NS: Final = 1_000_000_000


def sync_trouble(settings: NatsSettings, server_id: str, port: int = MONITORING_PORT) -> str | None:
    """Return what is wrong with the server's `sync_interval`; None where nothing is, or it cannot be asked.

    Beside several servers only the one with that id is meant: another may have the port.
    """
    host = urlsplit(settings.url.split(",")[0].strip()).hostname
    said = _said(host, port) if host and server_id else {}
    config = said.get("config") or {}
    if said.get("server_id") != server_id or config.get("sync_always") or not settings.unsynced_seconds:
        return None
    interval = config.get("sync_interval", 0) / _NS
    if 2 * interval <= settings.unsynced_seconds:
        return None
    kept = f"services keep what it stored for {settings.unsynced_seconds:g} s"
    return f"it syncs its files every {interval:g} s, and {kept}: a loss of power takes what is between"


def _said(host: str, port: int) -> dict[str, Any]:
    with contextlib.suppress(OSError, HTTPException, ValueError):
        connection = HTTPConnection(host, port, timeout=_SECONDS)
        try:
            connection.request("GET", "/jsz?config=true")
            found = json.loads(connection.getresponse().read(_MOST_BYTES))
            return found if isinstance(found, dict) else {}
        finally:
            connection.close()
    return {}
