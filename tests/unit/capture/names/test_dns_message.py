"""DNS messages, honest and hostile, whole and cut."""

from __future__ import annotations

import random
import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.capture.names.dns_message import MAPPED, read_message
from tests.support.packets.talks import dns as wire

NAME = "cart.shop.svc.cluster.local"


def header(*, questions=1, answers=0, flags=0x8180):
    """Twelve bytes."""
    return struct.pack("!HHHHHH", 7, flags, questions, answers, 0, 0)


def test_an_answer_has_its_question_code_and_addresses():
    """Through a chain of aliases, with EDNS behind: the addresses with their times to live, every record counted."""
    asked = dns.message.make_query("WWW.Example.org.", "A", use_edns=0)
    answer = dns.message.make_response(asked)
    answer.answer.append(dns.rrset.from_text("www.example.org.", 300, "IN", "CNAME", "edge.example.net."))
    answer.answer.append(dns.rrset.from_text("edge.example.net.", 20, "IN", "A", "192.0.2.7"))
    answer.answer.append(dns.rrset.from_text("edge.example.net.", 21, "IN", "AAAA", "2001:db8::7"))
    message = read_message(answer.to_wire())
    assert (message.is_answer, message.name, message.type, message.code) == (True, "www.example.org", 1, 0)
    assert message.answers == 3
    ipv6 = bytes.fromhex("20010db8000000000000000000000007")
    assert message.addresses == ((MAPPED + bytes([192, 0, 2, 7]), 20), (ipv6, 21))


def test_a_question_has_no_answer_and_no_address():
    """Whatever follows it."""
    message = read_message(wire.question(7, NAME, wire.AAAA, edns=True))
    assert (message.number, message.is_answer, message.name, message.type) == (7, False, NAME, 28)
    assert (message.answers, message.addresses) == (0, ())


@pytest.mark.parametrize("code", [0, 2, 3, 5, 16, 23])
def test_a_response_code_is_edns_part_and_the_headers(code):
    """Codes above 15 are told by EDNS (RFC 6891 6.1.3)."""
    answer = dns.message.make_response(dns.message.make_query("example.org.", "HTTPS", use_edns=0))
    answer.set_rcode(dns.rcode.Rcode(code))
    message = read_message(answer.to_wire())
    assert (message.code, message.type) == (code, dns.rdatatype.HTTPS)


@pytest.mark.parametrize(("label", "written"), [
    (b"_srv", "_srv"), (b"a.b", r"a\.b"), (b'"', r"\""), (b"\x00\xff ", r"\000\255\032"),
    ("größe".encode(), r"gr\195\182\195\159e"),
])  # fmt: skip
def test_bytes_that_are_no_text_are_escaped(label, written):
    """As OpenTelemetry asks for in `dns.question.name`."""
    content = header() + bytes([len(label)]) + label + b"\3org\0" + struct.pack("!HH", 1, 1)
    assert read_message(content).name == f"{written}.org"


@pytest.mark.parametrize("name", [
    b"\xc0\x0c",  # points at itself
    b"\1a\xc0\x0c",  # ends in its own beginning
    b"\xc0\xff",  # points ahead
    b"\x41a\0",  # a type of label that nobody uses
    b"\3ab",  # ends with the message
    b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63 + b"\x3f" + b"d" * 63 + b"\0",  # longer than a name may be
])  # fmt: skip
def test_a_name_that_cannot_be_is_none(name):
    """What else the header says stands; the reader neither hangs nor raises."""
    message = read_message(header(flags=0x8182) + name + struct.pack("!HH", 1, 1))
    assert (message.name, message.code, message.addresses) == (None, 2, ())


def test_counts_that_cannot_be_take_no_time():
    """65,535 questions and records in a message that holds none: it is read to its end."""
    content = struct.pack("!HHHHHH", 7, 0x8180, 65535, 65535, 65535, 65535) + b"\0" * 500
    assert read_message(content).name == "."
    assert read_message(content).answers == 65535


def test_addresses_end_where_the_piece_does():
    """A long answer, of which a piece holds the beginning: what is there is told, and how many there were."""
    content = wire.answer(7, NAME, wire.A, records=60)[:512]
    message = read_message(content)
    assert (message.name, message.answers) == (NAME, 60)
    assert len(message.addresses) == (512 - len(wire.answer(7, NAME, records=0))) // 16


def test_a_record_that_lies_about_its_length_gives_no_address():
    """An A record has 4 bytes."""
    content = wire.answer(7, NAME, records=0)[: -0 or None]
    content = header(answers=1) + content[12:] + b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 30, 5) + bytes(5)
    assert read_message(content).addresses == ()


@given(st.binary(max_size=600))
def test_any_bytes_are_read(content):
    """Nothing is raised, and what is too short for a header is no message."""
    message = read_message(content)
    assert (message is None) == (len(content) < 12)


def test_whatever_becomes_of_an_answer_it_is_read():
    """Bits turned and ends cut off, ten thousand times."""
    chance = random.Random(3)
    whole = wire.answer(7, NAME, wire.AAAA, records=5)
    for _ in range(10_000):
        content = bytearray(whole[: chance.randint(12, len(whole))])
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        assert len(read_message(bytes(content)).addresses) <= 5
