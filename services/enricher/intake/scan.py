"""OTLP requests as rows: the compiled bpf/otlp/scan.c, and what it shares with Python.

A request is read where it lies; Python loops over its resources and the names of peers, not over its spans.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

import bpf
from proto.flow_batch import Array
from services.enricher.errors import IntakeError

NO_NAME: Final = 0xFFFF_FFFF
MOST_SPANS: Final = 32_768
"""Spans of one request that are looked at, and resources: four times what a Collector puts into one."""

SPAN: Final = np.dtype(
    [
        ("trace_id", "V16"),
        ("span_id", "V8"),
        ("parent_span_id", "V8"),
        ("start_ns", "<u8"),
        ("end_ns", "<u8"),
        ("peer_address", "V16"),
        ("resource", "<u4"),
        ("name", "<u4"),
        ("peer_port", "<u2"),
        ("local_port", "<u2"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("padding", "V2"),
    ]
)
"""`struct otlp_span`."""
_TEXT: Final = np.dtype([("offset", "<u4"), ("size", "<u4")])
_RESOURCE: Final = np.dtype((_TEXT, (4,)))
_COMPILE_ANEW: Final = "reinstall wirespan to compile it (in a checkout: make setup)"
_MOST_TEXT_BYTES: Final = 253


class Resource(NamedTuple):
    """What a resource says of who made its spans; empty where it does not."""

    pod_uid: str
    pod_address: str
    container_id: str
    host_name: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """The spans of a request that have a network below them."""

    spans: Array
    """Of the type SPAN. `name` is an index into `names`."""
    resources: Sequence[Resource]
    names: Sequence[str]
    """Of peers, as the application wrote them; one may be there twice."""
    seen: int
    """All spans of the request."""
    kind: int
    """Those of other kinds."""
    no_ids: int
    """Those without ids or times that can be."""
    beyond: int
    """Those that are more than is looked at."""


class _Scan(ctypes.Structure):
    """`struct otlp_scan`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("spans", "resources", "names")),
        *((name, ctypes.c_uint32) for name in ("span_room", "resource_room", "span_count", "resource_count", "name_count")),
        *((name, ctypes.c_uint32) for name in ("seen", "kind", "no_ids", "beyond", "padding")),
    )


@cache
def library() -> Any:
    """The compiled bpf/otlp/scan.c. Raises IntakeError where the installation lacks it, or has it of another version."""
    try:
        found = ctypes.CDLL(str(bpf.OTLP_LIBRARY))
        found.otlp_count.restype, found.otlp_count.argtypes = ctypes.c_int64, (ctypes.c_char_p, ctypes.c_size_t)
        found.otlp_scan.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
        sizes = (ctypes.c_uint64 * 3)()
        found.otlp_layout(sizes)
    except (OSError, AttributeError) as error:
        raise IntakeError(f"the library that reads spans cannot be loaded ({error}); {_COMPILE_ANEW}") from error
    expected = [SPAN.itemsize, _RESOURCE.itemsize, ctypes.sizeof(_Scan)]
    if list(sizes) != expected:
        raise IntakeError(f"the library that reads spans is of another version ({[*sizes]}, not {expected}); {_COMPILE_ANEW}")
    return found


def count_spans(request: bytes) -> int | None:
    """Return how many spans an ExportTraceServiceRequest has, None where these bytes are none. Spans are not looked at."""
    count: int = library().otlp_count(request, len(request))
    return None if count < 0 else count


def scan(request: bytes, spans: int) -> Scanned | None:
    """Return what is asked for of a request of so many spans, None where it is none. Other threads run meanwhile."""
    room = min(spans, MOST_SPANS)
    rows, names = np.empty(room, SPAN), np.empty(room, _TEXT)
    resources = np.empty(room, _RESOURCE)
    state = _Scan(rows.ctypes.data, resources.ctypes.data, names.ctypes.data, room, room)
    if library().otlp_scan(request, len(request), ctypes.byref(state)) < 0:
        return None
    texts = [
        Resource(*(_text(request, offset, size) for offset, size in row))
        for row in resources[: state.resource_count].tolist()
    ]  # fmt: skip
    return Scanned(
        spans=rows[: state.span_count],
        resources=texts,
        names=[_text(request, offset, size) for offset, size in names[: state.name_count].tolist()],
        seen=state.seen,
        kind=state.kind,
        no_ids=state.no_ids,
        beyond=state.beyond,
    )


def _text(request: bytes, offset: int, size: int) -> str:
    return request[offset : offset + size].decode("utf-8", "replace") if size <= _MOST_TEXT_BYTES else ""
