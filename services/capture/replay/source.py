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
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from services.capture.calls.reader import CallReader
from services.capture.errors import CaptureError, CaptureFileError, path_text
from services.capture.flows.datagrams import DatagramRules
from services.capture.flows.exchange_layout import EXCHANGE, NO_EXCHANGES, Exchanges, joined, request_counters
from services.capture.flows.layout import FLOW, Disposition, Slots
from services.capture.meeting.turns import NO_TURNS, Turns
from services.capture.names.pieces import pieces_in
from services.capture.replay.files import PlainBytes
from services.capture.replay.layout import OUTER, Outers
from services.capture.replay.library import BLOCK_SLOTS, OpenExchanges, Pieces, ReplayCounters, library
from services.capture.replay.turns import ReplayTurns

if TYPE_CHECKING:
    from services.capture.names.reader import NameReader

DEFAULT_CAPACITY: Final = 1 << 20
"""Flows that are open at the same time; memory is touched only as they come."""

_ERROR_BYTES: Final = 512
_WINDOW_BLOCKS: Final = 8
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
    """Nothing more can be read of the file, which ends or breaks in the middle of a packet. What came before it counts."""
    EXCHANGES = 5
    """Many exchanges have ended and are to be taken."""
    PIECES = 6
    """Many pieces of payload were waiting; they are read by now."""


@dataclass(frozen=True, slots=True)
class Advance:
    """What a call of `advance` came to."""

    stop: Stop
    next_unix_ns: int | None
    """Time of the packet that comes next in this file, where it was looked at."""


class ReplaySource(AbstractContextManager["ReplaySource"]):
    """The flows of capture files, read one after the other through one table, in the order of their first packets.

    `capacity` is rounded up to a power of two. Every file is opened once before anything is read: raises CaptureFileError for
    the first that is no capture. `advance` takes packets; between calls `slots` may be read. Not for two threads at once.
    Leaving the context closes the files; `slots` stays readable. With `trace_context`, the exchanges of requests that carry a
    sampled trace context are kept too. `datagrams` says how datagrams are read, `names` reads the pieces of payload that it
    asks for.
    """

    def __init__(
        self,
        files: Sequence[Path],
        capacity: int = DEFAULT_CAPACITY,
        *,
        trace_context: bool = False,
        datagrams: DatagramRules | None = None,
        names: NameReader | None = None,
        turns: bool = False,
    ) -> None:
        self._library = library()
        found = [(*self._check(Path(path)), Path(path)) for path in files]
        self._files = [path for _, _, path in sorted(found, key=lambda file: file[0])]
        self.file_bytes_total: int = sum(size for _, size, _ in found)
        """Size of all files."""
        self.capacity: int = 1 << max(capacity - 1, 1).bit_length()
        """Number of slots."""
        self.slots: Slots = np.frombuffer(_pages(self.capacity * FLOW.itemsize), FLOW)
        """Every slot; the array stays the same, its content changes with `advance`."""
        self.outers: Outers = np.frombuffer(_pages(self.capacity * OUTER.itemsize), OUTER)
        """What is around the packets of each slot's flow."""
        self._file_of_slot = np.frombuffer(_pages(self.capacity * 4), np.uint32)
        self._block_used = np.zeros(max(self.capacity // BLOCK_SLOTS, 1), np.uint32)
        memory = (self.slots, self.outers, self._file_of_slot, self._block_used)
        self._handle: int | None = self._library.replay_new(*(each.ctypes.data for each in memory), self.capacity)
        if not self._handle:
            raise CaptureError(f"no memory for a table of {self.capacity} flows")
        rules = datagrams or DatagramRules()
        ports = np.array(rules.dns_ports, np.uint16)
        self._library.replay_datagrams(self._handle, ports.ctypes.data, len(ports), rules.rest_ns)
        self._counters = ReplayCounters.from_address(self._handle)
        self._exchanges = OpenExchanges.from_address(self._library.replay_exchanges(self._handle))
        self._pieces = Pieces.from_address(self._library.replay_pieces(self._handle))
        self._names = names
        self._pieces.wanted = sum(1 << kind for kind in (names.kinds if names is not None else ()))
        if trace_context and self._library.replay_trace(self._handle):
            raise CaptureError(f"no memory for the exchanges of {self.capacity} flows")
        kept = self._library.replay_turns(self._handle) if turns else None
        if turns and not kept:
            raise CaptureError(f"no memory for the turns of {self.capacity} flows")
        self._turns = ReplayTurns(kept, self.capacity) if kept else None
        self._calls = CallReader(self._library.replay_calls(self._handle)) if trace_context else None
        self._over = NO_EXCHANGES
        self._open: PlainBytes | None = None
        self._finished_sizes = 0
        self._cut = 0
        self._faults: dict[Path, str] = {}
        self._next_file = 0

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and free the index; counters stay as they are. May be called again."""
        handle, self._handle = self._handle, None
        if handle:
            self._counters = ReplayCounters.from_buffer_copy(self._counters)
            self._exchanges = OpenExchanges.from_buffer_copy(self._exchanges)
            if self._calls is not None:
                self._calls.close()
            self._turns = None
            self._library.replay_close(handle)
            if self._open is not None:
                self._open.close()

    def open_next_file(self) -> bool:
        """Go on with the next file; its clock begins anew. Returns False when there is none left."""
        if self._next_file == len(self._files):
            return False
        path, number = self._files[self._next_file], self._next_file
        self._next_file += 1
        self._open = PlainBytes(path)
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        if self._library.replay_open_file(self._open_handle(), self._open.descriptor(), number, error, _ERROR_BYTES):
            raise CaptureFileError(path, self._open.fault or _text(error.value))
        return True

    def advance(self, until_unix_ns: int, max_packets: int | None = None) -> Advance:
        """Take the open file's packets up to and including `until_unix_ns` on its clock, or `max_packets` of them."""
        limit = _ALL_PACKETS if max_packets is None else max_packets
        stop = Stop(self._library.replay_advance(self._open_handle(), until_unix_ns, limit))
        if stop in {Stop.END_OF_FILE, Stop.CUT} and self._open is not None:
            self._end_file(self._open, stop)
        if self._pieces.used:
            self._read_pieces()
        return Advance(stop, self._counters.next_ns or None)

    def _read_pieces(self) -> None:
        waiting = ctypes.string_at(ctypes.addressof(self._pieces) + ctypes.sizeof(Pieces), self._pieces.used)
        self._pieces.used = 0
        if self._names is not None:
            self._names.read(pieces_in(waiting))

    def _end_file(self, file: PlainBytes, stop: Stop) -> None:
        self._open = None
        file.close()
        self._finished_sizes += file.size
        fault = _text(self._library.replay_fault(self._open_handle()))
        skipped = int(self._library.replay_unreadable(self._open_handle()))
        if skipped > 1:
            fault += f" (and {skipped - 1} more packets)"
        faults = [each for each in (fault, file.fault) if each]
        if faults:
            self._faults[self._files[self._next_file - 1]] = "; ".join(faults)
        self._cut += stop is Stop.CUT or file.fault is not None

    def windows(self) -> Iterator[tuple[int, Slots]]:
        """Yield the slots of every block that has one in use, piece by piece: the first one's index, and the slots."""
        blocks = np.flatnonzero(self._block_used)
        # Runs of neighbours, each cut into windows.
        for run in np.split(blocks, np.flatnonzero(np.diff(blocks) != 1) + 1):
            for first in range(0, len(run), _WINDOW_BLOCKS):
                begin = int(run[first]) * BLOCK_SLOTS
                end = int(run[min(first + _WINDOW_BLOCKS, len(run)) - 1] + 1) * BLOCK_SLOTS
                yield begin, self.slots[begin : min(end, self.high_slot)]

    def rows(self, slots: npt.NDArray[np.uint32]) -> Slots:
        """Return a copy of these slots (indexes)."""
        whole = np.dtype(f"V{self.slots.dtype.itemsize}")  # as one piece: numpy copies structures member by member
        return self.slots.view(whole)[slots].view(self.slots.dtype)

    def slots_of(self, flow_ids: npt.NDArray[np.uint64]) -> Slots:
        """Return a copy of the slot of each of these flows; zeroed where it has none any more."""
        found = self.rows(self.places_of(flow_ids))
        found[found["id"] != flow_ids] = np.zeros((), FLOW)
        return found

    def places_of(self, flow_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
        """Return the index of each of these flows' slot, which is another's where it has none any more."""
        known = self.slots["id"][: self.high_slot]
        at = np.flatnonzero(np.isin(known, flow_ids))
        slots = dict(zip(known[at].tolist(), at.tolist(), strict=True))
        return np.array([slots.get(each, 0) for each in flow_ids.tolist()], np.uint32)

    def mark_taken(self, slots: npt.NDArray[np.uint32]) -> None:
        """Add one to `taken` of each of these slots (indexes)."""
        self.slots["taken"][slots] += 1

    @property
    def file_names(self) -> list[str]:
        """The files' names, without their folders."""
        return [path_text(path.name) for path in self._files]

    def files_of(self, slots: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Return which of `file_names` the packets of these slots (indexes) were in: the first ones of the next record."""
        return self._file_of_slot[slots]

    def open_exchanges(self) -> Exchanges:
        """Return copies of the traced exchanges that are not over."""
        if self._calls is None:
            return NO_EXCHANGES
        found = np.zeros(int(self._exchanges.open_count), EXCHANGE)
        if len(found):
            self._library.replay_open_exchanges(self._open_handle(), found.ctypes.data)
        begun = found[found["request_first_ns"] != 0]  # of the others the headers are still coming
        return joined(begun, self._calls.open_exchanges())

    def end_exchanges(self, exchanges: Exchanges) -> None:
        """End the open exchanges that these are copies of, as their `end` and `ended_ns` say."""
        is_call = exchanges["is_stream"] != 0
        others = np.ascontiguousarray(exchanges[~is_call], EXCHANGE)
        self._library.replay_end_exchanges(self._open_handle(), others.ctypes.data, len(others))
        if self._calls is not None:
            self._calls.end_exchanges(exchanges[is_call])

    def take_exchanges(self, most: int) -> Exchanges:
        """Return up to so many of the exchanges that are over, each once; none where all were taken."""
        if self._calls is None:
            return NO_EXCHANGES
        ended = np.zeros(int(self._exchanges.ended_count), EXCHANGE)
        if len(ended):
            ctypes.memmove(ended.ctypes.data, self._exchanges.ended, ended.nbytes)
            self._library.replay_exchanges_taken(self._open_handle())
        taken, self._over = np.split(joined(self._over, ended), [most])
        return joined(taken, self._calls.take_exchanges(most - len(taken)))

    def take_turns(self, now_unix_ns: int, *, final: bool) -> Turns:
        """Return the turns that are over, each once; with `final` all that have a response."""
        return NO_TURNS if self._turns is None else self._turns.take(now_unix_ns, self.high_slot, final=final)

    def share_turns(self, flow_ids: npt.NDArray[np.uint64]) -> None:
        """From now on turns of these flows are slices of their time."""
        if self._turns is not None and len(flow_ids):
            self._turns.share(flow_ids, self.places_of(flow_ids))

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
        here = self._open.position(int(self._counters.file_bytes_read)) if self._open is not None else 0
        return min(self._finished_sizes + here, self.file_bytes_total)

    @property
    def faults(self) -> Mapping[Path, str]:
        """Files of which something could not be read, and what: the first packet that it concerns."""
        return self._faults

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
        counters["truncated_file"] = self._cut
        if self._calls is not None:
            counters |= request_counters([*map(int.__add__, self._exchanges.requests, self._calls.requests)])
            counters |= self._calls.counters
            counters["exchanges_lost"] = int(self._exchanges.lost) + self._calls.lost
        return counters

    def _check(self, path: Path) -> tuple[int, int]:
        """Return the time of the file's first packet (0: it has none) and its size. Raises CaptureFileError."""
        file = PlainBytes(path)
        first_ns = ctypes.c_uint64()
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        failed = self._library.replay_check_file(file.descriptor(), ctypes.byref(first_ns), error, _ERROR_BYTES)
        file.close()
        if failed:
            raise CaptureFileError(path, file.fault or _text(error.value))
        return first_ns.value, file.size

    def _open_handle(self) -> int:
        if self._handle is None:
            raise CaptureError("the replay source is closed")
        return self._handle


def _pages(size: int) -> mmap.mmap:
    """Zeroed memory, whose pages come into being when something first lies on them."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _text(said: bytes) -> str:
    return said.decode(errors="replace")
