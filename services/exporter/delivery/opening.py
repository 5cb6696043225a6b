"""From what the standard variables say to a sink."""

from __future__ import annotations

from services.exporter.delivery.environment import OtlpSettings, Signal
from services.exporter.delivery.renewing import RenewingSink
from services.exporter.delivery.sink import Sink


def open_endpoint(endpoint: OtlpSettings, signal: Signal = "traces") -> Sink:
    """Return a sink to one endpoint, whose credentials are renewed where they are in files."""

    def opened() -> Sink:
        if endpoint.secure:
            endpoint.ssl_context()  # gRPC would take files that do not belong together, and fail at each handshake
        # Imported where it is asked for: each client takes a tenth of a second to load.
        if endpoint.protocol == "grpc":
            from services.exporter.delivery.grpc import GrpcSink  # noqa: PLC0415

            return GrpcSink(endpoint, signal)
        from services.exporter.delivery.http import HttpSink  # noqa: PLC0415

        return HttpSink(endpoint)

    return RenewingSink(endpoint.credential_files, opened) if endpoint.credential_files else opened()
