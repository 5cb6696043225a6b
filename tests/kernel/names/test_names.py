"""Names that are looked up at a real resolver: what the live tap tells is what the resolver was configured to answer."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator

import dns.message
import dns.query
import dns.rcode
import pytest

from proto.columns import NAMES, NO_ANSWER, NO_INDEX, RAW, UNANSWERED, Reason, Role
from proto.flow_batch import decode
from services.capture.flows.datagrams import DatagramRules
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.tap.socket_tap import TapRules
from tests.support.node import dnsmasq
from tests.support.node.live_capture import WAIT_SECONDS, reason_to_skip, wait_until
from tests.support.node.namespaces import Network, Pod

pytestmark = [
    pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip())),
    pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed (apt-get install dnsmasq-base)"),
]

PORTS = DatagramRules(dns_ports=(53, 5353), rest_seconds=0)
SHOP = {"cart.shop.example": "192.0.2.1", "pay.shop.example": "192.0.2.2", "db.shop.example": "10.43.0.13"}
UPSTREAM = 5399
"""Where the resolver asks for what it does not know itself."""
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def pods() -> Iterator[tuple[Pod, Pod]]:
    """A client and a resolver."""
    with Network() as network:
        node = network.node("names", "10.43.0.1/24", "fd43::1/64")
        yield node.pod("nclient", "10.43.0.12/24", "fd43::c/64"), node.pod("nserver", "10.43.0.13/24", "fd43::d/64")


def names_in(batch):
    """Local port, role and the peer's name of each record."""
    for message in batch.messages:
        decoded = decode(message.message)
        columns = (decoded.column(name).tolist() for name in ("local_port", "role", "remote_name"))
        for port, role, at in zip(*columns, strict=True):
            yield port, role, decoded.names[at] if at != NO_INDEX else None


@pytest.fixture(scope="module", autouse=True)
def resolver(pods) -> Iterator[subprocess.Popen[bytes]]:
    """A dnsmasq that knows the shop, and knows that there is nobody at nowhere.example."""
    command = [*dnsmasq.COMMAND]
    command += [f"--address=/{name}/{address}" for name, address in SHOP.items()]
    command += ["--cname=www.shop.example,cart.shop.example", "--local=/nowhere.example/"]
    command += [f"--txt-record=long.shop.example,{number}{'x' * 250}" for number in range(4)]
    command += [f"--server=/broken.example/{pods[1].addresses[0]}#{UPSTREAM}"]
    process = pods[1].namespace.spawn(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pods[0].namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        wait_until(lambda: answered(client, (pods[1].addresses[0], 53), "pay.shop.example", "A"))
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def live() -> Iterator[LiveReader]:
    """Capture as it runs, with names."""
    rules = TapRules(allow_networks=("10.43.0.0/24", "fd43::/64"))
    with LiveReader(
        node="n",
        epoch="e",
        options=LiveOptions(capacity=4096, rules=rules, names="dns", datagrams=PORTS),
        leave_out_own=False,
    ) as reader:
        yield reader


def ask(client, server, name, kind, **how):
    """Send a question; return it."""
    question = dns.message.make_query(name, kind, **how)
    client.sendto(question.to_wire(), server)
    return question


def answered(client, server, name, kind, **how):
    """Ask, and return the resolver's answer; None where none comes."""
    ask(client, server, name, kind, **how)
    try:
        return dns.message.from_wire(client.recv(4096))
    except OSError:
        return None


def records(reader, port):
    """The last records of this port's flow by the role that tells them, through the wire, with names as text."""
    return told_of(reader, port)[0]


def told_of(reader, port):
    """The same, and likewise the flow's last question that has a record of its own."""
    found, questions = {}, {}
    for values in all_records(reader):
        if port in (values["local_port"], values["remote_port"]):
            (questions if values["reason"] == Reason.EXCHANGE else found)[values["role"]] = values
    return found, questions


def all_records(reader):
    """All last records, likewise."""
    for batch in reader.read(Reason.SHUTDOWN):
        for message in batch.messages:
            decoded = decode(message.message)
            for row in range(decoded.count):
                values = {column.name: decoded.column(column.name)[row].tolist() for column in RAW + NAMES}
                for name in ("dns_first_name", "dns_slowest_name"):
                    values[name] = decoded.names[values[name]] if values[name] != NO_INDEX else None
                yield values
        reader.accept(batch)


def test_a_peer_has_the_name_that_was_looked_up_for_it(live, pods) -> None:
    """The client resolves a name and connects: its record has the name, the server's has none for the client."""
    client_pod, server_pod = pods
    with (
        client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking,
        server_pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        client_pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as early,
        client_pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.bind((server_pod.addresses[0], 0))
        listener.listen()
        early.connect(listener.getsockname())
        asking.settimeout(WAIT_SECONDS)
        assert answered(asking, (server_pod.addresses[0], 53), "db.shop.example", "A").answer
        client.connect(listener.getsockname())
        ports = early.getsockname()[1], client.getsockname()[1]
        told = [record for batch in live.read(Reason.SHUTDOWN) for record in names_in(batch)]
    assert {told_at[1:] for told_at in told if told_at[0] in ports} == {(Role.CLIENT, None), (Role.CLIENT, "db.shop.example")}
    assert (ports[1], Role.CLIENT, "db.shop.example") in told
    assert {name for port, role, name in told if role == Role.SERVER} <= {None}


@FAMILIES
def test_what_the_resolver_answered_is_told_at_both_ends(live, pods, family) -> None:
    """One socket, several questions: names, types, codes and how many of each, at the client and at the resolver."""
    client_pod, server_pod = pods
    server = (server_pod.addresses[family], 53)
    with client_pod.namespace.socket((socket.AF_INET, socket.AF_INET6)[family], socket.SOCK_DGRAM) as client:
        client.settimeout(WAIT_SECONDS)
        answers = [
            answered(client, server, "CART.shop.example", "A", use_edns=0),
            answered(client, server, "nobody.nowhere.example", "AAAA"),
            answered(client, server, "pay.shop.example", "A"),
        ]
        port = client.getsockname()[1]
    codes = [int(answer.rcode()) for answer in answers]
    assert codes == [0, 3, 0]
    told = records(live, port)
    assert told.keys() == {Role.CLIENT, Role.SERVER}
    for record in told.values():
        assert (record["dns_first_name"], record["dns_first_type"], record["dns_first_code"]) == ("cart.shop.example", 1, 0)
        assert record["dns_first_answers"] == len(answers[0].answer) == 1
        assert record["dns_first_time_ns"] <= record["dns_slowest_time_ns"] == record["response_time_max_ns"]
        assert record["dns_codes"] == [2, 0, 0, 1, 0, 0, 0, 0]
    assert live.counters["pieces_lost_dns"] == live.counters["pieces_unreadable"] == 0


def test_an_answer_that_is_too_long_is_asked_for_over_tcp(live, pods) -> None:
    """The datagram's is cut short and has no record; what comes over TCP is told of the connection, at both ends."""
    client_pod, server_pod = pods
    server = server_pod.addresses[0]
    question = dns.message.make_query("long.shop.example", "TXT")
    with (
        client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        client_pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as connection,
    ):
        for asking in (datagrams, connection):
            asking.settimeout(WAIT_SECONDS)
        connection.connect((server, 53))
        answer, over_tcp = dns.query.udp_with_fallback(question, server, WAIT_SECONDS, udp_sock=datagrams, tcp_sock=connection)
        again = dns.query.tcp(dns.message.make_query("nobody.nowhere.example", "A"), server, WAIT_SECONDS, sock=connection)
        port = connection.getsockname()[1]
    assert (over_tcp, len(answer.answer[0]), int(again.rcode())) == (True, 4, 3)
    told = records(live, port)
    assert told.keys() == {Role.CLIENT, Role.SERVER}
    for record in told.values():
        assert (record["transport"], record["dns_codes"]) == (6, [1, 0, 0, 1, 0, 0, 0, 0])
        assert (record["dns_first_name"], record["dns_first_type"], record["dns_first_answers"]) == ("long.shop.example", 16, 4)
        assert 0 < record["dns_first_time_ns"] < WAIT_SECONDS * 10**9


def test_what_a_resolver_fails_to_find_has_a_record_of_its_own(live, pods) -> None:
    """It asks somebody else, who answers SERVFAIL: so does it, and the question is told by itself."""
    client_pod, server_pod = pods
    server = server_pod.addresses[0]
    with (
        client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        server_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream,
    ):
        upstream.bind((server, UPSTREAM))
        for asked in (upstream, client):
            asked.settimeout(WAIT_SECONDS)
        ask(client, (server, 53), "db.broken.example", "A")
        content, whom = upstream.recvfrom(4096)
        failure = dns.message.make_response(dns.message.from_wire(content))
        failure.set_rcode(dns.rcode.SERVFAIL)
        upstream.sendto(failure.to_wire(), whom)
        assert dns.message.from_wire(client.recv(4096)).rcode() == dns.rcode.SERVFAIL
        told, questions = told_of(live, client.getsockname()[1])
    for role in (Role.CLIENT, Role.SERVER):
        assert (questions[role]["dns_first_name"], questions[role]["dns_first_code"]) == ("db.broken.example", 2)
        assert questions[role]["flow_id"] == told[role]["flow_id"]


@pytest.mark.skipif(shutil.which("getent") is None, reason="no getent")
def test_search_domains_are_told_one_by_one(live, pods, tmp_path) -> None:
    """The C library asks for both families at once, in one search domain after the other, from one socket or several."""
    client_pod, server_pod = pods
    settings = tmp_path / "resolv.conf"
    settings.write_text(f"nameserver {server_pod.addresses[0]}\nsearch nowhere.example shop.example\noptions ndots:5\n")
    command = f"mount --bind {settings} /etc/resolv.conf && exec getent ahosts cart"
    process = client_pod.namespace.spawn(["unshare", "-m", "sh", "-c", command], stdout=subprocess.PIPE)
    found, _ = process.communicate(timeout=30)
    assert b"192.0.2.1" in found
    flows = [record for record in all_records(live) if record["role"] == Role.CLIENT and record["remote_port"] == 53]
    codes = [sum(codes) for codes in zip(*(record["dns_codes"] for record in flows), strict=True)]
    # The resolver has no IPv6 address for it, and nobody to ask: it refuses.
    assert codes == [1, 0, 0, 2, 0, 1, 0, 0]
    asked = [record for record in flows if any(record["dns_codes"])]
    names = {record[f"dns_{which}_name"] for record in asked for which in ("first", "slowest")}
    assert names <= {"cart.nowhere.example", "cart.shop.example"}


def test_what_nobody_answers_is_told_by_name(live, pods, resolver) -> None:
    """A resolver that hangs: the question was asked, twice, and its flow ended waiting. It has a record of its own as well."""
    client_pod, server_pod = pods
    resolver.send_signal(signal.SIGSTOP)
    try:
        with client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            server = (server_pod.addresses[0], 53)
            client.sendto(ask(client, server, "lost.shop.example", "AAAA").to_wire(), server)
            told, questions = told_of(live, client.getsockname()[1])
            record, question = told[Role.CLIENT], questions[Role.CLIENT]
    finally:
        resolver.send_signal(signal.SIGCONT)
    assert (record["dns_first_name"], record["dns_first_type"], record["dns_first_code"]) == (
        "lost.shop.example",
        28,
        NO_ANSWER,
    )
    assert record["dns_codes"][UNANSWERED] == record["request_waits"] == record["dns_first_repeats"] == 1
    told_alone = ("dns_first_name", "dns_first_type", "dns_first_code", "dns_first_repeats", "local_address", "start_unix_ns")
    assert [question[name] for name in told_alone] == [record[name] for name in told_alone]
    assert question["start_unix_ns"] < question["end_unix_ns"] < question["start_unix_ns"] + 10**10


def test_more_pieces_than_there_is_room_for_are_counted(live, pods) -> None:
    """A burst between two looks: what was lost is known, and what was read adds up with it."""
    client_pod, server_pod = pods
    with (
        client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        server_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.bind((server_pod.addresses[0], 5353))
        for number in range(10_000):
            question = dns.message.make_query(f"{'x' * 60}.{number}.example", "A", id=number)
            client.sendto(question.to_wire(), server.getsockname())
        told = records(live, 5353)
    counters = live.counters
    assert counters["pieces_lost_dns"] > 0
    assert counters["pieces_read"] + counters["pieces_lost_dns"] == sum(record["questions"] for record in told.values())
