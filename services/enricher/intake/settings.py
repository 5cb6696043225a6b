"""What the intake of spans can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from services.runtime.settings import ServiceSettings


class IntakeSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where copies of applications' spans are taken, and how many wait."""

    intake: Annotated[
        bool, Meta(description="take copies of applications' spans over OTLP, to find their network: docs/correlation.md")
    ] = False
    intake_host: Annotated[str, Meta(description="intake: address to listen on")] = "127.0.0.1"
    intake_grpc_port: Annotated[int, Meta(ge=0, le=65535, description="intake: port of OTLP/gRPC; 0 takes none")] = 4317
    intake_http_port: Annotated[
        int, Meta(ge=0, le=65535, description="intake: port of OTLP/HTTP with protobuf, path `/v1/traces`; 0 takes none")
    ] = 4318
    intake_tls_cert: Annotated[
        Path | None, Meta(description="intake: PEM file of the certificate for TLS, with its chain; needs its key too")
    ] = None
    intake_tls_key: Annotated[Path | None, Meta(description="intake: PEM file of the certificate's key")] = None
    intake_authorization_file: Annotated[
        Path | None,
        Meta(description="intake: file of what senders' `authorization` header may be, one a line (`Bearer ...`); else any"),
    ] = None
    intake_node: Annotated[
        str,
        Meta(
            description="intake, without a cluster: the node whose capture is asked about spans; by default what `host.name` "
            "says, else this host"
        ),
    ] = ""
    intake_request_bytes: Annotated[
        int, Meta(ge=1 << 16, le=1 << 28, description="intake: most bytes of a request, unpacked; a larger one is refused")
    ] = 8 << 20
    intake_queue_bytes: Annotated[
        int, Meta(ge=1 << 16, description="intake: most bytes of requests that wait to be looked at; more are passed over")
    ] = 32 << 20

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises ValueError."""
        if (self.intake_tls_cert is None) != (self.intake_tls_key is None):
            raise ValueError("intake_tls_cert and intake_tls_key need each other")
        if self.intake and not (self.intake_grpc_port or self.intake_http_port):
            raise ValueError("intake needs intake_grpc_port or intake_http_port")
