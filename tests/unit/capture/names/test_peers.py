"""Which name an address has, for whom and when."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from proto.columns import NO_INDEX
from services.capture.names import peers
from services.capture.names.dns_message import MAPPED, read_message
from services.capture.names.peers import GRACE_NS, PeerNames
from services.capture.names.pieces import Piece, PieceKind
from services.capture.names.reader import NameReader
from tests.support.packets.pcap import Conversation
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks import dns

SECOND = 1_000_000_000
ADDRESS = MAPPED + bytes([192, 0, 2, 1])
CART, SHOP, MOON = 11, 12, 13


def answer(name, *addresses, number=1, time_to_live=30, code=0):
    """An answer with A records."""
    records = [b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, time_to_live, 4) + address[12:] for address in addresses]
    head = struct.pack("!HHHHHH", number, 0x8180 | code, 1, len(records), 0, 0)
    return head + dns.question(number, name)[12:] + b"".join(records)


def learn(names, owner, name, second, *addresses, direction=1, **how):
    """Somebody's lookup of a name is answered."""
    content = answer(name, *(addresses or (ADDRESS,)), **how)
    piece = Piece(1, second * SECOND, 1, owner, len(content), len(content), PieceKind.DNS, direction, content)
    names.learn(piece, read_message(content))


def named(names, owner, address, begun_ns):
    """Whom it talks to."""
    found = dict(names.names(np.array([owner], "<u8"), np.frombuffer(address, "|V16"), np.array([begun_ns], "<u8")))
    return found.get(0)


def test_the_name_is_the_one_that_the_pod_looked_up_last_before_it_connected():
    """Two names at one address: each connection has the one that led to it, and what is looked up later is no name of it."""
    names = PeerNames()
    learn(names, CART, "api.example.com", 1)
    learn(names, CART, "www.example.com", 5)
    learn(names, SHOP, "cdn.example.net", 6)
    told = [named(names, CART, ADDRESS, second * SECOND) for second in (0, 1, 3, 5, 9)]
    assert told == [None, "api.example.com", "api.example.com", "www.example.com", "www.example.com"]
    assert named(names, SHOP, ADDRESS, 9 * SECOND) == "cdn.example.net"


def test_a_connection_keeps_its_name_when_it_is_looked_up_again():
    """By its own pod and by others, while it lasts: it is told when it ends. Names at one address may take turns."""
    names = PeerNames()
    turns = ["api.example.com", "api.example.com", "www.example.com", "api.example.com"]
    for second, name in enumerate(turns):
        learn(names, CART, name, 10 * second)
    assert [named(names, CART, ADDRESS, (10 * second + 5) * SECOND) for second in range(4)] == turns
    assert named(names, SHOP, ADDRESS, 5 * SECOND) == "api.example.com"


def test_a_name_that_all_others_looked_up_counts_for_who_looked_up_none():
    """A resolver of the node asks on others' behalf; where pods differ nobody knows."""
    names = PeerNames()
    learn(names, CART, "api.example.com", 1)
    assert named(names, MOON, ADDRESS, 2 * SECOND) == named(names, 0, ADDRESS, 2 * SECOND) == "api.example.com"
    learn(names, SHOP, "cdn.example.net", 3)
    assert named(names, MOON, ADDRESS, 4 * SECOND) is None
    assert named(names, CART, ADDRESS, 4 * SECOND) == "api.example.com"


def test_a_name_holds_for_its_time_to_live_and_a_grace():
    """Then the address may be another's. Looked up again, it begins anew."""
    names = PeerNames()
    learn(names, CART, "api.example.com", 1, time_to_live=30)
    last_ns = 31 * SECOND + GRACE_NS
    assert (named(names, CART, ADDRESS, last_ns), named(names, CART, ADDRESS, last_ns + 1)) == ("api.example.com", None)
    learn(names, CART, "api.example.com", 1000)
    assert named(names, CART, ADDRESS, 1001 * SECOND) == "api.example.com"


def test_a_time_to_live_is_a_day_at_the_most():
    """An answer that claims 68 years."""
    names = PeerNames()
    learn(names, CART, "api.example.com", 0, time_to_live=2**31 - 1)
    assert named(names, CART, ADDRESS, 2 * 86_400 * SECOND) is None


@pytest.mark.parametrize("how", [{"code": 2}, {"direction": 0}], ids=["no answer", "the server's own"])
def test_what_names_nobody_is_not_learnt(how):
    """An answer that failed, and what a resolver sent to somebody else."""
    names = PeerNames()
    learn(names, CART, "api.example.com", 1, **how)
    assert named(names, CART, ADDRESS, 2 * SECOND) is None


def test_the_table_is_bounded_the_longest_untouched_goes_first(monkeypatch):
    """Addresses without end: what is looked up again stays."""
    monkeypatch.setattr(peers, "MOST_ADDRESSES", 3)
    names = PeerNames()
    for number in (1, 2, 3, 1, 4):
        learn(names, CART, f"host{number}.org", number, MAPPED + bytes([10, 0, 0, number]))
    known = [named(names, CART, MAPPED + bytes([10, 0, 0, number]), 9 * SECOND) for number in (1, 2, 3, 4)]
    assert known == ["host1.org", None, "host3.org", "host4.org"]
    assert (len(names), names.forgotten) == (3, 1)


def test_the_lookups_of_one_address_are_bounded():
    """An address with a thousand names: the latest are known."""
    names = PeerNames()
    for number in range(1000):
        learn(names, CART, f"host{number}.org", number + 1)
    assert named(names, CART, ADDRESS, 1000 * SECOND) == "host999.org"
    assert named(names, CART, ADDRESS, 500 * SECOND) is None


def test_a_connection_of_a_capture_has_the_name_that_led_to_it(tmp_path):
    """Who looks a name up and connects has it; who connects without has it too, unless another name is known by then."""
    lookup = Conversation(client_port=35353, server_port=53).udp(0, "client", dns.question(1, "api.example.com"))
    lookup.udp(0.01, "server", answer("api.example.com", ADDRESS))
    other = Conversation("10.0.0.9", client_port=35353, server_port=53).udp(1, "client", dns.question(1, "cdn.example.net"))
    other.udp(1.01, "server", answer("cdn.example.net", ADDRESS))
    flows = [Conversation("10.0.0.1", "192.0.2.1", 40000, 443).handshake(0.02)]
    flows += [Conversation("10.0.0.3", "192.0.2.1", 40001, 443).handshake(0.03)]
    flows += [Conversation("10.0.0.3", "192.0.2.1", 40002, 443).handshake(2)]
    flows += [Conversation("10.0.0.9", "192.0.2.1", 40003, 443).handshake(2.1)]
    frames = sorted((frame for talk in (lookup, other, *flows) for frame in talk.frames), key=lambda frame: frame.time_ns)
    records = replay_frames(tmp_path, frames, names=NameReader()).records
    names = {record["local_port"]: record["remote_name"] for record in records if record["remote_port"] == 443}
    assert names == {40000: "api.example.com", 40001: "api.example.com", 40002: None, 40003: "cdn.example.net"}
    assert {record.get("remote_name") for record in records if record["remote_port"] == 53} == {None}


def test_many_records_at_once_have_the_names_that_each_has_alone():
    """Addresses with several lookups and with none, owners that looked up and that did not."""
    names = PeerNames()
    addresses = [MAPPED + bytes([192, 0, 2, number]) for number in range(6)]
    for number in range(40):
        learn(names, number % 3, f"host{number % 5}.org", number, addresses[number % 5])
    asked = [(owner, address, second * SECOND) for owner in range(4) for address in addresses for second in (2, 17, 60)]
    owners, whom, begun = (list(column) for column in zip(*asked, strict=True))
    together = dict(names.names(np.array(owners, "<u8"), np.frombuffer(b"".join(whom), "|V16"), np.array(begun, "<u8")))
    assert [together.get(row) for row in range(len(asked))] == [named(names, *one) for one in asked]
    assert 20 < len(together) < len(asked)


def test_a_request_of_a_trace_has_the_name_that_its_connection_has():
    """Its record is told by itself, with names of its own."""
    names = NameReader()
    content = answer("api.example.com", ADDRESS)
    names.read([Piece(1, SECOND, 1, CART, len(content), len(content), PieceKind.DNS, 1, content)])
    columns = {
        "role": np.array([1, 2, 1], "|u1"), "remote_address": np.frombuffer(ADDRESS * 2 + bytes(16), "|V16"),
        "flow_start_unix_ns": np.full(3, 2 * SECOND, "<u8"), "handshake_ack_unix_ns": np.zeros(3, "<u8"),
    }  # fmt: skip
    told = names.tell_exchanges(columns, NotImplemented, np.full(3, CART, "<u8"))
    assert (told.names, told.columns["remote_name"].tolist()) == (("api.example.com",), [0, NO_INDEX, NO_INDEX])
