"""Tunnelled connections of our own making, as tshark dissects them and as our records tell them."""

from __future__ import annotations

import shutil

import pytest

from tests.support.accuracy import compare
from tests.support.pcap import ACK, FIN, PSH, Conversation, Frame, write
from tests.support.tunnels import SHAPES, in_tunnel

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
