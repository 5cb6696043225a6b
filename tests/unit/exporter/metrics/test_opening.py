"""Where metrics of flows go, as the standard variables say it."""

from __future__ import annotations

import pytest

from services.exporter.metrics.opening import read_target
from services.exporter.settings import ExporterSettings
from services.runtime.errors import SettingsError

SENT = ExporterSettings(flow_metrics=("otlp",))
GENERAL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://tempo:4317"}


def test_the_variables_of_metrics_go_before_the_general_ones() -> None:
    """Those of traces say nothing of them; the interval is the standard's, in milliseconds."""
    target = read_target(SENT, environ=GENERAL)
    assert target is not None
    assert (target.endpoint.endpoint, target.interval_seconds) == ("http://collector:4318/v1/metrics", 60)
    own = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://mimir/otlp/v1/metrics", "OTEL_METRIC_EXPORT_INTERVAL": "15000"}
    target = read_target(SENT, environ=GENERAL | own)
    assert target is not None
    assert (target.endpoint.endpoint, target.interval_seconds) == ("https://mimir/otlp/v1/metrics", 15)


@pytest.mark.parametrize("chosen", [(), ("prometheus",)])
def test_nothing_is_sent_unless_it_is_asked_for(chosen: tuple) -> None:
    """Not even a variable is read."""
    assert read_target(ExporterSettings(flow_metrics=chosen), environ={"OTEL_METRIC_EXPORT_INTERVAL": "never"}) is None


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_METRIC_EXPORT_INTERVAL", "1m"), ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json")]
)
def test_a_variable_that_makes_no_sense_is_named(variable: str, value: str) -> None:
    """And stops the start."""
    with pytest.raises(SettingsError) as found:
        read_target(SENT, environ={variable: value})
    assert [fault.partition("=")[0] for fault in found.value.faults] == [variable]
