"""What a service keeps of messages that the server may not have on its disk yet, as metrics."""

from __future__ import annotations

from services.runtime.nats.bus import Bus
from services.runtime.telemetry import Telemetry


def show_unsynced(bus: Bus, service: str, telemetry: Telemetry) -> None:
    """Make metrics of it."""
    telemetry.gauge(
        f"wirespan.{service}.unsynced.bytes",
        "Kept of messages that the server may not have synced yet",
        "By",
        lambda: bus.unsynced_bytes,
    )
    telemetry.cumulative(
        f"wirespan.{service}.unsynced.given_up",
        "Stored messages that were not kept until the server had synced them: WIRESPAN_NATS_UNSYNCED_BYTES is too little",
        "{message}",
        lambda: bus.unsynced_given_up,
    )
