"""The programs in the pods: small servers and clients for HTTP, Redis' protocol and DNS, over sockets of any namespace."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from tests.support.node.namespaces import Namespace

Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve: TypeAlias = Callable[[Stream], Awaitable[None]]
HttpHandler: TypeAlias = Callable[[str, bytes], Awaitable["HttpResponse"]]

A: Final = 1
AAAA: Final = 28
NO_ANSWER: Final = "no answer"
_REASONS: Final = {200: "OK", 201: "Created", 404: "Not Found"}


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What a handler answers. `close` ends the connection after it; `reset_after` breaks it off after so many body bytes."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    close: bool = False
    reset_after: int | None = None


def family_of(address: str) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


async def connect(namespace: Namespace, local: tuple[str, int], remote: tuple[str, int], seconds: float = 10) -> Stream:
    """A TCP connection from exactly this address and port. Raises what connecting raises, TimeoutError after `seconds`."""
    opened = namespace.socket(family_of(local[0]))
    try:
        opened.settimeout(0)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(local)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(opened, remote)
    except BaseException:
        opened.close()
        raise
    return await asyncio.open_connection(sock=opened)


async def finish(stream: Stream) -> None:
    """Close the connection the orderly way and wait until the other end has closed too."""
    stream[1].write_eof()
    await stream[0].read()
    stream[1].close()
    await stream[1].wait_closed()


def reset(stream: Stream) -> None:
    """Break the connection off: the other end gets RST."""
    stream[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream[1].transport.abort()


@contextlib.asynccontextmanager
async def serving(
    namespace: Namespace, address: str, port: int, serve: Callable[[Stream], Awaitable[None]]
) -> AsyncIterator[None]:
    """A TCP server; what `serve` raises when a client breaks off ends that connection only."""
    listener = namespace.socket(family_of(address))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled when everything ends with the connection still open; asyncio would print that as a failure.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve((reader, writer))
        writer.close()

    async with await asyncio.start_server(accepted, sock=listener):
        yield


async def http_request(stream: Stream, host: str, method: str, path: str, *, body: bytes = b"", trace: str = "") -> bytes:
    """One request and its whole response body. `trace` is a W3C traceparent, sent first among the headers."""
    head = f"{method} {path} HTTP/1.1\r\n"
    head += f"traceparent: {trace}\r\n" if trace else ""
    head += f"Host: {host}\r\nUser-Agent: shop/1.0\r\nAccept: */*\r\n"
    head += f"Content-Length: {len(body)}\r\n" if body else ""
    reader, writer = stream
    writer.write(head.encode() + b"\r\n" + body)
    await writer.drain()
    _, headers = await _read_head(reader)
    return await reader.readexactly(int(headers["content-length"]))


def http(handler: HttpHandler) -> Serve:
    """Serves HTTP/1.1 with connections kept alive."""

    async def serve(stream: Stream) -> None:
        reader, writer = stream
        while not reader.at_eof():
            try:
                start, headers = await _read_head(reader)
            except asyncio.IncompleteReadError:
                return
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            response = await handler(f"{start.split()[0]} {start.split()[1]}", body)
            head = (
                f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\nContent-Type: {response.content_type}\r\n"
                f"Content-Length: {len(response.body)}\r\nConnection: {'close' if response.close else 'keep-alive'}\r\n\r\n"
            )
            writer.write(head.encode() + response.body[: response.reset_after])
            await writer.drain()
            if response.reset_after is not None:
                await asyncio.sleep(0.05)
                reset(stream)
                return
            if response.close:
                return

    return serve


async def redis_command(stream: Stream, *words: str) -> bytes:
    """One command in Redis' serialization protocol (RESP2) and the reply, without its type and length."""
    reader, writer = stream
    writer.write(f"*{len(words)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words))
    await writer.drain()
    reply = (await reader.readuntil(b"\r\n")).rstrip()
    if not reply.startswith(b"$") or reply == b"$-1":
        return reply[1:]
    return (await reader.readexactly(int(reply[1:]) + 2))[:-2]


def redis() -> Serve:
    """Serves PING, SET, GET and DEBUG SLEEP, one command at a time."""
    values: dict[bytes, bytes] = {}

    async def serve(stream: Stream) -> None:
        reader, writer = stream
        while True:
            count = (await reader.readuntil(b"\r\n"))[1:-2]
            words = [(await _read_bulk(reader)) for _ in range(int(count))]
            writer.write(await _redis_reply(values, words))
            await writer.drain()

    return serve


async def _redis_reply(values: dict[bytes, bytes], words: list[bytes]) -> bytes:
    match words:
        case [b"PING"]:
            return b"+PONG\r\n"
        case [b"SET", key, value]:
            values[key] = value
            return b"+OK\r\n"
        case [b"GET", key]:
            found = values.get(key)
            return b"$-1\r\n" if found is None else b"$%d\r\n%s\r\n" % (len(found), found)
        case [b"DEBUG", b"SLEEP", seconds]:
            await asyncio.sleep(float(seconds))
            return b"+OK\r\n"
        case _:
            return b"-ERR unknown command\r\n"


def dns_query(identifier: int, name: str, kind: int) -> bytes:
    """A question for one name (RFC 1035 section 4), recursion desired."""
    return struct.pack("!HHHHHH", identifier, 0x0100, 1, 0, 0, 0) + _dns_name(name) + struct.pack("!HH", kind, 1)


class DnsServer(asyncio.DatagramProtocol):
    """Answers A and AAAA from a table of (name, type) -> addresses; a name's delay may be NO_ANSWER; else NXDOMAIN."""

    def __init__(self, records: Mapping[tuple[str, int], tuple[str, ...]], delays: Mapping[str, float | str]) -> None:
        self._records = records
        self._delays = delays
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Keep the transport to answer by."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer now, later, or never."""
        name, end = _read_dns_name(data, 12)
        kind = int.from_bytes(data[end : end + 2], "big")
        delay = self._delays.get(name, 0.0)
        if isinstance(delay, str):
            return
        answer = self._answer(data[:2], data[12 : end + 4], name, kind)
        asyncio.get_running_loop().call_later(delay, self._transport.sendto, answer, addr)

    def _answer(self, identifier: bytes, question: bytes, name: str, kind: int) -> bytes:
        addresses = self._records.get((name, kind), ())
        known = any(found == name for found, _ in self._records)
        header = struct.pack("!HHHHH", 0x8580 if known else 0x8583, 1, len(addresses), 0, 0)
        packed = [socket.inet_pton(family_of(address), address) for address in addresses]
        records = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 30, len(address)) + address for address in packed)
        return identifier + header + question + records


def icmp_echo(family: int, identifier: int, sequence: int) -> bytes:
    """An echo request of 56 data bytes; for IPv6 the kernel fills the checksum in."""
    kind = 8 if family == socket.AF_INET else 128
    data = bytes(range(56))
    checksum = 0 if family == socket.AF_INET6 else _checksum(struct.pack("!BBHHH", kind, 0, 0, identifier, sequence) + data)
    return struct.pack("!BBHHH", kind, 0, checksum, identifier, sequence) + data


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines[1:] if line)
    return lines[0], {name.lower(): value for name, _, value in pairs}


async def _read_bulk(reader: asyncio.StreamReader) -> bytes:
    length = int((await reader.readuntil(b"\r\n"))[1:-2])
    return (await reader.readexactly(length + 2))[:-2]


def _dns_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _read_dns_name(data: bytes, start: int) -> tuple[str, int]:
    labels = []
    while data[start]:
        labels.append(data[start + 1 : start + 1 + data[start]].decode())
        start += 1 + data[start]
    return ".".join(labels), start + 1
