"""Exchanges of real clients and servers, live, against tshark's reading of what dumpcap captured of the same connections.

The programs see a packet at its socket, dumpcap at the device between both: after the socket that sends it, and before the one
that receives it, however busy the machine is. How far apart they are is printed (`pytest -s`), and is in docs/correlation.md.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proto.columns import ExchangeEnd, HttpMethod, Observer, Role
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from tests.support.calls import talks
from tests.support.calls.dissected import PHASES, Dissection, connections, of_http1, of_http2, of_upgrades
from tests.support.node.live_capture import reason_to_skip, wait_until
from tests.support.node.lossy_path import captured
from tests.support.node.namespaces import Namespace, Network
from tests.support.packets.talks.http2_stacks import STACKS, is_missing

ROOT = Path(__file__).parents[3]
MISSING = [name for name in ("tshark", "dumpcap") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
    pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed"),
]

KINDS = {
    "http2": (["grpcio", "grpcio-goaway", "node", "go", "h2load", "nghttp", "curl"], of_http2, 100),
    "http1": ([talks.HTTP1], of_http1, 100),
    "upgrade": ([talks.UPGRADE], of_upgrades, 3),
}
"""Talks, how they are read, and how many calls there are at least."""
NOT_TOLD = ("requests_unpaired", "pieces_lost_http2", "pieces_frames_missing")
"""What is counted where calls are not told."""
MARK = b"all that was to be captured has passed"


@pytest.fixture(scope="module")
def network() -> Iterator[Namespace]:
    """A network with nothing but its loopback, and nobody else in it."""
    with Network() as network:
        yield network.namespace("alone")


@pytest.fixture(scope="module")
def tap() -> Iterator[SocketTap]:
    """A tap that sees loopback too."""
    with SocketTap(capacity=16_384, trace_context=True, rules=TapRules(loopback=True)) as tap:
        yield tap


@contextmanager
def captured_whole(network: Namespace, path: Path) -> Iterator[None]:
    """What passes the loopback meanwhile, to the last packet."""
    with captured(network, path, interface="lo"):
        yield
        with network.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            with network.socket() as marking:
                marking.connect(listener.getsockname())
                wait_until(lambda: (marking.sendall(MARK), MARK in path.read_bytes())[1])


def clock_ns() -> tuple[int, int]:
    """What is to be added to the programs' clock to have the captures': at least and at most."""
    looks = [(monotonic_ns(), time.time_ns(), monotonic_ns()) for _ in range(1000)]
    before, unix, after = min(looks, key=lambda look: look[2] - look[0])
    return unix - after, unix - before


def told(tap: SocketTap, path: Path) -> dict[Role, list[dict]]:
    """The exchanges of the connections in a capture, by end."""
    opened = connections(path)
    ends: dict[Role, list[dict]] = {Role.CLIENT: [], Role.SERVER: []}
    for emission in ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True):
        for place in range(len(emission)):
            row = {name: column[place] for name, column in emission.columns.items()}
            client, server = ("local", "remote") if row["role"] == Role.CLIENT else ("remote", "local")
            ports = int(row[f"{client}_port"]), int(row[f"{server}_port"])
            if opened.get(ports) == row[f"{client}_isn"]:
                ends[row["role"]].append(row | {"ports": ports})
    return ends


def key_of(row: dict, *, is_stream: bool) -> tuple[tuple[int, int], object]:
    """As dissections have it."""
    if is_stream:
        return row["ports"], int(row["record"]) & 0x7FFFFFFF
    return row["ports"], f"00-{row['trace_id'].tobytes().hex()}-{row['parent_span_id'].tobytes().hex()}-01"


@pytest.mark.parametrize("kind", KINDS)
def test_exchanges_are_tsharks(kind, network, tap, tmp_path):
    """At both ends: of every call that tshark has whole the ids, method and status; each of its times lies between when the
    sender's socket had it and when the receiver's did. No other exchange is told as whole, and one that is not told is counted.
    """
    names, read, least_calls = KINDS[kind]
    if kind == "upgrade" and is_missing("go"):
        pytest.skip("no server in Go")
    names = [name for name in names if name not in STACKS or not is_missing(name)]
    path = tmp_path / "talk.pcapng"
    clocks, before = [clock_ns()], tap.counters
    with captured_whole(network, path):
        command = [sys.executable, "-m", "tests.support.calls.talks", str(tmp_path), *names]
        talk = network.spawn(command, cwd=ROOT, stderr=subprocess.PIPE)
        while talk.returncode is None:
            tap.exchanges.read_frames()  # what others say meanwhile would fill the ring buffer
            with suppress(subprocess.TimeoutExpired):
                said = talk.communicate(timeout=0.1)[1]
        assert talk.returncode == 0, said
    clocks.append(clock_ns())
    is_stream = kind != "http1"
    dissected: Dissection = read(path)
    theirs = {key: each for key, each in dissected.items() if each.is_whole and each.ids}
    ends = {role: {key_of(row, is_stream=is_stream): row for row in rows} for role, rows in told(tap, path).items()}
    assert len(theirs) > least_calls
    for rows in ends.values():
        assert {key for key, row in rows.items() if row["exchange_end"] == ExchangeEnd.STREAM or not is_stream} <= theirs.keys()
    missing = [key for rows in ends.values() for key in theirs.keys() - rows.keys()]
    counters = tap.counters
    assert not missing or any(counters[name] > before[name] for name in NOT_TOLD), (missing, counters)
    theirs = {key: each for key, each in theirs.items() if key not in missing}
    for key, expected in theirs.items():
        for rows in ends.values():
            assert [rows[key][name].tobytes().hex() for name in ("trace_id", "parent_span_id")] == expected.ids, key
            assert HttpMethod(rows[key]["http_method"]).name == expected.method, key
            assert rows[key]["http_status"] == expected.status, key
    least, most = min(low for low, _ in clocks), max(high for _, high in clocks)
    differences: dict[str, list[float]] = {"sender": [], "receiver": []}
    for key, expected in theirs.items():
        client, server = (ends[role][key] for role in (Role.CLIENT, Role.SERVER))
        if any(row[f"{way}_retransmits"] for row in (client, server) for way in ("request", "response")):
            continue  # of a segment that came twice either reader may mean the other one
        for phase in PHASES:
            asks = phase.startswith("request")
            sent, received = (int(row[f"{phase}_unix_ns"]) for row in ((client, server) if asks else (server, client)))
            seen = getattr(expected, phase)
            assert sent + least <= seen <= received + most, (key, phase)
            differences["sender"].append((seen - sent - (least + most) / 2) / 1000)
            differences["receiver"].append((received + (least + most) / 2 - seen) / 1000)
    assert differences["sender"]
    for end, found in differences.items():
        cuts = statistics.quantiles(found, n=100)
        sys.stdout.write(f"{len(theirs)} calls, {len(missing)} not told; us between the device and the {end}'s socket: "
                         f"median {cuts[49]:.1f}, 99 of 100 up to {cuts[98]:.1f}, largest {max(found):.1f}\n")  # fmt: skip
