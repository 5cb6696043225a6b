"""What a real connection's first call waited for: a slow resolver and a lost SYN, as spans of the caller's trace."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proto.columns import Reason
from proto.flow_batch import decode
from services.capture.flows.datagrams import DatagramRules
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.tap.socket_tap import TapRules
from services.exporter.encoder import SpanEncoder
from tests.kernel.requests.test_traced_exchanges import PORT, TRACE_ID, ask, request, serving
from tests.support.node.live_capture import reason_to_skip
from tests.support.node.lossy_path import SERVER, routed_path
from tests.support.packets.talks.dns import A, question

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.node.namespaces import Namespace

pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("iptables") is None, reason="needs root and iptables"),
]

MS = 1_000_000
NAME = "cart.shop.svc"
SLOW_MS = 150


@contextmanager
def resolving(namespace: Namespace, delay_seconds: float) -> Iterator[None]:
    """A resolver that answers one question, for the server's address, after a while."""
    listener = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((SERVER, 53))

    def serve() -> None:
        asked, client = listener.recvfrom(512)
        time.sleep(delay_seconds)
        record = b"\xc0\x0c" + A.to_bytes(2) + b"\0\1\0\0\0\x1e\0\4" + socket.inet_aton(SERVER)
        listener.sendto(asked[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + asked[12:] + record, client)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        listener.close()


def spans_told(reader: LiveReader):
    """All spans that what capture has told becomes."""
    encoder, found = SpanEncoder(cluster_name="c"), []
    for batch in reader.read(Reason.SHUTDOWN):
        for message in batch.messages:
            sent = ExportTraceServiceRequest.FromString(encoder.encode(decode(message.message)))
            found += [span for each in sent.resource_spans for scope in each.scope_spans for span in scope.spans]
        reader.accept(batch)
    return found


def attributes(span):
    """Attributes as a dict."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def lasted_ms(span) -> float:
    """How long a span took."""
    return (span.end_time_unix_nano - span.start_time_unix_nano) / MS


def test_the_first_call_of_a_connection_shows_who_paid():
    """A resolver that takes its time, and a SYN that is lost once: both stand beside the first call and no other, in its
    caller's trace, each with a link to the span it came from.
    """
    rules = TapRules(allow_networks=("10.71.0.0/16",))
    options = LiveOptions(capacity=4096, rules=rules, names="dns", datagrams=DatagramRules(dns_ports=(53,)), trace_context=True)
    with (
        LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader,
        routed_path() as (client, router, server),
    ):
        syn = ("-p", "tcp", "--dport", str(PORT), "--tcp-flags", "SYN,ACK", "SYN", "-m", "statistic", "--mode", "nth")
        router.run("iptables", "-A", "FORWARD", *syn, "--every", "1000", "--packet", "0", "-j", "DROP")
        with resolving(server, SLOW_MS / 1000), client.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.sendto(question(7, NAME), (SERVER, 53))
            asking.settimeout(10)
            asking.recv(512)
            with serving(server):
                ask(client, request(1), request(2))
        spans = spans_told(reader)
    mine = [span for span in spans if span.trace_id == TRACE_ID]
    (exchange,) = [span for span in mine if span.name == "exchange at client" and span.parent_span_id == (1).to_bytes(8)]
    steps = {span.name: span for span in mine if span.name in {"connect", "dns lookup"}}
    assert len([span for span in mine if span.name in steps]) == len(steps) == 2
    assert {span.parent_span_id for span in steps.values()} == {(1).to_bytes(8)}
    lookup, connect = steps["dns lookup"], steps["connect"]
    assert lookup.end_time_unix_nano <= connect.start_time_unix_nano < connect.end_time_unix_nano
    assert connect.end_time_unix_nano <= exchange.start_time_unix_nano
    assert SLOW_MS <= lasted_ms(lookup) == attributes(lookup)["flow.dns.time"] / MS
    assert lasted_ms(connect) >= 1000
    assert attributes(connect)["flow.tcp.syn_repeats"] == 1
    assert attributes(lookup)["dns.question.name"] == NAME
    spans_by_id = {(span.trace_id, span.span_id): span for span in spans}
    linked = {name: spans_by_id[span.links[0].trace_id, span.links[0].span_id] for name, span in steps.items()}
    assert {name: span.name.split()[0] for name, span in linked.items()} == {"dns lookup": "udp", "connect": "tcp"}
    assert linked["dns lookup"].start_time_unix_nano == lookup.start_time_unix_nano
    assert attributes(linked["connect"])["flow.tcp.syn_repeats"] == 1
