"""A trace as a backend gives it back: Jaeger's and Tempo's APIs answer in OTLP/JSON, each in an envelope of its own;
OpenSearch has documents.
"""

from __future__ import annotations

import base64
import binascii
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from proto.errors import DecodeError
from proto.flow_batch import FlowBatch
from proto.rows import batches
from services.cli.errors import CliError, UsageError
from services.cli.explain.opensearch import request_of, search_path
from services.cli.tap.span_records import records
from services.cli.views.printable import printable

_PATHS: Final = ("/api/v3/traces/{}", "/api/traces/{}")
"""Jaeger's and Tempo's."""
_IDS: Final = {"traceId": 16, "spanId": 8, "parentSpanId": 8}
_SECONDS: Final = 30
_MOST_BYTES: Final = 256 << 20


def trace_of(url: str, trace_id: str) -> Iterator[FlowBatch]:
    """Yield the records of the spans of ours that a backend has in a trace. Raises CliError where it does not answer so."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url}: no backend; it should look like http://localhost:16686")
    said, shown = "", urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl()
    for path in (*(each.format(trace_id) for each in _PATHS), search_path(trace_id)):
        try:
            answer = _asked(url.rstrip("/") + path)
            found = [row for request in _requests(answer) for row in records(request)]
        except urllib.error.HTTPError as error:
            said = said or f"HTTP status {error.code}"
            continue
        except (OSError, ValueError, DecodeError, AttributeError, KeyError, TypeError) as error:
            raise CliError(f"{shown}: {printable(str(error))}") from error
        yield from batches(found)
        return
    raise CliError(f"{shown}: no trace {trace_id} ({said})")


def _asked(url: str) -> Any:
    headers, parts = {"Accept": "application/json"}, urlsplit(url)
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - its scheme is known
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
        return json.loads(response.read(_MOST_BYTES))


def _requests(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The ExportTraceServiceRequests in an answer, with ids in hexadecimal as OTLP/JSON has them."""
    of_documents = request_of(answer)
    if of_documents is not None:
        yield of_documents
        return
    for envelope in (answer.get("result"), answer.get("trace"), answer):
        spans = (envelope or {}).get("resourceSpans") or (envelope or {}).get("batches")
        if spans:
            yield _with_hexadecimal_ids({"resourceSpans": spans})
            return


def _with_hexadecimal_ids(value: Any) -> Any:
    """Tempo's ids are in base64, as protobuf's own JSON has bytes."""
    if isinstance(value, list):
        return [_with_hexadecimal_ids(each) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {name: _with_hexadecimal_ids(each) for name, each in value.items()}
    for name, size in _IDS.items():
        text = changed.get(name)
        if isinstance(text, str) and text and len(text) != 2 * size:
            try:
                changed[name] = base64.b64decode(text, validate=True).hex()
            except binascii.Error as error:
                raise ValueError(f"{name} {text!r} is no id") from error
    return changed
