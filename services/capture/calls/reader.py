"""Calls of HTTP/2, which are kept in C: bpf/calls behind a typed face. Python sees those that are over, as one array.

A host tells of the frames of its connections (bpf/engine/http2): replay as it reads them, live capture through a ring buffer.
There header blocks are decoded and dropped; what is kept is what an exchange of a sampled request says.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

import numpy as np

from services.capture.c_library import Signatures, load_library
from services.capture.errors import CaptureError
from services.capture.flows.exchange_layout import EXCHANGE, NO_EXCHANGES, Exchanges, RequestCounter

_SIGNATURES: Final[Signatures] = {
    "calls_new": (ctypes.c_void_p, ()),
    "calls_close": (None, (ctypes.c_void_p,)),
    "calls_read": (ctypes.c_uint64, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)),
    "calls_open": (ctypes.c_uint64, (ctypes.c_void_p, ctypes.c_void_p)),
    "calls_end": (None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)),
    "calls_taken": (None, (ctypes.c_void_p, ctypes.c_uint64)),
}


class _Calls(ctypes.Structure):
    """`struct calls` of bpf/calls/connections.h, without what only C looks at."""

    _fields_ = (
        ("ended", ctypes.c_void_p),
        ("ended_count", ctypes.c_uint64),
        ("open_count", ctypes.c_uint64),
        ("requests", ctypes.c_uint64 * len(RequestCounter)),
        ("unreadable", ctypes.c_uint64),
        ("forgotten", ctypes.c_uint64),
        ("missing", ctypes.c_uint64),
        ("found", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
    )


@cache
def _library() -> Any:
    return load_library(_SIGNATURES)


class CallReader:
    """Keeps the calls of a host's connections until they are over. Not for two threads at once."""

    def __init__(self, handle: int | None = None) -> None:
        """`handle` is what a host in C keeps and lets go of; without one, what is told is to be read here."""
        self._library = _library()
        self._owned: int | None = None if handle else self._library.calls_new()
        self._handle: int | None = handle or self._owned
        if not self._handle:
            raise CaptureError("no memory for the calls of HTTP/2")
        self._calls = _Calls.from_address(self._handle)

    def close(self) -> None:
        """Forget all but the counters. May be called again."""
        if self._handle:
            self._calls = _Calls.from_buffer_copy(self._calls)
        if self._owned:
            self._library.calls_close(self._owned)
        self._handle = self._owned = None

    def read(self, records: int, length: int) -> int:
        """Take over records of a ring buffer, which begin at an address; return how many bytes of them were whole."""
        return int(self._library.calls_read(self._open_handle(), records, length))

    def open_exchanges(self) -> Exchanges:
        """Return copies of those that are not over."""
        if not self._calls.open_count:
            return NO_EXCHANGES
        found = np.zeros(int(self._calls.open_count), EXCHANGE)
        return found[: self._library.calls_open(self._open_handle(), found.ctypes.data)]

    def end_exchanges(self, exchanges: Exchanges) -> None:
        """End the open ones that these are copies of, as their `end` and `ended_ns` say."""
        exchanges = np.ascontiguousarray(exchanges, EXCHANGE)
        self._library.calls_end(self._open_handle(), exchanges.ctypes.data, len(exchanges))

    def take_exchanges(self, most: int) -> Exchanges:
        """Return up to so many of those that are over, each once. The others are kept."""
        count = min(int(self._calls.ended_count), most)
        if not count:
            return NO_EXCHANGES
        taken = np.empty(count, EXCHANGE)
        ctypes.memmove(taken.ctypes.data, self._calls.ended, taken.nbytes)
        self._library.calls_taken(self._open_handle(), count)
        return taken

    @property
    def requests(self) -> list[int]:
        """What became of requests, in the order of RequestCounter; cumulative."""
        return list(self._calls.requests)

    @property
    def lost(self) -> int:
        """Exchanges that were over and found no room."""
        return int(self._calls.lost)

    @property
    def counters(self) -> dict[str, int]:
        """Header blocks that could not be read, behind each of which no table of its direction is known; connections that were
        forgotten because there were too many; how often something that was told was lost; how often frames were found again.
        """
        return {
            "pieces_block_unreadable": int(self._calls.unreadable),
            "pieces_connection_forgotten": int(self._calls.forgotten),
            "pieces_frames_missing": int(self._calls.missing),
            "pieces_frames_found": int(self._calls.found),
        }

    def _open_handle(self) -> int:
        if self._handle is None:
            raise CaptureError("the reader of calls is closed")
        return self._handle
