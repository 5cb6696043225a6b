"""TLS handshakes of OpenSSL over real sockets: what the live tap tells is what the two ends agreed upon."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from proto.columns import Role
from proto.tls import ALERT, ALERT_BY_SERVER, RESUMED, RESUMPTION_KNOWN
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.tap.socket_tap import TapRules
from tests.support.node.handshakes_told import handshakes_told
from tests.support.node.live_capture import reason_to_skip
from tests.support.node.namespaces import Network, Pod
from tests.support.packets.talks.tls_talk import contexts

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
NAMES = ("tls_server_name", "tls_protocol", "tls_offered_protocols")


@pytest.fixture(scope="module")
def pods() -> Iterator[tuple[Pod, Pod]]:
    """A client and a server."""
    with Network() as network:
        node = network.node("tls", "10.44.0.1/24", "fd44::1/64")
        yield node.pod("tclient", "10.44.0.12/24", "fd44::c/64"), node.pod("tserver", "10.44.0.13/24", "fd44::d/64")


@pytest.fixture(params=[True, False], ids=["traced", "untraced"])
def live(request) -> Iterator[LiveReader]:
    """Capture as it runs, with TLS, and with and without a look for trace contexts in the same packets."""
    rules = TapRules(allow_networks=("10.44.0.0/24", "fd44::/64"))
    options = LiveOptions(capacity=4096, rules=rules, names="tls", trace_context=request.param)
    with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
        yield reader


def connect(pods, client, server, *, family=0, mss=None, session=None):
    """One connection; returns the client's end as it was in the end, its port, and what it failed by."""
    kind = (socket.AF_INET, socket.AF_INET6)[family]
    with (
        pods[1].namespace.socket(kind, socket.SOCK_STREAM) as listener,
        pods[0].namespace.socket(kind, socket.SOCK_STREAM) as plain,
    ):
        listener.bind((pods[1].addresses[family], 0))
        listener.listen()
        if mss:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        serving = threading.Thread(target=answer, args=(listener, server))
        serving.start()
        plain.connect(listener.getsockname())
        port, failed = plain.getsockname()[1], None
        end = client.wrap_socket(plain, server_hostname="shop.example", do_handshake_on_connect=False, session=session)
        try:
            end.do_handshake()
            end.sendall(b"ask")
            assert end.recv(100) == b"answer"
        except ssl.SSLError as error:
            failed = error
        found = end.version(), end.cipher(), end.session_reused, None if failed else end.session
        end.close()
        serving.join()
    return (*found, port, failed)


def answer(listener, context):
    """Accept a connection and answer over it, or fail as the client does."""
    accepted, _ = listener.accept()
    with accepted, contextlib.suppress(OSError), context.wrap_socket(accepted, server_side=True) as end:
        if end.recv(100):
            end.sendall(b"answer")
        end.recv(100)


def told(reader, port):
    """The last records of this client's flow by the role that tells them."""
    return handshakes_told(reader, port).get(port, {})


@FAMILIES
@VERSIONS
def test_both_ends_tell_what_openssl_agreed_upon(live, pods, version, family) -> None:
    """Name, protocols, version and cipher; and a time that lies within the connection's."""
    client, server = contexts(version, protocols=("h2", "http/1.1"), chosen=("h2",))
    name, cipher, _, _, port, failed = connect(pods, client, server, family=family)
    assert (failed, name) == (None, {TLS_1_2: "TLSv1.2", TLS_1_3: "TLSv1.3"}[version])
    records = told(live, port)
    assert records.keys() == {Role.CLIENT, Role.SERVER}
    for record in records.values():
        assert record["tls_version"] == version
        assert record["tls_cipher"] == next(each["id"] for each in client.get_ciphers() if each["name"] == cipher[0]) & 0xFFFF
        assert [record[each] for each in NAMES] == ["shop.example", "h2" if version == TLS_1_2 else None, "h2,http/1.1"]
        assert record["tls_flags"] == RESUMPTION_KNOWN
        assert 0 < record["tls_handshake_time_ns"] <= record["end_unix_ns"] - record["flow_start_unix_ns"]
    assert live.counters["pieces_lost_tls"] == live.counters["pieces_unreadable"] == 0


@VERSIONS
def test_a_session_that_goes_on_is_told(live, pods, version) -> None:
    """As OpenSSL says that it reused one."""
    client, server = contexts(version)
    session = connect(pods, client, server)[3]
    _, _, reused, _, port, _ = connect(pods, client, server, session=session)
    assert reused
    assert {record["tls_flags"] for record in told(live, port).values()} == {RESUMPTION_KNOWN | RESUMED}


@VERSIONS
def test_a_certificate_that_the_client_does_not_trust_is_told(live, pods, version) -> None:
    """By the client's alert, at both ends; no reset counts beside it."""
    *_, port, failed = connect(pods, *contexts(version, trusted=False))
    assert isinstance(failed, ssl.SSLCertVerificationError)
    for record in told(live, port).values():
        assert (record["tls_flags"] & (ALERT | ALERT_BY_SERVER), record["tls_alert"]) == (ALERT, 48)
        assert record["tls_handshake_time_ns"] == record["cut_short"] == 0


def test_a_server_that_refuses_the_version_is_told(live, pods) -> None:
    """By the server's alert, in place of a ServerHello."""
    *_, port, failed = connect(pods, contexts(TLS_1_3)[0], contexts(TLS_1_2)[1])
    assert failed is not None
    for record in told(live, port).values():
        assert (record["tls_flags"] & (ALERT | ALERT_BY_SERVER), record["tls_alert"]) == (ALERT | ALERT_BY_SERVER, 70)
        assert (record["tls_version"], record["tls_server_name"]) == (0, "shop.example")


def test_a_hello_in_several_segments_is_put_together(live, pods) -> None:
    """Segments of 120 bytes: a ClientHello is three or more of them."""
    client, server = contexts(TLS_1_3, protocols=("h2", "http/1.1"))
    *_, port, failed = connect(pods, client, server, mss=120)
    assert failed is None
    for record in told(live, port).values():
        assert (record["tls_version"], record["tls_server_name"]) == (TLS_1_3, "shop.example")
        assert record["tls_offered_protocols"] == "h2,http/1.1"


def test_what_is_no_tls_is_told_as_ever(live, pods) -> None:
    """A connection in clear text: no handshake, and not one piece of its payload."""
    with (
        pods[1].namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        pods[0].namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.bind((pods[1].addresses[0], 0))
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert accepted.recv(100)
            accepted.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert client.recv(100)
            port = client.getsockname()[1]
    for record in told(live, port).values():
        assert (record["tls_version"], record["tls_flags"], record["responses"]) == (0, 0, 1)
    assert live.counters["pieces_read"] == 0
