"""What spans tell of a real resolver's questions: CoreDNS, which answers in nearly every cluster, against its own log."""

from __future__ import annotations

import contextlib
import re
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proto.columns import Reason
from proto.flow_batch import decode
from services.capture.flows.datagrams import DatagramRules
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.tap.socket_tap import TapRules
from services.capture.names.question_records import QuestionRules
from services.enricher.join import join
from services.exporter.encoder import SpanEncoder
from tests.support.cluster.binaries import binary
from tests.support.node.live_capture import WAIT_SECONDS, reason_to_skip, wait_until
from tests.support.node.lossy_path import captured
from tests.support.node.namespaces import Network, Pod
from tests.support.packets.oracle.tshark_names import of_tshark, of_wirespan_by_question
from tests.support.tools import ToolUnavailableError

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
NO_CAPTURE = any(shutil.which(name) is None for name in ("tshark", "dumpcap"))
CLIENT, RESOLVER, UPSTREAM = "10.48.0.12", "10.48.0.13", "10.48.0.14"
COREFILE = """. {
    log . "{remote} {port} {proto} {type} {name} {rcode} {duration}"
    file ZONE shop.example
    forward slow.example UPSTREAM
    forward broken.example UPSTREAM
}
"""
ZONE = """$ORIGIN shop.example.
@ 60 IN SOA ns.shop.example. admin.shop.example. 1 60 60 60 60
@ 60 IN NS ns.shop.example.
ns 60 IN A 192.0.2.53
cart 60 IN A 192.0.2.1
cart 60 IN AAAA 2001:db8::1
www 60 IN CNAME front.shop.example.
front 60 IN CNAME edge.shop.example.
edge 60 IN CNAME cart.shop.example.
""" + "".join(f"long 60 IN TXT {number}{'x' * 200}\n" for number in range(5))
LOGGED = re.compile(rf"{CLIENT} (\d+) (udp|tcp) (\S+) (\S+)\. (\S+) ([\d.]+)(s|ms|µs)$", re.MULTILINE)
READY = "ns.shop.example"
"""What only is asked until there is an answer."""
UNIT_NS = {"s": 1e9, "ms": 1e6, "µs": 1e3}


@pytest.fixture(scope="module")
def pods() -> Iterator[tuple[Pod, Pod, Pod]]:
    """A client, the resolver, and whom the resolver asks."""
    with Network() as network:
        node = network.node("coredns", "10.48.0.1/24", "fd48::1/64")
        # Of IPv6 too: who has no address of it is not told any by the C library.
        ends = (("client", CLIENT, "c"), ("resolver", RESOLVER, "d"), ("upstream", UPSTREAM, "e"))
        client, resolver, upstream = (node.pod(name, f"{address}/24", f"fd48::{last}/64") for name, address, last in ends)
        yield client, resolver, upstream


@pytest.fixture
def log(pods, tmp_path) -> Iterator[Path]:
    """CoreDNS's, which answers by now."""
    try:
        program = binary("coredns")
    except ToolUnavailableError as error:
        pytest.skip(str(error))
    zone, settings, log = (tmp_path / name for name in ("shop.zone", "Corefile", "log"))
    zone.write_text(ZONE)
    settings.write_text(COREFILE.replace("ZONE", str(zone)).replace("UPSTREAM", UPSTREAM))
    with log.open("w") as output:
        process = pods[1].namespace.spawn([str(program), "-conf", str(settings)], stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or asked(pods[0], READY, "A", patience=0.5))
        assert process.poll() is None, log.read_text()
        yield log
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def live(log) -> Iterator[LiveReader]:
    """Capture as it runs, with a record for every question."""
    options = LiveOptions(
        capacity=4096, names="dns", datagrams=DatagramRules(dns_ports=(53,), rest_seconds=0),
        rules=TapRules(allow_networks=("10.48.0.0/24",)), questions=QuestionRules(spans="all"),
    )  # fmt: skip
    with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
        yield reader


def asked(pod, name, kind, *, patience=WAIT_SECONDS, **how):
    """The answer's bytes, from a socket of the question's own; None where none comes."""
    with pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(patience)
        client.sendto(dns.message.make_query(name, kind, **how).to_wire(), (RESOLVER, 53))
        with contextlib.suppress(TimeoutError):
            return client.recv(65535)
    return None


def question_spans(reader: LiveReader) -> list[dict[str, object]]:
    """The attributes of every question's span: capture to exporter, without a bus and a cluster."""
    encoder, found = SpanEncoder(cluster_name="test", distribution_version="1"), []
    for batch in reader.read(Reason.SHUTDOWN):
        for message in batch.messages:
            request = ExportTraceServiceRequest.FromString(encoder.encode(join(decode(message.message), None)))
            for span in (span for group in request.resource_spans for scope in group.scope_spans for span in scope.spans):
                if span.name == "dns question":
                    values = {each.key: each.value for each in span.attributes}
                    found.append({key: getattr(value, value.WhichOneof("value")) for key, value in values.items()})
        reader.accept(batch)
    return found


def told(span: dict[str, object]) -> tuple[object, ...]:
    """What CoreDNS logs too: the client's port, transport, type, name and code."""
    names = ("source.port", "network.transport", "dns.question.type", "dns.question.name", "dns.response_code")
    return tuple(span[name] for name in names)


def logged(log: Path) -> list[tuple[object, ...]]:
    """The same as CoreDNS logged it, and its own time in ns, of what the client asked for."""
    rows = (row for row in LOGGED.findall(log.read_text()) if row[3] != READY)
    return [(int(port), *rest, float(figure) * UNIT_NS[unit]) for port, *rest, figure, unit in rows]


def looked_up_by_libc(pod: Pod, folder: Path) -> bytes:
    """What the C library finds for `cart`: A and AAAA at once, in one search domain after the other."""
    settings = folder / "resolv.conf"
    settings.write_text(
        f"nameserver {RESOLVER}\nsearch svc.shop.example shop.example\noptions ndots:5 timeout:{WAIT_SECONDS}\n"
    )
    command = f"mount --bind {settings} /etc/resolv.conf && exec getent ahosts cart"
    process = pod.namespace.spawn(["unshare", "-m", "sh", "-c", command], stdout=subprocess.PIPE)
    return process.communicate(timeout=WAIT_SECONDS * 4)[0]


def long_answer(pod: Pod) -> bool:
    """Ask for more than a datagram without EDNS holds; return whether the resolver was asked once more, over TCP."""
    question = dns.message.make_query("long.shop.example", "TXT")
    with (
        pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as connection,
    ):
        connection.settimeout(WAIT_SECONDS)
        connection.connect((RESOLVER, 53))
        return dns.query.udp_with_fallback(question, RESOLVER, WAIT_SECONDS, udp_sock=datagrams, tcp_sock=connection)[1]


def answered_upstream(client: Pod, upstream: Pod, name: str, code: int) -> tuple[int, int]:
    """Ask for what the resolver must ask somebody else, who is busy with a question of his own first.

    Returns for how long he was at the least, and how long the client waited in all, in ns.
    """
    held = []
    with (
        client.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking,
        upstream.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as authority,
    ):
        authority.bind((UPSTREAM, 53))
        began = time.monotonic_ns()
        asking.sendto(dns.message.make_query(name, "A").to_wire(), (RESOLVER, 53))
        while asking not in (ready := select.select([asking, authority], [], [], WAIT_SECONDS)[0]):
            assert ready, "neither is asked nor answered"
            content, resolver = authority.recvfrom(65535)
            received = time.monotonic_ns()
            assert asked(client, "cart.shop.example", "A")
            answer = dns.message.make_response(dns.message.from_wire(content))
            answer.set_rcode(code)
            held.append(time.monotonic_ns() - received)
            authority.sendto(answer.to_wire(), resolver)
        assert dns.message.from_wire(asking.recv(65535)).rcode() == code
        return min(held), time.monotonic_ns() - began


def test_spans_tell_what_coredns_logs(live, log, pods, tmp_path) -> None:
    """Search domains, both families at once, NXDOMAIN, SERVFAIL, a chain of CNAMEs, EDNS, compression, an answer cut short and
    asked for over TCP, and one that waits for another server: at the client and at the resolver a span for each, with the name,
    type and code that CoreDNS logs for that port. The times of all who wait for one another lie in each other. tshark reads the
    same from a capture.
    """
    client, resolver, upstream = pods
    path = tmp_path / "dns.pcapng"
    with contextlib.nullcontext() if NO_CAPTURE else captured(resolver.namespace, path, "port 53"):
        assert b"192.0.2.1" in looked_up_by_libc(client, tmp_path)
        chain = dns.message.from_wire(asked(client, "WWW.shop.example", "A"))
        whole = asked(client, "long.shop.example", "TXT", use_edns=0, payload=1150)
        assert asked(client, "nobody.shop.example", "SRV")
        assert long_answer(client)
        held, waited = answered_upstream(client, upstream, "db.slow.example", dns.rcode.NOERROR)
        answered_upstream(client, upstream, "db.broken.example", dns.rcode.SERVFAIL)
    assert [len(chain.answer), b"\xc0\x0c" in whole, len(dns.message.from_wire(whole).answer[0])] == [4, True, 5]
    assert asked(client, "cart.shop.example", "A", use_edns=1)  # a version of EDNS that nobody has: not logged

    spans = question_spans(live)
    of_client = [span for span in spans if span["source.address"] == CLIENT and span["dns.response_code"] != "BADVERS"]
    ends = [[span for span in of_client if span["flow.direction"] == way] for way in ("forward", "reverse")]
    wait_until(lambda: len(logged(log)) >= len(ends[0]))  # it logs when it has answered
    for end in ends:
        assert sorted(map(told, end)) == sorted(row[:-1] for row in logged(log))
    assert {told(span)[2:] for span in of_client} >= {
        ("A", "cart.svc.shop.example", "NXDOMAIN"), ("AAAA", "cart.svc.shop.example", "NXDOMAIN"),
        ("A", "cart.shop.example", "NOERROR"), ("AAAA", "cart.shop.example", "NOERROR"),
    }  # fmt: skip
    assert [span["dns.response_code"] for span in spans].count("BADVERS") == 2
    by_client, by_resolver = ({told(span): span["flow.dns.time"] for span in end} for end in ends)
    assert all(by_resolver[each] <= time_ns for each, time_ns in by_client.items())

    onward = [span for span in spans if span["source.address"] == RESOLVER]
    assert {told(span)[3:] for span in onward} == {("db.slow.example", "NOERROR"), ("db.broken.example", "SERVFAIL")}
    (slow,) = (each for each in by_client if each[3] == "db.slow.example")
    longest = max(span["flow.dns.time"] for span in onward if span["dns.question.name"] == "db.slow.example")
    assert held <= longest <= by_resolver[slow] <= by_client[slow] <= waited
    (logged_ns,) = (row[-1] for row in logged(log) if row[:-1] == slow)
    assert held <= logged_ns
    if not NO_CAPTURE:
        assert of_wirespan_by_question(path) == of_tshark(path)[1] + of_tshark(path, "tcp")[1]
    assert live.counters["pieces_lost_dns"] == live.counters["pieces_lost_dns_tcp"] == live.counters["pieces_unreadable"] == 0
