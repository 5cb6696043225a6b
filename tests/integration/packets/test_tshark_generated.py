"""Connections of our own making, as tshark dissects them and as our records tell them."""

from __future__ import annotations

import shutil

import pytest

from tests.support.packets.oracle.accuracy import compare
from tests.support.packets.pcap import ACK, FIN, PSH, Conversation, Frame, write
from tests.support.packets.tunnels import SHAPES, in_tunnel

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def talk(port: int) -> list[Frame]:
    """A connection with a request, a response of which one segment comes again, and an end."""
    conversation = Conversation(client_port=port).handshake(port / 100)
    begin = port / 100
    conversation.tcp(begin + 1, "client", PSH | ACK, seq=1001, ack=5001, payload=b"request")
    for step, offset in enumerate((0, 500, 1000, 0)):
        conversation.tcp(begin + 1.1 + step / 10, "server", ACK, seq=5001 + offset, ack=1008, payload=bytes(500))
    conversation.tcp(begin + 1.6, "client", ACK, seq=1008, ack=6501)
    conversation.tcp(begin + 2, "server", FIN | ACK, seq=6501, ack=1008)
    conversation.tcp(begin + 2.01, "client", FIN | ACK, seq=1008, ack=6502)
    return conversation.tcp(begin + 2.02, "server", ACK, seq=6502, ack=1009).frames


@pytest.mark.parametrize("ends", [("192.0.2.1", "192.0.2.2"), ("2001:db8::a", "2001:db8::b")], ids=["ipv4", "ipv6"])
def test_both_tell_the_same_of_every_tunnel(tmp_path, ends):
    """One connection in each kind of tunnel: packets, bytes, retransmissions, outcome and initial round trip are equal."""
    frames = [frame for port, shape in enumerate(SHAPES, start=40000) for frame in in_tunnel(shape, talk(port), ends)]
    found = compare(shutil.which("tshark"), write(tmp_path / "tunnels.pcap", frames))
    assert found.disagreements == []
    assert found.conversations == len(SHAPES)
    assert found.events["retransmissions"] == (len(SHAPES), len(SHAPES))


def test_probes_of_a_closed_window_are_the_class_that_differs(tmp_path):
    """Linux's probes are keep-alives to tshark, and the only disagreement is the one that docs/accuracy.md explains."""
    conversation = Conversation().handshake().tcp(1, "client", PSH | ACK, seq=1001, ack=5001, payload=bytes(100))
    conversation.tcp(1.01, "server", ACK, seq=5001, ack=1101, window=0)
    for second in (2, 3):
        conversation.tcp(second, "client", ACK, seq=1100, ack=5001)
        conversation.tcp(second + 0.01, "server", ACK, seq=5001, ack=1101, window=0)
    conversation.tcp(4, "client", ACK, seq=1101, ack=5001, payload=b"x")
    conversation.tcp(4.01, "server", ACK, seq=5001, ack=1101, window=500)
    conversation.tcp(20, "client", ACK, seq=1100, ack=5001)
    found = compare(shutil.which("tshark"), write(tmp_path / "closed.pcap", conversation.frames))
    (one,) = found.disagreements
    assert (one.measure, one.frame, found.events["keep-alives"]) == ("keep-alives", 12, (3, 1))
    assert "closed window" in one.reason
    assert found.events["zero windows"] == (3, 3)
