"""Hellos of TLS, whole, cut off and hostile."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.capture.names.tls_hello import ClientHello, ServerHello, read_hello
from tests.support.packets.talks.tls_talk import contexts, talk


def record(message, version=b"\x03\x01"):
    """A handshake message in a record."""
    return b"\x16" + version + len(message).to_bytes(2) + message


def vector(content, size):
    """Content behind its length."""
    return len(content).to_bytes(size) + content


def extensions(found):
    """A hello's last part."""
    return vector(b"".join(kind.to_bytes(2) + vector(content, 2) for kind, content in found), 2)


def client_hello(*found, session=b""):
    """A record with a ClientHello."""
    body = b"\x03\x03" + bytes(32) + vector(session, 1) + vector(b"\x13\x01", 2) + b"\x01\x00" + extensions(found)
    return record(b"\x01" + vector(body, 3))


def server_name(name):
    """The extension."""
    return 0, vector(b"\0" + vector(name, 2), 2)


def hellos():
    """Both, of OpenSSL."""
    made, _, _ = talk(*contexts(ssl.TLSVersion.TLSv1_2, protocols=("h2", "http/1.1"), chosen=("h2",)))
    return [next(payload for _, sender, payload in made.sent if sender == end) for end in ("client", "server")]


@pytest.mark.parametrize("which", [0, 1], ids=["client", "server"])
def test_the_beginning_of_a_hello_says_no_more_than_all_of_it(which):
    """Cut off anywhere: nothing is read that is not there, and nothing otherwise than in the whole."""
    content = hellos()[which]
    whole = read_hello(content)
    for end in range(len(content)):
        found = read_hello(content[:end])
        if isinstance(found, ClientHello):
            assert found.server_name in {None, whole.server_name}
            assert found.protocols in {(), whole.protocols}
            assert found.session == whole.session
        elif found is not None:
            assert (found.version, found.cipher, found.session) == (whole.version, whole.cipher, whole.session)
            assert found.protocol in {None, whole.protocol}


@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\x16\x03\x01\x01\x80\x01\x00\x01\x7c", b"\x16\x03\x03\x00\x80\x02\x00\x00\x7c"]),
)
def test_any_bytes_are_a_hello_or_none(content, head):
    """Nothing fails, whatever comes from the network."""
    found = read_hello(head + content)
    assert found is None or isinstance(found, ClientHello | ServerHello)


@given(st.lists(st.tuples(st.sampled_from([0, 16, 35, 41, 43, 0xFE0D, 0x0A0A]), st.binary(max_size=30)), max_size=6))
def test_any_extensions_are_read_or_left(found):
    """Names stay printable and bounded."""
    hello = read_hello(client_hello(*found))
    assert hello is not None
    for text in (hello.server_name or "", *hello.protocols):
        assert text.isprintable()
        assert len(text) <= 4 * 255


def test_a_message_in_several_records_is_one():
    """As some clients cut it, to be seen by nobody."""
    content = client_hello(server_name(b"Shop.Example"), (16, vector(vector(b"h2", 1), 2)))
    message = content[5:]
    cut = b"".join(record(message[at : at + 7]) for at in range(0, len(message), 7))
    assert read_hello(cut) == read_hello(content)
    assert read_hello(content).server_name == "shop.example"


def test_grease_is_no_protocol():
    """RFC 8701: what clients offer that nobody is to understand."""
    offered = vector(b"".join(vector(name, 1) for name in (b"\x4a\x4a", b"h2", b"http/1.1")), 2)
    assert read_hello(client_hello((16, offered))).protocols == ("h2", "http/1.1")


def test_what_would_command_a_terminal_is_written_out():
    """A name is text, whatever its bytes."""
    assert read_hello(client_hello(server_name(b"evil\x1b[2J.org"))).server_name == r"evil\027[2j.org"


def test_an_encrypted_hello_is_said_to_be_there():
    """And the name that is in sight is told."""
    hello = read_hello(client_hello(server_name(b"public.example"), (0xFE0D, b"\0" * 40)))
    assert (hello.server_name, hello.has_ech) == ("public.example", True)
