"""Datagrams: who asks is told where it can be known, and how long an answer took while both ends take turns."""

from __future__ import annotations

import pytest

from proto.columns import Role
from services.capture.flows.datagrams import DatagramRules
from tests.support.packets.pcap import Conversation, write
from tests.support.packets.replayed import replay_files, replay_frames

MS = 1_000_000
CLIENT, SERVER, UNKNOWN = Role.CLIENT, Role.SERVER, Role.UNKNOWN
LATER = 100
"""Seconds after the capture's first packet: longer than a flow of datagrams may rest."""


def first(*, at, sender, client_port, server_port, client="10.0.0.1", server="10.0.0.2"):
    """A talk of one datagram, and before it another one that begins the capture."""
    other = Conversation("10.9.9.1", "10.9.9.2", 50000, 443).udp(0, "client", b"x")
    talk = Conversation(client, server, client_port, server_port).udp(at, sender, b"x")
    return other.frames + talk.frames


@pytest.mark.parametrize(("at", "sender", "client_port", "server_port", "told"), [
    (1, "client", 40000, 123, "client"),
    (1, "server", 40000, 123, "client"),
    (LATER, "server", 40000, 443, "client"),
    (1, "client", 600, 111, "client"),
    (1, "client", 40000, 8125, None),
    (1, "client", 50000, 60000, None),
    (1, "client", 123, 123, None),
    (LATER, "client", 40000, 8125, "client"),
    (LATER, "client", 50000, 60000, "client"),
    (LATER, "client", 800, 2049, "client"),
    (LATER, "client", 123, 123, "client"),
    (LATER, "server", 40000, 8125, None),
])  # fmt: skip
def test_who_asks_is_told_where_it_is_known(tmp_path, at, sender, client_port, server_port, told):  # noqa: PLR0917
    """By a service's port whoever is seen first. Else the first to speak is the client, once the capture is so old that an
    earlier datagram would have been seen; unless the first goes to an ephemeral port from one that is none: it may answer.
    """
    frames = first(at=at, sender=sender, client_port=client_port, server_port=server_port)
    _, record = replay_frames(tmp_path, frames).records
    local = "client" if record["local_port"] == client_port and record["local_address"][-1] == 1 else "server"
    assert record["role"] == (UNKNOWN if told is None else CLIENT if local == told else SERVER)


@pytest.mark.parametrize(("address", "port"), [("224.0.0.251", 5353), ("255.255.255.255", 67), ("239.255.255.250", 1900)])
def test_a_group_serves_nobody(tmp_path, address, port):
    """Multicast and broadcast: mDNS has no client, and who answers does so in another flow. Nothing is told as unanswered."""
    _, record = replay_frames(
        tmp_path, first(at=LATER, sender="client", client_port=port, server_port=port, server=address)
    ).records
    assert (record["role"], record["request_waits"]) == (UNKNOWN, 0)


def test_an_ipv6_group_serves_nobody(tmp_path):
    """The same of ff00::/8."""
    frames = first(at=LATER, sender="client", client_port=5353, server_port=5353, client="fe80::1", server="ff02::fb")
    assert replay_frames(tmp_path, frames).records[1]["role"] == UNKNOWN


def test_a_capture_in_pieces_is_one_and_another_capture_begins_anew(tmp_path):
    """Where the second of two files goes on from the first, it has been looked on since that began; not where it is apart."""

    def pieces(pause):
        talk = Conversation("10.9.9.1", "10.9.9.2", 50000, 443)
        for second in range(0, LATER, 10):
            talk.udp(second, "client", b"x")
        late = Conversation(server_port=8125).udp(LATER + pause, "client", b"x")
        return [write(tmp_path / "1.pcap", talk.frames), write(tmp_path / "2.pcap", late.frames)]

    assert replay_files(pieces(1)).records[-1]["role"] == CLIENT
    assert replay_files(pieces(1000)).records[-1]["role"] == UNKNOWN


def test_turns_are_timed(tmp_path):
    """A clock asked three times: each of the server's datagrams answers the client's before."""
    talk = Conversation(server_port=123)
    for second in range(3):
        talk.udp(second, "client", b"what").udp(second + 0.02, "server", b"then")
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["responses"], record["response_time_sum_ns"], record["request_waits"]) == (3, 60 * MS, 0)


@pytest.mark.parametrize("order", ["ccs", "csscs", "scs", "cscscc", "cssss"])
def test_of_datagrams_out_of_turn_nothing_is_told(tmp_path, order):
    """Two in a row may be a repeat, two questions or a stream (QUIC, RTP, games): what answers what is not known, of none."""
    talk = Conversation(server_port=443)
    for step, letter in enumerate(order):
        talk.udp(step / 100, "client" if letter == "c" else "server", b"x")
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["responses"], record["response_time_sum_ns"], record["request_waits"]) == (CLIENT, 0, 0, 0)
    assert (record["response_time_max_ns"], sum(record["response_time_histogram"])) == (0, 0)


def test_a_request_that_nobody_answers_waits(tmp_path):
    """One datagram and no answer; of several nobody knows whether there was to be one."""
    once = Conversation(server_port=123).udp(0, "client", b"x")
    often = Conversation(client_port=40001, server_port=514).udp(0.1, "client", b"x").udp(1, "client", b"y")
    first_record, second = replay_frames(tmp_path, once.frames + often.frames, datagrams=DatagramRules(rest_seconds=0)).records
    assert (first_record["request_waits"], second["request_waits"]) == (1, 0)
