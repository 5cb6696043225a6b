"""TLS of Go, GnuTLS and PostgreSQL, and QUIC, over real sockets: what the live tap tells is what the stacks themselves said."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proto.columns import Role
from proto.tls import ALERT, ALERT_BY_SERVER, QUIC, QUIC_2, RESUMED, RESUMPTION_KNOWN, cipher, version
from services.capture.flows.datagrams import DatagramRules
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.tap.socket_tap import TapRules
from tests.support.certificates import Certificates, make_certificates
from tests.support.node.handshakes_told import handshakes_told
from tests.support.node.live_capture import reason_to_skip, wait_until
from tests.support.node.namespaces import Network, Pod
from tests.support.tools import ToolUnavailableError, tool

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
SERVER = "10.45.0.13"
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)
needs_gnutls = pytest.mark.skipif(shutil.which("gnutls-serv") is None, reason="no GnuTLS (apt-get install gnutls-bin)")
needs_postgres = pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL (apt-get install postgresql)")


@pytest.fixture(scope="module")
def pods() -> Iterator[tuple[Pod, Pod]]:
    """A client and a server."""
    with Network() as network:
        node = network.node("stacks", "10.45.0.1/24")
        yield node.pod("sclient", "10.45.0.12/24"), node.pod("sserver", f"{SERVER}/24")


@pytest.fixture(scope="module")
def made() -> Iterator[Certificates]:
    """Of a server called shop.example, where other users may read them."""
    with tempfile.TemporaryDirectory(prefix="wirespan-stacks-") as folder:
        Path(folder).chmod(0o755)
        yield make_certificates(Path(folder), name="shop.example")


@pytest.fixture(scope="module")
def go() -> Path:
    """The program of tests/support/tls_stacks."""
    try:
        return tool("tls_stacks")
    except ToolUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def live() -> Iterator[LiveReader]:
    """Capture as it runs, with TLS and the look for trace contexts."""
    rules, datagrams = TapRules(allow_networks=("10.45.0.0/24",)), DatagramRules(rest_seconds=0)
    options = LiveOptions(capacity=4096, rules=rules, names="tls", trace_context=True, datagrams=datagrams)
    with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
        yield reader


@contextlib.contextmanager
def serving(pod: Pod, command, **options) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process, which is gone afterwards."""
    process = pod.namespace.spawn([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def listens(pod: Pod, port: int) -> None:
    """Wait until somebody takes connections there."""

    def connects() -> bool:
        with pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            return client.connect_ex((SERVER, port)) == 0

    wait_until(connects)


def talk_go(pods, go, made, *options, times=1, of_server=()):
    """Connections of Go's client to Go's server; returns what the client says of each."""
    command = [go, *options, *of_server, "serve", f"{SERVER}:0", made.server_certificate, made.server_key]
    with serving(pods[1], command) as server:
        address = server.stdout.readline().decode().strip()
        command = [str(part) for part in (go, *options, "connect", address, made.authority, times)]
        return [json.loads(line) for line in pods[0].namespace.run(*command).splitlines()]


@pytest.mark.parametrize("of", ["1.2", "1.3"])
def test_both_ends_tell_what_go_agreed_upon(live, pods, go, made, of) -> None:
    """Version, cipher, protocol and whether the session goes on; the hello has key shares of post-quantum algorithms."""
    states = talk_go(pods, go, made, "-version", of, "-protocols", "h2,http/1.1", times=2)
    assert [state["resumed"] for state in states] == [False, True]
    found = handshakes_told(live, *(state["port"] for state in states))
    for state in states:
        records = found[state["port"]]
        assert records.keys() == {Role.CLIENT, Role.SERVER}
        for record in records.values():
            assert (record["tls_version"], cipher(record["tls_cipher"])) == (state["version"], state["cipher"])
            assert (record["tls_server_name"], record["tls_offered_protocols"]) == ("shop.example", "h2,http/1.1")
            assert record["tls_protocol"] == (state["protocol"] if of == "1.2" else None)
            assert record["tls_flags"] == RESUMPTION_KNOWN | (RESUMED if state["resumed"] else 0)
            assert record["tls_handshake_time_ns"] > 0


def test_what_go_refuses_is_told(live, pods, go, made) -> None:
    """A server without a protocol in common: its alert is no_application_protocol."""
    (state,) = talk_go(pods, go, made, "-protocols", "h2", of_server=("-protocols", "smtp"))
    assert "no application protocol" in state["error"]
    for record in handshakes_told(live, state["port"])[state["port"]].values():
        assert (record["tls_flags"] & (ALERT | ALERT_BY_SERVER), record["tls_alert"]) == (ALERT | ALERT_BY_SERVER, 120)


@needs_gnutls
@pytest.mark.parametrize("of", ["1.2", "1.3"])
def test_both_ends_tell_what_gnutls_agreed_upon(live, pods, made, of) -> None:
    """As its client prints it; the second connection resumes the first one's session."""
    priority = f"NORMAL:-VERS-ALL:+VERS-TLS{of}:-CIPHER-ALL:+CHACHA20-POLY1305"
    command = ["gnutls-serv", "--echo", "--quiet", "--port=5556", "--priority", priority, "--alpn=h2"]
    command += [f"--x509certfile={made.server_certificate}", f"--x509keyfile={made.server_key}"]
    with serving(pods[1], command, stderr=subprocess.DEVNULL):
        listens(pods[0], 5556)
        command = [
            "gnutls-cli",
            "--resume",
            f"--x509cafile={made.authority}",
            "--priority",
            priority,
            "--alpn=h2",
            "--port=5556",
        ]
        client = pods[0].namespace.spawn(
            [*command, "--sni-hostname=shop.example", "--verify-hostname=shop.example", SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = client.communicate(b"ask\n", timeout=60)[0].decode()
    assert "This is a resumed session" in said, said
    assert re.findall(r"Description: \(TLS([\d.]+)", said) == [of] * 2
    ends = [record for records in handshakes_told(live).values() for record in records.values() if record["tls_version"]]
    assert len(ends) == 4
    for record in ends:
        assert version(record["tls_version"]) == ("tls", of)
        assert "CHACHA20_POLY1305" in cipher(record["tls_cipher"])
        assert (record["tls_server_name"], record["tls_offered_protocols"]) == ("shop.example", "h2")
        assert record["tls_flags"] & RESUMPTION_KNOWN
    assert sorted(bool(record["tls_flags"] & RESUMED) for record in ends) == [False, False, True, True]


@pytest.fixture(scope="module")
def database(pods, made) -> Iterator[int]:
    """PostgreSQL with TLS, and the port that it listens at."""
    with tempfile.TemporaryDirectory(prefix="wirespan-postgres-") as folder:
        shutil.chown(folder, "postgres")
        key = shutil.copy(made.server_key, folder)
        shutil.chown(key, "postgres")
        Path(key).chmod(0o600)
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data = f"{folder}/data"
        command = [*as_user, f"{POSTGRES}/initdb", "-D", data, "--auth=trust", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        Path(data, "pg_hba.conf").write_text("hostssl all all all trust\n")
        settings = {
            "ssl": "on", "ssl_cert_file": made.server_certificate, "ssl_key_file": key, "listen_addresses": SERVER,
            "unix_socket_directories": "", "fsync": "off",
        }  # fmt: skip
        command = [*as_user, f"{POSTGRES}/postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
        with serving(pods[1], command, stderr=subprocess.DEVNULL, cwd=folder):
            # What listens may be starting up still, and then takes nobody.
            ready = ["ip", "netns", "exec", pods[0].namespace.name, f"{POSTGRES}/pg_isready", "-q", "-h", SERVER, "-p", "5432"]
            wait_until(lambda: subprocess.run(ready, check=False).returncode == 0)
            yield 5432


@needs_postgres
@pytest.mark.parametrize("mode", ["prefer", "require"])
def test_both_ends_tell_what_postgresql_agreed_upon(live, pods, database, mode) -> None:
    """TLS that the client asks for in the clear first, with whichever request; as the server's own view of its connections."""
    of_own = "pg_stat_ssl join pg_stat_activity using (pid) where pid = pg_backend_pid()"
    query = f"select pg_stat_ssl.version, cipher, client_port from {of_own}"
    where = f"host=shop.example hostaddr={SERVER} port={database} user=postgres dbname=postgres sslmode={mode}"
    said = pods[0].namespace.run(f"{POSTGRES}/psql", "--no-psqlrc", "-AtX", where, "-c", query)
    name, suite, port = said.strip().split("|")
    records = handshakes_told(live, int(port))[int(port)]
    assert records.keys() == {Role.CLIENT, Role.SERVER}
    for record in records.values():
        assert (version(record["tls_version"])[1], cipher(record["tls_cipher"])) == (name.removeprefix("TLSv"), suite)
        assert (record["tls_server_name"], record["tls_flags"]) == ("shop.example", RESUMPTION_KNOWN)
        assert 0 < record["tls_handshake_time_ns"] <= record["end_unix_ns"] - record["flow_start_unix_ns"]


@pytest.mark.parametrize("quic", [1, 2])
def test_both_ends_tell_what_quic_agreed_upon(live, pods, go, made, quic) -> None:
    """The two hellos of each version of QUIC; the client's is in two datagrams, for its key shares are post-quantum."""
    options = ("-quic", *(("-quic2",) if quic == 2 else ()), "-protocols", "h3,shop")
    states = talk_go(pods, go, made, *options, times=2)
    assert [(state["resumed"], state["error"]) for state in states] == [(False, ""), (True, "")]
    found = handshakes_told(live, *(state["port"] for state in states))
    for state in states:
        records = found[state["port"]]
        assert records.keys() == {Role.CLIENT, Role.SERVER}
        for record in records.values():
            assert record["transport"] == 17
            assert (record["tls_version"], cipher(record["tls_cipher"])) == (state["version"], state["cipher"])
            assert (record["tls_server_name"], record["tls_offered_protocols"]) == ("shop.example", "h3,shop")
            flags = QUIC | RESUMPTION_KNOWN | (RESUMED if state["resumed"] else 0)
            assert record["tls_flags"] == flags | (QUIC_2 if quic == 2 else 0)
    counters = live.counters
    assert counters["pieces_lost_quic"] == counters["pieces_unreadable"] == 0


def test_what_a_server_of_quic_refuses_is_told(live, pods, go, made) -> None:
    """By the alert that its closing stands for."""
    (state,) = talk_go(pods, go, made, "-quic", "-protocols", "h3", of_server=("-protocols", "smtp"))
    assert "no application protocol" in state["error"]
    for record in handshakes_told(live, state["port"])[state["port"]].values():
        assert (record["tls_flags"], record["tls_alert"]) == (QUIC | ALERT | ALERT_BY_SERVER, 120)
