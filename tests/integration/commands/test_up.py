"""`wirespan up` on this machine: its own connections, live, through the real kernel, bus and services."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.cli.doctor.checks import why_not_live
from tests.support.kubernetes.hostile_kube_api import HostileKubeApi
from tests.support.kubernetes.pods_api import PodsApi
from tests.support.node.namespaces import Network
from tests.unit.enricher.objects_as_json import pod

ROOT = Path(__file__).parents[3]
CAPTURE = ROOT / "tests" / "data" / "cluster.pcapng"
COMMAND = [sys.executable, "-m", "services.cli", "up"]
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--ambient-caps", "-all")
PATIENCE_SECONDS = 120
CLIENT, SERVER = 3, 2
"""Kinds of spans."""

pytestmark = [pytest.mark.xdist_group("socket_tap"), pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def tapped() -> None:
    """This machine can capture; skipped with doctor's reason where it cannot."""
    missing = why_not_live()
    if missing is not None:
        pytest.skip(missing.found)


def environ(folder: Path) -> dict[str, str]:
    """An environment without settings of ours, whose temporary files are the test's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
    return kept | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "COLUMNS": "160"}


class Up:
    """A running `wirespan up`; its outputs are files in the folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return (self.folder / "stderr").read_text()

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Poll until `condition` gives something true; return it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if result := condition():
                return result
            time.sleep(0.02)
        pytest.fail(f"it did not happen:\n{self.stderr}\n{self.stdout}")

    def has_logged(self, service: str, event: str) -> bool:
        """Whether a service has logged this."""
        return any(event in path.read_text() for path in self.folder.glob(f"wirespan-*/{service}.log"))


@contextlib.contextmanager
def running(folder: Path, *arguments: str | Path) -> Iterator[Up]:
    """Run the command; nothing of it is left when the context ends."""
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, env=environ(folder), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
        try:
            yield Up(folder, process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
            process.kill()
            process.wait()


def exchange(server: socket.socket, client: socket.socket, address: str) -> int:
    """One HTTP request and its response over a new connection, closed by the client; return the server's port."""
    with server, client:
        server.bind((address, 0))
        server.listen()
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert accepted.recv(4096).startswith(b"GET")
            accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + bytes(5000))
            while not client.recv(8192).endswith(b"\0"):
                pass
            client.shutdown(socket.SHUT_WR)
            assert accepted.recv(1) == b""
        assert client.recv(8192).strip(b"\0") == b""
        return int(server.getsockname()[1])


def spans_in(path: Path) -> Iterator[tuple[dict[str, Any], set[str]]]:
    """Every span of a file of OTLP/JSON lines with the servers' ports: a client's may be anybody's."""
    for line in path.read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    ports = {each["value"]["intValue"] for each in span["attributes"] if each["key"] == "destination.port"}
                    yield span, ports


@pytest.mark.usefixtures("tapped")
def test_connections_of_this_machine_are_shown_live(tmp_path: Path) -> None:
    """On loopback and between network namespaces: a line from each end, spans of both in one trace, none of our own bus."""
    output = tmp_path / "spans.jsonl"
    with running(tmp_path, "--duration", "100", "--output", output) as up, Network() as network:
        left, right = network.namespace("left"), network.namespace("right")
        network.link((left, "eth0", ["10.99.7.1/24"]), (right, "eth0", ["10.99.7.2/24"]))
        up.wait_for(lambda: up.has_logged("capture", "capture.started"))
        ports = [exchange(socket.socket(), socket.socket(), "127.0.0.1"), exchange(right.socket(), left.socket(), "10.99.7.2")]
        told = [re.compile(rf"-> \S+:{port} .*closed") for port in ports]
        up.wait_for(lambda: all(len(pattern.findall(up.stdout)) == 2 for pattern in told))
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(PATIENCE_SECONDS) == 0, up.stderr
    begun, live = up.stderr.splitlines()[:2]
    assert (begun, live.startswith("capturing live on ")) == ("starting: no connection is seen yet ...", True)
    assert "starting it again" not in up.stderr
    for port in ports:
        first, second = re.findall(rf"^.*-> \S+:{port} .*$", up.stdout, re.MULTILINE)
        assert "again" not in first
        assert re.search(r"again, as the (client|server) saw it$", second)
        for line in (first, second):
            assert re.search(r"closed +\d+ B out, 5\.\d KiB in  connect .*response", line)
        told = [span for span, its_ports in spans_in(output) if str(port) in its_ports]
        assert {span["kind"] for span in told} == {CLIENT, SERVER}
        assert len(told) == 2
        assert len({span["traceId"] for span in told}) == 1
    bus = re.search(r"nats://\w+@127\.0\.0\.1:(\d+)", up.stderr)
    assert bus
    assert not [span for span, its_ports in spans_in(output) if bus[1] in its_ports]
    ledger = dict(re.findall(r"^ *(packets seen|spans|spans accepted) +([\d,]+)", up.stdout, re.MULTILINE))
    assert ledger["spans"] == ledger["spans accepted"] == f"{sum(1 for _ in spans_in(output)):,}"
    assert ledger["packets seen"] != "0"


@pytest.mark.usefixtures("tapped")
def test_a_connection_that_lives_is_told_with_the_programs_at_its_ends(tmp_path: Path) -> None:
    """On a plain host, where else every row would be this host's: who holds the sockets is asked while they are there."""
    output = tmp_path / "spans.jsonl"
    program = Path(sys.executable).resolve().name
    with running(tmp_path, "--duration", "100", "--output", output) as up:
        up.wait_for(lambda: up.has_logged("capture", "capture.started"))
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            port = listener.getsockname()[1]
            with accepted:
                client.sendall(b"hello")
                told = re.compile(rf"{re.escape(program)}:\d+ -> \S+:{port} |-> {re.escape(program)}:{port} ")
                up.wait_for(lambda: len(told.findall(up.stdout)) >= 2)
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(PATIENCE_SECONDS) == 0, up.stderr
    attributes = [each for span, ports in spans_in(output) if str(port) in ports for each in span["attributes"]]
    assert {"stringValue": program} in [each["value"] for each in attributes if each["key"].endswith("process.executable.name")]


def test_what_capture_cannot_do_after_all_ends_it_in_one_line(tmp_path: Path) -> None:
    """Where the checks found nothing and capture is refused nonetheless, another start would only repeat it."""
    script = """
from services.cli import __main__
from services.cli.run import up
up.choose_source = lambda *_, **__: up.Source('live')
__main__.main()
"""
    done = subprocess.run(
        [*WITHOUT_CAPABILITIES, sys.executable, "-c", script, "up", "--output", "spans.jsonl"],
        cwd=tmp_path,
        env=environ(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 1
    assert "this machine's sockets cannot be tapped: " in done.stderr
    assert "starting it again" not in done.stderr


def said(folder: Path, *arguments: str, within: tuple[str, ...] = ()) -> str:
    """What the command says first in a run of a second that ends well."""
    done = subprocess.run(
        [*within, *COMMAND, "--duration", "1", "--output", "spans.jsonl", *arguments],
        cwd=folder,
        env=environ(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "packets read" in done.stdout
    return done.stderr.splitlines()[0]


def test_without_capabilities_it_says_why_and_replays(tmp_path: Path) -> None:
    """One line: what is missing, how to give it, and what is shown instead."""
    line = said(tmp_path, within=WITHOUT_CAPABILITIES)
    assert line.startswith("replaying the bundled capture: CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are missing; run it as root")


def typed(line: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What a shell does with a line."""
    return subprocess.run(line, shell=True, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)


def test_printed_commands_work_as_printed(tmp_path: Path) -> None:
    """From another terminal, whatever is on its PATH; a run of one's own is found, one that is named is named."""
    plain = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    with running(tmp_path, "--demo", "--speed", "50", "--output", tmp_path / "spans.jsonl") as up:
        shown = up.wait_for(lambda: re.search(r"another terminal: (.+)\nor: nats .*--translate '(.+ decode)'\n", up.stderr))
        tap, decode = shown.groups()
        assert "nats://" not in tap
        done = typed(f"{tap} | head -n 3", plain)
        assert (len(done.stdout.splitlines()), done.stderr) == (3, "")
        assert typed(f"{decode} --help", plain).returncode == 0
    after = typed(f"{tap} --last 1 --timeout 1", plain)
    assert after.returncode == 1
    assert "127.0.0.1:4222" in after.stderr


def test_workloads_are_named_from_a_live_cluster(tmp_path: Path) -> None:
    """That of the kubeconfig that is given, whatever the environment knows; not beside a snapshot of another time."""
    pods = PodsApi()
    pods.put(pod("frontend-7", "10.42.0.10"))
    with HostileKubeApi(pods) as api:
        arguments = "--capture", CAPTURE, "--speed", "50", "--kubeconfig", api.kubeconfig(tmp_path), "--output", "spans.jsonl"
        with running(tmp_path, *arguments) as up:
            up.wait_for(lambda: "frontend-7:" in up.stdout)
        pods.close()
        refused = subprocess.run(
            [*COMMAND, *arguments, "--kube-snapshot", CAPTURE],
            cwd=tmp_path,
            env=environ(tmp_path),
            capture_output=True,
            check=False,
        )
    assert refused.returncode == 2
    assert b"give one of them" in refused.stderr


def test_the_demo_is_replayed_wherever_it_runs(tmp_path: Path) -> None:
    """Asked for, it needs no reason."""
    assert said(tmp_path, "--demo") == "replaying the bundled capture in a loop"
