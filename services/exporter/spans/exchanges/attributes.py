"""The attributes of an exchange's span, and of those of its phases: what an application's trace is told of the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from proto.columns import BROKEN_OFF, CONNECTION_PART, ExchangeEnd, ExchangeMatched, HttpMethod
from proto.exchange_phases import Phase
from proto.flow_batch import AttributeValue
from services.exporter.spans.attributes import DEVELOPMENT, MERMIN, OURS, STABLE, Attribute, Integer
from services.exporter.spans.identity import Side

NAMES: Final = {phase: phase.name.lower().replace("_", " ") for phase in Phase}
"""Names of the spans. That of the exchange also says where it was seen: `exchange at client`."""

_ERRORS: Final = {
    ExchangeEnd.CLOSED: ("no_response", "connection closed without a response"),
    ExchangeEnd.IDLE_TIMEOUT: ("timeout", "no response came"),
}
_BROKEN_OFF: Final = {
    ExchangeEnd.RESET: ("connection_reset", "connection reset"),
    ExchangeEnd.STREAM_RESET: ("stream_reset", "stream reset"),
}
_METHODS: Final[dict[int, str]] = {method: method.name for method in HttpMethod if method != HttpMethod.OTHER}
_ENDS: Final[dict[int, str]] = {end: end.name.lower() for end in ExchangeEnd if end}


@dataclass(frozen=True, slots=True)
class ExchangeFacts:
    """The small facts of one span."""

    phase: int
    """A `Phase`."""
    side: int
    """A `Side`."""
    direction: str
    """`forward` or `reverse`."""
    ipv4: bool
    end: int
    """An `ExchangeEnd`."""
    silent: bool
    """No response came, or interim ones only."""
    shared: int = 0
    """`exchange_shared`."""
    method: int = HttpMethod.UNKNOWN
    status: int = 0
    """Of HTTP; 0: none."""
    grpc: int = 0
    """gRPC's status code plus 1; 0: none."""
    matched: int = ExchangeMatched.CONTEXT
    udp: bool = False

    @property
    def observer(self) -> str:
        """`flow.observer`."""
        return Side(self.side).name.lower()

    @property
    def name(self) -> str:
        """The span's name."""
        if self.shared == CONNECTION_PART:
            return f"connection at {self.observer}"
        return f"exchange at {self.observer}" if self.phase == Phase.EXCHANGE else NAMES[Phase(self.phase)]

    @property
    def error(self) -> tuple[str, str] | None:
        """`error.type` and the status message of an exchange that failed."""
        if self.phase != Phase.EXCHANGE:
            return None
        if self.end in BROKEN_OFF:
            return _BROKEN_OFF[ExchangeEnd(self.end)]
        return _ERRORS.get(ExchangeEnd(self.end)) if self.silent and self.end in _ENDS else None

    def words(self) -> dict[str, AttributeValue]:
        """The attributes that are made of them."""
        values: dict[str, AttributeValue] = {"flow.observer": self.observer}
        if self.phase == Phase.EXCHANGE:
            values |= {
                "network.transport": "udp" if self.udp else "tcp",
                "network.type": "ipv4" if self.ipv4 else "ipv6",
                "flow.direction": self.direction,
                "flow.exchange.matched": ExchangeMatched(self.matched).name.lower(),
            }
            if self.method:
                values["http.request.method"] = _METHODS.get(self.method, "_OTHER")
            if self.status:
                values["http.response.status_code"] = self.status
            if self.grpc:
                values |= {"rpc.system": "grpc", "rpc.grpc.status_code": self.grpc - 1}
            if self.shared:
                values["flow.exchange.shared"] = True
            if self.end in _ENDS:
                values["flow.exchange.end_reason"] = _ENDS[self.end]
            if self.error:
                values["error.type"] = self.error[0]
        return values


@dataclass(frozen=True, slots=True)
class ExchangeIntegers:
    """Int attributes that spans of exchanges carry all of."""

    presence: str
    where: str = ""
    """A column: only where it is not 0."""
    attributes: tuple[Integer, ...] = field(default=())


_PORTS: Final = (
    Integer("source.port", DEVELOPMENT, "port of the client", "", lambda records: records.source("port")),
    Integer("destination.port", DEVELOPMENT, "port of the server", "", lambda records: records.destination("port")),
    Integer("client.port", STABLE, "the same as source.port", "", lambda records: records.source("port")),
    Integer("server.port", STABLE, "the same as destination.port", "", lambda records: records.destination("port")),
    Integer("network.local.port", STABLE, "port of the resource's end", "", lambda records: records.told("port")),
    Integer("network.peer.port", STABLE, "port of the other end", "", lambda records: records.peer("port")),
)

EXCHANGE_INTEGERS: Final = (
    ExchangeIntegers("always", attributes=(
        *_PORTS,
        Integer("flow.request.bytes", OURS, "payload of the request, each byte counted once", "bytes",
                lambda records: records.column("request_bytes")),
        Integer("flow.response.bytes", OURS, "payload of the response, each byte counted once", "bytes",
                lambda records: records.column("response_bytes")),
        Integer("flow.request.retransmits", OURS, "segments of the request's direction that were sent again", "packets",
                lambda records: records.column("request_retransmits")),
        Integer("flow.response.retransmits", OURS, "segments of the response's direction that were sent again", "packets",
                lambda records: records.column("response_retransmits")),
        Integer("flow.request.transfer_time", OURS, "the request's first byte to its last: `request transfer`", "ns",
                lambda records: records.elapsed("request_first_unix_ns", "request_last_unix_ns")),
    )),
    ExchangeIntegers("there is a response", "response_first_unix_ns", attributes=(
        Integer("flow.response.time", OURS, "the request's last byte to the response's first: `server wait`; 0 where the "
                "server answered before the request was over", "ns",
                lambda records: records.elapsed("request_last_unix_ns", "response_first_unix_ns")),
        Integer("flow.response.transfer_time", OURS, "the response's first byte to its last: `response transfer`", "ns",
                lambda records: records.elapsed("response_first_unix_ns", "response_last_unix_ns")),
    )),
    ExchangeIntegers("it is the last of several that one span was met with", "exchange_series", attributes=(
        Integer("flow.exchange.series.count", OURS, "exchanges that the connection had for this span, one after the other; the "
                "last 16 have spans", "", lambda records: records.column("exchange_series")),
        Integer("flow.exchange.series.wait", OURS, "how long the server took for all of them together: the sum of their "
                "`flow.response.time`", "ns", lambda records: records.column("exchange_series_wait_ns")),
    )),
)  # fmt: skip

PART_INTEGERS: Final = (
    ExchangeIntegers("always", attributes=(
        *_PORTS,
        Integer("flow.shared.request.bytes", OURS, "payload from client to server in that time, whosever request it was of, "
                "each byte counted once", "bytes", lambda records: records.column("request_bytes")),
        Integer("flow.shared.response.bytes", OURS, "the same from server to client", "bytes",
                lambda records: records.column("response_bytes")),
        Integer("flow.shared.request.retransmits", OURS, "segments from client to server that were sent again", "packets",
                lambda records: records.column("request_retransmits")),
        Integer("flow.shared.response.retransmits", OURS, "the same from server to client", "packets",
                lambda records: records.column("response_retransmits")),
        Integer("flow.shared.request.zero_window", OURS, "segments by which the client closed its window", "packets",
                lambda records: records.forward("zero_windows")),
        Integer("flow.shared.response.zero_window", OURS, "the same of the server", "packets",
                lambda records: records.reverse("zero_windows")),
        Integer("flow.shared.silence_max", OURS, "the longest time in which neither end said anything", "ns",
                lambda records: records.column("response_time_max_ns")),
    )),
    ExchangeIntegers("live, once the kernel has measured", "smoothed_rtt_ns", attributes=(
        Integer("flow.shared.rtt", OURS, "the kernel's smoothed round-trip time at the socket that saw it, by then", "ns",
                lambda records: records.column("smoothed_rtt_ns")),
    )),
)  # fmt: skip
"""Of a connection that several requests share, in the time of a span."""

EXCHANGE_WORDS: Final = (
    Attribute("network.transport", STABLE, "`tcp` or `udp`"),
    Attribute("network.type", STABLE, "`ipv4` or `ipv6`"),
    Attribute("flow.direction", MERMIN, "whether the resource is the client (`forward`) or the server (`reverse`)"),
    Attribute("flow.observer", OURS, "whose socket saw it: `client` or `server`; `capture` for a capture file. Its phases and "
              "steps of set-up have it too"),
    Attribute("flow.exchange.end_reason", OURS, "`next_request`, `closed` or `reset` (the connection), `idle_timeout` (the "
              "response paused), `active_timeout` (it went on), `shutdown` (capture ended), `switched` (the response made "
              "another protocol's, or a tunnel, of the connection), `stream` (both ends said that they are done: HTTP/2), "
              "`stream_reset` (one of them gave the stream up), `complete` (its last byte "
              "came: requests that did not wait for the responses before)"),
    Attribute("flow.exchange.matched", OURS, "how it is known whose it is: `context` where the request carried its trace "
              "context, `span` where an application's span was met with it"),
    Attribute("flow.exchange.shared", OURS, "true: streams share the connection, and the retransmissions are the "
              "connection's; of `connection at ...` all that is said is", "HTTP/2, and pipelined requests",
              "boolean"),
    Attribute("http.request.method", STABLE, "the request's method, `_OTHER` for one that RFC 9110 and RFC 5789 do not have",
              "its beginning was seen as a whole"),
    Attribute("http.response.status_code", STABLE, "status code of the final response", "it was seen", "int"),
    Attribute("rpc.system", DEVELOPMENT, "`grpc`", "the response has a `grpc-status`"),
    Attribute("rpc.grpc.status_code", DEVELOPMENT, "gRPC's status code", "likewise", "int"),
    Attribute("error.type", STABLE, "`connection_reset`, `stream_reset`; `no_response` where the connection was closed without "
              "one, `timeout` where none came; the span's status is then ERROR", "the exchange failed"),
)  # fmt: skip
