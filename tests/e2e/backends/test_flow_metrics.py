"""Metrics of flows at a real Collector: what it received is what the records were, whatever happened to the exporter."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from proto.flow_batch import FlowBatch
from services.runtime.nats.bus import Bus
from tests.e2e.backends.collector import Collector
from tests.integration.services.test_exporter import publish, until_all_settled
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.exporter_process import Exporter
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.watched import until
from tests.support.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # the first to ask for a tool may build it

RECORDS = 50


@pytest.fixture
def collector(otelcol: Path, tmp_path: Path) -> Iterator[Collector]:
    """A Collector that takes spans and metrics at `endpoint`, and writes each into a file."""
    port = free_port()
    metrics = tmp_path / "collector" / "metrics.jsonl"
    more = {
        "exporters": {"file/metrics": {"path": str(metrics)}},
        "pipelines": {"metrics": {"receivers": ["otlp"], "exporters": ["file/metrics"]}},
    }
    receivers = {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{port}"}}}}
    with Collector(otelcol, tmp_path / "collector", receivers, more) as found:
        found.endpoint = f"http://127.0.0.1:{port}"
        yield found


@pytest.fixture
async def exporter(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Exporter]:
    """An exporter with metrics of flows, often read; where they go a test says."""
    found = Exporter(nats_server.url, tmp_path)
    found.set(WIRESPAN_EXPORTER_FLOW_METRICS="otlp,prometheus", OTEL_METRIC_EXPORT_INTERVAL="200")
    yield found
    found.close()


def last_sums(path: Path, name: str) -> Counter:
    """By process, what its latest reading says of a metric in all."""
    latest: dict[tuple[str, str], tuple[int, int]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        for resource in _complete(line):
            instance = _attributes(resource["resource"])["service.instance.id"]
            for metric in resource["scopeMetrics"][0]["metrics"]:
                if metric["name"] == name:
                    for point in metric["sum"]["dataPoints"]:
                        said = json.dumps(_attributes(point), sort_keys=True)
                        key, found = (instance, said), (int(point["timeUnixNano"]), int(point["asInt"]))
                        latest[key] = max(latest.get(key, found), found)
    sums = Counter()
    for (instance, _), (_, value) in latest.items():
        sums[instance] += value
    return sums


def _complete(line: str) -> list[Any]:
    try:
        return json.loads(line)["resourceMetrics"]
    except json.JSONDecodeError:  # it is being written
        return []


def _attributes(tree: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in tree["attributes"]}


async def publish_some(bus: Bus, numbers: range) -> list[FlowBatch]:
    """Put batches on the bus and return them."""
    batches = [enriched_batch(RECORDS, sequence=number) for number in numbers]
    await asyncio.gather(*(publish(bus, batch) for batch in batches))
    return batches


async def until_told(path: Path, name: str, total: int) -> None:
    """Return once the readings of all processes say so much together."""

    async def told() -> bool:
        return sum(last_sums(path, name).values()) >= total

    await until(told)


async def test_sums_at_the_collector_are_those_of_the_records(bus: Bus, exporter: Exporter, collector: Collector) -> None:
    """Over a kill, too: what one process has told its successor does not tell again, and bytes are right to the byte."""
    exporter.set(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, WIRESPAN_EXPORTER_PRESET="troubles")
    exporter.start()
    before = await publish_some(bus, range(8))
    sent = sum(int(batch.column("tx_bytes").sum()) for batch in before)
    await until_all_settled(bus)
    await until_told(collector.metrics, "flow.bytes", sent)
    exporter.end(signal.SIGKILL)
    for batch in before[:3]:  # the same message ids: the stream takes none of them again
        await publish(bus, batch)
    exporter.start()
    after = await publish_some(bus, range(8, 11))
    everything = sent + sum(int(batch.column("tx_bytes").sum()) for batch in after)
    await until_all_settled(bus)
    await until_told(collector.metrics, "flow.bytes", everything)
    assert exporter.end() == 0  # with a last reading
    told = last_sums(collector.metrics, "flow.bytes")
    assert (len(told), sum(told.values())) == (2, everything)
    assert sum(last_sums(collector.metrics, "flow.reverse.bytes").values()) == 2 * everything
    assert sum(last_sums(collector.metrics, "flow.connections").values()) == 11 * RECORDS


async def test_metrics_that_nobody_takes_hold_up_no_span(bus: Bus, exporter: Exporter, collector: Collector) -> None:
    """With nobody at the metrics' endpoint spans arrive, what failed is counted, and a scrape has all of it."""
    port = free_port()
    exporter.set(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        WIRESPAN_HEALTH_PORT=str(port),
    )
    exporter.start()
    batches = await publish_some(bus, range(4))
    await until_all_settled(bus)
    bytes_sent = sum(int(batch.column("tx_bytes").sum()) for batch in batches)

    async def shown() -> bool:
        text = await asyncio.to_thread(scraped, port)
        failed = 'wirespan_exporter_flow_metrics_readings_total{outcome="failed"} 0.0'
        assert failed.partition("{")[0] in text
        return f" {bytes_sent:.1f}\n" in text.partition("\nflow_bytes_total{")[2] and failed not in text

    await until(shown)
    text = scraped(port)
    (line,) = [line for line in text.splitlines() if line.startswith("flow_bytes_total{")]
    assert 'source_service_name="web"' in line
    assert 'destination_service_name="redis"' in line
    assert exporter.end() == 0
    collector.wait_for_output(4 * RECORDS)


def scraped(port: int) -> str:
    """What the exporter shows to Prometheus."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        return response.read().decode()
