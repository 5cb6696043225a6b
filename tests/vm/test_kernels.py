"""The socket tap on Debian's kernels in virtual machines: it loads, attaches, and counts what the kernel and the sender count.

The numbers of every kernel are decided here, outside; what is done in a guest is in tests/support/vm/inside/scenes.py.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from proto.columns import ExchangeEnd, Outcome, Role
from services.capture.live.tap.loader import REQUIRED_PROGRAMS
from services.cli.doctor.kernel import MEMORY_CGROUP_ACCOUNTING
from tests.support.node.bpf_info import VERIFIER_BOUND
from tests.support.vm.flags import ATTACHED, LEAST, SETS, constants
from tests.support.vm.guest import Guest
from tests.support.vm.inside.scenes import TRACE_ID, http_request
from tests.support.vm.kernels import KernelFiles
from tests.support.vm.told import Told

pytestmark = pytest.mark.timeout(900)

IP, TCP, UDP = (20, 40), 32, 8
"""Header bytes: IPv4 and IPv6, TCP with timestamps, UDP."""
SYN_OPTIONS = 8
"""What a SYN's header has more than others': 40 bytes of TCP."""
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
SHOWS_IPV6_SYN_ACKS = (6, 6)
"""Since this kernel (commit 223f5f79f2ce) programs at the cgroup's egress see what a request socket sends over IPv6."""
TCP_SYN = 2
DEFAULT_LIMIT = 64 * 1024
"""RLIMIT_MEMLOCK as Linux before 5.16 sets it."""


def sides(records: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The client's and the server's record: one each."""
    by_role = {record["role"]: record for record in records}
    assert len(records) == len(by_role) == 2
    return by_role[Role.CLIENT], by_role[Role.SERVER]


def test_it_is_the_kernel_it_should_be(guest: Guest, files: KernelFiles) -> None:
    """The guest runs the kernel under test, whose tick is what its configuration says."""
    about = guest.call("about")
    assert about["release"] == files.release
    assert about["tick_ns"] == files.tick_ns


def test_every_set_of_flags_loads(guest: Guest, told: Told) -> None:
    """Both programs, and those of exchanges where they are asked for, pass the verifier well within its bound."""
    for name in SETS:
        if name == LEAST:  # test_it_attaches_under_the_default_limit_of_locked_memory
            continue
        verified = guest.call("attached") if name == ATTACHED else guest.call("load", flags=name)
        told.walked[name] = verified["walked"]
        refused = "".join(f"\n{program}: {words}" for program, words in verified["refused"].items())
        assert not refused, f"{name}:{refused}"
        assert verified["walked"].keys() == {*REQUIRED_PROGRAMS, *constants(name).optional_programs()}, name
        assert verified["origin"] == "package", name
        assert max(verified["walked"].values()) < VERIFIER_BOUND, name


def test_the_doctor_finds_it_loads(guest: Guest) -> None:
    """What `wirespan doctor` loads, loads: programs that use what the tap uses."""
    assert guest.call("doctor")["status"] == "ok"


def test_it_attaches_under_the_default_limit_of_locked_memory(guest: Guest, files: KernelFiles, told: Told) -> None:
    """With the limit of locked memory that Linux 5.10 gives root the doctor finds nothing wrong, and there is nothing."""
    # Where the limit counts, root may raise it; where it does not, nobody needs to.
    tried = guest.call("attach", locked_memory_bytes=DEFAULT_LIMIT, may_raise=files.version < MEMORY_CGROUP_ACCOUNTING)
    assert (tried["doctor"], tried["error"]) == ("ok", ""), tried
    told.walked[LEAST] = tried["walked"]
    assert tried["walked"].keys() == {*REQUIRED_PROGRAMS, *constants(LEAST).optional_programs()}
    assert max(tried["walked"].values()) < VERIFIER_BOUND


def test_who_may_not_lock_memory_is_told(guest: Guest, files: KernelFiles) -> None:
    """Where the limit counts and may not be raised, the doctor says so beforehand, and the loader in the same words."""
    if files.version >= MEMORY_CGROUP_ACCOUNTING:
        pytest.skip("maps are no locked memory since Linux 5.11")
    tried = guest.call("attach", locked_memory_bytes=DEFAULT_LIMIT, may_raise=False)
    assert tried["doctor"] == "fail"
    assert tried["error"].startswith("TapLoadError: locked memory limit")
    assert "CAP_SYS_RESOURCE" in tried["error"]


@FAMILIES
def test_a_connection_counts_to_the_byte(guest: Guest, files: KernelFiles, family: int) -> None:
    """Both ends count the same, and what the kernel counts in each pod: segments, and over IPv4 bytes.

    Over IPv6 old kernels do not show the SYN-ACK where it is sent: the server's end is short of it, and of nothing else.
    """
    requests, request_bytes, response_bytes = 20, 100, 2500
    told = guest.call("tcp", family=family, requests=requests, request_bytes=request_bytes, response_bytes=response_bytes)
    client, server = sides(told["records"])
    payload = (requests * request_bytes, requests * response_bytes)
    unseen = bool(family) and files.version < SHOWS_IPV6_SYN_ACKS
    if unseen:
        assert (server["syn_ack_unix_ns"], server["tx_tcp_flags"] & TCP_SYN) == (0, 0)
        server["tx_packets"] += 1
        server["tx_bytes"] += IP[family] + TCP + SYN_OPTIONS
    for end, kernel, (sent, received) in ((client, "client", payload), (server, "server", payload[::-1])):
        counts = told[kernel]
        assert bool(end["syn_ack_unix_ns"]) != (unseen and end is server)
        assert (end["tx_packets"], end["rx_packets"]) == (counts["Tcp.OutSegs"], counts["Tcp.InSegs"])
        assert (end["tx_payload_bytes"], end["rx_payload_bytes"]) == (sent, received)
        for way, size in (("tx", sent), ("rx", received)):
            assert end[f"{way}_bytes"] == size + (IP[family] + TCP) * end[f"{way}_packets"] + SYN_OPTIONS
        if not family:  # what is received has been cut into segments; what is sent is counted before
            assert end["rx_bytes"] == counts["IpExt.InOctets"]
        assert end["outcome"] == Outcome.CLOSED
        assert end["responses"] == requests
        assert end["smoothed_rtt_ns"] > 0
        assert end["syn_unix_ns"] < end["handshake_ack_unix_ns"]
    assert (client["tx_bytes"], client["rx_bytes"]) == (server["rx_bytes"], server["tx_bytes"])
    assert (client["local_isn"], client["remote_isn"]) == (server["remote_isn"], server["local_isn"])


@FAMILIES
def test_a_refusal_is_one(guest: Guest, family: int) -> None:
    """A connection to a port that nobody listens on is refused, by one RST."""
    (client,) = guest.call("refused", family=family)
    assert (client["role"], client["outcome"]) == (Role.CLIENT, Outcome.REFUSED)
    assert (client["tx_packets"], client["rx_packets"]) == (1, 1)


@FAMILIES
@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
def test_datagrams_count_to_the_byte(guest: Guest, family: int, *, connected: bool) -> None:
    """Both ends count every datagram and byte that was sent and answered, and what the kernel counts in each pod."""
    number = 50
    told = guest.call("udp", family=family, datagrams=number, connected=connected)
    client, server = sides(told["records"])
    total = sum(range(1, number + 1))
    headers = number * (IP[family] + UDP)
    group = "Udp6" if family else "Udp."
    for end, kernel, (sent, received) in ((client, "client", (total, 2 * total)), (server, "server", (2 * total, total))):
        counts = told[kernel]
        assert end["tx_packets"] == counts[f"{group}OutDatagrams"] == number
        assert end["rx_packets"] == counts[f"{group}InDatagrams"] == number
        assert (end["tx_bytes"], end["rx_bytes"]) == (sent + headers, received + headers)
        if not family:
            assert (end["tx_bytes"], end["rx_bytes"]) == (counts["IpExt.OutOctets"], counts["IpExt.InOctets"])
        assert end["responses"] == number


@pytest.mark.parametrize("transport", [6, 17], ids=["tcp", "udp"])
def test_a_client_through_ipvs_asks_the_service(guest: Guest, transport: int) -> None:
    """kube-proxy's third form, in the node's network: the client has one flow, with the Service, and the server's end is whole.

    The kernel shows no program what IPVS sends on: of that nothing is counted, and nothing is taken for a failure.
    """
    told = guest.call("through_ipvs", transport=transport)
    backend, port = told["backend"]
    (server,) = [record for record in told["records"] if record["local_port"] == port]
    (client,) = [record for record in told["records"] if record is not server]
    assert (client["role"], client["remote_address"], client["remote_port"]) == (Role.CLIENT, mapped("10.96.77.1"), 80)
    assert (client["tx_packets"], client["tx_tcp_flags"]) == (0, 0)
    assert client["rx_payload_bytes"] == server["tx_payload_bytes"] > 0
    assert client["outcome"] == (Outcome.ESTABLISHED if transport == 6 else Outcome.UNKNOWN)
    assert server["local_address"] == mapped(backend)
    assert server["rx_payload_bytes"] > 0
    assert server["outcome"] == (Outcome.CLOSED if transport == 6 else Outcome.UNKNOWN)


def mapped(address: str) -> str:
    """An IPv4 address as records have it, in hexadecimal."""
    return (bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(address).packed).hex()


def test_a_socket_is_its_pods(guest: Guest) -> None:
    """The cgroup of a socket, as containerd makes it, is the pod and container that the record names."""
    uid, container = "0f9d2b6c-5a77-4c3e-9f8e-2d1c0b7a6e55", "c0ffee" * 10 + "c0ff"
    pod = f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
    client, server = sides(
        guest.call("identity", cgroup=f"kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-{container}.scope")
    )
    assert (client["owner"]["pod_uid"], client["owner"]["container_id"]) == (uid, container)
    assert client["owner"]["container_runtime"] == "containerd"
    assert "pod_uid" not in server["owner"]


@FAMILIES
def test_a_traced_exchange_is_told_at_both_ends(guest: Guest, family: int) -> None:
    """Of three requests the two sampled ones are exchanges of their trace at either socket, with their bytes and times."""
    told = guest.call("exchange", family=family, sampled=[True, False, True], response_bytes=3000)
    for role in (Role.CLIENT, Role.SERVER):
        rows = [row for row in told if row["role"] == role]
        assert [int(row["parent_span_id"], 16) for row in rows] == [1, 3]
        assert {row["trace_id"] for row in rows} == {TRACE_ID.hex()}
        assert rows[0]["exchange_end"] == ExchangeEnd.NEXT_REQUEST
        assert {row["request_bytes"] for row in rows} == {len(http_request(1, sampled=True))}
        for row in rows:
            times = [row[f"{name}_unix_ns"] for name in ("request_first", "request_last", "response_first", "response_last")]
            assert times == sorted(times)
            assert times[0] > 0
