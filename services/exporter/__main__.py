"""The exporter's process: settings, sink, bus, worker."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

import structlog

from services.exporter.delivery import Delivery, DeliverySettings
from services.exporter.encoder import SpanEncoder
from services.exporter.errors import OutputFileError
from services.exporter.otlp_environment import OtlpSettings, read_environment
from services.exporter.otlp_file import FileSink
from services.exporter.otlp_grpc import GrpcSink
from services.exporter.otlp_http import HttpSink
from services.exporter.otlp_sink import Sink
from services.exporter.settings import ExporterSettings
from services.exporter.worker import SERVICE, Worker
from services.runtime import bus as runtime_bus
from services.runtime import health
from services.runtime.errors import SettingsError
from services.runtime.lifecycle import Lifecycle, service_main
from services.runtime.settings import load
from services.runtime.telemetry import Telemetry

logger = structlog.get_logger()

_SHORT_TIMEOUT_SECONDS: Final = 0.1


def main() -> int:
    """Run the exporter and return the process's exit code."""
    try:
        destination = _destination()
    except SettingsError as error:
        sys.stderr.write("wirespan-exporter: cannot start with these settings:\n")
        sys.stderr.writelines(f"  {fault}\n" for fault in error.faults)
        return 2
    return service_main(SERVICE, ExporterSettings, functools.partial(_run, destination))


def _destination() -> OtlpSettings | FileSink:
    """Where spans go. Raises SettingsError with the faults of every variable, the exporter's own and the standard ones."""
    faults: list[str] = []
    output_file = otlp = None
    try:
        output_file = load(ExporterSettings, prefix="WIRESPAN_EXPORTER_").output_file
    except SettingsError as error:
        faults += error.faults
    if output_file is None:
        try:
            otlp = read_environment()
        except SettingsError as error:
            faults += error.faults
    if not faults and output_file is not None:
        try:
            return FileSink(output_file)
        except OutputFileError as error:
            faults.append(f"WIRESPAN_EXPORTER_OUTPUT_FILE={error}")
    if faults or otlp is None:
        raise SettingsError(faults)
    return otlp


@asynccontextmanager
async def _open_sink(destination: OtlpSettings | FileSink) -> AsyncIterator[Sink]:
    sink: Sink
    if isinstance(destination, FileSink):
        sink = destination
    else:
        sink = GrpcSink(destination) if destination.protocol == "grpc" else HttpSink(destination)
        logger.info("sink.opened", protocol=destination.protocol, endpoint=destination.endpoint, secure=destination.secure)
        if destination.timeout_seconds < _SHORT_TIMEOUT_SECONDS:
            logger.warning("timeout.short", milliseconds=round(destination.timeout_seconds * 1000))
    try:
        yield sink
    finally:
        await sink.close()


async def _run(destination: OtlpSettings | FileSink, settings: ExporterSettings, lifecycle: Lifecycle) -> None:
    limits = DeliverySettings(
        concurrency=settings.concurrency,
        bytes_in_flight=settings.bytes_in_flight,
        first_backoff_seconds=settings.first_backoff_seconds,
        longest_backoff_seconds=settings.longest_backoff_seconds,
    )
    readiness = health.Health(lifecycle)
    with Telemetry(SERVICE, settings.telemetry) as telemetry, ThreadPoolExecutor(1, "encoding") as encoding:
        async with (
            _open_sink(destination) as sink,
            runtime_bus.connect(settings.nats, name=f"wirespan-{SERVICE}") as bus,
            health.serve(settings.health, readiness, telemetry),
        ):
            delivery = Delivery(sink, telemetry, limits, encoding=encoding)
            readiness.check("bus", lambda: bus.connected)
            readiness.check("backend", lambda: delivery.backend_answers)
            encoder = SpanEncoder(cluster_name=settings.cluster.name, profile=settings.attributes)
            worker = Worker(bus, delivery, encoder, settings, telemetry, encoding=encoding)
            await lifecycle.unless_stopping(bus.ensure_streams(settings.streams))
            await worker.run(lifecycle.stopping)


if __name__ == "__main__":
    sys.exit(main())
