"""Which exchange tells how its connection was set up, and which lookup that was: the first, at the client, that waited."""

from __future__ import annotations

import struct

import pytest

from services.capture.names import lookups
from services.capture.names.reader import NameReader
from tests.support.packets.pcap import ACK, SECOND, START, SYN, Conversation
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks.dns import A, question
from tests.support.packets.talks.http2_talk import HEADERS, HELLO, WELCOME, Coder, frame
from tests.support.packets.talks.http_talk import Talk, reply, request

NAME = "cart.shop.svc"
MS = SECOND // 1000
END = 5
"""END_STREAM and END_HEADERS."""


def answer(number, address, ttl=30):
    """An answer that holds an address."""
    asked = question(number, NAME)
    record = b"\xc0\x0c" + struct.pack("!HHIH", A, 1, ttl, 4) + bytes(map(int, address.split(".")))
    return asked[:2] + b"\x81\x80" + struct.pack("!HHHH", 1, 1, 0, 0) + asked[12:] + record


def lookup(asked, answered, address="10.0.0.2", *, number=1, client="10.0.0.1", port=5000, again=None, ttl=30):
    """A question of the client's, sent again at `again`, and its answer."""
    talk = Conversation(client=client, server="10.0.0.53", client_port=port, server_port=53)
    talk.udp(asked, "client", question(number, NAME))
    if again is not None:
        talk.udp(again, "client", question(number, NAME))
    return talk.udp(answered, "server", answer(number, address, ttl)).frames


class Late(Talk):
    """A connection that begins at a time: its SYN, and so often again, one second each."""

    def __init__(self, begun=0.0, repeats=0, rtt=0.010, **ends):
        super().__init__(**ends)
        self.frames.clear()
        for number in range(repeats):
            self.tcp(begun + number, "client", SYN, seq=1000)
        self.handshake(begun + repeats, rtt=rtt)


def told(tmp_path, *talks):
    """The exchanges of talks and lookups in one capture, with names."""
    frames = [each for talk in talks for each in (talk if isinstance(talk, list) else talk.frames)]
    frames.sort(key=lambda each: each.time_ns)
    return replay_frames(tmp_path, frames, trace_context=True, names=NameReader()).exchanges


def test_the_first_exchange_tells_the_lookup_and_the_connect(tmp_path):
    """Its times and repeats, and the flow that the question was in; the second tells nothing."""
    talk = Late(1.0, repeats=1).ask(2.1, request(0)).answer(2.2, reply()).ask(2.5, request(1)).answer(2.6, reply())
    first, second = told(tmp_path, lookup(0.5, 0.7, again=0.6), talk)
    assert first["syn_unix_ns"] - START == SECOND
    assert first["handshake_ack_unix_ns"] - first["syn_unix_ns"] == pytest.approx(SECOND + 10 * MS, abs=MS)
    assert first["syn_repeats"] == 1
    assert (first["lookup_unix_ns"] - START, first["dns_first_time_ns"]) == (SECOND // 2, 200 * MS)
    assert (first["dns_first_name"], first["dns_first_type"], first["dns_first_answers"]) == (NAME, A, 1)
    assert first["dns_first_repeats"] == 1
    assert first["lookup_flow_start_unix_ns"] - START == SECOND // 2
    assert (first["lookup_local_port"], first["lookup_remote_port"]) == (5000, 53)
    assert first["lookup_remote_address"].endswith(bytes([10, 0, 0, 53]))
    later = {name: second[name] for name in second if name.startswith(("syn", "handshake_ack", "lookup"))}
    assert not any(value != bytes(16) and value for value in later.values())
    assert second["dns_first_name"] is None


@pytest.mark.parametrize(("talks", "what"), [
    ([lookup(0.5, 0.7)], {"connect", "lookup"}),
    ([lookup(0.5, 0.7, ttl=0)], {"connect", "lookup"}),
    ([lookup(0.5, 0.7, "10.0.0.3")], {"connect"}),
    ([lookup(0.5, 0.7, client="10.0.0.9")], {"connect"}),
    ([lookup(0.1, 0.2)], {"connect"}),
    ([lookup(2.0, 2.1)], {"connect"}),
    ([lookup(0.5, 0.7), lookup(2.0, 2.1, number=2, port=5001)], {"connect", "lookup"}),
])  # fmt: skip
def test_a_lookup_is_told_where_the_connection_waited_for_it(tmp_path, talks, what):
    """The client's own, of this address, ended before the SYN and at most a second before it; those later do not matter."""
    (first,) = told(tmp_path, *talks, Late(1.5).ask(1.6, request(0)).answer(1.7, reply()))
    found = {"connect"} if first["syn_unix_ns"] else set()
    found |= {"lookup"} if first.get("lookup_unix_ns") else set()
    assert found == what


def test_a_connection_that_was_opened_ahead_was_waited_for_by_nobody(tmp_path):
    """A pool's: its first request comes a second and more later."""
    (first,) = told(tmp_path, lookup(0.5, 0.7), Late(1.0).ask(2.2, request(0)).answer(2.3, reply()))
    assert not first["syn_unix_ns"]
    assert not first.get("lookup_unix_ns")


def test_an_exchange_behind_one_that_is_not_told_paid_for_nothing(tmp_path):
    """The first request was not sampled."""
    talk = Late(1.0).ask(1.1, request(0, "00")).answer(1.2, reply()).ask(1.3, request(1)).answer(1.4, reply())
    (second,) = told(tmp_path, talk)
    assert not second["syn_unix_ns"]


@pytest.mark.parametrize("streams", [(1, 3), (3, 5), (13, 15)])
def test_of_streams_the_first_that_began_tells_it(tmp_path, streams):
    """Whatever its number, and whichever of them ends first."""
    coder = Coder()
    talk = Late(1.0).ask(1.1, HELLO).answer(1.1, WELCOME)
    for number, stream in enumerate(streams):
        talk.ask(1.2 + number / 10, frame(HEADERS, stream, coder.asks(number), END))
    for number, stream in enumerate(reversed(streams)):
        talk.answer(1.5 + number / 10, frame(HEADERS, stream, coder.answers(), END))
    found = {each["record"] & 0x7FFFFFFF: each["syn_unix_ns"] - START for each in told(tmp_path, talk)}
    assert found == {streams[0]: SECOND, streams[1]: -START}


def test_a_connection_that_capture_joined_tells_nothing(tmp_path):
    """Its SYN was not seen."""
    talk = Talk()
    talk.frames.clear()
    talk.tcp(0.9, "server", ACK, seq=5001, ack=1001).ask(1.0, request(0)).answer(1.1, reply())
    (first,) = told(tmp_path, talk)
    assert not first["syn_unix_ns"]


def test_old_lookups_make_room(tmp_path, monkeypatch):
    """What is kept is bounded, over all addresses."""
    monkeypatch.setattr(lookups, "MOST_LOOKUPS", 2)
    others = [lookup(0.8, 0.9, f"10.9.0.{number}", number=number + 2, port=6000 + number) for number in range(2)]
    (first,) = told(tmp_path, lookup(0.5, 0.7), *others, Late(1.0).ask(1.1, request(0)).answer(1.2, reply()))
    assert not first.get("lookup_unix_ns")
