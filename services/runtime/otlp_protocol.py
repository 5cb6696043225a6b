"""Which of OTLP's protocols an endpoint speaks where nobody says it."""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import urlsplit

_HTTP_PORT: Final = 4318
_PATHS: Final = ("/v1/traces", "/v1/metrics")


def suggested_protocol(endpoint: str) -> Literal["grpc", "http/protobuf"]:
    """Return what a URL's port or path suggests: HTTP has a port of its own, and gRPC's endpoints have no such path."""
    try:
        url = urlsplit(endpoint)
        is_http = url.scheme.lower() in ("http", "https") and (url.port == _HTTP_PORT or url.path.rstrip("/").endswith(_PATHS))
    except ValueError:  # no URL; whoever reads it says so
        is_http = False
    return "http/protobuf" if is_http else "grpc"
