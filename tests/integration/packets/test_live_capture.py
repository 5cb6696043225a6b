"""Live capture against a real nats-server: what sockets on this machine do is in the stream, each byte once."""

import asyncio
import socket
import subprocess
import sys
import time
from typing import Self

import numpy as np
import pytest
import structlog

from proto.columns import Observer, Outcome, Reason, Role
from proto.flow_batch import FlowBatch, decode
from services.capture.flows.timing import FlowTableSettings
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.tap.socket_tap import TapRules
from services.capture.live.worker import LivePublisher
from services.capture.progress import Progress
from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.node.live_capture import reason_to_skip
from tests.support.packets.talks.http2_talk import END_HEADERS, END_STREAM, HEADERS, HELLO, WELCOME, Coder, frame

pytestmark = pytest.mark.xdist_group("socket_tap")


_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)


async def stored(bus) -> list[FlowBatch]:
    """Every batch in the stream."""
    return [decode(message.data) async for message in bus.peek("FLOWS_RAW")]


def of_ports(batches: list[FlowBatch], *ports: int) -> dict[str, np.ndarray]:
    """The records of flows with these ports, all batches together: one alone may be somebody else's too."""
    names = (
        "role", "record", "outcome", "observer", "tx_payload_bytes", "rx_payload_bytes", "flow_start_unix_ns",
        "start_unix_ns", "end_unix_ns", "smoothed_rtt_ns", "flow_id", "local_container", "tx_retransmit_bytes",
        "rx_retransmit_bytes",
    )  # fmt: skip
    columns = {name: np.concatenate([batch.column(name) for batch in batches]) for name in names}
    ends = [np.concatenate([batch.column(name) for batch in batches]) for name in ("local_port", "remote_port")]
    mine = np.all([(ends[0] == port) | (ends[1] == port) for port in ports], axis=0)
    found = {name: column[mine] for name, column in columns.items()}
    for way in ("tx", "rx"):  # a busy machine sends again what was not lost
        found[f"{way}_payload_bytes"] = found[f"{way}_payload_bytes"] - found[f"{way}_retransmit_bytes"]
    return found


async def until(condition) -> None:
    """Return once the condition holds."""
    while not await condition():  # noqa: ASYNC110 - a stream tells nobody that it has grown
        await asyncio.sleep(0.02)


def talk(reader: LiveReader, ends: tuple[socket.socket, socket.socket], count: int) -> None:
    """Make so many calls of HTTP/2 as fast as capture can read what is told of them."""
    client, server = ends
    coder = Coder()
    for sender, receiver, greeting in ((client, server, HELLO), (server, client, WELCOME)):
        sender.sendall(greeting)
        receiver.recv(len(greeting), socket.MSG_WAITALL)
    for number in range(count):
        while reader.frames_wait:
            time.sleep(0.01)
        for sender, receiver, block in ((client, server, coder.asks(number)), (server, client, coder.answers())):
            said = frame(HEADERS, 2 * number + 1, block, END_HEADERS | END_STREAM)
            sender.sendall(said)
            receiver.recv(len(said), socket.MSG_WAITALL)


PEERS = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
print(server.getsockname()[1], client.getsockname()[1], flush=True)
for _ in sys.stdin:
    client.sendall(bytes(100))
    accepted.recv(1000)
    print("sent", flush=True)
client.close()
accepted.close()
print("closed", flush=True)
sys.stdin.read()
"""


class Peers:
    """Both ends of a connection, in a process that is not capture's: that one's own connections are left out."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PEERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.ports = [int(port) for port in self._process.stdout.readline().split()]
        self.sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def send(self) -> None:
        """Send 100 bytes from the client to the server, and have them read."""
        self._process.stdin.write("send\n")
        assert self._process.stdout.readline() == "sent\n"
        self.sent += 100

    def close(self) -> None:
        """Close both ends and end the process."""
        if self._process.poll() is None:
            self._process.communicate()


def options() -> LiveOptions:
    """A small table that looks at loopback too, ten times a second."""
    return LiveOptions(capacity=4096, drain_interval_seconds=0.1, rules=TapRules(loopback=True))


async def test_connections_of_this_machine_are_published_once(nats_server) -> None:
    """A long connection gives records as it lives and one at the end; their payload adds up; capture's own are not there."""
    table = FlowTableSettings(active_interval_seconds=0.2, linger_seconds=0.2)
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.ensure_streams()
        with LiveReader(node="here", epoch="e", options=options(), table=table) as reader, Peers() as peers:
            progress = Progress()
            publisher = LivePublisher(reader, bus, "flows.raw.here", progress)
            stopping = asyncio.Event()
            running = asyncio.create_task(publisher.run(0.1, stopping))

            async def another_record() -> bool:
                peers.send()
                return len(await stored(bus)) > 0 and of_ports(await stored(bus), *peers.ports)["record"].max(initial=0) >= 2

            await until(another_record)
            peers.close()

            async def ended() -> bool:
                return np.count_nonzero(of_ports(await stored(bus), *peers.ports)["outcome"] == Outcome.CLOSED) >= 2

            await until(ended)
            stopping.set()
            await running
            batches = await stored(bus)
    records = of_ports(batches, *peers.ports)
    client_side = records["role"] == Role.CLIENT
    assert records["tx_payload_bytes"][client_side].sum() == records["rx_payload_bytes"][~client_side].sum() == peers.sent
    assert set(records["observer"].tolist()) == {Observer.SOCKET}
    for flow in set(records["flow_id"].tolist()):
        mine = records["flow_id"] == flow
        assert sorted(records["record"][mine].tolist()) == list(range(np.count_nonzero(mine)))
        assert len(set(records["flow_start_unix_ns"][mine].tolist())) == 1
    assert (records["end_unix_ns"] >= records["start_unix_ns"]).all()
    assert records["smoothed_rtt_ns"].min() > 0
    with_the_last = [batch for batch in batches if len(of_ports([batch], *peers.ports)["record"])][-1]
    assert with_the_last.containers[int(records["local_container"][-1])]["cgroup"]
    assert len(of_ports(batches, nats_server.port)["record"]) == 0
    assert batches[-1].counters["unattributed_tcp_packets"] == 0
    assert batches[-1].counters["excluded_packets"] > 0
    assert progress.records == sum(batch.count for batch in batches)
    assert progress.packets == sum(number for name, number in progress.counters.items() if name.endswith("_packets"))


async def test_what_is_told_of_frames_is_read_between_looks(nats_server) -> None:
    """A look that is far away loses no call, though more is told of them than there is room for."""
    count = 20_000
    seen = LiveOptions(capacity=4096, rules=TapRules(loopback=True), trace_context=True)
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.ensure_streams()
        with (
            LiveReader(node="here", epoch="e", options=seen, leave_out_own=False) as reader,
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as client,
            listener.accept()[0] as server,
        ):
            publisher = LivePublisher(reader, bus, "flows.raw.here", Progress())
            stopping = asyncio.Event()
            running = asyncio.create_task(publisher.run(3600, stopping))
            await asyncio.to_thread(talk, reader, (client, server), count)
            ports = {client.getsockname()[1], server.getsockname()[1]}
            stopping.set()
            await running
            batches = await stored(bus)
    told = 0
    for batch in batches:
        ours = np.isin(batch.column("local_port"), list(ports)) & np.isin(batch.column("remote_port"), list(ports))
        told += np.count_nonzero(ours & (batch.column("reason") == Reason.EXCHANGE))
    assert told == 2 * count


async def test_what_a_full_stream_refuses_merges(nats_server) -> None:
    """While the stream is full nothing is lost: the flows' next records hold what was refused. The log says it once, and when
    the stream takes something again.
    """
    table = FlowTableSettings(active_interval_seconds=0.05, linger_seconds=0.1)
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.ensure_streams(StreamSettings(raw_bytes=1))
        with LiveReader(node="here", epoch="e", options=options(), table=table) as reader, Peers() as peers:
            progress = Progress()
            publisher = LivePublisher(reader, bus, "flows.raw.here", progress)
            stopping = asyncio.Event()
            running = asyncio.create_task(publisher.run(0.05, stopping))

            async def refused() -> bool:
                peers.send()
                return reader.refused_batches >= 3

            with structlog.testing.capture_logs() as logged:
                await until(refused)
                assert progress.records == 0
                await bus.ensure_streams()
                peers.close()
                stopping.set()
                await running
            records = of_ports(await stored(bus), *peers.ports)
    client_side = records["role"] == Role.CLIENT
    assert records["tx_payload_bytes"][client_side].sum() == peers.sent
    assert records["rx_payload_bytes"][~client_side].sum() == peers.sent
    assert records["record"].tolist().count(0) == 2
    assert reader.merged_records > 0
    said = [line["event"] for line in logged if line["event"].startswith("batches.")]
    assert said == ["batches.refused", "batches.taken_again"]


async def test_all_that_is_due_goes_out_at_once(nats_server) -> None:
    """Many more records than may be on their way together: none of them waits for the next tick, which never comes here."""
    table = FlowTableSettings(active_interval_seconds=0)  # all there is
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.77.0.2", 0))
        rules = TapRules(loopback=True, allow_networks=("127.77.0.0/24",))  # where nobody else is
        async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
            await bus.ensure_streams()
            with LiveReader(node="here", epoch="e", options=LiveOptions(capacity=8192, rules=rules), table=table) as reader:
                for number in range(2000):
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                        sender.bind(("127.77.0.1", 20_000 + number))
                        sender.sendto(b"x", receiver.getsockname())
                        receiver.recv(1)
                progress, stopping = Progress(), asyncio.Event()
                running = asyncio.create_task(LivePublisher(reader, bus, "flows.raw.here", progress).run(3600, stopping))

                async def told() -> bool:
                    return progress.records >= 4000

                await until(told)
                stopping.set()
                await running
    assert progress.flows == 4000
