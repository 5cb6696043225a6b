"""A capture that takes over from another while both see the node: real programs on one cgroup, and a generator that counts."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import pytest

from proto.columns import Reason
from proto.flow_batch import FlowBatch, decode
from services.capture.flows.timing import FlowTableSettings
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.tap.socket_tap import TapRules
from services.exporter.spans.identity import IdMixer, perspective
from tests.support.node.live_capture import reason_to_skip, wait_until

pytestmark = pytest.mark.xdist_group("socket_tap")

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

CLOCK_MONOTONIC_COARSE = 6
"""linux/time.h; the time module does not name it."""

# Both ends of each connection, in a process that is not capture's: its own connections are left out.
GENERATOR = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0), backlog=512)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 0))
print(server.getsockname()[1], datagrams.getsockname()[1], flush=True)
open_ones = {}
for line in sys.stdin:
    what, name = line.split()
    if name not in open_ones:
        kind = socket.SOCK_DGRAM if name.startswith("datagrams") else socket.SOCK_STREAM
        client = socket.socket(socket.AF_INET, kind)
        client.connect((datagrams if kind == socket.SOCK_DGRAM else server).getsockname())
        open_ones[name] = client, datagrams if kind == socket.SOCK_DGRAM else server.accept()[0]
    client, other = open_ones[name]
    port = client.getsockname()[1]
    if what == "ask":
        client.send(bytes(100))
        _, peer = other.recvfrom(1000)
        other.sendto(bytes(10), peer) if other is datagrams else other.send(bytes(10))
        client.recv(1000)
    else:
        client.close()
        if other is not datagrams:
            other.recv(1000)
            other.close()
        del open_ones[name]
    print(port, flush=True)
"""


class Generator:
    """Connections by name, and how often each has asked for an answer: 100 bytes there, 10 back."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.ends: dict[str, tuple[int, int, int]] = {}
        """Of each connection the transport, and the ports of its client and its server: only together its own."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", GENERATOR]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdout is not None
        self._servers = [int(port) for port in self._process.stdout.readline().split()]
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._process.communicate()

    def ask(self, *names: str) -> None:
        """Ask over connections, which are opened where they are not there."""
        for name in names:
            self._say("ask", name)
            self.asked[name] += 1

    def close(self, *names: str) -> None:
        """Close connections at both ends."""
        for name in names:
            self._say("close", name)

    def whole(self, *names: str) -> None:
        """Open, ask and close."""
        self.ask(*names)
        self.close(*names)

    def _say(self, what: str, name: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {name}\n")
        is_tcp = not name.startswith("datagrams")
        transport = socket.IPPROTO_TCP if is_tcp else socket.IPPROTO_UDP
        self.ends[name] = transport, int(self._process.stdout.readline()), self._servers[not is_tcp]


@dataclass
class Told:
    """What a capture has told."""

    reader: LiveReader
    batches: list[FlowBatch] = field(default_factory=list)

    def read(self, final: Reason | None = None) -> None:
        """Tell what is due."""
        for batch in self.reader.read(final):
            self.batches += [decode(each.message) for each in batch.messages]
            self.reader.accept(batch)

    def of(self, ends: tuple[int, int, int]) -> list[tuple[int, int, int]]:
        """Local port, record number and payload that the client sent, of each record of this connection. What a busy machine
        sends again counts once.
        """
        transport, client, server = ends
        found = []
        for batch in self.batches:
            payload = (batch.column(f"{way}_payload_bytes") - batch.column(f"{way}_retransmit_bytes") for way in ("tx", "rx"))
            columns = (*map(batch.column, ("transport", "local_port", "remote_port", "record")), *payload)
            for of, local, remote, record, tx, rx in zip(*(column.tolist() for column in columns), strict=True):
                if of == transport and {local, remote} == {client, server}:
                    found.append((local, record, tx if local == client else rx))
        return found

    def spans(self) -> list[tuple[int, int, int]]:
        """The ids that the records will have."""
        mixer, found = IdMixer("test"), []
        for batch in self.batches:
            ids = mixer.ids(batch, perspective(batch))
            found += zip(ids.trace_id_high.tolist(), ids.trace_id_low.tolist(), ids.span_id.tolist(), strict=True)
        return found


def capture(epoch: str) -> LiveReader:
    """A capture of the test's line, whose connections need not rest long to be over."""
    options = LiveOptions(capacity=4096, rules=TapRules(loopback=True), succession="tests")
    return LiveReader(node="here", epoch=epoch, options=options, table=FlowTableSettings(linger_seconds=0.05))


@pytest.fixture
def generator() -> Iterator[Generator]:
    """A generator."""
    with Generator() as generator:
        yield generator


def told_of(told: Told, generator: Generator, name: str) -> int:
    """How often a connection asked, as both of its ends are told; each end has one record or none."""
    records = told.of(generator.ends[name])
    assert max(Counter(local for local, _, _ in records).values(), default=1) == 1, (name, records)
    (asked,) = {sum(sent for local, _, sent in records if local == port) // 100 for port, _, _ in records} or {0}
    assert len(records) in {0, 2}, (name, records)
    return asked


def until_packets_are_of_now() -> None:
    """Return when the kernel's coarse clock, of which most packets have their times, is past the moment of the call."""
    now_ns = time.monotonic_ns()
    while time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) <= now_ns:
        pass


def test_each_connection_is_told_once(generator) -> None:
    """While two captures see the node, all that the generator did is told once: TCP connections that began when the second was
    there by that one, whole; the rest by the first, and what came when it was gone by the second.
    """
    with capture("old") as first:
        old = Told(first)
        generator.whole("whole-before")
        generator.ask("long", "datagrams-long", "datagrams-before")
        with capture("new") as second:
            new = Told(second)
            until_packets_are_of_now()
            generator.whole(*(f"whole-{number}" for number in range(50)))
            generator.ask("long", "crossing", "datagrams-long", *(f"datagrams-{number}" for number in range(20)))

            def all_over() -> bool:
                old.read()
                new.read()
                return len(new.of(generator.ends["whole-49"])) == 2

            wait_until(all_over)
            old.read(Reason.SHUTDOWN)
            first.tap.close()
            new.read()
            generator.whole("whole-after")
            generator.ask("long", "crossing", "datagrams-long", "datagrams-after")
            generator.close("long", "crossing")
            new.read(Reason.SHUTDOWN)
    by_both = {name: (told_of(old, generator, name), told_of(new, generator, name)) for name in generator.ends}
    assert by_both == {
        "whole-before": (1, 0),
        "long": (2, 1),
        "datagrams-long": (2, 1),
        "datagrams-before": (1, 0),
        **{f"whole-{number}": (0, 1) for number in range(50)},
        "crossing": (0, 2),
        **{f"datagrams-{number}": (1, 0) for number in range(20)},
        "whole-after": (0, 1),
        "datagrams-after": (0, 1),
    }
    spans = old.spans() + new.spans()
    assert len(set(spans)) == len(spans)


def test_a_first_one_that_is_killed_leaves_the_rest_to_the_second(generator) -> None:
    """Without a farewell, the second one goes on with what was open as soon as the kernel has taken the other's place."""
    with capture("old") as first, capture("new") as second:
        new = Told(second)
        generator.ask("datagrams")
        new.read()
        first.__exit__()
        new.read()
        generator.ask("datagrams")
        new.read(Reason.SHUTDOWN)
    assert told_of(new, generator, "datagrams") == 1


def test_a_second_one_that_is_gone_again_leaves_everything_to_the_first(generator) -> None:
    """What begins after it was gone is told by the one that is there."""
    with capture("old") as first:
        old = Told(first)
        with capture("new"):
            old.read()
        generator.whole("whole")
        old.read(Reason.SHUTDOWN)
    assert told_of(old, generator, "whole") == 1
