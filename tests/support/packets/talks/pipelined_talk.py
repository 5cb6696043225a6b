"""Messages of HTTP/1 in a row, and what Python's own reader makes of responses."""

from __future__ import annotations

import http.client
import io


def context(number: int, flags: str = "01") -> bytes:
    """The header of a request whose trace is its number."""
    return f"traceparent: 00-{number + 1:032x}-{number + 1:016x}-{flags}\r\n".encode()


def asked(number: int, method: str = "GET", more: bytes = b"", body: bytes = b"", flags: str | None = "01") -> bytes:
    """A request; `flags` None: without a context."""
    head = f"{method} /{number} HTTP/1.1\r\nHost: x\r\n".encode() + more
    return head + (context(number, flags) if flags else b"") + b"\r\n" + body


def sized(body: bytes) -> bytes:
    """The header that says how long a body is."""
    return f"Content-Length: {len(body)}\r\n".encode()


def answered(body: bytes = b"hello", status: str = "200 OK", more: bytes | None = None) -> bytes:
    """A response; `more`: its headers, else its length."""
    return f"HTTP/1.1 {status}\r\n".encode() + (sized(body) if more is None else more) + b"\r\n" + body


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n" + trailers + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"


class _Bytes(io.BytesIO):
    """What http.client takes for a socket; it closes nothing."""

    def makefile(self, _mode: str) -> _Bytes:
        return self

    def close(self) -> None:
        pass


def read_by_python(stream: bytes, methods: list[str]) -> list[tuple[int, int, int]]:
    """Of each response in a stream, as http.client reads it: its status, and where the final one begins and ends."""
    source, found = _Bytes(stream), []
    for method in methods:
        begins = source.tell()
        while stream.startswith(b"HTTP/1.1 1", begins):
            begins = stream.index(b"\r\n\r\n", begins) + 4
        source.seek(begins)
        response = http.client.HTTPResponse(source, method=method)  # type: ignore[arg-type]
        response.begin()
        response.read()
        found.append((response.status, begins, source.tell()))
    return found
