"""Which way leads to a URL, whoever asks."""

from __future__ import annotations

import asyncio
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.metrics.export import MetricsData

from services.exporter.delivery.environment import OtlpSettings
from services.exporter.delivery.grpc import GrpcSink
from services.exporter.delivery.http import HttpSink
from services.runtime.proxies import proxy_for
from services.runtime.telemetry import _otlp_exporter

PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("http://tempo:4318", "", False),
        ("http://tempo:4318", "*", True),
        ("http://tempo.obs.svc:4318", "svc", True),
        ("http://tempo.obs.svc:4318", ".svc", True),
        ("http://tempo.obs.svc:4318", "*.svc, other", True),
        ("http://tempo.obs.svc:4318", "vc", False),
        ("http://TEMPO:4318", "tempo", True),
        ("http://tempo:4318", "tempo:4318", True),
        ("http://tempo:4318", "tempo:4317", False),
        ("http://10.96.3.4:4318", "10.96.0.0/12", True),
        ("http://10.96.3.4:4318", "10.0.0.0/16, 10.96.3.4", True),
        ("http://10.96.3.4:4318", "10.0.0.0/16", False),
        ("http://[fd00::1]:4318", "fd00::/8", True),
        ("http://[fd00::1]:4318", "[fd00::1]:4318", True),
        ("http://[fd00::1]:4318", "[fd00::1]:4317", False),
        ("http://tempo:4318", "10.0.0.0/8,,", False),
    ],
)
def test_what_is_reached_without_the_proxy(url: str, no_proxy: str, *, direct: bool) -> None:
    """Names, domains, addresses and networks, each with a port or without."""
    for name in ("no_proxy", "NO_PROXY"):
        assert proxy_for(url, {"HTTP_PROXY": PROXY, name: no_proxy}) == (None if direct else PROXY)


def test_the_scheme_says_which_proxy() -> None:
    """Lower case counts first; a proxy without a scheme is one of HTTP; nothing set is no proxy."""
    environ = {"http_proxy": "one:1", "HTTP_PROXY": "http://two:2", "HTTPS_PROXY": "https://three:3"}
    assert proxy_for("http://a:1", environ) == "http://one:1"
    assert proxy_for("https://a:1", environ) == "https://three:3"
    assert proxy_for("http://a:1", {}) is None


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that lets nobody through, and what it was asked for."""
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            method, target, _ = self.rfile.readline().decode().split()
            headers = iter(lambda: self.rfile.readline().strip(), b"")
            authorized = any(line.lower().startswith(b"proxy-authorization: basic") for line in headers)
            asked.append(f"{method} {target}{' authorized' if authorized else ''}")
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://user:pass-word@127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("no_proxy", ["", "127.0.0.0/8", "127.0.0.1", "127.0.0.1:9", "other"])
async def test_all_clients_of_the_exporter_go_the_same_way(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    """Spans and metrics, over gRPC and HTTP: either all ask the proxy, with its credentials, or none does."""
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    direct = no_proxy.startswith("127")
    with proxy() as (url, asked):
        environ = {"HTTP_PROXY": url, "NO_PROXY": no_proxy}
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        for name, value in (environ | endpoint | {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}).items():
            monkeypatch.setenv(name, value)
        grpc = GrpcSink(OtlpSettings(protocol="grpc", endpoint="127.0.0.1:9", secure=False, timeout_seconds=20))
        await grpc.send(b"")
        await grpc.close()
        assert asked == ([] if direct else ["CONNECT 127.0.0.1:9 authorized"])
        asked.clear()
        http = HttpSink(OtlpSettings(protocol="http/protobuf", endpoint="http://127.0.0.1:9/v1/traces", secure=False))
        await http.send(b"")
        await http.close()
        assert asked == ([] if direct else ["POST http://127.0.0.1:9/v1/traces authorized"])
        asked.clear()
        exporter = _otlp_exporter(environ | endpoint)
        await asyncio.to_thread(exporter.export, MetricsData([]))
        exporter.shutdown()
        assert set(asked) == (set() if direct else {"POST http://127.0.0.1:9/v1/metrics authorized"})
