"""Spans as OTLP/JSON lines in a file, the format that the OpenTelemetry Collector's `otlpjsonfile` receiver reads.

One request is one line. The JSON mapping is protobuf's own but for what OTLP changes: trace and span ids are hexadecimal,
enumerations are numbers (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import fcntl
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.exporter.delivery.sink import Accepted, Outcome, Rejected, Retry
from services.exporter.errors import OutputFileError
from services.runtime.privacy.private_files import refuse_planted_link

_ID_FIELDS: Final = ("traceId", "spanId", "parentSpanId")
_SCAN_BYTES: Final = 64 * 1024


def json_line(body: bytes) -> bytes:
    """Return a serialized ExportTraceServiceRequest as one line of OTLP/JSON, its newline included.

    Raises google.protobuf.message.DecodeError for other bytes.
    """
    request = ExportTraceServiceRequest.FromString(body)
    attributes = iter([_take_attributes(span) for span in _spans(request)])
    tree: dict[str, Any] = json_format.MessageToDict(request, use_integers_for_enums=True)
    for resource_spans in tree.get("resourceSpans", ()):
        for scope_spans in resource_spans.get("scopeSpans", ()):
            for span in scope_spans.get("spans", ()):
                span["attributes"] = next(attributes)
                _ids_to_hex(span)
                for link in span.get("links", ()):
                    _ids_to_hex(link)
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            yield from scope_spans.spans


def _take_attributes(span: Span) -> list[dict[str, Any]]:
    """Take the attributes out of a span, as JSON. They are most of it, and protobuf's own way is three times slower."""
    taken = [{"key": attribute.key, "value": _value(attribute.value)} for attribute in span.attributes]
    span.ClearField("attributes")
    return taken


def _value(value: AnyValue) -> dict[str, Any]:
    match value.WhichOneof("value"):
        case "string_value":
            return {"stringValue": value.string_value}
        case "int_value":
            return {"intValue": str(value.int_value)}
        case "bool_value":
            return {"boolValue": value.bool_value}
    return json_format.MessageToDict(value)


def _ids_to_hex(holder: dict[str, Any]) -> None:
    for name in _ID_FIELDS:
        if name in holder:
            holder[name] = base64.b64decode(holder[name]).hex()


class FileSink:
    """Appends to one file. A request counts as accepted once the disk has it; a line is there whole or not at all.

    A file that a line would make larger than `max_bytes` (0: any size) is renamed first: `.1` is the latest of `kept_files`.
    """

    def __init__(self, path: Path, max_bytes: int = 0, kept_files: int = 1) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._kept_files = kept_files
        self._lock = threading.Lock()
        self._file_descriptor = _open(path)
        self._regular = stat.S_ISREG(os.fstat(self._file_descriptor).st_mode)
        self._end = _cut_partial_line(self._file_descriptor) if self._regular else 0
        self._torn = False

    async def send(self, body: bytes) -> Outcome:
        """Append one request; the work is done in a thread."""
        return await asyncio.to_thread(self._append, body)

    async def close(self) -> None:
        """Close the file once the line being written is complete; one that failed half-way is cut off."""
        await asyncio.to_thread(self._close)

    def _append(self, body: bytes) -> Outcome:
        try:
            line = json_line(body)
        except DecodeError as error:
            return Rejected(f"no ExportTraceServiceRequest: {error}")
        with self._lock:
            try:
                self._write(line)
            except OSError as error:
                return Retry("file", f"{self._path}: {error.strerror}")
        return Accepted()

    def _write(self, line: bytes) -> None:
        if not self._regular:
            _write_all(self._file_descriptor, line)
            return
        if self._max_bytes and self._end and self._end + len(line) > self._max_bytes:
            self._rotate()
        if self._torn:  # a failed write may have left a part of its line behind
            os.ftruncate(self._file_descriptor, self._end)
        self._torn = True
        _write_all(self._file_descriptor, line)
        os.fsync(self._file_descriptor)
        self._torn = False
        self._end += len(line)

    def _rotate(self) -> None:
        """Go on in a new file. Raises OSError with everything as it was, or the renaming done, after which it may be called
        again.
        """
        if self._torn:
            os.ftruncate(self._file_descriptor, self._end)
            self._torn = False
        if self._path.exists():
            for number in range(self._kept_files, 0, -1):
                older = self._path if number == 1 else self._rotated(number - 1)
                if older.exists():
                    older.replace(self._rotated(number))
        try:
            fresh = _open(self._path)
        except OutputFileError as error:
            raise OSError(errno.EIO, str(error)) from error
        os.close(self._file_descriptor)
        self._file_descriptor, self._end = fresh, 0

    def _rotated(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _close(self) -> None:
        with self._lock:
            if self._file_descriptor < 0:
                return
            if self._torn:
                with contextlib.suppress(OSError):  # opening the file again cuts it too
                    os.ftruncate(self._file_descriptor, self._end)
            os.close(self._file_descriptor)
            self._file_descriptor = -1


def _open(path: Path) -> int:
    """Open for appending and hold the file for this process alone: two would cut each other's lines."""
    try:
        refuse_planted_link(path)
        file_descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OutputFileError(f"{path}: cannot be opened for writing: {error.strerror}") from error
    try:
        if stat.S_ISREG(os.fstat(file_descriptor).st_mode):
            fcntl.flock(file_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file_descriptor)
        raise OutputFileError(f"{path}: another exporter writes to it") from error
    return file_descriptor


def _cut_partial_line(file_descriptor: int) -> int:
    """Cut off what a crash left after the last newline; return the length that remains."""
    end = os.fstat(file_descriptor).st_size
    at = end
    while at > 0:
        first = max(at - _SCAN_BYTES, 0)
        newline = os.pread(file_descriptor, at - first, first).rfind(b"\n")
        if newline >= 0:
            at = first + newline + 1
            break
        at = first
    if at < end:
        os.ftruncate(file_descriptor, at)
    return at


def _write_all(file_descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file_descriptor, view) :]
