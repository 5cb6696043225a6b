"""How the shop's OpenTelemetry SDKs are configured: where their spans go, by the SDK's own configuration file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_SCHEDULE_DELAY_MS: Final = 1000
_GRPC: Final = "grpc"
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def write_configuration(folder: Path, environ: Mapping[str, str], intake: str, *, exported: bool) -> Path:
    """Write the file that OTEL_CONFIG_FILE is to name, and return its path.

    Spans go to Wirespan's intake, which is at the URL `intake`; where they are `exported`, first to where the variables
    OTEL_EXPORTER_OTLP_* say.
    """
    protocol = next(filter(None, map(environ.get, _PROTOCOLS)), _GRPC)
    wanted: list[dict[str, Any]] = [{"otlp_grpc" if protocol == _GRPC else "otlp_http": {}}] if exported else []
    exporters = [*wanted, {"otlp_grpc": {"endpoint": intake}}]
    configuration = {
        "file_format": "1.0",
        "resource": {
            "attributes": [{"name": "service.name", "value": "${OTEL_SERVICE_NAME}"}],
            "attributes_list": "${OTEL_RESOURCE_ATTRIBUTES}",
        },
        "propagator": {"composite": [{"tracecontext": {}}]},
        "tracer_provider": {
            "processors": [{"batch": {"schedule_delay": _SCHEDULE_DELAY_MS, "exporter": exporter}} for exporter in exporters],
        },
    }
    path = folder / "opentelemetry.json"
    path.write_text(json.dumps(configuration, indent=2), encoding="utf-8")  # JSON is YAML
    return path
