"""Real senders on one side of the intake, a real NATS on the other."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind

from proto.asked.batch import AskedBatch, decode_asked
from proto.subjects import ASKED_SUBJECTS
from services.enricher.errors import IntakeError
from services.enricher.index.cluster import Cluster
from services.enricher.index.source import FixedIndex, index_of_snapshot
from services.enricher.intake.grpc_server import EXPORT
from services.enricher.intake.intake import Intake
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import EnricherSettings
from services.runtime.nats.bus import Watch, connect
from services.runtime.settings import NatsSettings
from services.runtime.telemetry import Telemetry
from tests.support.certificates import make_certificates
from tests.support.otlp_requests import request, span, typical
from tests.support.pipeline.nats_server import NatsServer
from tests.support.ports import free_port

SNAPSHOT = Path(__file__).parents[2] / "data" / "cluster.json"
CART = "0f42bcfb-2cc7-4352-bfa0-a7dc0f183b0a"
PROTOBUF = {"content-type": "application/x-protobuf"}

pytestmark = pytest.mark.timeout(120)  # for machines that are busy; nothing here is timed


@dataclass
class Opened:
    """An intake, and what is asked."""

    intake: Intake
    asked: Watch

    @property
    def url(self) -> str:
        """Where OTLP/HTTP goes."""
        return f"http://127.0.0.1:{self.intake.http_port}/v1/traces"

    @property
    def target(self) -> str:
        """Where OTLP/gRPC goes."""
        return f"127.0.0.1:{self.intake.grpc_port}"

    async def batch(self) -> AskedBatch:
        """The next questions."""
        async with asyncio.timeout(30):
            return decode_asked((await anext(self.asked)).data)

    async def counted(self, **spans: int) -> None:
        """Return once so many spans became this: a question is counted when the server has said whether anybody heard it."""
        async with asyncio.timeout(30):
            while any(self.intake.counts.spans.total[word] != count for word, count in spans.items()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
def opened(nats_server: NatsServer):
    """Opens intakes."""

    @asynccontextmanager
    async def open_(**settings) -> AsyncIterator[Opened]:
        source = FixedIndex(index_of_snapshot(SNAPSHOT, Cluster(), Selection()))
        chosen = EnricherSettings(intake=True, **{"intake_grpc_port": 0, "intake_http_port": 0} | settings)
        stopping = asyncio.Event()
        async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
            await bus.wait_connected()
            watch = bus.watch(ASKED_SUBJECTS)
            await watch.start()
            intake = Intake(chosen, source, bus, Telemetry("test"))
            async with intake.open():
                running = asyncio.create_task(intake.run(stopping))
                try:
                    yield Opened(intake, watch)
                finally:
                    stopping.set()
                    await running

    return open_


@pytest.fixture
def ports() -> dict[str, int]:
    """Settings with a port for each protocol."""
    return {"intake_grpc_port": free_port(), "intake_http_port": free_port()}


def send(exporter: SpanExporter) -> None:
    """A client's span and one of no network, by the SDK, as an application makes them."""
    provider = TracerProvider(resource=Resource({"k8s.pod.uid": CART, "service.name": "cart"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with (
        tracer.start_as_current_span("work"),
        tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes={"server.address": "redis", "server.port": 6379}),
    ):
        pass
    provider.shutdown()


@pytest.mark.parametrize("protocol", ["grpc", "http", "http gzip"])
async def test_the_sdk_sends_and_the_node_is_asked(opened, ports, protocol):
    """OpenTelemetry's exporters are content, and a question of theirs is on the bus: of the span with a network alone."""
    async with opened(**ports) as it:
        if protocol == "grpc":
            exporter: SpanExporter = GrpcExporter(it.target, insecure=True)
        else:
            exporter = HttpExporter(it.url, compression=Compression.Gzip if "gzip" in protocol else Compression.NoCompression)
        await asyncio.to_thread(send, exporter)
        batch = await it.batch()
        assert (batch.node, list(batch.locals)) == ("worker-a", [CART])
        assert batch.columns["peer_port"].tolist() == [6379, 6379]
        await it.counted(asked=1, kind=1, unheard=0)


async def test_tls_and_authorization(opened, ports, tmp_path, monkeypatch):
    """Over TLS, with the header, spans are taken; without it neither protocol takes any, and says so at once."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # the exporter's library would believe them more
        monkeypatch.delenv(variable, raising=False)
    certificates = make_certificates(tmp_path)
    secret = tmp_path / "authorization"
    secret.write_text("Bearer a\nBearer b\n")
    settings = {
        "intake_tls_cert": certificates.server_certificate,
        "intake_tls_key": certificates.server_key,
        "intake_authorization_file": secret,
    }
    async with opened(**ports, **settings) as it:
        credentials = grpc.ssl_channel_credentials(certificates.authority.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{it.intake.grpc_port}", credentials) as channel:
            export = channel.unary_unary(EXPORT)
            for header in (None, "Bearer c"):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await export(request([span()]), metadata=[("authorization", header)] if header else None)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert await export(request([span()]), metadata=[("authorization", "Bearer a")]) == b""
        url = f"https://localhost:{it.intake.http_port}/v1/traces"
        headers = {"authorization": "Bearer b", "x": "y"}
        exporter = HttpExporter(url, certificate_file=str(certificates.authority), headers=headers)
        await asyncio.to_thread(send, exporter)
        assert (await it.batch()).node == "worker-a"
        context = aiohttp.TCPConnector(ssl=False)
        async with aiohttp.ClientSession(connector=context) as session, session.post(url, data=b"", headers=PROTOBUF) as answer:
            assert answer.status == 401
        assert it.intake.counts.requests.total["unauthorized"] == 3


async def taken_by(it: Opened, authority: bytes, header: str) -> list[str]:
    """Who takes spans of a sender that trusts this authority alone."""
    body, protocols = request([span()]), []
    credentials = grpc.ssl_channel_credentials(authority)
    async with grpc.aio.secure_channel(f"localhost:{it.intake.grpc_port}", credentials) as channel:
        with suppress(grpc.aio.AioRpcError):
            await channel.unary_unary(EXPORT)(body, metadata=[("authorization", header)])
            protocols.append("grpc")
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority.decode()))
    url = f"https://localhost:{it.intake.http_port}/v1/traces"
    async with aiohttp.ClientSession(connector=connector, headers=PROTOBUF | {"authorization": header}) as session:
        with suppress(aiohttp.ClientConnectorError):
            async with session.post(url, data=body) as answer:
                protocols += ["http"] if answer.status == 200 else []
    return protocols


async def test_renewed_credentials_are_used_without_a_restart(opened, ports, tmp_path):
    """Certificate, key and authorization are replaced as a kubelet does it: who comes then needs the new ones."""
    authorities = {}
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        authorities[name] = make_certificates(tmp_path / name).authority.read_bytes()
        (tmp_path / name / "authorization").write_text(f"Bearer {name}\n")
    live = tmp_path / "live"
    live.symlink_to("old")
    settings = {"intake_tls_cert": "server.pem", "intake_tls_key": "server.key", "intake_authorization_file": "authorization"}
    async with opened(**ports, **{name: live / file for name, file in settings.items()}) as it:
        found = [await taken_by(it, authorities[name], f"Bearer {name}") for name in ("old", "new")]
        assert found == [["grpc", "http"], []]
        (tmp_path / "link").symlink_to("new")
        (tmp_path / "link").replace(live)
        found = [await taken_by(it, authorities[name], f"Bearer {name}") for name in ("old", "new")]
        assert found == [[], ["grpc", "http"]]


async def test_bodies_that_are_none_are_refused_for_good(opened, ports):
    """Garbage, JSON, other packing and what is too large get statuses after which no sender tries again."""
    async with opened(**ports, intake_request_bytes=1 << 16) as it, aiohttp.ClientSession() as session:
        bomb = gzip.compress(bytes(256 << 20))
        large = gzip.compress(request([span(number) for number in range(1, 2000)]))
        cases = [
            (b"\xff\xff\xff", {}, 400),
            (b"{}", {"content-type": "application/json"}, 415),
            (b"x", {"content-encoding": "zstd"}, 415),
            (b"x", {"content-encoding": "gzip"}, 400),
            (b"x" * 70_000, {}, 413),
            (large, {"content-encoding": "gzip"}, 413),
            (bomb, {"content-encoding": "gzip"}, 413),
        ]
        for body, headers, status in cases:
            async with session.post(it.url, data=body, headers=PROTOBUF | headers) as answer:
                assert (answer.status, answer.headers["content-type"]) == (status, PROTOBUF["content-type"])
        async with session.get(it.url) as answer:
            assert answer.status == 405
        assert it.intake.counts.requests.total == {"malformed": 2, "unsupported": 2, "too_large": 3}
        async with grpc.aio.insecure_channel(it.target) as channel:
            export = channel.unary_unary(EXPORT)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await export(b"\xff\xff\xff")
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await export(b"x" * 70_000)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await export(bytes(256 << 20), compression=grpc.Compression.Gzip)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/other.Service/Export")(b"")
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_full_queue_is_a_success_that_says_what_it_passed_over(opened, ports):
    """More than waits is passed over, told and counted; what was taken is asked about all the same."""
    body = typical(400, start=time.time_ns(), pod_uid=CART)
    async with opened(**ports, intake_queue_bytes=len(body) + 1) as it, aiohttp.ClientSession() as session:
        passed_over = 0
        for _ in range(5):
            async with session.post(it.url, data=body, headers=PROTOBUF) as answer:
                assert answer.status == 200
                passed_over += ExportTraceServiceResponse.FromString(await answer.read()).partial_success.rejected_spans
        asked = 0
        while asked < 2000 - passed_over:
            asked += (await it.batch()).count
        assert passed_over == it.intake.counts.spans.total["queue_full"] > 0
        await it.counted(asked=asked)


async def test_a_node_whose_capture_does_not_listen_is_counted(opened, ports):
    """It is gone, or remembers nothing: its spans are not among those that were asked about."""
    async with opened(**ports) as it, aiohttp.ClientSession() as session:
        await it.asked.aclose()
        body = request([span(1, start=time.time_ns(), end=time.time_ns())], k8s__pod__uid=CART)
        async with session.post(it.url, data=body, headers=PROTOBUF) as answer:
            assert answer.status == 200
        await it.counted(unheard=1, asked=0)


async def test_a_bus_that_is_away_holds_nobody_up(opened, ports, nats_server):
    """While there is no server, senders are answered as ever, and what could not be asked is counted."""
    async with opened(**ports) as it, aiohttp.ClientSession() as session:
        nats_server.kill()
        body = request([span(1, start=time.time_ns(), end=time.time_ns())], k8s__pod__uid=CART)
        while not it.intake.counts.spans.total["unpublished"]:
            async with session.post(it.url, data=body, headers=PROTOBUF) as answer:
                assert answer.status == 200
            await asyncio.sleep(0.05)
        nats_server.start()


async def test_a_port_that_is_taken_is_said_in_one_line(opened, ports):
    """Which address cannot be listened on is said, for both protocols."""
    async with opened(**ports):
        for name, port in ports.items():
            with pytest.raises(IntakeError, match=str(port)):
                async with opened(**{name: port}):
                    pass


async def test_the_enricher_takes_spans_where_it_is_told_to(nats_server, ports, tmp_path):
    """The service listens where its settings say and counts what came, which no capture hears; a second one there ends and
    says why.
    """
    health, url = free_port(), f"http://127.0.0.1:{ports['intake_http_port']}/v1/traces"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WIRESPAN_", "OTEL_", "KUBECONFIG"))}
    environ |= {
        "WIRESPAN_NATS_URL": nats_server.url,
        "WIRESPAN_ENRICHER_KUBE_SNAPSHOT": str(SNAPSHOT),
        "WIRESPAN_ENRICHER_INTAKE": "true",
        **{f"WIRESPAN_ENRICHER_{name.upper()}": str(port) for name, port in ports.items()},
    }
    command = (sys.executable, "-m", "services.enricher")
    first = await asyncio.create_subprocess_exec(*command, env=environ | {"WIRESPAN_HEALTH_PORT": str(health)})
    try:
        async with aiohttp.ClientSession() as session:
            body = request([span(1, start=time.time_ns(), end=time.time_ns())], k8s__pod__uid=CART)
            while True:
                with suppress(aiohttp.ClientConnectionError):
                    async with session.post(url, data=body, headers=PROTOBUF) as sent:
                        assert sent.status == 200
                    async with session.get(f"http://127.0.0.1:{health}/metrics") as answer:
                        if re.search(r'wirespan_enricher_intake_spans_total\{result="unheard"\} [1-9]', await answer.text()):
                            break
                assert first.returncode is None
                await asyncio.sleep(0.1)
        second = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.PIPE)
        _, said = await second.communicate()
        assert second.returncode == 2
        assert f":{ports['intake_grpc_port']}" in said.decode().splitlines()[-1]
    finally:
        first.terminate()
        assert await first.wait() == 0
