"""Capture replaced and killed under traffic: its real process over a real bus, and a generator that counts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from proto.flow_batch import decode
from proto.subjects import RAW_STREAM
from services.exporter.spans.identity import IdMixer, perspective
from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings
from tests.support.node.live_capture import reason_to_skip
from tests.support.pipeline.nats_server import NatsServer
from tests.support.ports import free_port

pytestmark = [pytest.mark.xdist_group("socket_tap"), pytest.mark.timeout(600)]  # of busy machines; nothing is timed

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120
SOME = 40
"""Connections by which it is seen that all goes on."""
ASKED, ANSWERED = 100, 10
# One connection after the other, some hundred a second at the most, until told to end.
GENERATOR = f"""
import socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while not sys.stdin.readline().startswith("end"):
        begun = time.monotonic_ns()
        with socket.create_connection(server.getsockname()) as client:
            port = client.getsockname()[1]
            accepted, _ = server.accept()
            client.sendall(bytes({ASKED}))
            accepted.recv(1000)
            accepted.sendall(bytes({ANSWERED}))
            client.recv(1000)
        accepted.recv(1)
        accepted.close()
        print(port, begun, time.monotonic_ns(), flush=True)
"""


class Made(NamedTuple):
    """A connection that the generator has made: its client's port, and from when to when by the monotonic clock."""

    port: int
    begun_ns: int
    ended_ns: int


class Generator:
    """Makes one connection after the other, and knows of each."""

    def __enter__(self) -> Self:
        self.made: list[Made] = []
        command = [sys.executable, "-c", GENERATOR]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.end()
        self._process.communicate()

    def end(self) -> None:
        """Make no more. May be called again."""
        self._ending.set()
        self._thread.join()

    def some_more(self) -> None:
        """Return when there are some connections more that begin after the call."""
        now_ns = time.monotonic_ns()
        until(lambda: sum(each.begun_ns >= now_ns for each in self.made[-2 * SOME :]) >= SOME)

    def _go_on(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        while not self._ending.wait(0.005):
            self._process.stdin.write("more\n")
            self.made.append(Made(*map(int, self._process.stdout.readline().split())))
        self._process.stdin.write("end\n")


class Capture:
    """A capture of the node, of this one port."""

    def __init__(self, nats: NatsServer, port: int, log: Path) -> None:
        self._health = free_port()
        self._log = log
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "NATS_", "WIRESPAN_"))}
        settings = {
            "WIRESPAN_NATS_URL": nats.url,
            "WIRESPAN_HEALTH_PORT": str(self._health),
            "WIRESPAN_CAPTURE_NODE": "here",
            "WIRESPAN_CAPTURE_SUCCESSION": f"restarts-{port}",
            "WIRESPAN_CAPTURE_LOOPBACK": "true",
            "WIRESPAN_CAPTURE_ALLOW_PORTS": str(port),
            "WIRESPAN_CAPTURE_DRAIN_INTERVAL_SECONDS": "0.2",
            "WIRESPAN_CAPTURE_LINGER_SECONDS": "0.05",
        }
        with log.open("ab") as file:
            command = [sys.executable, "-m", "services.capture"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=ours | settings, stdout=file, stderr=file)

    def until_ready(self) -> None:
        """Return when it sees the node, and says so."""

        def ready() -> bool:
            assert self.process.poll() is None, self._log.read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/readyz", timeout=10) as answer:
                    return bool(answer.status == HTTPStatus.OK)
            except OSError:
                return False

        until(ready)


@contextmanager
def capture(nats: NatsServer, generator: Generator, folder: Path) -> Iterator[Capture]:
    """A capture that is ready."""
    running = Capture(nats, generator.port, folder / "capture.log")
    try:
        running.until_ready()
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def until(condition: Callable[[], object]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.05)


def told(nats: NatsServer, server_port: int) -> dict[int, Counter[tuple[str, int, int]]]:
    """Of each connection, by its client's port, what its two ends sent and received, as often as a backend would keep it.

    What a busy machine sends again counts once.
    """

    async def stored() -> list[bytes]:
        async with connect(NatsSettings(url=nats.url), name="test") as bus:
            return [message.data async for message in bus.peek(RAW_STREAM)]

    mixer, spans, found = IdMixer("test"), set(), dict[int, Counter[tuple[str, int, int]]]()
    for batch in map(decode, asyncio.run(stored())):
        ids = mixer.ids(batch, perspective(batch))
        payload = (batch.column(f"{way}_payload_bytes") - batch.column(f"{way}_retransmit_bytes") for way in ("tx", "rx"))
        columns = (batch.column("local_port"), batch.column("remote_port"), *payload)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        keys = zip(ids.trace_id_high.tolist(), ids.trace_id_low.tolist(), ids.span_id.tolist(), strict=True)
        for (local, remote, sent, received), span in zip(rows, keys, strict=True):
            if span not in spans:
                client = remote if local == server_port else local
                found.setdefault(client, Counter())["server" if local == server_port else "client", sent, received] += 1
            spans.add(span)
    return found


ONCE = Counter({("client", ASKED, ANSWERED): 1, ("server", ANSWERED, ASKED): 1})


def known(generator: Generator) -> list[Made]:
    """The connections of which something can be said: of a port that was used twice what is told may be of either."""
    made = generator.made.copy()
    times = Counter(each.port for each in made)
    return [each for each in made if times[each.port] == 1]


def test_a_capture_that_is_replaced_misses_nothing_and_one_that_is_killed_what_it_had_not_told(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """As the chart replaces it (`maxSurge`), the new one ready before the old one is told to go, each connection of the
    generator is told once by each of its ends, to the byte: no gap. Killed, and started again by whoever keeps it, it misses
    what it had not told yet and what came until it saw again; nothing before, nothing after.
    """
    with NatsServer(tmp_path / "nats") as nats, Generator() as generator:
        with capture(nats, generator, tmp_path) as old:
            generator.some_more()
            first_ns = generator.made[-SOME].begun_ns
            with capture(nats, generator, tmp_path) as new:
                generator.some_more()
                old.process.send_signal(signal.SIGTERM)
                assert old.process.wait(PATIENCE_SECONDS) == 0
                generator.some_more()
                last_told = known(generator)[-1]
                until(lambda: sum(told(nats, generator.port).get(last_told.port, Counter()).values()) == len(ONCE))
                new.process.kill()
                new.process.wait()
                killed_ns = time.monotonic_ns()
        generator.some_more()
        with capture(nats, generator, tmp_path) as last:
            ready_ns = time.monotonic_ns()
            generator.some_more()
            generator.end()
            last.process.send_signal(signal.SIGTERM)
            assert last.process.wait(PATIENCE_SECONDS) == 0
        found = told(nats, generator.port)
    seen = {each: found.get(each.port, Counter()) for each in known(generator) if each.begun_ns >= first_ns}
    untold = [each for each, records in seen.items() if records != ONCE]
    assert untold, "a capture that is killed does see nothing for a while"
    assert untold[0].begun_ns > last_told.begun_ns, (untold[0], seen[untold[0]])
    assert untold[-1].begun_ns < ready_ns, (untold[-1], seen[untold[-1]])
    record_property("connections", len(seen))
    record_property("untold", len(untold))
    record_property("untold_before_the_kill", sum(each.ended_ns < killed_ns for each in untold))
    record_property("seconds_from_kill_to_ready", (ready_ns - killed_ns) / 1e9)
