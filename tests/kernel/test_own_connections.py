"""Capture's own connections are left out, and nobody else's: real nats-servers, the bus as capture has it, other processes."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.capture.live.tap.socket_tap import SocketTap, own_connections
from services.capture.live_options import TapRules
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings
from tests.support.node import kube_proxy
from tests.support.node.live_capture import Live, reason_to_skip, wait_until
from tests.support.node.namespaces import Network
from tests.support.pipeline.nats_server import NatsServer
from tests.support.ports import free_port

pytestmark = pytest.mark.xdist_group("socket_tap")

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

# A client of a server that speaks first, as nats-server does: its port, once it was spoken to; ends when it is told to.
CLIENT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as client:
    client.recv(10)
    print(client.getsockname()[1], flush=True)
    sys.stdin.read()
"""
# Both ends of a connection from one port of the loopback to another, as long as it is asked for.
PAIR = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[2]))) as server, socket.socket() as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind(("127.0.0.1", int(sys.argv[1])))
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    accepted.sendall(b"x")
    client.recv(1)
    print("met", flush=True)
    sys.stdin.read()
"""
# A server that speaks when it is told to, and is answered: what it was said, once it was.
SPEAKER = """
import socket, sys
six = ":" in sys.argv[1]
with socket.create_server((sys.argv[1], 0), family=(socket.AF_INET, socket.AF_INET6)[six], dualstack_ipv6=six) as server:
    print(server.getsockname()[1], flush=True)
    accepted, _ = server.accept()
    for _ in sys.stdin:
        accepted.sendall(b"x")
        print(accepted.recv(10), flush=True)
"""


@contextmanager
def running(command: list[str]) -> Iterator[int]:
    """Yield the number of what this process says first, 0 for a word."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        assert said
        yield int(said) if said.isdigit() else 0


def pairs(live: Live, port: int) -> list[tuple[int, int]]:
    """The ends of the flows that have this port, the lower first: once for each end that is told."""
    return [tuple(sorted((int(row["local_port"]), int(row["remote_port"])))) for row in live.rows(port)]


def own_pair(server_port: int) -> tuple[int, int]:
    """The ports of the connection that this process has to there."""
    found = []
    for descriptor in own_connections():
        with socket.socket(fileno=socket.dup(descriptor)) as own:
            found.append(tuple(sorted((own.getsockname()[1], own.getpeername()[1]))))
    (pair,) = [pair for pair in found if server_port in pair]
    return pair


async def talk(bus: Bus) -> None:
    """Have the server asked and answering, on the connection that there is now."""
    await bus.ensure_streams()


async def test_of_a_server_that_others_use_too_only_captures_own_connection_is_left_out(tmp_path: Path) -> None:
    """One that is older than the tap, one that is made anew, one to another server: at neither end is there a flow of capture's
    own, whatever its port is by then. Another process at the same servers is told, at both ends.
    """
    with NatsServer(tmp_path / "one") as one, NatsServer(tmp_path / "two") as two:
        async with connect(NatsSettings(url=one.url), name="test") as bus:
            await talk(bus)
            with SocketTap(capacity=4096, rules=TapRules(loopback=True), leave_out_own=True) as tap:
                live = Live(tap)
                before = own_pair(one.port)
                await talk(bus)
                with running([sys.executable, "-c", CLIENT, str(one.port)]) as port:
                    assert pairs(live, one.port).count(tuple(sorted((port, one.port)))) == 2
                    assert before not in pairs(live, one.port)
                await asyncio.to_thread(one.stop)
                await asyncio.to_thread(one.start)
                await talk(bus)
                again = own_pair(one.port)
                assert again != before
                async with connect(NatsSettings(url=two.url), name="test") as other:
                    await talk(other)
                    with running([sys.executable, "-c", CLIENT, str(two.port)]) as port:
                        assert pairs(live, two.port).count(tuple(sorted((port, two.port)))) == 2
                    assert own_pair(two.port) not in pairs(live, two.port)
                assert not {before, again} & {*pairs(live, one.port)}
                assert tap.counters["excluded_packets"] > 0


async def test_a_connection_that_has_one_end_in_common_with_captures_own_is_told(tmp_path: Path) -> None:
    """In another network, where loopback has the same addresses: from the address and port that capture's own connection has,
    and to them. And at the end of capture's connection, by the same two ports, when that is gone.
    """
    with NatsServer(tmp_path / "nats") as nats, Network() as network:
        pod = network.namespace("pod").name
        inside = ["ip", "netns", "exec", pod, sys.executable, "-c", PAIR]
        with SocketTap(capacity=4096, rules=TapRules(loopback=True), leave_out_own=True) as tap:
            live = Live(tap)
            async with connect(NatsSettings(url=nats.url), name="test") as bus:
                await talk(bus)
                (own,) = {*own_pair(nats.port)} - {nats.port}
                other = 1 + max(own, nats.port) if max(own, nats.port) < 65535 else min(own, nats.port) - 1
                for client, server in ((own, other), (other, own)):
                    with running([*inside, str(client), str(server)]):
                        assert pairs(live, own).count(tuple(sorted((client, server)))) == 2
                    live.finish(0)
                assert own_pair(nats.port) not in pairs(live, own)
            with running([*inside, str(own), str(nats.port)]):
                assert pairs(live, own).count(tuple(sorted((own, nats.port)))) == 2


@pytest.mark.parametrize(("bound", "address"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")])
def test_of_a_connection_that_is_older_than_the_tap_the_other_end_may_speak_first(bound: str, address: str) -> None:
    """As nats-server does, which asks a client that is two seconds old whether it is there. At neither end is there a flow."""
    with subprocess.Popen(
        [sys.executable, "-c", SPEAKER, bound], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with (
            socket.create_connection((address, port)) as own,
            SocketTap(capacity=4096, rules=TapRules(loopback=True), leave_out_own=True) as tap,
        ):
            for _ in range(2):
                server.stdin.write("\n")
                server.stdin.flush()
                assert own.recv(10) == b"x"
                own.sendall(b"y")
                assert server.stdout.readline()
            assert not pairs(Live(tap), port)


SERVICE, NETWORK = "10.96.79.1", "10.96.79.2/24"
"""A Service's address, which is nobody's, and a network of which it is one."""


def client_of(monitoring: int, name: str) -> dict[str, Any]:
    """What nats-server says of the client of this name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{monitoring}/connz?subs=1") as answer:
        return next(each for each in json.load(answer)["connections"] if each["name"].startswith(name))


async def test_behind_a_services_address_the_other_end_is_left_out_once_it_was_spoken_to(tmp_path: Path) -> None:
    """As capture does right after it has attached: what the server says then of its own accord is told at neither end, though
    only its own end knows the address behind the Service's.
    """
    monitoring = free_port()
    nats = NatsServer(tmp_path / "nats", extra_config=f'http: "127.0.0.1:{monitoring}"')
    with Network() as network:
        inside = network.namespace("inside")
        if (reason := kube_proxy.reason_to_skip("nftables", inside)) is not None:
            pytest.skip(reason)
        inside.ip("address", "add", NETWORK, "dev", "lo")
        for rule in (
            "add table ip services",
            "add chain ip services output { type nat hook output priority -100; }",
            f"add rule ip services output ip daddr {SERVICE} tcp dport 4222 dnat to 127.0.0.1:{nats.port}",
        ):
            inside.run("nft", rule)
        with inside.entered(), nats:
            async with connect(NatsSettings(url=f"nats://{SERVICE}:4222"), name="own") as bus:
                watch = bus.watch("said")
                await watch.start()
                await talk(bus)
                # It asks a client that is two seconds old whether it is there, which is to be over when the tap attaches.
                young = {"0s", "1s", "2s"}
                await asyncio.to_thread(wait_until, lambda: client_of(monitoring, "own")["uptime"] not in young)
                port = client_of(monitoring, "own")["port"]
                with SocketTap(capacity=4096, rules=TapRules(loopback=True), leave_out_own=True) as tap:
                    await bus.hear()
                    await asyncio.to_thread(say, nats.port, "said")
                    await anext(watch)
                    assert not pairs(Live(tap), port)


def say(port: int, subject: str) -> None:
    """Publish a message as somebody else."""
    with socket.create_connection(("127.0.0.1", port)) as publisher:
        publisher.sendall(f"CONNECT {{}}\r\nPUB {subject} 1\r\nx\r\n".encode())
        publisher.recv(1)
