"""What tshark's dissection of a capture says of the exchanges in it: ids, headers, and when each byte that counts came by."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from tests.support.packets.talks.http2_talk import DATA, END_STREAM, HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PHASES: Final = ("request_first", "request_last", "response_first", "response_last")
_NEVER: Final = 0
_WITHOUT_GRPC: Final = ("--disable-protocol", "grpc")
"""Its dissector fails (in tshark 4.0) on what is no gRPC, and with it the packet's other frames."""
_OPENS: Final = "tcp.flags.syn == 1 && tcp.flags.ack == 0"


@dataclass
class Dissected:
    """An exchange. Times are Unix ns, 0 where there is none."""

    context: str | None = None
    method: str | None = None
    status: int = 0
    request_first: int = _NEVER
    request_last: int = _NEVER
    response_first: int = _NEVER
    response_last: int = _NEVER

    @property
    def is_whole(self) -> bool:
        """Whether both its messages have ended."""
        return bool(self.request_last and self.response_last)

    @property
    def ids(self) -> list[str] | None:
        """Trace id and caller's span id of a sampled context."""
        return self.context.split("-")[1:3] if self.context and self.context.endswith("1") else None

    def take_frame(self, *, is_asked: bool, begun: int, now: int, kind: int, flags: int, headers: dict[str, str]) -> None:
        """Take over a frame of HTTP/2."""
        whole = flags & END_STREAM and kind in {DATA, HEADERS}
        if is_asked:
            self.context = self.context or headers.get("traceparent")
            self.method = self.method or headers.get(":method")
            self.request_first = self.request_first or begun
            self.request_last = now if whole else self.request_last
            return
        status = int(headers.get(":status", 0)) if kind == HEADERS else 0
        if not self.response_first and kind == HEADERS and status // 100 != 1:
            self.response_first, self.status = begun, status
        self.response_last = now if whole else self.response_last


Ports = tuple[int, int]
"""Of a connection: the client's, the server's. Clients of several servers may have the same one."""
Dissection = dict[tuple[Ports, object], Dissected]
"""By connection and, in it, the stream's id or the context that a request of HTTP/1 carries."""


def connections(path: Path) -> dict[Ports, int]:
    """The connections that began in a capture, and the client's initial sequence number; none whose ports were used again."""
    fields = ("tcp.srcport", "tcp.dstport", "tcp.seq_raw")
    command = ["tshark", "-r", path, "-Y", _OPENS, "-T", "fields", *(word for name in fields for word in ("-e", name))]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found: dict[Ports, set[int]] = {}
    for client, server, sequence in (map(int, line.split("\t")) for line in lines):
        found.setdefault((client, server), set()).add(sequence)
    return {ports: sequences.pop() for ports, sequences in found.items() if len(sequences) == 1}


def of_http2(path: Path, protocol: str = "http2") -> Dissection:
    """Streams of clients, of a capture of connections that begin with this protocol."""
    streams: Dissection = {}
    for packet, ends, begun, now in _packets(path, protocol):
        since = begun
        for found in packet.iter("field"):
            if found.get("name") != "http2.stream":
                continue
            number, kind = int(next(_shown(found, "http2.streamid"), "0")), int(next(_shown(found, "http2.type"), "-1"))
            if number % 2 and kind in {DATA, HEADERS}:
                headers = zip(_shown(found, "http2.header.name"), _shown(found, "http2.header.value"), strict=True)
                streams.setdefault((ends.ports, number), Dissected()).take_frame(
                    is_asked=ends.is_asked, begun=since, now=now, kind=kind,
                    flags=int(next(_shown(found, "http2.flags")), 16), headers=dict(headers),
                )  # fmt: skip
            since = now
    return streams


def of_http1(path: Path) -> Dissection:
    """Requests with a context, whose connection answers them one by one."""
    exchanges: Dissection = {}
    asked: dict[Ports, Dissected] = {}
    for packet, ends, begun, now in _packets(path, "http"):
        for found in (each for each in packet.iter("proto") if each.get("name") == "http"):
            lines = dict(line.strip().split(": ", 1) for line in _shown(found, "http.request.line") if ": " in line)
            method, code = next(_shown(found, "http.request.method"), None), int(next(_shown(found, "http.response.code"), "0"))
            context = {name.lower(): value for name, value in lines.items()}.get("traceparent", "").removesuffix("\\r\\n")
            if method:
                asked[ends.ports] = Dissected(context, method, request_first=begun, request_last=now)
                exchanges[ends.ports, context] = asked[ends.ports]
            elif code // 100 > 1:
                answered = asked.pop(ends.ports)
                answered.status, answered.response_first, answered.response_last = code, begun, now
    return exchanges


def of_upgrades(path: Path) -> Dissection:
    """Requests of HTTP/1 that went over to HTTP/2, each with its response on stream 1."""
    responses = of_http2(path, "http")
    exchanges: Dissection = {}
    for packet, ends, begun, now in _packets(path, "http"):
        method = next(_shown(packet, "http.request.method"), None)
        if method and (ends.ports, 1) in responses:
            lines = (line.partition(": ") for line in _shown(packet, "http.request.line"))
            headers = {name.lower(): value.removesuffix("\\r\\n").strip() for name, _, value in lines}
            answered = responses[ends.ports, 1]
            exchanges[ends.ports, 1] = Dissected(
                headers.get("traceparent"), method, answered.status, begun, now, answered.response_first, answered.response_last
            )
    return exchanges


@dataclass(frozen=True, slots=True)
class _Ends:
    ports: Ports
    is_asked: bool


def _packets(path: Path, protocol: str) -> Iterator[tuple[ET.Element, _Ends, int, int]]:
    """Packets of the connections that began in a capture, with when the first byte of what ends there came by, and the last."""
    opened = connections(path)
    ports = {server for _, server in opened}
    decoded = [word for port in ports for word in ("-d", f"tcp.port=={port},{protocol}")]
    command = ["tshark", "-r", path, *decoded, *_WITHOUT_GRPC, "-T", "pdml"]
    packets = ET.fromstring(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    times = [_ns(next(_shown(packet, "frame.time_epoch"))) for packet in packets.iter("packet")]
    for packet, now in zip(packets.iter("packet"), times, strict=True):
        way = int(next(_shown(packet, "tcp.srcport"), "0")), int(next(_shown(packet, "tcp.dstport"), "0"))
        if way in opened or way[::-1] in opened:
            begun = min((times[int(number) - 1] for number in _shown(packet, "tcp.segment")), default=now)
            yield packet, _Ends(way if way in opened else way[::-1], way in opened), begun, now


def _shown(element: ET.Element, name: str) -> Iterator[str]:
    """Values of a field, wherever in the element."""
    return (field.get("show", "") for field in element.iter("field") if field.get("name") == name)


def _ns(seconds: str) -> int:
    """Epoch seconds as tshark prints them."""
    whole, _, rest = seconds.partition(".")
    return int(whole) * 1_000_000_000 + int(rest[:9].ljust(9, "0"))
