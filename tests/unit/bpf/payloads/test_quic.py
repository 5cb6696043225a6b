"""QUIC's handshakes replayed: real hellos of OpenSSL in Initial packets that `cryptography` sealed."""

from __future__ import annotations

import random

import pytest

from proto.tls import ALERT, ALERT_BY_SERVER, QUIC, QUIC_2, RESUMPTION_KNOWN
from services.capture.names.reader import NameReader
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks.quic_talk import LEAST, SERVER_ID, V1, V2, conversation, crypto, hellos, initial

VERSIONS = pytest.mark.parametrize("version", [V1, V2], ids=["version 1", "version 2"])
EARLY_DATA = b"\xd0\0\0\0\1\x08" + bytes(80)


def replayed(folder, *datagrams, names="all"):
    """The one record of these datagrams, and the reader."""
    reader = NameReader(names)
    return replay_frames(folder, conversation(*datagrams).frames, names=reader).only, reader


def told(record):
    """What is the same however it was sent."""
    return record["tls_server_name"], record["tls_offered_protocols"], record["tls_version"], record["tls_flags"]


@VERSIONS
def test_both_hellos_are_told(tmp_path, version):
    """Name, protocols, version, cipher, and QUIC's version; the server's is behind an acknowledgment."""
    client, server = hellos(protocols=("h3", "hq"), chosen=("h3",))
    acknowledgment = b"\2\0\0\0\0"
    record, names = replayed(
        tmp_path,
        ("client", initial(crypto(client), version=version)),
        ("server", initial([acknowledgment, *crypto(server)], version=version, of_server=True)),
    )
    flags = QUIC | RESUMPTION_KNOWN | (QUIC_2 if version == V2 else 0)
    assert told(record) == ("shop.example", "h3,hq", 0x0304, flags)
    assert record["tls_cipher"] == 0x1302
    assert (names.counters["pieces_read"], names.counters["pieces_unreadable"]) == (2, 0)


def test_a_hello_that_is_torn_is_put_together(tmp_path):
    """Over two datagrams, in pieces of any order with pings and padding between them, some sent twice."""
    chance = random.Random(13)
    client, server = hellos(protocols=("h3",), chosen=("h3",))
    for _ in range(20):
        frames = crypto(client, *chance.sample(range(1, len(client)), chance.randint(1, 12)))
        frames += chance.sample(frames, 2)
        chance.shuffle(frames)
        frames = [chance.choice((b"", b"\1", b"\0\0")) + frame for frame in frames]
        half = chance.randint(0, len(frames))
        record, _ = replayed(
            tmp_path,
            ("client", initial(frames[:half], number=0)),
            ("client", initial(frames[half:], number=1)),
            ("server", initial(crypto(server), of_server=True)),
        )
        assert told(record) == ("shop.example", "h3", 0x0304, QUIC | RESUMPTION_KNOWN)


def test_a_retry_renews_the_keys(tmp_path):
    """The client begins anew with the server's id and its token."""
    client, server = hellos()
    record, _ = replayed(
        tmp_path,
        ("client", initial(crypto(client))),
        ("server", b"\xf0\0\0\0\1\0\4" + SERVER_ID + bytes(32)),
        ("client", initial(crypto(client), keyed_by=SERVER_ID, token=b"t" * 40, number=1)),
        ("server", initial(crypto(server), keyed_by=SERVER_ID, of_server=True)),
    )
    assert told(record) == ("shop.example", None, 0x0304, QUIC | RESUMPTION_KNOWN)


def test_a_hello_that_the_server_asks_for_again_is_told(tmp_path):
    """What the second says holds; it goes on where the first ended."""
    (first, server), (second, _) = hellos(protocols=("h3",), chosen=("h3",)), hellos()
    again = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
    asks = server[:6] + again + server[38:]
    record, _ = replayed(
        tmp_path,
        ("client", initial(crypto(first))),
        ("server", initial(crypto(asks), of_server=True)),
        ("client", initial(crypto(second, 100, behind=len(first)), number=1)),
        ("server", initial(crypto(server, behind=len(asks)), of_server=True, number=1)),
    )
    assert told(record) == ("shop.example", None, 0x0304, QUIC | RESUMPTION_KNOWN)


def test_early_data_may_come_first(tmp_path):
    """It has overtaken the hello."""
    client, _ = hellos()
    record, _ = replayed(tmp_path, ("client", EARLY_DATA), ("client", initial(crypto(client))))
    assert told(record) == ("shop.example", None, 0, QUIC)


def test_a_server_that_closes_is_told(tmp_path):
    """By the alert that the error's number stands for: no_application_protocol."""
    client, _ = hellos()
    closing = b"\x1c" + (0x4000 | 0x100 + 120).to_bytes(2) + b"\6\0"
    record, _ = replayed(tmp_path, ("client", initial(crypto(client))), ("server", initial([closing], of_server=True)))
    assert (record["tls_flags"], record["tls_alert"]) == (QUIC | ALERT | ALERT_BY_SERVER, 120)


@pytest.mark.parametrize("names", ["off", "dns"])
def test_nothing_is_read_that_was_not_asked_for(tmp_path, names):
    """The setting."""
    record, reader = replayed(tmp_path, ("client", initial(crypto(hellos()[0]))), names=names)
    assert reader.counters["pieces_read"] == 0
    assert "tls_flags" not in record


@pytest.mark.parametrize(
    "payload",
    [bytes(LEAST), b"\xc0\0\0\0\1" + b"\xff" * LEAST, b"\xc0\0\0\0\2" + bytes(LEAST), b"\xc0\0\0\0\1"],
    ids=["zeros", "no key fits", "another version", "short"],
)
def test_what_is_no_quic_is_told_as_ever(tmp_path, payload):
    """Whatever begins like it."""
    record, _ = replayed(tmp_path, ("client", payload), ("server", payload))
    assert record.get("tls_flags", 0) == 0
    assert record["tx_packets"] == record["rx_packets"] == 1


def test_no_datagram_ends_the_reading(tmp_path):
    """Cut anywhere, and with any byte changed: read or not, and the next is."""
    chance = random.Random(13)
    client, _ = hellos()
    whole = initial(crypto(client))
    for number in range(200):
        broken = bytearray(whole[: chance.randint(7, len(whole))].ljust(LEAST, b"\0"))
        broken[chance.randrange(len(broken))] ^= chance.randint(1, 255)
        record, _ = replayed(tmp_path, ("client", EARLY_DATA), ("client", bytes(broken)), ("client", whole))
        assert record["tls_server_name"] == "shop.example", number
