"""The fault lab: real faults on real sockets, and the spans of both ends name them, and only them.

All faults run at once, each on its own port, under one tap; docs/diagnosis.md shows what is seen here.
"""

from __future__ import annotations

import operator
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proto.columns import Role
from tests.kernel.faults.fault_lab import REQUEST, SMALL, THINK_SECONDS, Port, run_all
from tests.support.node import live_capture
from tests.support.node.fault_lab import ONE_WAY_SECONDS, FaultLab, Told

pytestmark = pytest.mark.xdist_group("socket_tap")

NS = 1_000_000_000
FIRST_SYN_TIMEOUT_NS = 990_000_000
"""Linux waits a second for the answer to a SYN (RFC 6298 2.1), and counts it in ticks of up to 10 ms."""
FULL_SEGMENT = 1448

ANY = set(Port)
DIAGNOSIS = Path(__file__).parents[3] / "docs" / "diagnosis.md"
FINDS: dict[tuple[str, int], tuple[set[Port], set[Port]]] = {
    ("Refused", 0): ({Port.REFUSED}, set()),
    ("Blackholed", 0): ({Port.BLACKHOLED, Port.ACCEPT_QUEUE_FULL}, set()),
    ("Full accept queue", 0): ({Port.ACCEPT_QUEUE_FULL}, set()),
    ("Lost SYNs", 0): ({Port.SYN_LOST, Port.SYN_ACK_LOST, Port.ACCEPT_QUEUE_LATE}, set()),
    ("Lost SYNs", 1): ({Port.SYN_ACK_LOST}, set()),
    ("Loss on the path", 0): ({Port.LOSS_DOWN}, {Port.SLOW_READER}),
    ("Loss on the path", 1): ({Port.LOSS_UP}, set()),
    ("Slow server", 0): ({Port.SLOW_SERVER, Port.SLOWER_SERVER, Port.DNS_LATE}, ANY),
    ("Slow path", 0): ({Port.SLOW_PATH}, ANY),
    ("Slow path", 1): ({Port.SLOW_PATH}, ANY),
    ("Slow reader", 0): ({Port.SLOW_READER}, set()),
    ("Resets", 0): ({Port.SERVER_RESETS}, set()),
    ("Resets", 1): ({Port.CLIENT_ABORTS}, set()),
    ("Partition", 0): ({Port.PARTITION}, {Port.LARGE_LOST}),
    ("Path MTU blackhole", 0): ({Port.LARGE_LOST}, set()),
    ("DNS", 0): ({Port.DNS_LATE}, ANY),
    ("DNS", 1): ({Port.DNS_SILENT}, set()),
}
"""For each query of a section of docs/diagnosis.md, the faults that it has to find, and those that it may find as well. What is
slow on a busy machine besides what is slow on purpose is not said here.
"""

VERDICTS: dict[Port, tuple[list[str], list[str]]] = {
    Port.HEALTHY: (["ok"], ["ok"]),
    Port.REFUSED: (["refused"], []),
    Port.BLACKHOLED: (["path_or_server"], []),
    Port.LOSS_DOWN: (["path_loss ok"], ["path_loss"]),
    Port.LOSS_UP: (["path_loss"], ["path_loss ok"]),
    Port.SYN_LOST: (["path_or_server"], ["ok"]),
    Port.SYN_ACK_LOST: (["path_or_server"], ["path_loss"]),
    Port.SLOW_SERVER: (["path_or_server"], ["server_slow"]),
    Port.SLOWER_SERVER: (["server_slow"], ["server_slow"]),
    Port.SLOW_READER: (["zero_window"], ["zero_window"]),
    Port.SERVER_RESETS: (["reset_by_server"], ["reset_by_server"]),
    Port.CLIENT_ABORTS: (["reset_by_client"], ["reset_by_client"]),
    Port.ACCEPT_QUEUE_FULL: (["ok", "path_or_server"], ["ok", "accept_queue"]),
    Port.ACCEPT_QUEUE_LATE: (["ok", "path_or_server"], ["ok", "accept_queue"]),
    Port.PARTITION: (["path_loss"], ["ok"]),
    Port.SLOW_PATH: (["path_slow"], ["path_slow"]),
    Port.LARGE_LOST: (["path_loss unknown"], ["mtu"]),
    Port.DNS_LATE: (["name_resolution"], ["name_resolution"]),
    Port.DNS_SILENT: (["name_resolution"], ["name_resolution"]),
}
"""For each fault the verdicts of the clients' spans and of the servers', in the order in which they began. An end that has no
sign of its fault may call it `ok`; where two are said, it may have one or not: a receiver asks for what was lost by duplicate
ACKs or waits, and a client may ask again while its answer is lost.
"""

Ends = Callable[[Port], tuple[Told, Told]]


def reason_to_skip() -> str | None:
    """Why there can be no lab here."""
    if shutil.which("iptables") is None:
        return "needs iptables"
    if not Path("/dev/net/tun").exists():
        return "this kernel has no TUN interfaces"
    return live_capture.reason_to_skip()


_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)


@pytest.fixture(scope="module")
def ran() -> Iterator[tuple[FaultLab, dict]]:
    """The lab after every fault, and what each fault found."""
    with FaultLab((Port.DNS_LATE, Port.DNS_SILENT)) as lab:
        found = run_all(lab)
        lab.take_records()
        yield lab, found


@pytest.fixture
def facts(ran):
    """What a fault knows from elsewhere; raises what went wrong in it."""
    return lambda port: ran[1][port].result()


@pytest.fixture
def told(ran) -> Callable[[Port, Role], list[Told]]:
    """What the sockets of one role at a fault's port have told."""

    def ask(port: Port, role: Role) -> list[Told]:
        ran[1][port].result()
        return ran[0].told(port, role)

    return ask


@pytest.fixture
def ends(told) -> Ends:
    """What the two sockets of a fault's only connection have told: the client's, the server's."""

    def ask(port: Port) -> tuple[Told, Told]:
        (client,), (server,) = told(port, Role.CLIENT), told(port, Role.SERVER)
        return client, server

    return ask


def test_a_healthy_connection_has_no_symptom(ends) -> None:
    """Where nothing is wrong, neither end says that something is."""
    for end in ends(Port.HEALTHY):
        assert end.symptoms == set()
        assert not end.failed
        assert (end.outcome, end.attributes["flow.response.count"]) == ("closed", 1)


def test_a_refused_connection_is_named_at_once(told) -> None:
    """The client's span: refused, by the destination's RST, no SYN repeated. The server has no socket that could tell."""
    (client,) = told(Port.REFUSED, Role.CLIENT)
    assert client.failed
    assert client.attributes["error.type"] == "connection_refused"
    assert client.outcome == "refused"
    assert client.attributes["flow.tcp.closed_by"] == "destination"
    assert client.symptoms == {"error.type", "flow.reverse.tcp.resets"}
    assert told(Port.REFUSED, Role.SERVER) == []


def test_a_blackholed_port_is_a_timeout_that_no_server_saw(told) -> None:
    """The client's span: timeout, SYNs repeated, nothing received; the server has no span although it listens."""
    (client,) = told(Port.BLACKHOLED, Role.CLIENT)
    assert client.failed
    assert client.attributes["error.type"] == "timeout"
    assert client.outcome == "timeout"
    assert client.attributes["flow.tcp.syn_repeats"] >= 1
    assert client.attributes["flow.reverse.packets.total"] == 0
    assert client.symptoms == {"error.type", "flow.tcp.syn_repeats"}
    assert told(Port.BLACKHOLED, Role.SERVER) == []


def test_a_full_accept_queue_is_a_timeout_that_the_server_saw(told) -> None:
    """Both ends have a span that timed out: the SYNs arrived at the server's socket, which never answered."""
    (waits, client), (_, server) = (told(Port.ACCEPT_QUEUE_FULL, role) for role in (Role.CLIENT, Role.SERVER))
    assert waits.outcome == "established"  # the one that the queue has room for
    assert waits.symptoms == set()
    for end in (client, server):
        assert end.failed
        assert end.attributes["error.type"] == "timeout"
        assert end.symptoms == {"error.type", "flow.tcp.syn_repeats"}
        assert end.attributes["flow.reverse.packets.total"] == 0
    assert client.attributes["flow.packets.total"] == server.attributes["flow.packets.total"]
    assert client.attributes["flow.tcp.syn_repeats"] == server.attributes["flow.tcp.syn_repeats"] >= 1


@pytest.mark.parametrize(
    ("port", "way", "other_way"), [(Port.LOSS_DOWN, "reverse.", ""), (Port.LOSS_UP, "", "reverse.")], ids=["1%-down", "5%-up"]
)
def test_loss_shows_as_retransmissions_in_its_own_direction(ends, facts, port, way, other_way) -> None:
    """The sender's retransmissions are the kernel's to the segment, no less than were dropped; the other direction has none.
    The receiver has segments late. No connection failed.
    """
    client, server = ends(port)
    sender, receiver = (server, client) if way else (client, server)
    known = facts(port)
    assert known["dropped"] > 5
    assert sender.attributes[f"flow.{way}tcp.retransmits"] == known["total_retrans"] >= known["dropped"]
    assert sender.row["socket_retransmits"] == known["total_retrans"]
    late = {f"flow.{way}tcp.retransmits", f"flow.{way}tcp.out_of_order"}
    # A window that moves meanwhile makes an ACK no duplicate, so there may be none of them.
    asked = f"flow.{other_way}tcp.duplicate_acks"
    assert sum(receiver.attributes.get(name, 0) for name in late) > 0
    # Where a whole stream goes up and nothing comes down, that is a request without response.
    unanswered = set() if way else {"flow.request.unanswered"}
    for end in (client, server):
        assert end.outcome == "closed"
        assert not end.failed
        assert end.symptoms <= late | unanswered | {asked, f"flow.{way}tcp.spurious_retransmits"}
    # What the path lost is the difference of what both ends counted.
    lost = sender.attributes[f"flow.{way}packets.total"] - receiver.attributes[f"flow.{way}packets.total"]
    assert lost == known["dropped"]


def test_a_lost_syn_is_time_before_the_connection(ends) -> None:
    """The client repeated its SYN and connected a second late; the server saw one SYN, at once answered, and nothing odd."""
    client, server = ends(Port.SYN_LOST)
    assert client.symptoms == {"flow.tcp.syn_repeats"}
    assert client.attributes["flow.tcp.syn_repeats"] == 1
    assert client.attributes["flow.tcp.connect.time"] >= FIRST_SYN_TIMEOUT_NS
    assert server.symptoms == set()
    assert server.attributes["flow.tcp.connect.time"] < client.attributes["flow.tcp.connect.time"]
    assert {client.outcome, server.outcome} == {"closed"}


def test_a_lost_syn_ack_shows_at_both_ends(ends) -> None:
    """The client cannot tell it from a lost SYN by its connect time; the server can: it saw and answered the SYN again."""
    client, server = ends(Port.SYN_ACK_LOST)
    assert client.attributes["flow.tcp.syn_repeats"] >= 1
    assert client.attributes["flow.tcp.connect.time"] >= FIRST_SYN_TIMEOUT_NS
    assert server.attributes["flow.tcp.syn_ack_repeats"] >= 1
    assert server.attributes["flow.tcp.handshake.ack_latency"] >= FIRST_SYN_TIMEOUT_NS
    for end in (client, server):
        assert end.outcome == "closed"
        assert end.symptoms <= {"flow.tcp.syn_repeats", "flow.tcp.syn_ack_repeats"}


def test_a_slow_server_is_slow_at_its_own_socket(ends) -> None:
    """Both ends see its time; the connect was quick, and nearly nothing of the client's wait is the path's."""
    client, server = ends(Port.SLOW_SERVER)
    for end in (client, server):
        assert end.symptoms == set()
        assert end.attributes["flow.response.count"] == 2
        assert end.attributes["flow.response.time_max"] >= THINK_SECONDS * NS
        assert end.attributes["flow.tcp.connect.time"] < end.attributes["flow.response.time_max"]
    on_path = client.attributes["flow.response.time_max"] - server.attributes["flow.response.time_max"]
    assert 0 <= on_path < server.attributes["flow.response.time_max"]


def test_a_slow_path_is_slow_to_connect(ends) -> None:
    """From the client alone: handshake and round trip are as long as the wait. From both ends: what the client waited longer
    than the server took is the path. The server alone sees it in how long its SYN-ACK waits for an answer.
    """
    round_trip = int(2 * ONE_WAY_SECONDS * NS)
    client, server = ends(Port.SLOW_PATH)
    for end in (client, server):
        assert end.symptoms == set()
        assert end.attributes["flow.tcp.connect.time"] >= round_trip
        assert end.row["min_rtt_ns"] >= round_trip
    assert client.attributes["flow.tcp.handshake.latency"] >= round_trip
    assert server.attributes["flow.tcp.handshake.ack_latency"] >= round_trip
    assert client.attributes["flow.response.time"] >= round_trip
    for what in ("time", "time_max"):
        assert client.attributes[f"flow.response.{what}"] - server.attributes[f"flow.response.{what}"] >= round_trip


def test_one_end_alone_tells_a_slow_server_from_a_slow_path(ends) -> None:
    """At the client: the slow server's wait is far longer than its connect and its round trip; the slow path's are as long."""
    by_server, by_path = ends(Port.SLOW_SERVER)[0], ends(Port.SLOW_PATH)[0]
    assert by_server.attributes["flow.response.time_max"] >= THINK_SECONDS * NS
    assert by_path.attributes["flow.response.time_max"] >= 2 * ONE_WAY_SECONDS * NS
    assert by_server.attributes["flow.tcp.connect.time"] < by_path.attributes["flow.tcp.connect.time"]
    assert by_server.row["min_rtt_ns"] < by_path.row["min_rtt_ns"]


def test_a_client_that_does_not_read_closes_its_window(ends) -> None:
    """Zero windows of the client, counted alike at both ends, and none of the server. What its full buffer had no room for, and
    the server's probes, are all else there is.
    """
    client, server = ends(Port.SLOW_READER)
    no_room = {f"flow.reverse.tcp.{what}" for what in ("retransmits", "out_of_order", "spurious_retransmits")}
    for end in (client, server):
        assert end.attributes["flow.tcp.zero_window"] > 0
        assert end.attributes["flow.reverse.tcp.zero_window"] == 0
        assert end.outcome == "closed"
        assert not end.failed
        assert end.attributes["flow.reverse.tcp.zero_window_probes"] > 0
        probes = "flow.reverse.tcp.zero_window_probes"
        assert end.symptoms <= {"flow.tcp.zero_window", "flow.tcp.duplicate_acks", probes} | no_room
    assert client.attributes["flow.tcp.zero_window"] == server.attributes["flow.tcp.zero_window"]
    # No segment is missing: nothing was lost on the path.
    assert client.attributes["flow.reverse.packets.total"] == server.attributes["flow.reverse.packets.total"]


def test_a_server_that_resets_is_named_by_both(ends) -> None:
    """Connection reset, by the destination, after a response had begun."""
    for end in ends(Port.SERVER_RESETS):
        assert end.failed
        assert end.attributes["error.type"] == "connection_reset"
        assert end.outcome == "reset"
        assert end.attributes["flow.tcp.closed_by"] == "destination"
        assert end.attributes["flow.response.count"] == 1
        assert end.symptoms == {"error.type", "flow.reverse.tcp.resets"}


def test_a_client_that_aborts_is_named_by_both(ends) -> None:
    """Connection reset, by the source, with a request that got no response."""
    for end in ends(Port.CLIENT_ABORTS):
        assert end.failed
        assert end.attributes["error.type"] == "connection_reset"
        assert end.outcome == "reset"
        assert end.attributes["flow.tcp.closed_by"] == "source"
        assert end.symptoms == {"error.type", "flow.tcp.resets", "flow.request.unanswered"}


def test_a_partition_is_retransmission_without_an_end(ends, facts) -> None:
    """The client sends the same request again and again; the server knows nothing of it; neither end has seen the end."""
    client, server = ends(Port.PARTITION)
    assert client.symptoms == {"flow.tcp.retransmits", "flow.request.unanswered"}
    assert client.attributes["flow.tcp.retransmits"] >= facts(Port.PARTITION)["total_retrans"]
    assert client.attributes["flow.tcp.retransmit_bytes"] == len(REQUEST) * client.attributes["flow.tcp.retransmits"]
    assert server.symptoms == set()
    assert server.attributes["flow.payload.bytes.delta"] == len(REQUEST)
    for end in (client, server):
        assert end.outcome == "established"
        assert end.attributes["flow.end_reason"] == "shutdown"
        assert "flow.tcp.closed_by" not in end.attributes


def test_large_segments_that_never_arrive_are_full_ones(ends, facts) -> None:
    """A path MTU blackhole: small requests and responses pass; what the server sends again is full segments, and it believes to
    have answered a request that the client still waits for.
    """
    client, server = ends(Port.LARGE_LOST)
    again = server.attributes["flow.reverse.tcp.retransmits"]
    assert again >= facts(Port.LARGE_LOST)["total_retrans"]
    assert server.attributes["flow.reverse.tcp.retransmit_bytes"] == again * FULL_SEGMENT
    assert (client.attributes["flow.response.count"], server.attributes["flow.response.count"]) == (1, 2)
    assert client.attributes["flow.request.unanswered"] == 1
    assert "flow.request.unanswered" not in server.attributes
    assert client.attributes["flow.reverse.payload.bytes.delta"] == SMALL
    # The server's acknowledgment went with the lost response, so the client may have sent its request again, in vain.
    request = {"flow.tcp.retransmits", "flow.tcp.spurious_retransmits"}
    assert client.symptoms <= {"flow.request.unanswered"} | request
    assert server.symptoms <= {"flow.reverse.tcp.retransmits", "flow.tcp.duplicate_acks"} | request
    for end in (client, server):
        assert end.outcome == "established"


def test_a_late_resolver_is_a_long_response_time(ends) -> None:
    """Of UDP's request and response, both ends have the time."""
    for end in ends(Port.DNS_LATE):
        assert end.symptoms == set()
        assert end.attributes["flow.response.count"] == 1
        assert end.attributes["flow.response.time_max"] >= THINK_SECONDS * NS


def test_a_silent_resolver_leaves_requests_unanswered(ends) -> None:
    """Asked twice, no response, at either end: the datagrams arrived, so it is not the path."""
    client, server = ends(Port.DNS_SILENT)
    for end in (client, server):
        assert end.symptoms == {"flow.request.unanswered"}
        assert "flow.response.count" not in end.attributes
        assert end.attributes["flow.packets.total"] == 2
        assert end.attributes["flow.reverse.packets.total"] == 0


def documented_queries() -> dict[tuple[str, int], str]:
    """The queries of docs/diagnosis.md by their section and their number in it."""
    found = {}
    for section in DIAGNOSIS.read_text().split("\n## ")[1:]:
        for number, query in enumerate(re.findall(r"```traceql\n(.*?)\n```", section)):
            found[section.partition("\n")[0], number] = query
    return found


def matches(query: str, attributes: dict) -> bool:
    """Whether a span's attributes match a TraceQL query of comparisons joined by &&; nothing compares with what is absent."""
    compare = {"=": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt}
    for comparison in query.strip("{} ").split(" && "):
        left, sign, right = re.fullmatch(r"(.+?) (!?[=<>]) (.+)", comparison).groups()
        values = [value_of(side, attributes) for side in (left, right)]
        if None in values or not compare[sign](*values):
            return False
    return True


def value_of(term: str, attributes: dict):
    """Return a literal's, an attribute's or a product's value."""
    if " * " in term:
        factors = [value_of(factor, attributes) for factor in term.split(" * ")]
        return None if None in factors else factors[0] * factors[1]
    if term.startswith("span."):
        return attributes.get(term.removeprefix("span."))
    return term.strip('"') if term.startswith('"') else int(term)


def test_each_documented_query_is_expected_to_find_something() -> None:
    """docs/diagnosis.md has no query that is not checked, and none is missing; its attributes exist."""
    assert set(documented_queries()) == set(FINDS)
    known = set(re.findall(r"`([a-z_.0-9]+)`", DIAGNOSIS.with_name("attributes.md").read_text()))
    assert set(re.findall(r"span\.([a-z_.0-9]+)", DIAGNOSIS.read_text())) <= known | {"destination.service.name"}


@pytest.mark.parametrize("place", FINDS, ids=lambda place: f"{place[0]}-{place[1]}")
def test_a_documented_query_finds_its_fault_and_no_other(told, place) -> None:
    """Of all faults at once, each query of docs/diagnosis.md finds those it stands beside."""
    query = documented_queries()[place]
    ends = {port: told(port, Role.CLIENT) + told(port, Role.SERVER) for port in Port}
    found = {port for port, spans in ends.items() if any(matches(query, span.attributes) for span in spans)}
    wanted, allowed = FINDS[place]
    assert wanted <= found <= wanted | allowed


@pytest.mark.parametrize("port", VERDICTS, ids=lambda port: port.name.lower())
def test_each_fault_has_its_verdict_and_no_other(told, port) -> None:
    """Both ends' spans are judged as the fault is, and what decided stands beside it on the span."""
    for role, wanted in zip((Role.CLIENT, Role.SERVER), VERDICTS[port], strict=True):
        spans = told(port, role)
        assert len(spans) == len(wanted)
        for span, verdicts in zip(spans, wanted, strict=True):
            assert span.attributes.get("flow.verdict", "unknown") in verdicts.split()
            measure = span.attributes.get("flow.verdict.measure")
            assert (measure is None) == (span.attributes.get("flow.verdict") in {"ok", None})
            assert measure is None or measure in span.attributes


def test_every_fault_has_a_verdict_to_be() -> None:
    """A fault that the lab gains is judged too."""
    assert set(VERDICTS) == set(Port)
