"""The exporter as a whole: settings, sink, bus, worker."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import structlog

from services.exporter.delivery.environment import OtlpSettings, read_endpoint, read_environment
from services.exporter.delivery.failover import FailoverSink
from services.exporter.delivery.file import FileSink
from services.exporter.delivery.gate import DeliverySettings
from services.exporter.delivery.header_files import read_header_files
from services.exporter.delivery.opening import open_endpoint
from services.exporter.delivery.retrying import Delivery
from services.exporter.delivery.sink import Sink
from services.exporter.encoder import SpanEncoder
from services.exporter.errors import OutputFileError
from services.exporter.metrics.opening import Target, flow_metrics, read_target
from services.exporter.settings import ExporterSettings
from services.exporter.worker import SERVICE, Worker
from services.runtime import health
from services.runtime.errors import SettingsError
from services.runtime.lifecycle import Lifecycle, service_main
from services.runtime.nats import bus as runtime_bus
from services.runtime.settings import load
from services.runtime.telemetry import Telemetry

logger = structlog.get_logger()

_SHORT_TIMEOUT_SECONDS: Final = 0.1


def run_service() -> int:
    """Run the exporter and return the process's exit code."""
    try:
        destination = _destination()
    except SettingsError as error:
        sys.stderr.write("wirespan-exporter: cannot start with these settings:\n")
        sys.stderr.writelines(f"  {fault}\n" for fault in error.faults)
        return 2
    return service_main(SERVICE, ExporterSettings, functools.partial(_run, destination))


@dataclass(frozen=True, slots=True)
class Destination:
    """Where things go."""

    spans: tuple[OtlpSettings, ...] | FileSink
    """Endpoints, the one to use first; or a file."""
    metrics: Target | None


def _destination() -> Destination:
    """Where spans and metrics go. Raises SettingsError with the faults of every variable, our own and the standard ones."""
    faults: list[str] = []
    settings = None
    endpoints: list[OtlpSettings] = []
    try:
        settings = load(ExporterSettings, prefix="WIRESPAN_EXPORTER_")
    except SettingsError as error:
        faults += error.faults
    if settings is None or settings.output_file is None:
        try:
            endpoints.append(read_environment())
            variable = "WIRESPAN_EXPORTER_FAILOVER_ENDPOINTS"
            endpoints += [read_endpoint(one, variable) for one in (settings.failover_endpoints if settings else ())]
        except SettingsError as error:
            faults += error.faults
    metrics = None
    try:
        to_network = settings is not None and (settings.output_file is None or "otlp" in settings.flow_metrics)
        headers = read_header_files(settings.header_files if settings and to_network else ())
        endpoints = [replace(one, header_files=headers) for one in endpoints]
        metrics = read_target(settings, headers) if settings else None
    except SettingsError as error:
        faults += [fault for fault in error.faults if fault not in faults]
    if not faults and settings is not None and settings.output_file is not None:
        try:
            sink = FileSink(settings.output_file, settings.output_max_bytes, settings.output_kept_files)
            return Destination(sink, metrics)
        except OutputFileError as error:
            faults.append(f"WIRESPAN_EXPORTER_OUTPUT_FILE={error}")
    if faults:
        raise SettingsError(faults)
    return Destination(tuple(endpoints), metrics)


@asynccontextmanager
async def _open_sink(destination: Destination, settings: ExporterSettings, telemetry: Telemetry) -> AsyncIterator[Sink]:
    spans = destination.spans
    sink = spans if isinstance(spans, FileSink) else _network_sink(spans, settings, telemetry)
    try:
        yield sink
    finally:
        await sink.close()


def _network_sink(endpoints: Sequence[OtlpSettings], settings: ExporterSettings, telemetry: Telemetry) -> Sink:
    sinks: list[tuple[str, Sink]] = []
    for one in endpoints:
        sinks.append((one.endpoint, open_endpoint(one)))
        logger.info("sink.opened", protocol=one.protocol, endpoint=one.endpoint, secure=one.secure)
    if endpoints[0].timeout_seconds < _SHORT_TIMEOUT_SECONDS:
        logger.warning("timeout.short", milliseconds=round(endpoints[0].timeout_seconds * 1000))
    if len(sinks) == 1:
        return sinks[0][1]
    several = FailoverSink(sinks, failover_seconds=settings.failover_seconds, failback_seconds=settings.failback_seconds)
    about = "Number of the endpoint in use: 0 is the first"
    telemetry.gauge("wirespan.exporter.endpoint", about, "1", lambda: several.active)
    return several


async def _run(destination: Destination, settings: ExporterSettings, lifecycle: Lifecycle) -> None:
    limits = DeliverySettings(
        concurrency=settings.concurrency,
        bytes_in_flight=settings.bytes_in_flight,
        first_backoff_seconds=settings.first_backoff_seconds,
        longest_backoff_seconds=settings.longest_backoff_seconds,
        hold_unauthorized=settings.unauthorized == "hold",
    )
    readiness = health.Health(lifecycle)
    with Telemetry(SERVICE, settings.telemetry) as telemetry, ThreadPoolExecutor(1, "encoding") as encoding:
        async with (
            _open_sink(destination, settings, telemetry) as sink,
            runtime_bus.connect(settings.nats, name=f"wirespan-{SERVICE}") as bus,
            health.serve(settings.health, readiness, telemetry),
            flow_metrics(settings, destination.metrics, telemetry) as counting_flows,
        ):
            delivery = Delivery(sink, telemetry, limits, encoding=encoding)
            readiness.check("bus", lambda: bus.connected)
            readiness.check("backend", lambda: delivery.backend_answers)
            readiness.check("credentials", lambda: delivery.authorized)
            choice = settings.choice
            logger.info("preset", preset=settings.preset, **dataclasses.asdict(choice))
            for said in settings.contradictions:
                logger.warning("settings.contradict", detail=said)
            encoder = SpanEncoder(
                cluster_name=settings.cluster.name,
                profile=choice.attributes,
                thinning=settings.thinning,
                trace_records=settings.trace_records,
                looked_up_peers=settings.looked_up_peers,
                entity_refs=settings.entity_refs,
            )
            worker = Worker(bus, delivery, encoder, settings, telemetry, encoding=encoding, flow_metrics=counting_flows)
            readiness.check("moving", lambda: worker.moving)
            bus.expect_streams(settings.streams)
            await worker.run(lifecycle.stopping)
