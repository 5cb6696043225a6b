"""`struct exchange` of bpf/engine/exchanges/exchange.h as a numpy dtype, and the words that C and Python count requests by.

A test compiles the header and compares every offset, size and number below.
"""

from __future__ import annotations

import enum
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from proto.columns import CONNECTION_PART
from services.capture.flows.structure import structure

Exchanges: TypeAlias = npt.NDArray[Any]
"""Structured array of EXCHANGE, one row per exchange. Times are on the host's clock."""

MEMBERS: Final[dict[str, tuple[int, str]]] = {
    "flow_id": (0, "<u8"),
    "owner": (8, "<u8"),
    "request_first_ns": (16, "<u8"),
    "request_last_ns": (24, "<u8"),
    "response_first_ns": (32, "<u8"),
    "response_last_ns": (40, "<u8"),
    "ended_ns": (48, "<u8"),
    "request_bytes": (56, "<u8"),
    "response_bytes": (64, "<u8"),
    "flow_first_ns": (72, "<u8"),
    "trace_id": (80, "|V16"),
    "parent_span_id": (96, "|V8"),
    "local_address": (104, "|V16"),
    "remote_address": (120, "|V16"),
    "slot": (136, "<u4"),
    "number": (140, "<u4"),
    "local_isn": (144, "<u4"),
    "remote_isn": (148, "<u4"),
    "request_retransmits": (152, "<u4"),
    "response_retransmits": (156, "<u4"),
    "local_port": (192, "<u2"),
    "remote_port": (194, "<u2"),
    "role": (196, "|u1"),
    "isn_seen": (197, "|u1"),
    "trace_flags": (198, "|u1"),
    "end": (199, "|u1"),
    "status": (232, "<u2"),
    "method": (236, "|u1"),
    "is_stream": (237, "|u1"),
    "stream_ended": (238, "|u1"),
    "grpc_status": (239, "|u1"),
}
"""Member -> (offset, dtype string), but for those that only C looks at."""

EXCHANGE: Final = structure(MEMBERS, 240)

STREAM_IS_FIRST: Final = 4
"""Bit of `stream_ended`: no other stream of the connection began before it."""

MET: Final = 0xFFFF_FFFF
"""`slot` of an exchange that a span was met with: it was remembered, and its flow may be gone."""

NO_EXCHANGES: Final[Exchanges] = np.zeros(0, EXCHANGE)

OF_SPAN: Final[dict[str, str]] = {"series": "<u4", "series_wait_ns": "<u8", "transport": "|u1"}
"""What the last exchange of a span says of all that it had in a row: how many, and how long the server took for them. And what
carried it; 0: TCP."""

PART: Final = CONNECTION_PART
"""`is_stream` of what is no exchange but what its connection did between two times, in `request_first_ns` and `ended_ns`."""

OF_PART: Final = dict.fromkeys(("client_zero_windows", "server_zero_windows", "srtt_ns", "silence_ns"), "<u8")
"""What a part says besides: how often each end closed its window, the kernel's smoothed round-trip time, the longest silence.
"""

MET_EXCHANGE: Final = np.dtype([*((name, dtype) for name, (_, dtype) in MEMBERS.items()), *OF_SPAN.items(), *OF_PART.items()])
"""An exchange that a span was met with, or a part."""

OF_CONNECTION: Final[dict[str, str]] = {"syn_ns": "<u8", "handshake_ack_ns": "<u8", "syn_repeats": "<u2"}
"""What is kept with an exchange of its flow's slot, by the slot's members."""

_ADDED: Final = OF_CONNECTION | OF_SPAN | OF_PART

ENDED: Final = structure(
    MEMBERS | {name: (EXCHANGE.itemsize + 8 * at, dtype) for at, (name, dtype) in enumerate(_ADDED.items())},
    EXCHANGE.itemsize + 8 * len(_ADDED),
)
"""An exchange that is over, the set-up of its connection where it waited for that, and the others of its span."""


def joined(*parts: Exchanges) -> Exchanges:
    """Put exchanges of one type behind each other. They are copied whole: by itself numpy copies a structure member by member,
    which takes ten times as long.
    """
    return np.concatenate([_whole(part) for part in parts]).view(parts[0].dtype)


def picked(exchanges: Exchanges, places: npt.NDArray[Any]) -> Exchanges:
    """Copy those at these places, or where these are true; likewise."""
    found: Exchanges = _whole(exchanges)[places].view(exchanges.dtype)
    return found


def as_ended(exchanges: Exchanges) -> Exchanges:
    """Copy exchanges as ENDED, with nothing in what is added there that they do not say."""
    if exchanges.dtype == EXCHANGE:
        size = EXCHANGE.itemsize
        content = np.empty((len(exchanges), ENDED.itemsize), np.uint8)
        content[:, :size] = _whole(exchanges).view(np.uint8).reshape(-1, size)
        content[:, size:] = 0
        return content.view(ENDED).reshape(-1)
    ended = np.zeros(len(exchanges), ENDED)
    for name in exchanges.dtype.names or ():
        ended[name] = exchanges[name]
    return ended


def _whole(exchanges: Exchanges) -> npt.NDArray[Any]:
    return np.ascontiguousarray(exchanges).view(np.dtype(("V", exchanges.dtype.itemsize)))


class RequestCounter(enum.IntEnum):
    """What became of a request that was looked at, and why none of a connection is any more (`enum request_counter`)."""

    SAMPLED = 0
    """It has a sampled trace context: its exchange is told."""
    UNSAMPLED = 1
    ABSENT = 2
    """It has no trace context."""
    CUT = 3
    """Its headers go on behind what is looked at."""
    MALFORMED = 4
    REPEATED = 5
    """It has several trace contexts: none is valid."""
    OVERTAKEN = 6
    """Its first segment came late and was not looked at."""
    NO_ROOM = 7
    """It is sampled, and there was no room for its exchange."""
    UNPAIRED = 8
    """It is sampled, and which response is its own cannot be told: its exchange is not."""
    UNKNOWN = 9
    """Its trace context, if it has one, may stand in a table of HPACK that is not known."""
    CONNECTION_TLS = 10
    CONNECTION_HTTP2 = 11
    """Its frames cannot be followed."""
    CONNECTION_SWITCHED = 12
    """By 101 Switching Protocols."""
    CONNECTION_TUNNEL = 13
    """Of a CONNECT."""
    CONNECTION_PIPELINED = 14
    """A request did not wait for the response before."""
    CONNECTION_OTHER = 15
    """The client said what is no request, time and again."""

    @property
    def counted_as(self) -> str:
        """Its name among a batch's counters: `requests_sampled`, `connections_tls`."""
        of_connection = self >= RequestCounter.CONNECTION_TLS
        return f"connections_{self.name[11:].lower()}" if of_connection else f"requests_{self.name.lower()}"


def request_counters(counts: Any) -> dict[str, int]:
    """Return counts, in the order of RequestCounter, by their names."""
    return {counter.counted_as: int(counts[counter]) for counter in RequestCounter}
