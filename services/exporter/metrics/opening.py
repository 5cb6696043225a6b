"""From settings and standard variables to metrics of flows that run."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import structlog
from opentelemetry.sdk.resources import Resource

from proto.flow_batch import AttributeValue
from services.exporter.delivery.environment import OtlpSettings, read_environment
from services.exporter.delivery.header_files import HeaderFile
from services.exporter.delivery.opening import open_endpoint
from services.exporter.encoder import installed_version
from services.exporter.metrics.exemplars import Exemplars
from services.exporter.metrics.flow_metrics import FlowMetrics
from services.exporter.metrics.prometheus import FlowCollector
from services.exporter.metrics.sums import FlowSums
from services.exporter.settings import ExporterSettings
from services.runtime.errors import SettingsError
from services.runtime.telemetry import Telemetry

logger = structlog.get_logger()

INTERVAL_VARIABLE: Final = "OTEL_METRIC_EXPORT_INTERVAL"
TEMPORALITY_VARIABLE: Final = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
_DEFAULT_INTERVAL_MS: Final = 60_000
_INSTANCE: Final = "service.instance.id"


@dataclass(frozen=True, slots=True)
class Target:
    """Where readings go, and how often."""

    endpoint: OtlpSettings
    interval_seconds: float


def read_target(
    settings: ExporterSettings, header_files: tuple[HeaderFile, ...] = (), environ: Mapping[str, str] = os.environ
) -> Target | None:
    """Return what the standard variables say of metrics; None where none are sent. Raises SettingsError."""
    if "otlp" not in settings.flow_metrics:
        return None
    value = environ.get(INTERVAL_VARIABLE, "").strip() or str(_DEFAULT_INTERVAL_MS)
    if not (value.isascii() and value.isdigit() and int(value)):
        raise SettingsError([f"{INTERVAL_VARIABLE}={value!r}: wanted a whole number of milliseconds, at least 1"])
    endpoint = read_environment(environ, signal="metrics")
    return Target(replace(endpoint, header_files=header_files), int(value) / 1000)


@asynccontextmanager
async def flow_metrics(
    settings: ExporterSettings, target: Target | None, telemetry: Telemetry
) -> AsyncIterator[FlowMetrics | None]:
    """Yield what counts flows while the block runs; None where nobody wants to know."""
    if not settings.flow_metrics:
        yield None
        return
    exemplars = Exemplars(settings.cluster.name, settings.trace_records, settings.thinning)
    sums = FlowSums(settings.flow_metrics_pairs, exemplars=exemplars, looked_up=settings.looked_up_peers)
    if "prometheus" in settings.flow_metrics:
        telemetry.collect(FlowCollector(sums))
    metrics = FlowMetrics(sums, telemetry)
    sink = None
    if target is not None:
        sink = open_endpoint(target.endpoint, "metrics")
        logger.info("flow_metrics.sent", endpoint=target.endpoint.endpoint, seconds=target.interval_seconds)
        if os.environ.get(TEMPORALITY_VARIABLE, "").strip().lower() not in ("", "cumulative"):
            logger.warning("flow_metrics.cumulative", detail=f"{TEMPORALITY_VARIABLE} is of no effect on metrics of flows")
    try:
        interval_seconds = target.interval_seconds if target else _DEFAULT_INTERVAL_MS / 1000
        version = installed_version()
        async with metrics.running(sink, interval_seconds, _resource(settings.cluster.name, version), version):
            yield metrics
    finally:
        if sink is not None:
            await sink.close()


def _resource(cluster_name: str, version: str) -> Mapping[str, AttributeValue]:
    """What the metrics are of: this process, so that the sums of several exporters add up. OTEL_RESOURCE_ATTRIBUTES counts."""
    own = {"service.name": "wirespan-exporter", "k8s.cluster.name": cluster_name}
    own |= {"telemetry.distro.name": "wirespan", "telemetry.distro.version": version}
    said = Resource.create({name: value for name, value in own.items() if value}).attributes
    known = {name: str(value) for name, value in said.items() if not name.startswith("telemetry.sdk.")}
    return {_INSTANCE: str(uuid.uuid4()), **known}
