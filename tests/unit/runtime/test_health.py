"""Health and metrics over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import aiohttp
import pytest

from services.runtime.health import Health, serve
from services.runtime.lifecycle import Lifecycle
from services.runtime.settings import HealthSettings, TelemetrySettings
from services.runtime.telemetry import Telemetry, by_reason


@pytest.fixture
def settings() -> HealthSettings:
    """A free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return HealthSettings(port=free.getsockname()[1])


async def get(settings: HealthSettings, path: str) -> tuple[int, str]:
    """Status and body."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{settings.host}:{settings.port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_ready_means_that_every_check_passes(settings: HealthSettings) -> None:
    """The checks that fail are named; the process is healthy all the while."""
    health, bus = Health(), {"connected": False}
    health.check("bus", lambda: bus["connected"])
    health.check("index", lambda: True)
    async with serve(settings, health):
        assert await get(settings, "/healthz") == (200, "ok\n")
        assert await get(settings, "/readyz") == (503, "bus\n")
        bus["connected"] = True
        assert await get(settings, "/readyz") == (200, "ok\n")


async def test_a_draining_service_is_not_ready(settings: HealthSettings) -> None:
    """From the stop signal on, nothing new should be sent to it."""
    lifecycle = Lifecycle()
    async with serve(settings, Health(lifecycle)):
        assert (await get(settings, "/readyz"))[0] == 200
        lifecycle.stopping.set()
        assert await get(settings, "/readyz") == (503, "not_draining\n")
        assert (await get(settings, "/healthz"))[0] == 200


async def test_metrics_have_their_prometheus_names(settings: HealthSettings) -> None:
    """Counters by reason and gauges read at the time of asking, under the service's name."""
    with Telemetry("sample", environ={}) as telemetry:
        counter = telemetry.counter("wirespan.sample.records", "Records seen", "{record}")
        telemetry.gauge("wirespan.sample.lag", "How far behind", "s", lambda: 1.5)
        telemetry.cumulative("wirespan.sample.packets", "Packets", "{packet}", lambda: [(3, {"kind": "arp"})])
        counter.add(2, {"reason": "full"})
        counter.add(5, {"reason": "full"})
        async with serve(settings, Health(), telemetry):
            status, body = await get(settings, "/metrics")

    assert status == 200
    assert 'wirespan_sample_records_total{reason="full"} 7.0' in body
    assert "wirespan_sample_lag_seconds 1.5" in body
    assert 'wirespan_sample_packets_total{kind="arp"} 3.0' in body
    assert 'service_name="wirespan-sample"' in body


def test_a_counter_is_there_before_it_counts() -> None:
    """Prometheus sees each series that is known beforehand at 0, so that its rates have the first of anything."""
    with Telemetry("sample", environ={}) as telemetry:
        telemetry.counter("wirespan.sample.records", "", "{record}")
        telemetry.counter("wirespan.sample.dead", "", "{message}", series=by_reason("full", "torn"))
        shown = telemetry.prometheus().decode()
    assert "wirespan_sample_records_total 0.0" in shown
    assert 'wirespan_sample_dead_total{reason="full"} 0.0' in shown
    assert 'wirespan_sample_dead_total{reason="torn"} 0.0' in shown
    assert "wirespan_sample_dead_total 0.0" not in shown


def test_two_services_in_one_process_do_not_meet() -> None:
    """Nothing is registered globally."""
    with Telemetry("a", environ={}) as one, Telemetry("b", environ={}) as two:
        one.counter("wirespan.a.records", "", "{record}").add(1)
        assert b"wirespan_a_records" in one.prometheus()
        assert b"wirespan_a_records" not in two.prometheus()


def test_metrics_can_be_off() -> None:
    """Without telemetry the instruments are there and count nothing."""
    with Telemetry("sample", TelemetrySettings(enabled=False), environ={}) as telemetry:
        telemetry.counter("wirespan.sample.records", "").add(1)
        assert telemetry.prometheus() == b""


async def test_without_a_port_nothing_is_served() -> None:
    """Port 0 is off."""
    async with serve(HealthSettings(port=0), Health()):
        pass


async def test_what_is_not_there_and_heads_are_answered(settings: HealthSettings) -> None:
    """Another path is 404; a HEAD has a GET's headers and no body; whoever hangs up in the middle disturbs nobody."""
    async with serve(settings, Health()):
        _, hanging = await asyncio.open_connection(settings.host, settings.port)
        hanging.write(b"GET /hea")
        assert (await get(settings, "/"))[0] == 404
        async with (
            aiohttp.ClientSession() as session,
            session.head(f"http://{settings.host}:{settings.port}/healthz") as response,
        ):
            assert (response.status, response.headers["Content-Length"], await response.text()) == (200, "3", "")
        hanging.close()
        assert await get(settings, "/healthz") == (200, "ok\n")


async def test_a_port_that_is_taken_is_an_error(settings: HealthSettings) -> None:
    """At once, as an OSError."""
    with socket.create_server((settings.host, settings.port)), pytest.raises(OSError, match="in use"):
        async with serve(settings, Health()):
            pass


async def test_who_says_nothing_keeps_nobody_out(settings: HealthSettings) -> None:
    """Of a thousand connections that ask for nothing few are kept, each with its thread; a probe is answered all the while."""
    before = threading.active_count()
    async with serve(settings, Health()):
        idle = []
        for _ in range(1000):
            idle.append(await asyncio.open_connection(settings.host, settings.port))
            idle[-1][1].write(b"GET /healthz HTTP/1.1\r\n")
        assert await get(settings, "/healthz") == (200, "ok\n")
        for reader, _ in idle[:500]:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        assert threading.active_count() - before < 100
        assert await get(settings, "/readyz") == (200, "ok\n")
        for _, writer in idle:
            writer.close()
