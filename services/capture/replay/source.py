"""Capture files as a source of flows: bpf/replay/replay.c behind a typed face.

The library takes whole runs of packets per call and lets other threads run meanwhile; Python sees flows, never packets.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

import bpf
from proto.columns import Reason
from services.capture.errors import CaptureError, CaptureFileError
from services.capture.flows.exchange_layout import EXCHANGE, NO_EXCHANGES, Exchanges, RequestCounter, request_counters
from services.capture.flows.layout import FLOW, Disposition, Slots
from services.capture.replay.layout import OUTER, Outers

if TYPE_CHECKING:
    from services.capture.flows.exchange_table import ExchangeEmission, ExchangeTable
    from services.capture.flows.table import Emission, FlowTable

DEFAULT_CAPACITY: Final = 1 << 20
"""Flows that are open at the same time; memory is touched only as they come."""

_ERROR_BYTES: Final = 512
_COMPILE_ANEW: Final = "reinstall wirespan to compile it (in a checkout: make setup)"
_WINDOW_SLOTS: Final = 8192
_ALL_PACKETS: Final = 2**64 - 1


class Stop(enum.IntEnum):
    """Why `advance` came back (`enum replay_stop`)."""

    UNTIL = 0
    """The next packet is later than asked for."""
    PACKETS = 1
    """As many packets as asked for were taken."""
    END_OF_FILE = 2
    """The file is read to its end."""
    TABLE_FULL = 3
    """The next packet needs a slot and none is free."""
    CUT = 4
    """The file ends or breaks in the middle of a packet. What came before it counts."""
    EXCHANGES = 5
    """Many exchanges have ended and are to be taken."""


@dataclass(frozen=True, slots=True)
class Advance:
    """What a call of `advance` came to."""

    stop: Stop
    next_unix_ns: int | None
    """Time of the packet that comes next in this file, where it was looked at."""


class _Counters(ctypes.Structure):
    """`struct replay_counters`, at the start of the handle."""

    _fields_ = (
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("link_bytes", ctypes.c_uint64),
        ("tunnel_bytes", ctypes.c_uint64),
        ("disposition_packets", ctypes.c_uint64 * len(Disposition)),
        ("disposition_bytes", ctypes.c_uint64 * len(Disposition)),
        ("flows", ctypes.c_uint64),
        ("used_slots", ctypes.c_uint64),
        ("high_slot", ctypes.c_uint64),
        ("clock_ns", ctypes.c_uint64),
        ("next_ns", ctypes.c_uint64),
        ("file_bytes_read", ctypes.c_uint64),
    )


class _Exchanges(ctypes.Structure):
    """`struct exchanges` of bpf/replay/open_exchanges.h."""

    _fields_ = (
        ("of_slot", ctypes.c_void_p),
        ("open", ctypes.c_void_p),
        ("ended", ctypes.c_void_p),
        ("open_count", ctypes.c_uint64),
        ("ended_count", ctypes.c_uint64),
        ("ended_room", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
        ("requests", ctypes.c_uint64 * len(RequestCounter)),
    )


class ReplaySource(AbstractContextManager["ReplaySource"]):
    """The flows of capture files, read one after the other through one table.

    `capacity` is rounded up to a power of two. Every file is opened once before anything is read: raises CaptureFileError for
    the first that is no capture. `advance` takes packets; between calls `slots` may be read. Not for two threads at once.
    Leaving the context closes the files; `slots` stays readable. With `trace_context`, the exchanges of requests that carry a
    sampled trace context are kept too.
    """

    def __init__(self, files: Sequence[Path], capacity: int = DEFAULT_CAPACITY, *, trace_context: bool = False) -> None:
        self._library = _library()
        self._files = [Path(path) for path in files]
        self._sizes = [self._check(path) for path in self._files]
        self.file_bytes_total: int = sum(self._sizes)
        """Size of all files."""
        self.capacity: int = 1 << max(capacity - 1, 1).bit_length()
        """Number of slots."""
        self.slots: Slots = np.frombuffer(_pages(self.capacity * FLOW.itemsize), FLOW)
        """Every slot; the array stays the same, its content changes with `advance`."""
        self.outers: Outers = np.frombuffer(_pages(self.capacity * OUTER.itemsize), OUTER)
        """What is around the packets of each slot's flow."""
        places = self.slots.ctypes.data, self.outers.ctypes.data
        self._handle: int | None = self._library.replay_new(*places, self.capacity)
        if not self._handle:
            raise CaptureError(f"no memory for a table of {self.capacity} flows")
        self._counters = _Counters.from_address(self._handle)
        self._exchanges = _Exchanges.from_address(self._library.replay_exchanges(self._handle))
        self._traces = trace_context
        if trace_context and self._library.replay_trace(self._handle):
            raise CaptureError(f"no memory for the exchanges of {self.capacity} flows")
        self._finished_sizes = 0
        self._cut: dict[Path, str] = {}
        self._next_file = 0

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and free the index; counters stay as they are. May be called again."""
        handle, self._handle = self._handle, None
        if handle:
            self._counters = _Counters.from_buffer_copy(self._counters)
            self._exchanges = _Exchanges.from_buffer_copy(self._exchanges)
            self._library.replay_close(handle)

    def open_next_file(self) -> bool:
        """Go on with the next file; its clock begins anew. Returns False when there is none left."""
        if self._next_file == len(self._files):
            return False
        if self._next_file:
            self._finished_sizes += self._sizes[self._next_file - 1]
        path = self._files[self._next_file]
        self._next_file += 1
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        if self._library.replay_open_file(self._open_handle(), bytes(path), error, _ERROR_BYTES):
            raise CaptureFileError(path, _text(error))
        return True

    def advance(self, until_unix_ns: int, max_packets: int | None = None) -> Advance:
        """Take the open file's packets up to and including `until_unix_ns` on its clock, or `max_packets` of them."""
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        limit = _ALL_PACKETS if max_packets is None else max_packets
        stop = Stop(self._library.replay_advance(self._open_handle(), until_unix_ns, limit, error, _ERROR_BYTES))
        if stop is Stop.CUT:
            self._cut[self._files[self._next_file - 1]] = _text(error)
        return Advance(stop, self._counters.next_ns or None)

    def windows(self) -> Iterator[tuple[int, Slots]]:
        """Yield all slots up to `high_slot`, piece by piece: the first one's index, and the slots."""
        for first in range(0, self.high_slot, _WINDOW_SLOTS):
            yield first, self.slots[first : min(first + _WINDOW_SLOTS, self.high_slot)]

    def rows(self, slots: npt.NDArray[np.uint32]) -> Slots:
        """Return a copy of these slots (indexes)."""
        whole = np.dtype(f"V{self.slots.dtype.itemsize}")  # as one piece: numpy copies structures member by member
        return self.slots.view(whole)[slots].view(self.slots.dtype)

    def mark_taken(self, slots: npt.NDArray[np.uint32]) -> None:
        """Add one to `taken` of each of these slots (indexes)."""
        self.slots["taken"][slots] += 1

    def open_exchanges(self) -> Exchanges:
        """Return copies of the traced exchanges that are not over."""
        if not self._exchanges.open_count:
            return NO_EXCHANGES
        found = np.zeros(int(self._exchanges.open_count), EXCHANGE)
        self._library.replay_open_exchanges(self._open_handle(), found.ctypes.data)
        return found

    def end_exchanges(self, exchanges: Exchanges) -> None:
        """End the open exchanges that these are copies of, as their `end` and `ended_ns` say."""
        exchanges = np.ascontiguousarray(exchanges)
        self._library.replay_end_exchanges(self._open_handle(), exchanges.ctypes.data, len(exchanges))

    def take_exchanges(self) -> Exchanges:
        """Return the exchanges that are over, each once."""
        kept = self._exchanges
        if not kept.ended_count:
            return NO_EXCHANGES
        taken = np.zeros(int(kept.ended_count), EXCHANGE)
        ctypes.memmove(taken.ctypes.data, kept.ended, taken.nbytes)
        self._library.replay_exchanges_taken(self._open_handle())
        return taken

    def retire(self, slots: npt.NDArray[np.uint32]) -> None:
        """Let no packet reach these slots (indexes) any more; a packet of the same key begins another flow."""
        indexes = np.ascontiguousarray(slots, np.uint32)
        self._library.replay_retire(self._open_handle(), indexes.ctypes.data, len(indexes))

    def release(self, slots: npt.NDArray[np.uint32]) -> None:
        """Give slots (indexes) back to be used again; they are zeroed."""
        indexes = np.ascontiguousarray(slots, np.uint32)
        self._library.replay_release(self._open_handle(), indexes.ctypes.data, len(indexes))

    @property
    def high_slot(self) -> int:
        """No slot from this index on was ever used."""
        return int(self._counters.high_slot)

    @property
    def used_slots(self) -> int:
        """Slots that are not free."""
        return int(self._counters.used_slots)

    @property
    def clock_unix_ns(self) -> int:
        """Time of the latest packet taken from the open file, 0 before the first."""
        return int(self._counters.clock_ns)

    @property
    def packets(self) -> int:
        """Packets taken so far."""
        return int(self._counters.packets)

    @property
    def bytes(self) -> int:
        """Their bytes on the wire, link layer included."""
        return int(self._counters.bytes)

    @property
    def flows(self) -> int:
        """Flows begun so far."""
        return int(self._counters.flows)

    @property
    def file_bytes_read(self) -> int:
        """How far into the files reading is, of `file_bytes_total`."""
        return min(self._finished_sizes + int(self._counters.file_bytes_read), self.file_bytes_total)

    @property
    def cut_files(self) -> Mapping[Path, str]:
        """Files that ended in the middle of a packet, and what the reader said."""
        return self._cut

    @property
    def counters(self) -> dict[str, int]:
        """What was seen, by what it is.

        `packets` is the sum of the `*_packets`; `bytes` (on the wire) the sum of the `*_bytes`, where `flow_bytes` is the IP
        length of the packets that are in flows, `link_bytes` what the link layer put around them, and `tunnel_bytes` what
        their tunnels did. A fragment that came before its datagram's first is counted when that has come, or is given up.
        """
        seen = self._counters
        counters = {name: int(getattr(seen, name)) for name in ("packets", "bytes", "link_bytes", "tunnel_bytes")}
        for kind in Disposition:
            counters[f"{kind.name.lower()}_packets"] = int(seen.disposition_packets[kind])
            counters[f"{kind.name.lower()}_bytes"] = int(seen.disposition_bytes[kind])
        counters["truncated_file"] = len(self._cut)
        if self._traces:
            counters |= request_counters(self._exchanges.requests)
            counters["exchanges_lost"] = int(self._exchanges.lost)
        return counters

    def _check(self, path: Path) -> int:
        """Return the file's size. Raises CaptureFileError."""
        try:
            size = path.stat().st_size
        except OSError as fault:
            raise CaptureFileError(path, fault.strerror or str(fault)) from fault
        if not path.is_file():
            raise CaptureFileError(path, "not a regular file")
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        if self._library.replay_check_file(bytes(path), error, _ERROR_BYTES):
            raise CaptureFileError(path, _text(error))
        return size

    def _open_handle(self) -> int:
        if self._handle is None:
            raise CaptureError("the replay source is closed")
        return self._handle


def replay(
    source: ReplaySource, table: FlowTable, tick_seconds: int = 1, exchanges: ExchangeTable | None = None
) -> Iterator[Emission | ExchangeEmission]:
    """Yield the records of all files, at whole ticks of the capture's clock and at the end; the same files, the same records.

    Settle each emission (FlowTable.accept or refuse) before asking for the next; those of exchanges, of which there are none
    without `exchanges`, need not be. Before a packet is taken, what was idle up to its tick has ended: after a gap, it begins
    another flow. Files whose clock goes on are one capture in pieces; where a file's clock lies before that of the one before
    it, the flows of the earlier files end there.
    """
    tick_ns = tick_seconds * 1_000_000_000
    now_ns = 0

    def drain(final: Reason | None = None) -> Iterator[Emission | ExchangeEmission]:
        if exchanges is not None:
            yield from exchanges.drain(now_ns, final=final is not None)
        yield from table.drain(now_ns, final)

    while source.open_next_file():
        ahead = source.advance(0)
        if ahead.next_unix_ns is not None and ahead.next_unix_ns + tick_ns < now_ns:
            yield from drain(Reason.SHUTDOWN)
            now_ns = 0
        while ahead.stop not in {Stop.END_OF_FILE, Stop.CUT}:
            if ahead.stop is Stop.TABLE_FULL:
                now_ns = max(now_ns, source.clock_unix_ns)
                yield from drain()
                if source.used_slots == source.capacity:
                    raise CaptureError("the flow table is full of records that were not settled")
            elif ahead.stop is Stop.EXCHANGES:
                yield from drain()
            elif ahead.next_unix_ns is not None and ahead.next_unix_ns // tick_ns * tick_ns > now_ns:
                now_ns = ahead.next_unix_ns // tick_ns * tick_ns
                yield from drain()
            ahead = source.advance(max(now_ns // tick_ns * tick_ns + tick_ns - 1, source.clock_unix_ns))
        now_ns = max(now_ns, source.clock_unix_ns)
    yield from drain(Reason.SHUTDOWN)


def _pages(size: int) -> mmap.mmap:
    """Zeroed memory, whose pages come into being when something first lies on them."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _text(error: ctypes.Array[ctypes.c_char]) -> str:
    return error.value.decode(errors="replace") or "unreadable"


@cache
def _library() -> Any:
    """The compiled bpf/replay/replay.c. Raises CaptureError where the installation lacks it, or has it of another version."""
    try:
        library = ctypes.CDLL(str(bpf.REPLAY_LIBRARY))
    except OSError as error:
        raise CaptureError(f"the replay library cannot be loaded ({error}); {_COMPILE_ANEW}") from error
    handle, pointer, size, path = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "replay_new": (handle, (pointer, pointer, ctypes.c_uint32)),
        "replay_close": (None, (handle,)),
        "replay_check_file": (ctypes.c_int, (path, path, size)),
        "replay_open_file": (ctypes.c_int, (handle, path, path, size)),
        "replay_advance": (ctypes.c_int, (handle, ctypes.c_uint64, ctypes.c_uint64, path, size)),
        "replay_retire": (None, (handle, pointer, size)),
        "replay_release": (None, (handle, pointer, size)),
        "replay_trace": (ctypes.c_int, (handle,)),
        "replay_exchanges": (pointer, (handle,)),
        "replay_open_exchanges": (None, (handle, pointer)),
        "replay_end_exchanges": (None, (handle, pointer, size)),
        "replay_exchanges_taken": (None, (handle,)),
        "replay_layout": (None, (pointer,)),
    }
    sizes = np.zeros(4, np.uint64)
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        library.replay_layout(sizes.ctypes.data)
    except AttributeError as error:
        raise CaptureError(f"the replay library is of another version ({error}); {_COMPILE_ANEW}") from error
    expected = [FLOW.itemsize, OUTER.itemsize, ctypes.sizeof(_Counters), EXCHANGE.itemsize]
    if sizes.tolist() != expected:
        raise CaptureError(f"the replay library is of another version ({sizes.tolist()}, not {expected}); {_COMPILE_ANEW}")
    return library
