"""The bundled capture and cluster snapshot are what tests/data says they are, and the engine sees in them what was done."""

from __future__ import annotations

import ipaddress
import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from proto.columns import End, Outcome, Reason, Role, RoleSource
from proto.rows import TRANSPORTS, address_text
from tests.data.cluster import BLACKHOLE, CAPTURED_AT_UNIX_NS, EXTERNAL_CLIENT, NODES, PODS, SERVICES
from tests.data.kubernetes_objects import kubernetes_list
from tests.data.scenario import CONVERSATIONS, Conversation, conversation_table
from tests.support.documents.generated_docs import with_section
from tests.support.packets.replayed import Replayed, replay_files

DATA: Final = Path(__file__).parents[1] / "data"
CAPTURE: Final = DATA / "cluster.pcapng"
LOSSY_PORTS: Final = {40024, 40025}
UNANSWERED_PORT: Final = 40021
_PORTED: Final = [found for found in CONVERSATIONS if found.local[1]]


def test_files_stay_small() -> None:
    """What every clone carries is less than a megabyte, and no more than 25 s of traffic."""
    assert CAPTURE.stat().st_size < 512 * 1024
    assert (DATA / "cluster.json").stat().st_size < 256 * 1024
    times = [time for time, _ in packets()]
    assert min(times) == CAPTURED_AT_UNIX_NS
    assert max(times) - min(times) < 25_000_000_000


def test_cluster_json_is_generated() -> None:
    """cluster.json is what its generator says (`python -m tests.data.make_capture --texts-only`), as kubectl prints it."""
    assert (DATA / "cluster.json").read_text() == json.dumps(kubernetes_list(), indent=4, sort_keys=True) + "\n"


def test_readme_lists_the_conversations() -> None:
    """The table in the README is made from the conversations themselves."""
    readme = (DATA / "README.md").read_text()
    assert readme == with_section(readme, "conversations", conversation_table())


def test_every_address_of_the_cluster_is_in_the_snapshot() -> None:
    """Pods, services and nodes of the capture are objects of cluster.json; other addresses are known outsiders."""
    snapshot = set(addresses_of(json.loads((DATA / "cluster.json").read_text())["items"]))
    assert {address for pod in PODS for address in (pod.address, pod.address6)} <= snapshot
    assert {service.address for service in SERVICES if service.address} <= snapshot
    seen = {address for _, data in packets() for address in ends(data)}
    outsiders = {EXTERNAL_CLIENT, BLACKHOLE, NODES[0].bridge}
    assert {address for address in seen if not ipaddress.ip_address(address).is_multicast} - snapshot == outsiders


@pytest.fixture(scope="module")
def replayed() -> Replayed:
    """The records of the capture, one per conversation: it is shorter than any timeout."""
    return replay_files([CAPTURE])


def test_capture_holds_the_conversations_and_no_others(replayed: Replayed) -> None:
    """Every TCP and UDP flow is a conversation, every conversation is one flow, seen once."""
    flows = sorted(key for record in replayed.records if (key := key_of(record))[0] in {"tcp", "udp"})
    assert flows == sorted((found.transport, *found.local, *found.remote) for found in _PORTED)


@pytest.mark.parametrize("conversation", _PORTED, ids=lambda found: f"{found.transport}-{found.local[1]}")
def test_engine_sees_what_was_done(replayed: Replayed, conversation: Conversation) -> None:
    """Outcome, who ended it, responses, the longest wait and SYN repeats are those of the conversation."""
    (record,) = [
        record
        for record in replayed.records
        if key_of(record) == (conversation.transport, *conversation.local, *conversation.remote)
    ]
    ended_by = {"none": End.NONE, "client": End.LOCAL, "server": End.REMOTE}[conversation.closed_by]
    assert (record["outcome"], record["closed_by"]) == (Outcome[conversation.outcome.upper()], ended_by)
    # A datagram between ports that are no service's may have others before the capture.
    unknown = conversation.transport == "udp" and conversation.remote[1] != 53
    assert record["role"] == (Role.UNKNOWN if unknown else Role.CLIENT)
    if conversation.transport == "tcp":
        assert record["role_source"] == (RoleSource.CONTENT if conversation.joined_late else RoleSource.HANDSHAKE)
    assert record["responses"] == conversation.responses
    assert record["response_time_max_ns"] >= conversation.slowest_response_seconds * 1e9
    assert record["syn_repeats"] == conversation.syn_repeats
    retransmits = record["tx_retransmits"] + record["rx_retransmits"] - record["syn_repeats"]
    assert (retransmits > 0) == (conversation.local[1] in LOSSY_PORTS)
    ended = conversation.outcome in {"closed", "reset", "refused"}
    early = Reason.END_OF_FLOW if ended else Reason.ACTIVE_TIMEOUT if conversation.transport == "udp" else Reason.SHUTDOWN
    assert record["reason"] in {early, Reason.SHUTDOWN}


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_reads_the_capture() -> None:
    """Another analyser finds no malformed packet and no wrong checksum, and repeats only where packets were dropped."""
    bad = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0"
    assert tshark("-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-Y", f"({bad}) && !icmp") == []
    repeated = tshark("-Y", "tcp.analysis.retransmission", "-T", "fields", "-e", "tcp.port")
    ports = {int(port) for line in repeated for port in line.split(",")}
    assert {port for port in ports if port >= 40_000} == LOSSY_PORTS | {UNANSWERED_PORT}


def tshark(*options: str) -> list[str]:
    """The lines tshark prints for the capture."""
    done = subprocess.run(["tshark", "-r", CAPTURE, *options], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def key_of(record: dict[str, Any]) -> tuple[Any, ...]:
    """A record's flow as a conversation is written down."""
    local, remote = address_text(record["local_address"]), address_text(record["remote_address"])
    return TRANSPORTS[record["transport"]], local, record["local_port"], remote, record["remote_port"]


def packets() -> Iterator[tuple[int, bytes]]:
    """The packets of the capture: Unix nanoseconds and first bytes. Reads no pcapng file but this one."""
    data, offset = CAPTURE.read_bytes(), 0
    while offset < len(data):
        kind, length = struct.unpack_from("<II", data, offset)
        if kind == 6:
            high, low, captured = struct.unpack_from("<III", data, offset + 12)
            yield (high << 32) + low, data[offset + 28 : offset + 28 + captured]
        offset += length


def ends(frame: bytes) -> list[str]:
    """The IP addresses of an Ethernet frame; none where it is no IP."""
    if frame[12:14] == b"\x08\x00":
        return [str(ipaddress.IPv4Address(frame[start : start + 4])) for start in (26, 30)]
    if frame[12:14] == b"\x86\xdd":
        return [str(ipaddress.IPv6Address(frame[start : start + 16])) for start in (22, 38)]
    return []


def addresses_of(tree: Any) -> Iterator[str]:
    """Every string in an object that is an IP address."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from addresses_of(branch)
    elif isinstance(tree, str):
        try:
            yield str(ipaddress.ip_address(tree))
        except ValueError:
            return
