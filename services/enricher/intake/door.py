"""What both protocols do with a request: let its sender in, look at its outside, have it wait. Nothing here waits itself."""

from __future__ import annotations

import asyncio
import hmac
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from proto.protobuf import field, varint
from services.enricher.errors import IntakeError
from services.enricher.intake.counts import IntakeCounts
from services.enricher.intake.scan import count_spans
from services.runtime.file_stamps import stamps

logger = structlog.get_logger()

ACCEPTED: Final = b""
"""An ExportTraceServiceResponse that says nothing."""
_GZIP: Final = 16 + zlib.MAX_WBITS


class Waiting(NamedTuple):
    """A request whose spans are to be looked at."""

    body: bytes
    spans: int
    sender: str
    """The address that it came from."""


class Authorization:
    """Who may send: whoever has one of the lines of a file for an `authorization` header, or everybody.

    A file that changes is read again; one that cannot be used then changes nothing.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file. Raises IntakeError where it cannot be read or has no line."""
        self._files = [] if path is None else [path]
        self._stamps = stamps(self._files)
        self._accepted = self._read()

    def allows(self, header: str | bytes | None) -> bool:
        """Return whether a header's value is one of them; how long that takes tells nothing of them."""
        if not self._files:
            return True
        self._look()
        given = header.encode("utf-8", "surrogateescape") if isinstance(header, str) else header or b""
        return any([hmac.compare_digest(given, accepted) for accepted in self._accepted])  # noqa: C419 - all are compared

    def _look(self) -> None:
        now = stamps(self._files)
        if now == self._stamps:
            return
        self._stamps = now
        try:
            self._accepted = self._read()
        except IntakeError as error:
            logger.warning("intake.authorization_not_renewed", error=str(error))
        else:
            logger.info("intake.authorization_renewed", file=str(self._files[0]))

    def _read(self) -> list[bytes]:
        accepted: list[bytes] = []
        for path in self._files:
            try:
                accepted = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
            except OSError as error:
                raise IntakeError(f"{path}: {error.strerror or error}") from error
            if not accepted:
                raise IntakeError(f"{path}: no line of it is an authorization")
        return accepted


@dataclass(frozen=True, slots=True)
class Answer:
    """What a sender is told; `fault` is empty where its spans were taken, or passed over, which it need not try again."""

    body: bytes = ACCEPTED
    fault: str = ""


class Door:
    """Requests on their way in, and the bounded queue behind it."""

    def __init__(self, counts: IntakeCounts, *, queue_bytes: int, on_first: Callable[[], None]) -> None:
        self.counts = counts
        self._room = queue_bytes
        self._waiting: deque[Waiting] = deque()
        self._on_first = on_first
        self.waiting_bytes = 0

    def take(self, body: bytes, sender: str) -> Answer:
        """Have a request wait, and say at once what its sender is told."""
        spans = count_spans(body)
        if spans is None:
            self.counts.requests.add("malformed")
            return Answer(fault="not an ExportTraceServiceRequest")
        if self.waiting_bytes + len(body) > self._room:
            self.counts.requests.add("queue_full")
            self.counts.spans.add("queue_full", spans)
            return Answer(partial_success(spans, "more than can be looked at: passed over"))
        self.counts.requests.add("accepted")
        if spans:
            self._waiting.append(Waiting(body, spans, sender))
            self.waiting_bytes += len(body)
            if len(self._waiting) == 1:
                self._on_first()
        return Answer()

    def drain(self, most_bytes: int) -> list[Waiting]:
        """Take out the oldest requests, of about so many bytes and at least one of them."""
        taken: list[Waiting] = []
        size = 0
        while self._waiting and (not taken or size + len(self._waiting[0].body) <= most_bytes):
            taken.append(self._waiting.popleft())
            size += len(taken[-1].body)
        self.waiting_bytes -= size
        return taken

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._waiting)


def partial_success(rejected: int, message: str) -> bytes:
    """Return an ExportTraceServiceResponse that says how many spans were passed over, and why."""
    return field(1, b"\x08" + varint(rejected) + field(2, message.encode()))


def status_message(message: str) -> bytes:
    """Return a google.rpc.Status that has only a message, as OTLP/HTTP has it for bodies of errors."""
    return field(2, message.encode())


def unpacked(body: bytes, most: int) -> bytes | None:
    """Return what gzip has packed; None where that is no gzip. Raises OverflowError where it is more than `most` bytes."""
    inflating = zlib.decompressobj(_GZIP)
    try:
        content = inflating.decompress(body, most + 1)
    except zlib.error:
        return None
    if len(content) > most:
        raise OverflowError(f"more than {most} bytes")
    return content if inflating.eof and not inflating.unused_data else None


async def unpacked_aside(body: bytes, most: int) -> bytes | None:
    """As `unpacked`, in another thread: a body of a few KiB may be megabytes, and the flows are not to wait for it."""
    return await asyncio.to_thread(unpacked, body, most)
