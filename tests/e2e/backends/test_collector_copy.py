"""The Collector sends the enricher a copy of spans, as docs/correlation.md has it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind

from proto.asked.batch import decode_asked
from proto.subjects import ASKED_SUBJECTS
from services.enricher.index.cluster import Cluster
from services.enricher.index.source import FixedIndex, index_of_snapshot
from services.enricher.intake.intake import Intake
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import EnricherSettings
from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings
from services.runtime.telemetry import Telemetry
from tests.e2e.backends.collector import Collector
from tests.support.pipeline.nats_server import NatsServer
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]
CART = "0f42bcfb-2cc7-4352-bfa0-a7dc0f183b0a"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it


def documented(port: int) -> dict[str, Any]:
    """The lines of the document, with the address of a test in the place of the Service's."""
    text = (ROOT / "docs" / "correlation.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?otlp/wirespan.*?)```", text, re.DOTALL)
    return yaml.safe_load(block.replace("wirespan-intake.wirespan:4317", f"127.0.0.1:{port}"))


async def test_the_collector_sends_a_copy(otelcol_copy: Path, tmp_path: Path, nats_server: NatsServer) -> None:
    """With the document's lines a Collector passes on what it did and asks, by a copy of each span, about a span's network."""
    port, receiver = free_port(), free_port()
    settings = EnricherSettings(intake=True, intake_grpc_port=port, intake_http_port=0)
    source = FixedIndex(index_of_snapshot(ROOT / "tests" / "data" / "cluster.json", Cluster(), Selection()))
    lines = documented(port)
    more = {"exporters": lines["exporters"], "pipelines": lines["service"]["pipelines"]}
    stopping = asyncio.Event()
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.wait_connected()
        watch = bus.watch(ASKED_SUBJECTS)
        await watch.start()
        intake = Intake(settings, source, bus, Telemetry("test"))
        async with intake.open():
            running = asyncio.create_task(intake.run(stopping))
            receivers = {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{receiver}"}}}}
            with Collector(otelcol_copy, tmp_path, receivers, more) as collector:
                await asyncio.to_thread(send, receiver)
                async with asyncio.timeout(60):
                    batch = decode_asked((await anext(watch)).data)
                await asyncio.to_thread(collector.wait_for_output, 1)
            stopping.set()
            await running
    assert (batch.node, list(batch.locals)) == ("worker-a", [CART])
    assert batch.columns["peer_port"].tolist() == [6379, 6379]


def send(port: int) -> None:
    """A client's span, by the SDK."""
    provider = TracerProvider(resource=Resource({"k8s.pod.uid": CART, "service.name": "cart"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"127.0.0.1:{port}", insecure=True)))
    attributes = {"server.address": "redis", "server.port": 6379}
    with provider.get_tracer("test").start_as_current_span("GET", kind=SpanKind.CLIENT, attributes=attributes):
        pass
    provider.shutdown()
