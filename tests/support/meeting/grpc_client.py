"""Callers of gRPC over one channel in TLS, instrumented with the OpenTelemetry SDK: rounds in which all call at once.

    python -m tests.support.meeting.grpc_client <authority> <address> <port> <callers> <rounds> <seconds>

All spans of a round begin before its first call and end after its last, so that what the kernel says of the connection before
and behind, when neither end has spoken for so many seconds, is what it did while each of them lasted. Prints one line of JSON:
the port of the connection, and for each round its spans, each [id, begin, end], Unix nanoseconds, and what the kernel counted:
[payload sent, payload received, segments sent again]; null where that went on while spans began or ended, as where something
was lost that is sent again much later.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.support.meeting.grpc_server import METHOD, SERVICE


def connection(port: int) -> socket.socket:
    """The one connection of this process to that port."""
    found: dict[int, socket.socket] = {}
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        try:
            if not str(descriptor.readlink()).startswith("socket:"):
                continue
            one = socket.socket(fileno=os.dup(int(descriptor.name)))
            if one.family in {socket.AF_INET, socket.AF_INET6} and one.getpeername()[1] == port:
                found[one.getsockname()[1]] = one
            else:
                one.close()
        except OSError:
            continue
    (only,) = found.values()
    return only


def counted(one: socket.socket) -> list[int]:
    """What the kernel counted of a connection: payload sent once, payload received, segments sent again (struct tcp_info)."""
    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 240)
    (resent,) = struct.unpack_from("<I", info, 100)
    (received,) = struct.unpack_from("<Q", info, 128)
    sent, sent_again = struct.unpack_from("<QQ", info, 200)
    return [sent - sent_again, received, resent]


def when_quiet(one: socket.socket, seconds: float) -> list[int]:
    """The same, once neither end has said anything for a while: what follows a response (windows, pings) is its call's."""
    counts, since = counted(one), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(seconds / 10)
        if (now := counted(one)) != counts:
            counts, since = now, time.monotonic()
    return counts


def main() -> None:
    """Call, and say what the SDK and the kernel made of it."""
    authority, address, port, callers, rounds = sys.argv[1], sys.argv[2], *(int(each) for each in sys.argv[3:6])
    seconds = float(sys.argv[6])
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    tracer = provider.get_tracer("calls")
    credentials = grpc.ssl_channel_credentials(Path(authority).read_bytes())
    options = [("grpc.ssl_target_name_override", "localhost")]
    with grpc.secure_channel(f"{address}:{port}", credentials, options) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{METHOD}")
        call(b"the first")
        own = connection(port)
        told: list[list[int] | None] = []
        for number in range(rounds):
            begun, over = threading.Barrier(callers + 1), threading.Barrier(callers + 1)
            before = when_quiet(own, seconds)

            def caller(number: int = number, begun: threading.Barrier = begun, over: threading.Barrier = over) -> None:
                attributes = {"server.address": address, "server.port": port}
                with tracer.start_as_current_span(str(number), kind=SpanKind.CLIENT, attributes=attributes):
                    begun.wait()
                    begun.wait()
                    call(b"y" * 300)
                    over.wait()
                    over.wait()

            threads = [threading.Thread(target=caller) for _ in range(callers)]
            for thread in threads:
                thread.start()
            begun.wait()
            is_known = counted(own) == before
            begun.wait()
            over.wait()
            after = when_quiet(own, seconds)
            over.wait()
            for thread in threads:
                thread.join()
            is_known &= counted(own) == after
            told.append([behind - first for first, behind in zip(before, after, strict=True)] if is_known else None)
        local = own.getsockname()[1]
        own.close()
    spans: list[list[list[int]]] = [[] for _ in range(rounds)]
    for each in exported.get_finished_spans():
        spans[int(each.name)].append([each.context.span_id, each.start_time or 0, each.end_time or 0])
    rows = [{"spans": of_round, "counted": counts} for of_round, counts in zip(spans, told, strict=True)]
    sys.stdout.write(json.dumps({"port": local, "rounds": rows}) + "\n")


if __name__ == "__main__":
    main()
