"""What the composed services are fed with, and what they make of it."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from pathlib import Path
from typing import TypeAlias

from tests.e2e.conftest import SNAPSHOT, WIRESPAN
from tests.support.packets.pcap import START, Frame, ethernet, ip, udp, write

Spans: TypeAlias = dict[tuple[str, str], str]
"""By trace and span id: resource, scope and span, as JSON."""


def read(path: Path) -> Spans:
    """The spans of a file of OTLP/JSON lines. One that is there twice is there twice the same."""
    spans: Spans = {}
    lines = path.read_text().split("\n")[:-1] if path.exists() else ()  # what is after the last newline is being written
    for line in lines:
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    # A capture has another name where it is mounted.
                    span["attributes"] = [each for each in span["attributes"] if each["key"] != "flow.capture.file"]
                    for holder in (resource["resource"], span):
                        holder["attributes"].sort(key=lambda attribute: attribute["key"])
                    content = json.dumps([resource["resource"], scope["scope"], span], sort_keys=True)
                    assert spans.setdefault((span["traceId"], span["spanId"]), content) == content
    return spans


def replayed(capture: Path, folder: Path, environment: dict[str, str]) -> Spans:
    """What `wirespan replay` makes of a capture."""
    output = folder / "expected.jsonl"
    command = [*WIRESPAN, "replay", capture, "--kube-snapshot", SNAPSHOT, "--cluster-name", "shop", "--output", output]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True, timeout=600)
    return read(output)


def many_flows(path: Path, count: int) -> Path:
    """A capture of `count` datagrams, each a flow, a thousand in a second."""
    frames = [
        Frame(START + i * 1_000_000, ethernet(ip(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", "10.200.0.1", 17, udp(7, 9))))
        for i in range(count)
    ]
    return write(path, frames)


def with_port(spans: Spans, port: int) -> list[str]:
    """The spans of connections to a port."""
    wanted = f'{{"key": "destination.port", "value": {{"intValue": "{port}"}}}}'
    return [span for span in spans.values() if wanted in span]


def talk(requests: int) -> int:
    """Make a connection on the loopback that asks and is answered so often; return the server's port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(100):
                    connection.sendall(data)

        server = threading.Thread(target=serve)
        server.start()
        with socket.create_connection(listener.getsockname()) as client:
            for _ in range(requests):
                client.sendall(b"x" * 100)
                client.recv(100)
        server.join()
        port: int = listener.getsockname()[1]
        return port
