"""An HTTP server that fails as a real API server cannot be made to: half-open streams, storms of 410, garbage, 429.

For faults only; how a real one behaves is for a real one to show. A test gives one function that answers every request.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

Tree = dict[str, Any]


class Request:
    """One request, and ways to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler, closing: threading.Event) -> None:
        url = urlsplit(handler.path)
        self.path = url.path
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.watch = self.query.get("watch") == "true"
        self.headers = handler.headers
        self._handler = handler
        self._closing = closing

    def send(self, status: int, body: Tree | bytes, **headers: str) -> None:
        """A whole answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("Content-Length", str(len(data)))
        self._handler.end_headers()
        self._handler.wfile.write(data)

    def refuse(self, status: int, **headers: str) -> None:
        """An error as the API says it."""
        self.send(status, {"kind": "Status", "code": status, "message": f"test says {status}"}, **headers)

    def list(self, *items: Tree, version: str = "1", following: str = "") -> None:
        """A page of a list."""
        self.send(200, {"metadata": {"resourceVersion": version, "continue": following}, "items": list(items)})

    def stream(self, *lines: Tree | bytes) -> None:
        """Begin a watch if need be, and send lines."""
        if not hasattr(self, "_begun"):
            self._begun = True
            self._handler.send_response(200)
            self._handler.send_header("Transfer-Encoding", "chunked")
            self._handler.end_headers()
        for line in lines:
            data = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
            self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self._handler.wfile.flush()

    def end(self) -> None:
        """End a watch as the server does when its time is over."""
        self.stream()
        self._handler.wfile.write(b"0\r\n\r\n")

    def silence(self) -> None:
        """Say nothing more and keep the connection, until the server closes."""
        self._closing.wait()


class HostileKubeApi:
    """The server, on a free port. `answer` is called in a thread for each request and may be exchanged while it runs."""

    def __init__(self, answer: Callable[[Request], None]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                request = Request(self, outer._closing)
                outer.requests.append(request)
                outer.answer(request)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients of a hostile server go away."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it is served."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig file that names it."""
        content = {
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(content))
        return path

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
