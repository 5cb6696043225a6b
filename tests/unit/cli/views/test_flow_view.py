"""A record as a person thinks of it, in a line and in the aggregate."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from proto.columns import FIRST_EXCHANGE, ExchangeEnd, Observer, Outcome, Reason, Role
from proto.flow_batch import Entity
from proto.verdicts.names import Verdict, VerdictMeasure
from services.cli.views.conversation_table import conversation_table
from services.cli.views.conversations import Conversations, Tellers
from services.cli.views.flow_line import flow_line
from services.cli.views.flow_view import flow_views
from services.cli.views.printable import printable
from tests.unit.cli.flow_records import LOCAL, REMOTE, START, record_batch

POD = Entity("k8s.pod", {"k8s.pod.name": "web-1", "k8s.deployment.name": "web", "k8s.namespace.name": "shop"})

UNIT = Entity("systemd.unit", {"host.name": "db-1", "service.name": "redis", "systemd.unit": "redis.service"})


def view(**changes):
    """The view of one record."""
    (only,) = flow_views(record_batch(**changes))
    return only


def test_source_is_who_began() -> None:
    """A server's record is turned round: its remote end is the source, what it received was sent by the source."""
    client, server = view(), view(role=Role.SERVER)
    assert (str(client.source), str(client.destination)) == ("10.0.0.5:48112", "[2001:db8::1]:6379")
    assert (str(server.source), str(server.destination)) == ("[2001:db8::1]:6379", "10.0.0.5:48112")
    assert (client.bytes_out, client.bytes_in) == (server.bytes_in, server.bytes_out) == (1024, 3_565_158)
    assert client.directed
    assert not view(role=Role.UNKNOWN).directed


def test_workloads_are_named_as_people_speak_of_them() -> None:
    """The deployment in its namespace stands for its pods; an end that nobody knows keeps its address."""
    named = view(entities=[POD], local_entity=0)
    assert (str(named.source), str(named.destination)) == ("shop/web:48112", "[2001:db8::1]:6379")
    service = Entity("k8s.service", {"k8s.service.name": "redis", "k8s.namespace.name": "shop"})
    assert str(view(entities=[service], remote_service=0).destination) == "shop/redis:6379"


@pytest.mark.parametrize(
    ("entity", "name"),
    [
        (Entity("systemd.unit", {"host.name": "db-1", "service.name": "redis", "systemd.unit": "redis.service"}), "redis"),
        (Entity("container", {"host.name": "db-1", "service.name": "cart", "container.id": "ab"}), "cart"),
        (Entity("host", {"host.name": "db-1", "service.name": "db-1"}), "db-1"),
        (Entity("host", {"host.name": "db-1"}), "db-1"),
        (Entity("k8s.node", {"k8s.node.name": "n1", "service.name": "kubelet", "systemd.unit": "kubelet.service"}), "kubelet"),
        (Entity("k8s.node", {"k8s.node.name": "n1", "service.name": "node"}), "n1"),
        (Entity("k8s.node", {"k8s.node.name": "n1", "service.name": "registry", "container.id": "ab"}), "registry"),
    ],
)  # fmt: skip
def test_what_runs_on_a_host_is_named_by_itself(entity, name) -> None:
    """A unit or a container, not the host that it shares with all others; the host where there is nothing nearer."""
    assert view(entities=[entity], local_entity=0).source.name == name


def test_names_cannot_command_the_terminal() -> None:
    """Control characters in a name are shown, never sent."""
    hostile = Entity("k8s.pod", {"k8s.pod.name": "a\x1b[2J\nb"})
    shown = flow_line(view(entities=[hostile], local_entity=0)).plain
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert printable("größe ☃") == "größe ☃"


def test_a_line_says_what_there_is_to_say() -> None:
    """A usual connection on one line, in human units."""
    line = flow_line(view()).plain
    assert "10.0.0.5:48112 -> [2001:db8::1]:6379" in line
    assert "tcp" in line
    assert "closed" in line
    assert "1.0 KiB out, 3.4 MiB in" in line
    assert "connect 400 µs" in line
    assert "response 2.0 ms (max 3.0 ms, 2 times)" in line
    assert "SYN" not in line
    assert "retransmission" not in line


def test_a_line_tells_of_trouble() -> None:
    """SYNs without an answer and segments sent again stand in the line, without times that nobody measured."""
    line = flow_line(
        view(outcome=Outcome.TIMEOUT, handshake_ack_unix_ns=0, syn_repeats=2, responses=0, tx_retransmits=1, rx_retransmits=1)
    ).plain
    assert "timeout" in line
    assert "3 SYNs" in line
    assert "2 retransmissions" in line
    assert "connect" not in line
    assert "response" not in line


@pytest.mark.parametrize(("transport", "icmp_type", "text"), [(1, 8, "icmp echo"), (58, 135, "icmpv6 neighbour solicitation")])
def test_icmp_has_a_meaning_and_no_ports(transport, icmp_type, text) -> None:
    """An echo's identifier is no port."""
    shown = view(transport=transport, icmp_type=icmp_type)
    assert shown.transport == text
    assert str(shown.source) == "10.0.0.5"
    assert str(shown.destination) == "2001:db8::1"


def test_conversations_sum_up_and_put_trouble_first() -> None:
    """Failures before retransmissions before volume; connections to one port of one destination are one line."""
    conversations = Conversations()
    other = np.void(REMOTE[:-1] + b"\x02")
    for flow_id in (1, 2):
        conversations.add(0.0, view(flow_id=flow_id))
    conversations.add(0.0, view(flow_id=3, remote_port=443, tx_retransmits=1))
    conversations.add(0.0, view(flow_id=4, remote_port=81, outcome=Outcome.REFUSED, tx_bytes=0, rx_bytes=0))
    conversations.add(0.0, view(flow_id=5, remote_address=other, rx_bytes=0))
    refused, lossy, busy, small = conversations.current(1.0)
    assert (refused.port, refused.failures, refused.outcomes["refused"]) == (81, 1, 1)
    assert (lossy.port, lossy.retransmits) == (443, 1)
    assert (busy.port, busy.flows, busy.bytes_out, busy.responses, busy.response_max_ns) == (6379, 2, 2048, 4, 3_000_000)
    assert (busy.connects, busy.connect_sum_ns) == (2, 800_000)
    assert small.destination == "2001:db8::2"


def test_a_flow_counts_once_however_many_records_it_has() -> None:
    """Later records of a flow add bytes, bring its outcome up to date, and repeat neither the handshake nor its SYNs."""
    conversations = Conversations()
    conversations.add(0.0, view(record=0, outcome=Outcome.ESTABLISHED, syn_repeats=1))
    conversations.add(1.0, view(record=1, outcome=Outcome.RESET, syn_repeats=1))
    (only,) = conversations.current(2.0)
    assert (only.flows, dict(only.outcomes), only.connects, only.retransmits) == (1, {"reset": 1}, 1, 1)
    assert only.bytes_out == 2048


def both_ends(**changes):
    """What the sockets at the two ends of one connection tell of it: the client's view and the server's."""
    client = {"observer": Observer.SOCKET, "isn_seen": 3, "local_isn": 7, "remote_isn": 9, "flow_id": 1}
    server = {
        **client, "flow_id": 2, "role": Role.SERVER, "local_isn": 9, "remote_isn": 7, "tx_bytes": 3_565_158, "rx_bytes": 1024,
        "local_address": np.void(REMOTE), "local_port": 6379, "remote_address": np.void(LOCAL), "remote_port": 48112,
    }  # fmt: skip
    names = {"entities": [POD, Entity("host", {"host.name": "db-1"}), UNIT], "local_entity": 0, "remote_entity": 1}
    return view(**{**client, **names, **changes}), view(**{**server, **names} | {"local_entity": 2, "remote_entity": 1})


def test_a_connection_told_by_both_ends_counts_once() -> None:
    """As the client's socket tells it, with the name that each end's own socket gives it; whichever record came first."""
    for views in (both_ends(), reversed(both_ends())):
        conversations = Conversations()
        for each in views:
            conversations.add(0.0, each)
        (only,) = conversations.current(1.0)
        assert (only.source, only.destination, only.port, only.flows) == ("shop/web", "redis", 6379, 1)
        assert (only.bytes_out, only.bytes_in, only.connects, only.responses) == (1024, 3_565_158, 1, 2)
        assert dict(only.outcomes) == {"closed": 1}


def test_ends_are_paired_where_addresses_are_translated() -> None:
    """A client sees a service's address and the server its own: the sequence numbers are the same."""
    client, server = both_ends(
        remote_address=np.void(REMOTE[:-1] + b"\x09"), remote_port=80, tx_retransmits=2, rx_retransmits=1
    )
    conversations = Conversations()
    conversations.add(0.0, client)
    conversations.add(0.0, server)
    (only,) = conversations.current(1.0)
    assert (only.destination, only.port, only.flows, only.retransmits) == ("redis", 80, 1, 2)


def test_ends_without_a_handshake_are_paired_by_addresses_and_ports() -> None:
    """UDP, and TCP that was there before capture; a flow goes by its last record where its first came too early to tell."""
    early, server = both_ends(isn_seen=1, outcome=Outcome.HALF_OPEN)
    client, _ = both_ends(record=1)
    conversations = Conversations()
    for each in (early, server, client):
        conversations.add(0.0, each)
    (only,) = conversations.current(1.0)
    assert (only.flows, dict(only.outcomes)) == (1, {"closed": 1})
    udp = {"observer": Observer.SOCKET, "transport": 17, "role": Role.UNKNOWN, "remote_port": 53}
    conversations = Conversations()
    conversations.add(0.0, view(**udp))
    swapped = {"local_address": np.void(REMOTE), "remote_address": np.void(LOCAL), "local_port": 53, "remote_port": 48112}
    conversations.add(0.0, view(**udp | swapped, flow_id=2))
    assert [each.flows for each in conversations.current(1.0)] == [1]


def test_a_second_telling_says_so() -> None:
    """In lines both are shown: the one that comes second is marked, and so are its later records; one end alone never is."""
    client, server = both_ends()
    tellers = Tellers()
    assert [tellers.heard_from_other_end(each) for each in (client, server, client, server)] == [False, True, False, True]
    assert flow_line(server, again=True).plain.endswith("again, as the server saw it")
    assert "again" not in flow_line(client).plain


DNS = {"transport": 17, "remote_port": 53, "outcome": Outcome.UNKNOWN, "syn_unix_ns": 0, "responses": 0, "request_waits": 1}


def test_a_question_without_an_answer_is_an_outcome_and_a_failure():
    """A name lookup that timed out is told as such; while its flow lives, it waits. Of other datagrams nobody knows."""
    unanswered = view(**DNS, reason=Reason.IDLE_TIMEOUT)
    assert (unanswered.outcome, unanswered.failed) == ("unanswered", True)
    waiting = view(**DNS, reason=Reason.ACTIVE_TIMEOUT)
    assert (waiting.outcome, waiting.failed) == ("waiting", False)
    ping = view(**DNS | {"transport": 1, "icmp_type": 8, "remote_port": 0}, reason=Reason.SHUTDOWN)
    assert (ping.outcome, ping.failed) == ("unanswered", True)
    statsd = view(**DNS | {"remote_port": 8125}, reason=Reason.IDLE_TIMEOUT)
    assert (statsd.outcome, statsd.failed) == ("", False)
    answered = view(**DNS | {"request_waits": 0, "responses": 1}, reason=Reason.IDLE_TIMEOUT)
    assert (answered.outcome, answered.failed) == ("", False)
    assert "unanswered" in flow_line(unanswered).plain
    assert "1 request without a response" in flow_line(unanswered).plain
    assert "without" not in flow_line(waiting).plain


def test_a_farewell_is_no_request():
    """TLS ends with a message of its own; a server that never said anything was asked in vain."""
    closed = {"request_waits": 1, "reason": Reason.END_OF_FLOW, "responses": 0}
    assert "without" not in flow_line(view(**closed, rx_payload_bytes=100)).plain
    assert "1 request without a response" in flow_line(view(**closed)).plain
    assert "without" not in flow_line(view(**closed, record=1)).plain
    assert "1 request without" in flow_line(view(**closed, role=Role.SERVER, rx_payload_bytes=7)).plain


def test_slowness_is_a_trouble():
    """What somebody waited for comes behind what failed, and before what was merely sent again or is merely busy."""
    conversations = Conversations()
    conversations.add(0.0, view(flow_id=1, remote_port=1))
    conversations.add(0.0, view(flow_id=2, remote_port=2, tx_retransmits=9))
    conversations.add(0.0, view(flow_id=3, remote_port=3, response_time_max_ns=200_000_000))
    conversations.add(0.0, view(flow_id=4, remote_port=4, handshake_ack_unix_ns=START + 1_000_000_000))
    conversations.add(0.0, view(flow_id=5, **DNS, reason=Reason.IDLE_TIMEOUT))
    assert [each.port for each in conversations.current(1.0)] == [53, 4, 3, 2, 1]


def test_what_was_wrong_is_counted_beside_the_outcomes():
    """A flow counts once, for what was wrong with it last; where the outcome says so already nothing is said twice."""
    conversations = Conversations()
    slow = {"verdict": Verdict.SERVER_SLOW, "verdict_measure": VerdictMeasure.RESPONSE_TIME_MAX}
    far = {"verdict": Verdict.PATH_SLOW, "verdict_measure": VerdictMeasure.RTT_MIN}
    conversations.add(0.0, view(flow_id=1, local_port=1, outcome=Outcome.ESTABLISHED, **far))
    conversations.add(0.5, view(flow_id=1, local_port=1, record=1, **slow))
    conversations.add(0.0, view(flow_id=2, local_port=2, **slow))
    refused = {"verdict": Verdict.REFUSED, "verdict_measure": VerdictMeasure.OUTCOME}
    conversations.add(0.0, view(flow_id=3, local_port=3, outcome=Outcome.REFUSED, **refused))
    (only,) = conversations.current(1.0)
    assert dict(only.verdicts) == {"server slow": 2, "refused": 1}
    console = Console(file=io.StringIO(), width=200, height=20)
    console.print(conversation_table([only], width=200, height=20, notes=[]))
    assert "1 refused, 2 closed, 2 server slow" in console.file.getvalue()


@pytest.mark.parametrize("width", [200, 160, 120, 100, 80])
def test_nothing_is_cut_beside_empty_space(width):
    """Outcomes and names get the room that there is, whoever needs it."""
    conversations = Conversations()
    outcomes = (Outcome.REFUSED, Outcome.TIMEOUT, Outcome.RESET, Outcome.CLOSED, Outcome.ESTABLISHED)
    for flow_id, outcome in enumerate(outcomes):
        conversations.add(0.0, view(flow_id=flow_id, outcome=outcome))
    console = Console(file=io.StringIO(), width=width, height=20)
    console.print(conversation_table(conversations.current(1.0), width=width, height=20, notes=[]))
    lines = console.file.getvalue().splitlines()
    assert {len(line) for line in lines[2:4]} == {width}
    for line in lines:
        assert not ("…" in line and re.search(r"6379 {9}", line)), line


def test_what_is_older_than_the_window_is_gone() -> None:
    """A minute ago is not now."""
    conversations = Conversations(window_seconds=60)
    conversations.add(0.0, view())
    assert len(conversations.current(59.0)) == 1
    assert conversations.current(60.0) == []


def test_the_table_fits_the_screen() -> None:
    """A narrow screen has fewer columns, a low one fewer lines, and what is left out is said."""
    conversations = Conversations()
    for port in range(40):
        conversations.add(0.0, view(flow_id=port, remote_port=port + 1))
    current = conversations.current(1.0)
    for width, height in ((170, 50), (100, 30), (60, 15)):
        console = Console(file=io.StringIO(), width=width, height=height)
        console.print(conversation_table(current, width=width, height=height, notes=[Text("a note")]))
        lines = console.file.getvalue().splitlines()
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        assert "last minute: 40 flows" in console.file.getvalue()
        assert ("  +" in console.file.getvalue()) == (height < 48)


def test_an_exchange_is_told_by_where_its_time_went():
    """One request of an application's trace: its own bytes and times, and no second telling of its flow."""
    exchange = {
        "reason": Reason.EXCHANGE,
        "record": FIRST_EXCHANGE,
        "trace_id": np.void(bytes(range(16))),
        "request_first_unix_ns": START,
        "request_last_unix_ns": START + 1_000_000,
        "response_first_unix_ns": START + 151_000_000,
        "response_last_unix_ns": START + 151_000_000,
        "request_bytes": 300,
        "response_bytes": 2048,
        "request_retransmits": 1,
        "responses": 0,
        "outcome": Outcome.UNKNOWN,
        "syn_unix_ns": 0,
    }
    (view,) = flow_views(record_batch(**exchange))
    shown = flow_line(view).plain
    assert "exchange" in shown
    assert "300 B out, 2.0 KiB in  request 1.0 ms  server wait 150 ms  trace 000102030405060708090a0b0c0d0e0f" in shown
    assert "1 retransmission" in shown
    (silent,) = flow_views(record_batch(**exchange | {"response_first_unix_ns": 0, "exchange_end": ExchangeEnd.RESET}))
    assert "no response (reset)" in flow_line(silent).plain
    conversations = Conversations()
    conversations.add(1.0, view)
    assert conversations.current(1.0) == []
