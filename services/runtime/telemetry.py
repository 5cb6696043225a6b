"""The service's own metrics: OpenTelemetry instruments, read by Prometheus at /metrics and sent over OTLP where asked for.

Nothing is registered globally: one process may hold several of these, as tests do. Attributes must have few values (`reason`),
never an address, a pod or a port.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeterProvider, Observation
from opentelemetry.metrics import Counter as OtelCounter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from services.runtime.otlp_protocol import suggested_protocol
from services.runtime.proxies import grpc_options, proxy_for
from services.runtime.settings import TelemetrySettings

PROMETHEUS_CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_EXPORTER_VARIABLE: Final = "OTEL_METRICS_EXPORTER"
_PROTOCOL_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_ENDPOINT_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

Attributes = Mapping[str, str]
Reading = int | float | Iterable[tuple[int | float, Attributes]]
"""What a gauge shows: one number, or one per set of attributes."""


def by_reason(*reasons: str) -> list[Attributes]:
    """The series of a counter that has a `reason`."""
    return [{"reason": reason} for reason in reasons]


class Counter:
    """A number that only grows."""

    def __init__(self, instrument: OtelCounter) -> None:
        self._instrument = instrument

    def add(self, amount: int, attributes: Attributes | None = None) -> None:
        """Add `amount`, which is not negative."""
        self._instrument.add(amount, attributes)


class Telemetry(AbstractContextManager["Telemetry"]):
    """The instruments of one service. Leaving the context sends what is left to send."""

    def __init__(
        self, service: str, settings: TelemetrySettings | None = None, *, environ: Mapping[str, str] = os.environ
    ) -> None:
        self._registry = CollectorRegistry()
        self._provider: MeterProvider | None = None
        if (settings or TelemetrySettings()).enabled:
            readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)]
            if environ.get(_EXPORTER_VARIABLE) == "otlp":
                readers.append(PeriodicExportingMetricReader(_otlp_exporter(environ)))
            resource = Resource.create({"service.name": f"wirespan-{service}"})
            self._provider = MeterProvider(readers, resource, shutdown_on_exit=False)
        self._meter: Meter = (self._provider or NoOpMeterProvider()).get_meter("wirespan")

    def counter(self, name: str, description: str, unit: str = "1", *, series: Iterable[Attributes] = ({},)) -> Counter:
        """Return the counter `name` (`wirespan.capture.records`; Prometheus shows `wirespan_capture_records_total`).

        The `series` that are known beforehand are there from the start, at 0: a rate does not see a series that begins with 1.
        """
        counter = Counter(self._meter.create_counter(name, unit, description))
        for attributes in series:
            counter.add(0, attributes)
        return counter

    def gauge(self, name: str, description: str, unit: str, read: Callable[[], Reading]) -> None:
        """Show what `read` returns whenever metrics are collected, which may be in another thread."""
        self._meter.create_observable_gauge(name, [_observer(read)], unit, description)

    def cumulative(self, name: str, description: str, unit: str, read: Callable[[], Reading]) -> None:
        """As `gauge`, for a number that is counted elsewhere and only grows."""
        self._meter.create_observable_counter(name, [_observer(read)], unit, description)

    def collect(self, collector: Collector) -> None:
        """Show what a collector has at /metrics, beside the instruments. Over OTLP it is not sent."""
        self._registry.register(collector)

    def prometheus(self) -> bytes:
        """Return every metric in the Prometheus text format."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Send what is left to send and stop. May be called again."""
        provider, self._provider = self._provider, None
        if provider is not None:
            provider.shutdown()

    def __exit__(self, *_error: object) -> None:
        self.close()


def _observer(read: Callable[[], Reading]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        value = read()
        rows = [(value, {})] if isinstance(value, (int, float)) else value
        return [Observation(number, attributes) for number, attributes in rows]

    return observe


def _otlp_exporter(environ: Mapping[str, str]) -> MetricExporter:
    """The SDK's exporter, which reads the standard OTEL_EXPORTER_OTLP_* variables itself, but not which way leads there."""
    endpoint = _first(environ, _ENDPOINT_VARIABLES)
    protocol = _first(environ, _PROTOCOL_VARIABLES) or suggested_protocol(endpoint)
    # Imported where it is asked for: gRPC alone is 20 MiB, and capture must do without.
    if protocol == "grpc":
        module = importlib.import_module("opentelemetry.exporter.otlp.proto.grpc.metric_exporter")
        target = endpoint if "://" in endpoint else f"https://{endpoint}"
        exporter: MetricExporter = module.OTLPMetricExporter(channel_options=grpc_options(target, environ))
        return exporter
    module = importlib.import_module("opentelemetry.exporter.otlp.proto.http.metric_exporter")
    session = importlib.import_module("requests").Session()
    session.trust_env = False
    proxy = proxy_for(endpoint, environ)
    session.proxies = {"http": proxy, "https": proxy} if proxy else {}
    over_http: MetricExporter = module.OTLPMetricExporter(session=session)
    return over_http


def _first(environ: Mapping[str, str], names: Iterable[str]) -> str:
    return next((environ[name] for name in names if environ.get(name)), "")
