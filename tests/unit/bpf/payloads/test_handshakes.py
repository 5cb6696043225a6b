"""TLS handshakes as the engine follows them, replayed: real ones of OpenSSL, in segments as a network makes them."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest

from proto.tls import ALERT, ALERT_BY_SERVER, ALERT_ENCRYPTED, RESUMED, RESUMPTION_KNOWN
from services.capture.names.pieces import PieceKind
from services.capture.names.reader import NameReader
from tests.support.packets.pcap import ACK, PSH, Conversation
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks.tls_talk import CLIENT_ISN, SERVER_ISN, TlsTalk, contexts, talk

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
CHANGE_CIPHER_SPEC, SERVER_HELLO = bytes.fromhex("140303000101"), b"\x02"
VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])


class Heard(NameReader):
    """A reader that keeps every piece."""

    def __init__(self, *how):
        super().__init__(*how)
        self.pieces = []

    def read(self, pieces):
        """Keep and take over."""
        pieces = list(pieces)
        self.pieces += pieces
        super().read(pieces)


def replayed(folder, made, *how):
    """The one record of a conversation, and the reader."""
    names = Heard(*how)
    return replay_frames(folder, made.frames, names=names).only, names


def first(made, sender, kind):
    """Seconds of the first segment of a sender that begins with, or has behind others, a record of this type."""
    for seconds, who, payload in made.sent:
        at = 0
        while who == sender and at + 5 <= len(payload):
            if payload[at] == kind:
                return seconds
            at += 5 + int.from_bytes(payload[at + 3 : at + 5])
    return None


@VERSIONS
def test_a_handshake_is_told_with_what_openssl_made_of_it(tmp_path, version):
    """Version, cipher, name, protocols; and the time from the ClientHello to the client's first record of application data."""
    client, server = contexts(version, protocols=("h2", "http/1.1"), chosen=("h2",))
    made, end, failed = talk(client, server)
    record, _ = replayed(tmp_path, made)
    assert failed is None
    assert record["tls_version"] == version
    assert record["tls_cipher"] == next(each["id"] for each in client.get_ciphers() if each["name"] == end.cipher()[0]) & 0xFFFF
    assert (record["tls_server_name"], record["tls_offered_protocols"]) == ("shop.example", "h2,http/1.1")
    assert record["tls_protocol"] == (end.selected_alpn_protocol() if version == TLS_1_2 else None)
    assert record["tls_flags"] == RESUMPTION_KNOWN
    elapsed = first(made, "client", 23) - made.sent[0][0]
    assert record["tls_handshake_time_ns"] == pytest.approx(elapsed * 1e9, abs=2)


@VERSIONS
def test_a_session_that_goes_on_is_told(tmp_path, version):
    """As OpenSSL says that it reused one: by a ticket, before TLS 1.3 and in it."""
    client, server = contexts(version)
    _, end, _ = talk(client, server)
    made, again, _ = talk(client, server, session=end.session)
    assert again.session_reused
    assert replayed(tmp_path, made)[0]["tls_flags"] == RESUMPTION_KNOWN | RESUMED


def test_what_is_encrypted_behind_a_hello_in_its_segment_is_none(tmp_path):
    """A Finished may begin with any byte: with that of a ServerHello too, while the real one is not handed on yet."""
    client, server = contexts(TLS_1_2)
    _, end, _ = talk(client, server)
    made, again, _ = talk(client, server, segment=1400, session=end.session)
    assert again.session_reused
    behind = next(place for place, (_, who, _) in enumerate(made.sent) if who == "server")
    flight = made.sent[behind][2]
    finished = flight.index(CHANGE_CIPHER_SPEC) + len(CHANGE_CIPHER_SPEC)
    changed = flight[: finished + 5] + SERVER_HELLO + flight[finished + 6 :]
    made.frames = [replace(frame, data=frame.data.replace(flight, changed)) for frame in made.frames]
    assert replayed(tmp_path, made)[0]["tls_version"] == TLS_1_2


@VERSIONS
def test_an_alert_of_the_client_ends_a_handshake(tmp_path, version):
    """A server's certificate of an authority that the client does not know."""
    made, _, failed = talk(*contexts(version, trusted=False))
    record, _ = replayed(tmp_path, made)
    assert isinstance(failed, ssl.SSLCertVerificationError)
    assert (record["tls_flags"] & (ALERT | ALERT_BY_SERVER), record["tls_alert"]) == (ALERT, 48)
    assert record["tls_handshake_time_ns"] == record["cut_short"] == 0


def test_an_alert_of_the_server_ends_a_handshake(tmp_path):
    """Of one that speaks no version that the client does: no ServerHello comes."""
    made, _, failed = talk(contexts(TLS_1_3)[0], contexts(TLS_1_2)[1])
    record, _ = replayed(tmp_path, made)
    assert failed is not None
    assert (record["tls_flags"], record["tls_alert"]) == (ALERT | ALERT_BY_SERVER, 70)
    assert (record["tls_version"], record["tls_server_name"]) == (0, "shop.example")


def test_an_alert_that_is_encrypted_is_known_by_its_length(tmp_path):
    """The client's first record has room for two bytes, and so for no Finished."""
    made, _, _ = talk(*contexts(TLS_1_3), say=False)
    begin = next(place for place, each in enumerate(made.sent) if each[1] == "client" and each[2][0] == 20)
    shortened = TlsTalk()
    for _, sender, payload in made.sent[:begin]:
        shortened.say(sender, payload)
    shortened.say("client", bytes.fromhex("140303000101") + bytes.fromhex("1703030013") + bytes(19))
    record, _ = replayed(tmp_path, shortened)
    assert (record["tls_flags"], record["tls_alert"]) == (RESUMPTION_KNOWN | ALERT | ALERT_ENCRYPTED, 0)
    assert record["tls_handshake_time_ns"] == 0


@pytest.mark.parametrize("segment", [40, 97, 500])
@VERSIONS
def test_a_hello_in_several_segments_is_put_together(tmp_path, version, segment):
    """Whatever the segments are: what the two ends said is the same as in one."""
    client, server = contexts(version, protocols=("h2",), chosen=("h2",))
    whole, _, _ = talk(client, server)
    cut, _, _ = talk(client, server, segment=segment)
    told = [replayed(tmp_path, made)[0] for made in (whole, cut)]
    names = [name for name in told[0] if name.startswith("tls_") and name != "tls_handshake_time_ns"]
    assert [told[0][name] for name in names] == [told[1][name] for name in names]
    assert told[1]["tls_handshake_time_ns"]


def test_segments_that_were_overtaken_or_sent_again_are_put_in_their_place(tmp_path):
    """A hello of three segments, of which the second comes last, and the first twice."""
    whole, _, _ = talk(*contexts())
    hello = whole.sent[0][2]
    made = Conversation(server_port=8443).handshake()
    for seconds, begin, end in ((0.02, 0, 200), (0.021, 300, len(hello)), (0.022, 0, 200), (0.023, 200, 300)):
        segment = {"seq": CLIENT_ISN + 1 + begin, "ack": SERVER_ISN + 1, "payload": hello[begin:end]}
        made.tcp(seconds, "client", PSH | ACK, **segment)
    assert replayed(tmp_path, made)[0]["tls_server_name"] == "shop.example"


def test_no_more_is_handed_on_than_the_hellos_and_one_header(tmp_path):
    """Nothing of a certificate, and nothing encrypted but the length of the record that ends the handshake."""
    made, _, _ = talk(*contexts())
    _, names = replayed(tmp_path, made)
    client, server, end = names.pieces
    assert {piece.kind for piece in names.pieces} == {PieceKind.TLS}
    hello = next(payload for _, sender, payload in made.sent if sender == "server")
    assert client.content == made.sent[0][2]
    assert server.content == hello[: 5 + int.from_bytes(hello[3:5])]
    assert (len(end.content), end.content[0]) == (5, 23)


@pytest.mark.parametrize(
    "opening", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03", b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", b"\0" * 700]
)
def test_what_is_no_tls_is_looked_at_once(tmp_path, opening):
    """A ClientHello behind another beginning is none of the connection's."""
    hello = talk(*contexts())[0].sent[0][2]
    made = TlsTalk()
    made.say("client", opening)
    made.say("server", b"220 ready\r\n")
    made.say("client", hello)
    record, names = replayed(tmp_path, made)
    assert names.pieces == []
    assert "tls_version" not in record


@pytest.mark.parametrize("names", ["off", "dns"])
def test_nothing_is_read_that_was_not_asked_for(tmp_path, names):
    """The setting."""
    record, reader = replayed(tmp_path, talk(*contexts())[0], names)
    assert reader.pieces == []
    assert "tls_version" not in record


def test_a_hidden_domain_hides_the_servers_name(tmp_path):
    """Of `shop.example` only `example`."""
    assert replayed(tmp_path, talk(*contexts())[0], "all", ("example",))[0]["tls_server_name"] == "example"


PROXY_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)
PRELUDES = {
    "PostgreSQL": [("client", b"\0\0\0\x08\x04\xd2\x16\x2f"), ("server", b"S")],
    "PostgreSQL, GSSAPI refused": [
        ("client", b"\0\0\0\x08\x04\xd2\x16\x30"), ("server", b"N"),
        ("client", b"\0\0\0\x08\x04\xd2\x16\x2f"), ("server", b"S"),
    ],
    "MySQL": [("server", b"\x4a\0\0\0\x0a8.0.36\0" + bytes(66)), ("client", b"\x20\0\0\1\x85\xae\xff\x19" + bytes(28))],
    "SMTP": [
        ("server", b"220 mail ESMTP\r\n"), ("client", b"EHLO me\r\n"), ("server", b"250-mail\r\n250 STARTTLS\r\n"),
        ("client", b"STARTTLS\r\n"), ("server", b"220 go ahead\r\n"),
    ],
    "IMAP": [("server", b"* OK IMAP4rev1\r\n"), ("client", b"a STARTTLS\r\n"), ("server", b"a OK begin\r\n")],
    "POP3": [("server", b"+OK POP3 ready\r\n"), ("client", b"STLS\r\n"), ("server", b"+OK begin\r\n")],
    "CONNECT": [("client", b"CONNECT shop.example:443 HTTP/1.1\r\n\r\n"), ("server", b"HTTP/1.1 200 OK\r\n\r\n")],
    "PROXY": [("client", b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n")],
    "PROXY, version 2": [("client", PROXY_2)],
}  # fmt: skip


@pytest.mark.parametrize("before", PRELUDES.values(), ids=PRELUDES)
@VERSIONS
def test_a_handshake_that_comes_later_is_told(tmp_path, version, before):
    """As if it had come first; its time begins with the ClientHello. Of what was said before nothing is handed on."""
    client, server = contexts(version, protocols=("h2",), chosen=("h2",))
    made, end, failed = talk(client, server, before=before)
    record, names = replayed(tmp_path, made)
    assert failed is None
    assert (record["tls_server_name"], record["tls_version"], record["tls_flags"]) == (
        "shop.example",
        version,
        RESUMPTION_KNOWN,
    )
    assert record["tls_cipher"] == next(each["id"] for each in client.get_ciphers() if each["name"] == end.cipher()[0]) & 0xFFFF
    elapsed = first(made, "client", 23) - made.sent[len(before)][0]
    assert record["tls_handshake_time_ns"] == pytest.approx(elapsed * 1e9, abs=2)
    assert {piece.content[0] for piece in names.pieces} == {22, 23}


@pytest.mark.parametrize(
    "before",
    [PRELUDES["MySQL"][1][1], b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 443\r\n", PROXY_2],
    ids=["MySQL", "PROXY", "2"],
)
def test_a_hello_in_the_segment_of_what_stands_before_it_is_told(tmp_path, before):
    """Nothing need come between the two: the client sends both at once."""
    made, _, _ = talk(*contexts())
    together = TlsTalk()
    together.say("client", before + made.sent[0][2])
    for _, sender, payload in made.sent[1:]:
        together.say(sender, payload)
    record, _ = replayed(tmp_path, together)
    assert (record["tls_server_name"], record["tls_version"]) == ("shop.example", TLS_1_3)
    assert record["tls_handshake_time_ns"] > 0


def test_a_hello_is_not_awaited_for_ever(tmp_path):
    """A mail server's conversation in the clear: after 16 packets nobody looks any more."""
    made = TlsTalk()
    made.say("server", b"220 mail\r\n")
    for _ in range(8):
        made.say("client", b"NOOP\r\n")
        made.say("server", b"250 OK\r\n")
    made.say("client", talk(*contexts())[0].sent[0][2])
    assert replayed(tmp_path, made)[1].pieces == []
