"""The socket tap on this machine's kernel: real programs, real sockets, counts that are known beforehand."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from proto.columns import Outcome, Reason, Role, RoleSource
from services.capture.flows.datagrams import DatagramRules
from services.capture.flows.layout import State
from services.capture.live.owners.cgroups import cgroup_id, find_root
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.loader import Switch, TapConstants, TapLoadError, load_tap
from services.capture.live.tap.slot_layout import FLOW_KEY
from services.capture.live.tap.socket_tap import SocketTap, TapRules, tick_ns
from services.runtime.host.programs import building
from services.runtime.host.programs.errors import ProgramsError
from tests.support.node import bpf_info
from tests.support.node.live_capture import WAIT_SECONDS, Live, payload_once, reason_to_skip, slots_of, wait_until
from tests.support.node.namespaces import Pod

pytestmark = pytest.mark.xdist_group("socket_tap")

IP, TCP, UDP = 20, 32, 8
_SEND_BUFFER, _RECEIVE_BUFFER = 32, 33
"""SO_SNDBUFFORCE and SO_RCVBUFFORCE, which Python does not name."""
"""Header bytes: IPv4, TCP with timestamps, UDP."""
SERVICE_PORT, HIGH_PORT = 8080, 61_080
"""Below what Linux gives to clients, and above."""


_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)


def listen(pod: Pod, address: str, port: int = 0) -> socket.socket:
    """A listening socket in the pod, by default at a port that clients get too."""
    server = pod.namespace.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen(512)
    return server


def connect(pod: Pod, server: socket.socket, address: str | None = None) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection from the pod to the server."""
    to = (address or server.getsockname()[0], server.getsockname()[1])
    client = pod.namespace.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(WAIT_SECONDS)
    client.connect(to)
    accepted, _ = server.accept()
    accepted.settimeout(WAIT_SECONDS)
    return client, accepted


def read_all(end: socket.socket) -> int:
    """Read to the end of the stream; return how much there was."""
    size = 0
    while data := end.recv(1 << 16):
        size += len(data)
    return size


def converse(client: socket.socket, server: socket.socket, request: bytes, response: bytes) -> None:
    """One request, one response, then the client closes and the server after it, each waiting for the other's end."""
    client.sendall(request)
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == len(request)
    server.sendall(response)
    server.close()
    assert read_all(client) == len(response)
    client.close()


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_both_ends_of_a_connection_count_the_same(live, pods, family) -> None:
    """What one end of a TCP connection sends is what the other receives, in bytes, packets and payload; roles are exact."""
    client_pod, server_pod = pods
    for _ in range(20):
        with listen(server_pod, server_pod.addresses[family]) as server:
            port = server.getsockname()[1]
            converse(*connect(client_pod, server), b"q" * 1000, b"r" * 300_000)
        wait_until(lambda port=port: [row["outcome"] for row in live.rows(port)] == [Outcome.CLOSED] * 2)
        client, other = live.side(Role.CLIENT, port), live.side(Role.SERVER, port)
        # A busy machine sends again what was not lost; what comes so late is answered by no socket of the client.
        if not other["tx_retransmit_bytes"]:
            break
    for name in ("bytes", "packets", "payload_bytes", "initial_sequence", "retransmits"):
        assert client[f"tx_{name}"] == other[f"rx_{name}"], name
        assert client[f"rx_{name}"] == other[f"tx_{name}"], name
    assert client["tx_payload_bytes"] - client["tx_retransmit_bytes"] == 1000
    assert client["rx_payload_bytes"] - other["tx_retransmit_bytes"] == 300_000
    assert client["responses"] == other["responses"] == 1
    assert client["srtt_us"] > 0
    assert client["min_rtt_us"] > 0
    assert client["congestion_window"] > 0
    assert client["cgroup_id"] == cgroup_id(find_root() / _own_cgroup())
    assert len(live.finish(port)["record"]) == 2


def transfer(client: socket.socket, accepted: socket.socket, *, times: int, size: int) -> None:
    """Send so many bytes so often, each after the last have come, and close both ends."""
    for _ in range(times):
        client.sendall(bytes(size))
        left = size
        while left:
            left -= len(accepted.recv(left))
    client.shutdown(socket.SHUT_WR)
    accepted.close() if not accepted.recv(1) else None
    read_all(client)
    client.close()


def test_offloaded_segments_count_as_on_the_wire() -> None:
    """Segmentation offload: both ends count real segments with their headers, and the payload to the byte."""
    with SocketTap(rules=TapRules(loopback=True)) as tap, socket.create_server(("127.0.0.1", 0)) as server:
        live, port = Live(tap), server.getsockname()[1]
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        transfer(client, accepted, times=200, size=100_000)
        wait_until(lambda: [row["outcome"] for row in live.rows(port)] == [Outcome.CLOSED] * 2)
        sent, received = live.side(Role.CLIENT, port), live.side(Role.SERVER, port)
        # A machine that is busy enough answers a probe for lost data that was not lost.
        payload = 20_000_000 + int(sent["tx_retransmit_bytes"])
        assert sent["tx_payload_bytes"] == received["rx_payload_bytes"] == payload
        assert sent["tx_bytes"] == received["rx_bytes"]
        assert sent["tx_packets"] == received["rx_packets"]
        # The first SYN has 40 bytes of TCP header, all others timestamps only.
        assert sent["tx_bytes"] == payload + (IP + TCP) * sent["tx_packets"] + 8


def test_jumbograms_count_as_the_segments_that_are_cut_of_them(pods) -> None:
    """BIG TCP over IPv6: the header that says how long such a packet is comes on no wire, and is counted for no segment."""
    pod = pods[0].namespace
    for options in (("mtu", "1500"), ("gso_max_size", "190000"), ("gro_max_size", "190000"), ("up",)):
        pod.ip("link", "set", "lo", *options)
    with SocketTap(rules=TapRules(loopback=True)) as tap, pod.socket(socket.AF_INET6) as server:
        server.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER, 1 << 22)
        server.bind(("::1", 0))
        server.listen()
        live, port = Live(tap), server.getsockname()[1]
        client = pod.socket(socket.AF_INET6)
        client.setsockopt(socket.SOL_SOCKET, _SEND_BUFFER, 1 << 22)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        transfer(client, accepted, times=100, size=400_000)
        wait_until(lambda: [row["outcome"] for row in live.rows(port)] == [Outcome.CLOSED] * 2)
        sent, received = live.side(Role.CLIENT, port), live.side(Role.SERVER, port)
        for end, way in ((sent, "tx"), (received, "rx")):
            payload = 40_000_000 + int(end[f"{way}_retransmit_bytes"])
            assert end[f"{way}_payload_bytes"] == payload
            assert end[f"{way}_bytes"] == payload + (2 * IP + TCP) * end[f"{way}_packets"] + 8


@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
def test_datagrams_are_counted_exactly(live, pods, connected) -> None:
    """Every datagram of known size, both ways, with and without connected sockets; one answers."""
    client_pod, server_pod = pods
    client = client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server = server_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client, server:
        client.bind((client_pod.addresses[0], 0))
        server.bind((server_pod.addresses[0], 0))
        for end in (client, server):
            end.settimeout(WAIT_SECONDS)
        if connected:
            client.connect(server.getsockname())
            server.connect(client.getsockname())
        port = server.getsockname()[1]
        for size in range(1, 501):
            client.sendto(bytes(size), server.getsockname())
            _, sender = server.recvfrom(2048)
            server.sendto(bytes(2 * size), sender)
            client.recv(2048)
        total = sum(range(1, 501))
        ends = live.side(Role.CLIENT, port), live.side(Role.SERVER, port)
        assert [int(end[f"{way}_packets"]) for end in ends for way in ("tx", "rx")] == [500] * 4
        assert [int(end["responses"]) for end in ends] == [500] * 2
        assert ends[0]["tx_bytes"] == ends[1]["rx_bytes"] == total + 500 * (IP + UDP)
        assert ends[0]["rx_bytes"] == ends[1]["tx_bytes"] == 2 * total + 500 * (IP + UDP)


def test_a_connected_datagram_socket_may_send_to_others(live, pods) -> None:
    """What a connected socket sends elsewhere is in the flow of where it goes."""
    client_pod, server_pod = pods
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(server_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        client = stack.enter_context(client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for end in (first, second):
            end.bind((server_pod.addresses[0], 0))
            end.settimeout(WAIT_SECONDS)
        client.connect(first.getsockname())
        for _ in range(5):
            client.send(b"x")
            first.recv(9)
            client.sendto(b"yy", second.getsockname())
            second.recv(9)
        assert live.side(Role.CLIENT, first.getsockname()[1])["tx_payload_bytes"] == 5
        assert live.side(Role.CLIENT, second.getsockname()[1])["tx_payload_bytes"] == 10


def test_times_without_a_clock_are_the_last_ticks(live, pods) -> None:
    """A stream's packets have the time of the last tick on the monotonic clock: not two ticks old, never one ahead."""
    client_pod, server_pod = pods
    tick = tick_ns()
    with (
        client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        server_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.bind((server_pod.addresses[0], 0))
        client.connect(server.getsockname())
        port = server.getsockname()[1]
        for _ in range(200):
            before = monotonic_ns()
            client.send(b"x")
            row = live.side(Role.CLIENT, port)
            assert before - 2 * tick <= int(row["last_ns"]) <= monotonic_ns() + tick


def test_closing_without_waiting_ends_the_flow(live, pods) -> None:
    """A client that just closes: the kernel keeps its last packets from every program, and the flow is closed all the same."""
    client_pod, server_pod = pods
    with listen(server_pod, server_pod.addresses[0]) as server:
        port = server.getsockname()[1]
        client, accepted = connect(client_pod, server)
        client.sendall(b"bye")
        client.close()
        wait_until(lambda: live.side(Role.CLIENT, port)["outcome"] == Outcome.CLOSED)
        assert read_all(accepted) == 3
        accepted.close()
    wait_until(lambda: live.side(Role.SERVER, port)["outcome"] == Outcome.CLOSED)
    records = live.finish(port)
    assert sorted(records["reason"].tolist()) == [Reason.END_OF_FLOW] * 2
    assert len({*records["local_isn"].tolist(), *records["remote_isn"].tolist()}) == 2


def test_a_second_tap_disturbs_nothing_and_knows_older_connections(live, pods) -> None:
    """A tap that comes later sees the same packets, and the roles of connections older than itself through the listener."""
    client_pod, server_pod = pods
    with contextlib.ExitStack() as stack:
        # A wildcard listener of IPv6 that serves IPv4 too, and a plain one.
        dual = stack.enter_context(listen(server_pod, "::", SERVICE_PORT))
        plain = stack.enter_context(listen(server_pod, server_pod.addresses[0], SERVICE_PORT + 1))
        over_ipv4 = connect(client_pod, dual, server_pod.addresses[0])
        over_ipv6 = connect(client_pod, dual, server_pod.addresses[1])
        to_plain = connect(client_pod, plain)
        with SocketTap() as later:
            second = Live(later)
            for client, accepted in (over_ipv4, over_ipv6, to_plain):
                client.sendall(bytes(700))
                accepted.recv(1000)
                port = client.getsockname()[1]
                wait_until(lambda port=port: payload_once(second.side(Role.SERVER, port), "rx") == 700)
                assert payload_once(second.side(Role.CLIENT, port), "tx") == 700
                assert second.side(Role.CLIENT, port)["tx_known"] & 1 == 0
                assert payload_once(live.side(Role.CLIENT, port), "tx") == 700
        for ends in (over_ipv4, over_ipv6, to_plain):
            ends[0].sendall(bytes(100))
            assert payload_once(live.side(Role.CLIENT, ends[0].getsockname()[1]), "tx") == 800
            for end in ends:
                end.close()


@pytest.mark.parametrize("port", [SERVICE_PORT, HIGH_PORT], ids=["a service's port", "a port of either kind"])
@pytest.mark.parametrize("said", [b"x" * 700, b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"], ids=["anything", "a request"])
def test_the_roles_of_an_older_connection_whose_listener_is_gone(pods, port, said) -> None:
    """Nobody listens at either end of a connection older than capture: what is said tells who asks; else the ports may, and
    that is told as a guess; where they do not, it is not known.
    """
    client_pod, server_pod = pods
    with listen(server_pod, server_pod.addresses[0], port) as server:
        client, accepted = connect(client_pod, server)
    with client, accepted, SocketTap(trace_context=True) as tap:
        later = Live(tap)
        for _ in range(2):
            client.sendall(said)
            assert accepted.recv(1000) == said
        wait_until(
            lambda: [row["rx_payload_bytes"] for row in later.rows(port) if row["local_port"] == port] == [2 * len(said)]
        )
        records = later.finish(port)
    known = {(int(local) == port, Role(role), RoleSource(source)) for local, role, source in zip(
        records["local_port"], records["role"], records["role_source"], strict=True
    )}  # fmt: skip
    source = RoleSource.CONTENT if said.startswith(b"GET") else RoleSource.PORTS if port == SERVICE_PORT else RoleSource.UNKNOWN
    roles = (Role.UNKNOWN, Role.UNKNOWN) if source == RoleSource.UNKNOWN else (Role.CLIENT, Role.SERVER)
    assert known == {(False, roles[0], source), (True, roles[1], source)}


def test_a_flow_that_is_ended_while_its_socket_lives_goes_on_as_another(live, pods) -> None:
    """References in socket storage to a slot that was given away are harmless: nothing is lost, nothing counted twice."""
    client_pod, server_pod = pods
    with listen(server_pod, server_pod.addresses[0], SERVICE_PORT + 2) as server:
        port = server.getsockname()[1]
        client, accepted = connect(client_pod, server)
        seen = {Role.CLIENT: 0, Role.SERVER: 0}
        for _ in range(20):
            client.sendall(bytes(500))
            accepted.recv(1000)
            wait_until(lambda: {row["role"] for row in live.rows(port)} == {Role.CLIENT, Role.SERVER})
            wait_until(lambda: payload_once(live.side(Role.SERVER, port), "rx") == 500)
            records = live.finish(port)
            for role, sent, received in zip(
                records["role"], payload_once(records, "tx"), payload_once(records, "rx"), strict=True
            ):
                seen[Role(role)] += int(sent + received)
        assert seen == {Role.CLIENT: 10_000, Role.SERVER: 10_000}
        client.close()
        accepted.close()


def test_ports_that_are_used_again_are_another_connection(live, pods) -> None:
    """The same addresses and ports twice: two flows at each end, each with its own initial sequence numbers."""
    client_pod, server_pod = pods
    with listen(server_pod, server_pod.addresses[0]) as server:
        port = server.getsockname()[1]
        mine = 0
        for attempt in range(2):
            client = client_pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((client_pod.addresses[0], mine))
            client.connect(server.getsockname())
            mine = client.getsockname()[1]
            accepted, _ = server.accept()
            client.sendall(bytes(10 * (attempt + 1)))
            # Reset: no TIME-WAIT keeps the port.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            assert accepted.recv(100)
            client.close()
            accepted.close()
    records = live.finish(port)
    assert sorted(zip(records["role"].tolist(), records["tx_payload_bytes"].tolist(), strict=True)) == [
        (Role.CLIENT, 10), (Role.CLIENT, 20), (Role.SERVER, 0), (Role.SERVER, 0),
    ]  # fmt: skip
    assert set(records["outcome"].tolist()) == {Outcome.RESET}
    assert len(set(records["flow_id"].tolist())) == 4
    assert live.tap.used_slots == np.count_nonzero(slots_of(live.tap)["state"] != State.FREE)


def test_both_ends_of_a_translated_connection_see_its_sequence_numbers(live, pods) -> None:
    """Through a ClusterIP, as kube-proxy's DNAT makes it, the two ends see other addresses and the same sequence numbers."""
    client_pod, server_pod = pods
    node = server_pod.namespace.name.replace("-server", "-node")
    with listen(server_pod, server_pod.addresses[0]) as server:
        port = server.getsockname()[1]
        rule = ["-d", "10.96.0.10", "-p", "tcp", "--dport", "80", "-j", "DNAT", "--to", f"{server_pod.addresses[0]}:{port}"]
        nat = ["ip", "netns", "exec", node, "iptables", "-t", "nat", "-A", "PREROUTING", *rule]
        if subprocess.run(nat, check=False, capture_output=True).returncode:
            pytest.skip("this kernel has no iptables nat")
        # Between pods of one bridge the answers would not pass the node; with SNAT they do, as kube-proxy masquerades.
        snat = ["POSTROUTING", "-d", server_pod.addresses[0], "-p", "tcp", "--dport", str(port), "-j", "MASQUERADE"]
        subprocess.run(["ip", "netns", "exec", node, "iptables", "-t", "nat", "-A", *snat], check=True)
        client = client_pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(WAIT_SECONDS)
        client.connect(("10.96.0.10", 80))
        accepted, _ = server.accept()
        converse(client, accepted, b"q" * 10, b"r" * 20)
    wait_until(lambda: live.side(Role.SERVER, port)["outcome"] == Outcome.CLOSED)
    mine = live.side(Role.CLIENT, 80)
    theirs = live.side(Role.SERVER, port)
    assert mine["tx_initial_sequence"] == theirs["rx_initial_sequence"] != 0
    assert mine["rx_initial_sequence"] == theirs["tx_initial_sequence"] != 0
    assert mine["tx_bytes"] == theirs["rx_bytes"]
    assert mine["remote_address"] != theirs["local_address"]


def test_a_killed_capture_leaves_nothing_attached(tmp_path: Path) -> None:
    """After kill -9 the kernel has none of its programs."""
    script = (
        "import sys, time\nfrom services.capture.live.tap.socket_tap import SocketTap\n"
        "from tests.support.node.bpf_info import program_id\n"
        "with SocketTap(capacity=1024) as tap:\n"
        "    print(*(program_id(fd) for fd in tap.loaded.programs.values()), flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        programs = [int(number) for number in child.stdout.readline().split()]
        assert len(programs) >= 3
        assert all(bpf_info.program_exists(program) for program in programs)
        child.kill()
    wait_until(lambda: not any(bpf_info.program_exists(program) for program in programs))


def test_ten_thousand_short_connections_are_each_reported_once_per_side(live, pods) -> None:
    """Every one of 10,000 connections gives one record at its client's and one at its server's side."""
    client_pod, server_pod = pods
    count = 10_000
    with listen(server_pod, server_pod.addresses[0]) as server:
        to = server.getsockname()
        port = to[1]
        with client_pod.namespace.entered():
            for _ in range(count):
                client = socket.socket()
                client.connect(to)
                accepted, _ = server.accept()
                client.send(b"?")
                accepted.recv(9)
                client.close()
                accepted.close()
    wait_until(lambda: np.all(live.rows(port)["closed_by"] != 0))
    records = live.finish(port)
    for role, way in ((Role.CLIENT, "tx"), (Role.SERVER, "rx")):
        mine = records["role"] == role
        assert np.count_nonzero(mine) == count
        assert payload_once(records, way)[mine].sum() == count
    pairs = records["local_isn"].astype(np.uint64) << np.uint64(32) | records["remote_isn"]
    swapped = records["remote_isn"].astype(np.uint64) << np.uint64(32) | records["local_isn"]
    client = records["role"] == Role.CLIENT
    assert set(pairs[client].tolist()) == set(swapped[~client].tolist())
    assert len(set(records["flow_id"].tolist())) == 2 * count


def test_a_table_that_is_too_small_adds_up(pods) -> None:
    """1,000 slots under 5,000 flows: what is in flows and what is unattributed are together every packet and byte."""
    client_pod, server_pod = pods
    with server_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, contextlib.ExitStack() as stack:
        server.bind((server_pod.addresses[0], 0))
        server.settimeout(WAIT_SECONDS)
        port = server.getsockname()[1]
        with SocketTap(capacity=1000, rules=TapRules(allow_ports=(port,))) as tap:
            live = Live(tap)
            packets = size = 0
            for first in range(0, 5000, 500):
                with client_pod.namespace.entered(), contextlib.ExitStack() as batch:
                    for number in range(first, first + 500):
                        client = batch.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                        for _ in range(3):
                            client.sendto(bytes(number % 97), server.getsockname())
                            server.recv(100)
                        packets += 3
                        size += 3 * (number % 97 + IP + UDP)
            counted = slots_of(tap)
            tap.detach()
            attributed = {name: int(counted[f"tx_{name}"].sum() + counted[f"rx_{name}"].sum()) for name in ("packets", "bytes")}
            counters = tap.counters
            assert 0 < counters["unattributed_udp_packets"] < 2 * packets
            assert attributed["packets"] + counters["unattributed_udp_packets"] == 2 * packets
            assert attributed["bytes"] + counters["unattributed_udp_bytes"] == 2 * size
            assert tap.used_slots == 1000
            assert live.finish(port)["tx_bytes"].sum() <= size
            assert tap.used_slots == 0
        stack.close()


RACE = """
import os, mmap, socket, struct, sys
count, first_port = 1500, 12000
shared = mmap.mmap(-1, 4096)
def meet(me, at, number):
    struct.pack_into("I", shared, at + 64 * me, number)
    while struct.unpack_from("I", shared, at + 64 - 64 * me)[0] < number:
        pass
def side(me):
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[me]})
    for number in range(1, count + 1):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.settimeout(10)
            own.bind((f"127.9.9.{2 + me}", first_port + number))
            meet(me, 0, number)
            own.sendto(b"x", (f"127.9.9.{3 - me}", first_port + number))
            own.recv(10)
        meet(me, 128, number)
other = os.fork()
side(0 if other else 1)
sys.exit(os.waitpid(other, 0)[1] if other else 0)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_two_processors_that_begin_one_flow_at_once_make_one() -> None:
    """A socket sends its first datagram while its first one arrives: one flow holds both, and no slot is lost."""
    with SocketTap(capacity=8192, rules=TapRules(loopback=True, allow_networks=("127.9.9.0/24",))) as tap:
        subprocess.run([sys.executable, "-c", RACE], check=True, timeout=300)
        live = Live(tap)
        rows = slots_of(tap)
        rows = rows[rows["state"] == State.LIVE]
        assert len(rows) == tap.used_slots == 3000
        assert (rows["tx_packets"] == 1).all()
        assert (rows["rx_packets"] == 1).all()
        live.finish(0)
        assert tap.used_slots == 0
        assert len(keys(tap)) == 0


def test_no_key_outlives_its_flow(pods) -> None:
    """Ports that are used again while the table is full, too: once all flows are reported the index is empty."""
    client_pod, server_pod = pods
    with listen(server_pod, server_pod.addresses[0]) as server:
        port = server.getsockname()[1]
        with SocketTap(capacity=2, rules=TapRules(allow_ports=(port,))) as tap:
            live = Live(tap)
            mine = 0
            for _ in range(2):
                client = client_pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind((client_pod.addresses[0], mine))
                client.connect(server.getsockname())
                mine = client.getsockname()[1]
                accepted, _ = server.accept()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
                accepted.close()
            assert len(live.rows(port)) == 0  # both retired by the second connection, which found no slot
            assert tap.counters["unattributed_tcp_packets"] > 0
            assert len(keys(tap)) == 2
            assert len(live.finish(port)["record"]) == 2
            assert len(keys(tap)) == 0
            assert tap.used_slots == 0


def keys(tap: SocketTap):
    """Return the keys in the tap's index."""
    return bpf_info.keys_of_map(tap.loaded.maps["flows_by_key"], FLOW_KEY)


@pytest.mark.parametrize("switches", [{Switch.ALLOW_NETWORKS}, {Switch.ALLOW_PORTS}, {*Switch} - {Switch.MEETING}, {*Switch}])
def test_every_set_of_switches_loads(switches) -> None:
    """Each rule that no other test has, and all there is at once: a program has a stack of 512 bytes."""
    loaded = load_tap(TapConstants(64, frozenset(switches)))
    assert not loaded.refused
    assert loaded.program_descriptions["tap_ingress"].verified_instructions < bpf_info.VERIFIER_BOUND
    loaded.close()


def test_what_is_not_asked_for_is_no_part_of_the_programs(live) -> None:
    """The kernel holds less of them the less they are to do: what a switch leaves out is gone, not passed over."""
    most = load_tap(TapConstants(64, frozenset(Switch)))
    least = load_tap(TapConstants(64))
    for name in ("tap_ingress", "tap_egress"):
        sizes = [loaded.program_descriptions[name].instructions for loaded in (least, live.tap.loaded, most)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1] - 1000
    most.close()
    least.close()


def test_rules_leave_flows_out_and_count_them(pods) -> None:
    """Networks, ports, transports and loopback: none of them is in a flow, all are counted."""
    client_pod, server_pod = pods
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        for server in servers:
            server.bind((server_pod.addresses[0], 0))
            server.settimeout(WAIT_SECONDS)
        denied, kept = (server.getsockname() for server in servers)
        rules = TapRules(deny_ports=(denied[1],), deny_networks=("10.42.0.12/32", "2001:db8::/32"), transports=(6, 17))
        tap = stack.enter_context(SocketTap(capacity=64, rules=rules, datagrams=DatagramRules(rest_seconds=0)))
        live = Live(tap)
        client = stack.enter_context(client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for to in (denied, kept):
            client.sendto(b"x", to)
        for server in servers:
            server.recv(9)
        assert [len(live.rows(to[1])) for to in (denied, kept)] == [0, 1]  # the client's side: remote is no .12
        assert live.rows(kept[1])[0]["role"] == Role.CLIENT
        assert tap.counters["excluded_packets"] == 0
        assert tap.counters["filtered_packets"] >= 3
        before = tap.counters["loopback_packets"]
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
            assert len(live.rows(listener.getsockname()[1])) == 0
        assert tap.counters["loopback_packets"] > before


def test_what_cannot_be_compiled_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bcc, a program that is none, no Python: one reason each, and what to do; and nothing is left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("bpf.PROGRAMS", tmp_path / "none.bpf")
    with pytest.raises(TapLoadError) as without_bcc:
        load_tap(TapConstants(64), python=Path(sys.executable))
    assert without_bcc.value.reason == "bcc_missing"
    assert without_bcc.value.advice == "apt-get install python3-bpfcc"
    with pytest.raises(TapLoadError) as no_python:
        load_tap(TapConstants(64), python=tmp_path / "python")
    assert no_python.value.reason == "no_system_python"
    assert not list((tmp_path / "cache" / "wirespan").glob("*.bpf*"))
    broken = tmp_path / "broken.c"
    broken.write_text("int nothing(\n")
    with pytest.raises(ProgramsError) as not_c:
        building.compile_source(broken, tmp_path / "broken.bpf")
    assert not_c.value.reason == "compile_failed"
    assert "error:" in not_c.value.detail


def test_programs_that_the_kernel_refuses_are_compiled_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package brings and this kernel does not take is made anew by this machine's bcc, and what it said is kept."""
    first, _, rest = building.path().read_bytes().partition(b"\n")
    head = json.loads(first)
    head["programs"]["tap_nothing"]["instructions"][0] += 8  # without the first of its two, it returns what it does not have
    head["programs"]["tap_nothing"]["instructions"][1] -= 8
    brought = tmp_path / "brought.bpf"
    brought.write_bytes(json.dumps(head).encode() + b"\n" + rest)
    building.compile_here()
    monkeypatch.setattr("bpf.PROGRAMS", brought)
    assert building.find().origin == "package"
    loaded = load_tap(TapConstants(64))
    assert loaded.origin == "cache"
    assert "R0 !read_ok" in loaded.refusal
    loaded.close()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(TapLoadError) as without_bcc:
        load_tap(TapConstants(64), python=tmp_path / "python")
    assert without_bcc.value.reason == "load_failed"


def test_who_may_not_load_is_told() -> None:
    """Without the capabilities: the reason, and which they are."""
    script = (
        "from services.capture.live.tap.loader import TapConstants, TapLoadError, load_tap\n"
        "try:\n    load_tap(TapConstants(64))\nexcept TapLoadError as error:\n    print(error.reason, error.advice)\n"
    )
    building.find()
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    said = subprocess.run([*unprivileged, sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[-1].startswith("not_permitted needs CAP_BPF")


def test_the_verifier_has_room(live) -> None:
    """Each program costs the verifier no more than half of what kernels since 5.2 allow (1,000,000 instructions)."""
    for program in live.tap.loaded.program_descriptions.values():
        assert program.verified_instructions < bpf_info.VERIFIER_BOUND


def _own_cgroup() -> str:
    (line,) = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    return line.removeprefix("0::/")
