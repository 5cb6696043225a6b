"""The two hellos of a TLS handshake (RFC 8446 4.1, RFC 5246 7.4.1): what each end offers, and what the server chose.

As far as they were captured: what is missing at the end is as good as not said. Everything that is read is in clear text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

CLIENT_HELLO: Final = 1
SERVER_HELLO: Final = 2

_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4
_HANDSHAKE: Final = 22
_RANDOM_BYTES: Final = 32
_HELLO_RETRY_REQUEST: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random of a server that asks for another ClientHello (RFC 8446 4.1.3)."""

_SERVER_NAME, _ALPN, _SESSION_TICKET, _PRE_SHARED_KEY, _SUPPORTED_VERSIONS, _ECH = 0, 16, 35, 41, 43, 0xFE0D
_HOST_NAME: Final = 0
_LONGEST_NAME: Final = 255
_MOST_PROTOCOLS: Final = 8
_MOST_EXTENSIONS: Final = 64
_GREASE_LOW: Final = 0x0A
_SPACE, _DELETE = 0x20, 0x7F


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client offers."""

    server_name: str | None
    """The server that it asks for (RFC 6066 3), in lower case; the outer one where the real name is encrypted."""
    protocols: tuple[str, ...]
    """Of the application (RFC 7301), the one that it likes best first."""
    session: bytes
    """The id of the session that it would resume; of TLS 1.3 nothing but for show."""
    has_ticket: bool
    """Of TLS 1.2 (RFC 5077)."""
    has_ech: bool
    """It has an encrypted ClientHello, or pretends to (RFC 9849 6.2): that is not to be told apart."""
    quic: int = 0
    """The version of QUIC that it was sent by; 0: TCP."""


@dataclass(frozen=True, slots=True)
class ServerHello:
    """What a server chose."""

    version: int
    cipher: int
    session: bytes
    protocol: str | None
    """Of the application; from TLS 1.3 on it is encrypted."""
    has_key: bool
    """It took a key that both had before: TLS 1.3's way to resume a session."""
    is_retry: bool
    """It asks for another ClientHello first."""


class _CutOffError(Exception):
    """The hello ends here."""


class _Reader:
    """Reads what lies one behind the other. Raises _CutOffError where it ends."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def number(self, size: int) -> int:
        """Return the next number."""
        return int.from_bytes(self.take(size))

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        taken = self._content[self._at : self._at + size]
        if len(taken) < size:
            raise _CutOffError
        self._at += size
        return taken

    def vector(self, size: int) -> bytes:
        """Return what a length of so many bytes stands before."""
        return self.take(self.number(size))


def read_hello(content: bytes) -> ClientHello | ServerHello | None:
    """Return what records say that begin with a hello; None where they do not, or it ends before what it must have."""
    return read_hello_message(_message(content))


def read_hello_message(message: bytes) -> ClientHello | ServerHello | None:
    """Return the same of a message without records."""
    reader = _Reader(message[_MESSAGE_HEADER:])
    try:
        kind = message[0] if message else 0
        if kind == CLIENT_HELLO:
            return _client_hello(reader)
        return _server_hello(reader) if kind == SERVER_HELLO else None
    except _CutOffError:
        return None


def _message(content: bytes) -> bytes:
    """Return the first message, put together from the records that it is cut into."""
    message, at, wanted = b"", 0, _MESSAGE_HEADER
    while len(message) < wanted and content[at : at + 1] == bytes((_HANDSHAKE,)):
        length = int.from_bytes(content[at + 3 : at + _RECORD_HEADER])
        if not length:
            break
        message += content[at + _RECORD_HEADER : at + _RECORD_HEADER + length]
        at += _RECORD_HEADER + length
        wanted = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER])
    return message[:wanted]


def _client_hello(reader: _Reader) -> ClientHello:
    reader.take(2 + _RANDOM_BYTES)
    session = reader.vector(1)
    reader.vector(2)
    reader.vector(1)
    found = dict(_extensions(reader))
    return ClientHello(
        server_name=_server_name(found.get(_SERVER_NAME, b"")),
        protocols=tuple(_protocols(found.get(_ALPN, b""))),
        session=session,
        has_ticket=bool(found.get(_SESSION_TICKET)),
        has_ech=_ECH in found,
    )


def _server_hello(reader: _Reader) -> ServerHello:
    version, random = reader.number(2), reader.take(_RANDOM_BYTES)
    session, cipher = reader.vector(1), reader.number(2)
    try:
        reader.take(1)
        found = dict(_extensions(reader))
    except _CutOffError:
        found = {}
    return ServerHello(
        version=int.from_bytes(found.get(_SUPPORTED_VERSIONS, b"")[:2]) or version,
        cipher=cipher,
        session=session,
        protocol=next(_protocols(found.get(_ALPN, b"")), None),
        has_key=_PRE_SHARED_KEY in found,
        is_retry=random == _HELLO_RETRY_REQUEST,
    )


def _extensions(reader: _Reader) -> Iterator[tuple[int, bytes]]:
    """Yield those that are all there."""
    try:
        reader.take(2)
        for _ in range(_MOST_EXTENSIONS):
            yield reader.number(2), reader.vector(2)
    except _CutOffError:
        return


def _server_name(extension: bytes) -> str | None:
    reader = _Reader(extension)
    try:
        reader.take(2)
        kind, name = reader.number(1), reader.vector(2)
    except _CutOffError:
        return None
    return _text(name).lower().removesuffix(".") or None if kind == _HOST_NAME and len(name) <= _LONGEST_NAME else None


def _protocols(extension: bytes) -> Iterator[str]:
    """Yield the protocols' names, those of GREASE (RFC 8701) left out."""
    reader = _Reader(extension)
    try:
        reader.take(2)
        for _ in range(_MOST_PROTOCOLS):
            name = reader.vector(1)
            if name and not _is_grease(name):
                yield _text(name)
    except _CutOffError:
        return


def _is_grease(name: bytes) -> bool:
    return len(name) == 2 and name[0] == name[1] and name[0] & 0xF == _GREASE_LOW


def _text(name: bytes) -> str:
    r"""Return bytes as text, `\DDD` for those that are none, as in the master files of DNS."""
    plain = name.decode("latin-1")
    if not plain.isascii() or not plain.isprintable() or " " in plain:
        plain = "".join(chr(byte) if _SPACE < byte < _DELETE else f"\\{byte:03}" for byte in name)
    return sys.intern(plain)
