"""Talks of real clients and servers in a process of their own, which may be in a network of its own.

`python -m tests.support.calls.talks FOLDER NAME...`, each of NAME one of http2_stacks.py, HTTP1 or UPGRADE.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from tests.support.packets.talks.http2_stacks import STACKS, go_server, is_missing
from tests.support.packets.talks.http2_talk import context

HTTP1: Final = "http1"
UPGRADE: Final = "upgrade"
UPGRADES: Final = 4
"""Of each of its clients."""
_CONNECTIONS: Final = 4
_REQUESTS: Final = 25
_OF_CURL: Final = 1000
"""The first number of its calls."""
_SIZES: Final = (0, 1, 700, 9_000, 40_000)
_UPLOAD: Final = 100_000


class _Sized(BaseHTTPRequestHandler):
    """Reads a request, and answers with as many bytes as its path says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Of any method that has a body or none."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        size = int(self.path[1:])
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(bytes(size))

    def do_GET(self) -> None:
        """Likewise."""
        self.do_POST()

    def do_PUT(self) -> None:
        """Likewise."""
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def http1(folder: Path) -> None:
    """Python's server of HTTP/1; its client, over several connections at once, and curl, which waits for 100 Continue."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Sized) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            with futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
                list(pool.map(lambda first: _of_python(server.server_port, first), range(_CONNECTIONS)))
            if shutil.which("curl"):
                _of_curl(server.server_port, folder)
        finally:
            server.shutdown()
            serving.join()


def _of_python(port: int, first: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for number in range(first, _CONNECTIONS * _REQUESTS, _CONNECTIONS):
        body = bytes(_SIZES[number // 5 % len(_SIZES)])
        size = _SIZES[number % len(_SIZES)]
        connection.request("POST" if body else "GET", f"/{size}", body or None, {"traceparent": context(number)})
        assert len(connection.getresponse().read()) == size
    connection.close()


def _of_curl(port: int, folder: Path) -> None:
    body = folder / "body"
    body.write_bytes(bytes(_UPLOAD))
    command = ["curl", "--fail"]
    for number in range(_OF_CURL, _OF_CURL + 10):
        upload = ["-T", body, "-H", "Expect: 100-continue"] if number % 2 else []
        headers = ["-H", f"traceparent: {context(number)}"]
        command += ["-sS", "--http1.1", *upload, *headers, "-o", folder / "answer", f"http://127.0.0.1:{port}/9000", "--next"]
    subprocess.run(command[:-1], check=True, capture_output=True)


def upgrade() -> None:
    """Clients (curl and nghttp) each of whose requests goes over to HTTP/2, and Go's server."""
    with go_server() as port:
        for number in range(UPGRADES):
            traced = f"traceparent: {context(number)}"
            curl = ["curl", "-sS", "--fail", "--http2", "-H", traced, *(["-d", "x" * 500] if number % 2 else [])]
            for command in (curl, ["nghttp", "-u", "-H", traced]):
                if shutil.which(command[0]):
                    subprocess.run([*command, f"http://127.0.0.1:{port}/"], check=True, capture_output=True)


def main() -> None:
    """Run them one after the other; those whose programs are not installed are left out."""
    folder, *names = sys.argv[1:]
    for name in names:
        if name == HTTP1:
            http1(Path(folder))
        elif name == UPGRADE:
            upgrade()
        elif not is_missing(name):
            list(STACKS[name][1](Path(folder), None))


if __name__ == "__main__":
    main()
