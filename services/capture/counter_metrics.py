"""The counters of a batch as metrics: packets, requests and connections, each by what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from services.runtime.telemetry import Telemetry


def show_counters(telemetry: Telemetry, read: Callable[[], Mapping[str, int]]) -> None:
    """Make metrics of counters that only grow; `read` returns them by name."""

    def packets() -> list[tuple[int, dict[str, str]]]:
        return [
            (number, {"kind": name.removesuffix("_packets")}) for name, number in read().items() if name.endswith("_packets")
        ]

    def begun_with(prefix: str) -> Callable[[], list[tuple[int, dict[str, str]]]]:
        return lambda: [
            (number, {"reason": name.removeprefix(prefix)}) for name, number in read().items() if name.startswith(prefix)
        ]

    telemetry.cumulative("wirespan.capture.packets", "Packets seen, by what they are", "{packet}", packets)
    telemetry.cumulative(
        "wirespan.capture.requests",
        "HTTP/1 requests looked at for a trace context, by what became of them",
        "{request}",
        begun_with("requests_"),
    )
    telemetry.cumulative(
        "wirespan.capture.pieces",
        "Pieces of payload that are read for names, by what became of them",
        "{piece}",
        begun_with("pieces_"),
    )
    telemetry.cumulative(
        "wirespan.capture.spans.asked",
        "Application spans that were asked for, by what came of it",
        "{span}",
        begun_with("asked_"),
    )
    telemetry.cumulative(
        "wirespan.capture.connections.given_up",
        "Connections whose requests are looked at no more, by why",
        "{connection}",
        begun_with("connections_"),
    )
