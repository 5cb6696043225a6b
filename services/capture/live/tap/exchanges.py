"""The traced exchanges of the live table: what bpf/tap/exchanges/exchanges.h keeps where it is told
to, and the calls of HTTP/2 and of pipelined requests, which this side keeps itself from what
bpf/tap/exchanges/streams.h and messages.h tell.

Open exchanges are in a hash that programs write and this side reads; ended ones come through a ring buffer, read as one array.
An exchange that is ended here stays in the hash, for the programs may be at it: it is remembered as told until its flow is gone
or the ring buffer brings it, whichever comes first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from services.capture.calls.reader import CallReader
from services.capture.errors import CaptureError
from services.capture.flows.exchange_layout import EXCHANGE, NO_EXCHANGES, Exchanges, RequestCounter, joined, request_counters
from services.capture.flows.layout import Slots, State
from services.capture.live.tap import bpf_syscall
from services.capture.live.tap.loader import UNACCEPTED_PROGRAM, LoadedTap, connect_calls
from services.capture.live.tap.ring_buffer import BUSY, DISCARDED, RingBuffer
from services.capture.live.tap.slot_layout import SLOT_OF_FLOW

MAPS: Final = ("open_exchanges", "ended_exchanges", "request_counters", "ingress_calls", "egress_calls", "http2_frames")
_LOOKS: Final = ("request", "line", "headers", "cut", "response")
PROGRAMS: Final = {f"{way}_calls": [f"tap_{way}_{look}" for look in _LOOKS] for way in ("ingress", "egress")}
"""Which programs are called through which map, in the order of bpf/tap/exchanges/exchanges.h's `enum exchange_call`."""
_FOLLOWING: Final = {
    "ingress_calls": ["tap_ingress_frames", "tap_ingress_messages", UNACCEPTED_PROGRAM],
    "egress_calls": ["tap_egress_frames", "tap_egress_messages"],
}
"""Behind them, where the kernel takes them: without, connections of HTTP/2 and those with pipelined requests are given up."""

_MOST_FILLED: Final = 1 / 8
"""Of the ring buffer of frames: so little lies in the processor's caches, too."""
_RING_RECORD: Final = np.dtype({
    "names": ["length", "exchange"], "offsets": [0, 8], "formats": ["<u4", EXCHANGE], "itemsize": 8 + EXCHANGE.itemsize,
})  # fmt: skip
"""A record of the ring buffer with its header (include/linux/ringbuf: length and two flags)."""

Indexes = npt.NDArray[np.uint32]


class TapExchanges:
    """An ExchangeHost. Not for two threads at once."""

    def __init__(self, loaded: LoadedTap, rows: Callable[[Indexes], Slots], cpus: int) -> None:
        """`rows` copies slots of the same tap, `cpus` is how many values a per-CPU map has."""
        self._maps = loaded.maps
        self._room = loaded.map_descriptions["open_exchanges"].max_entries
        self._rows = rows
        self._cpus = cpus
        self._ring = ExchangeRing(loaded.maps["ended_exchanges"], loaded.map_descriptions["ended_exchanges"].max_entries)
        self._told = NO_EXCHANGES
        self._over = NO_EXCHANGES
        self._is_ring_due = False
        self._open_ids: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._frames = FrameRing(loaded.maps["http2_frames"], loaded.map_descriptions["http2_frames"].max_entries)
        self._calls = _call_reader()
        follows = self._calls is not None and loaded.programs.keys() >= set(chain(*_FOLLOWING.values()))
        for name, programs in PROGRAMS.items():
            connect_calls(loaded, {name: [*programs, *(_FOLLOWING[name] if follows else ())]})

    def close(self) -> None:
        """Let go of the ring buffers, and of what is kept of calls."""
        self._ring.close()
        self._frames.close()
        if self._calls is not None:
            self._calls.close()

    @property
    def frames_wait(self) -> bool:
        """Whether more is told of frames than can wait for the next look."""
        return self._calls is not None and self._frames.filled > _MOST_FILLED

    def read_frames(self) -> None:
        """Take over what was told of frames since: as often as the ring buffer has room for."""
        if self._calls is not None:
            self._frames.read(self._calls)

    def rows(self, slots: Indexes) -> Slots:
        """Return a copy of these slots."""
        return self._rows(slots)

    def places_of(self, flow_ids: npt.NDArray[np.uint64]) -> Indexes:
        """Return the index of each of these flows' slot, which may be another's by now."""
        return (flow_ids & np.uint64(SLOT_OF_FLOW)).astype(np.uint32)

    def open_exchanges(self) -> Exchanges:
        """Return copies of those that are not over. Those that were told and whose flow is gone are deleted."""
        self.read_frames()
        self._is_ring_due = True
        keys, found = bpf_syscall.read_hash(self._maps["open_exchanges"], "<u8", EXCHANGE, self._room)
        self._open_ids = keys
        begun = found["request_first_ns"] != 0
        self._delete_gone(found[~begun & (found["flow_id"] != 0)])
        found = found[begun]  # the others are being written, or their headers are still coming
        told = self._is_told(found)
        self._delete_gone(found[told])
        left: Exchanges = found[~told]
        return left if self._calls is None else joined(left, self._calls.open_exchanges())

    def _delete_gone(self, exchanges: Exchanges) -> None:
        """Delete those whose flow is gone."""
        if not len(exchanges):
            return
        flows = self._rows(exchanges["slot"])
        gone = (flows["id"] != exchanges["flow_id"]) | (flows["state"] != State.LIVE)
        bpf_syscall.delete_all(self._maps["open_exchanges"], np.ascontiguousarray(exchanges["flow_id"][gone]))

    def end_exchanges(self, exchanges: Exchanges) -> None:
        """End those that these are copies of, as their `end` and `ended_ns` say."""
        is_call = exchanges["is_stream"] != 0
        if self._calls is not None:
            self._calls.end_exchanges(exchanges[is_call])
        exchanges = exchanges[~is_call]
        self._over = joined(self._over, exchanges)
        others = self._told[~np.isin(self._told["flow_id"], exchanges["flow_id"])]
        told = np.concatenate([others, exchanges])
        self._told = told[np.argsort(told["flow_id"])]

    def take_exchanges(self, most: int) -> Exchanges:
        """Return up to so many of those that were over by the last look at the open ones, each once; none: all were taken."""
        if self._is_ring_due:
            self._read_ring()
        taken, self._over = np.split(self._over, [most])
        return taken if self._calls is None else joined(taken, self._calls.take_exchanges(most - len(taken)))

    def _read_ring(self) -> None:
        """Take over what programs ended. Once a look: what they end while its batches are sent would keep it from its end."""
        self._is_ring_due = False
        ended = self._ring.take()
        self._over = joined(self._over, ended[~self._is_told(ended)])
        # What a program ended, and what is in the hash no more, will not come again.
        kept = ~np.isin(self._told["flow_id"], ended["flow_id"]) & np.isin(self._told["flow_id"], self._open_ids)
        self._told = self._told[kept]

    @property
    def counters(self) -> dict[str, int]:
        """What became of requests, and of what the ring buffers had no room for; cumulative."""
        counts = bpf_syscall.counts(self._maps["request_counters"], len(RequestCounter) + 2, self._cpus)
        *requests, exchanges_lost, frames_lost = counts[:, 0].tolist()
        found = {"exchanges_lost": exchanges_lost, "pieces_lost_http2": frames_lost}
        if self._calls is not None:
            requests = [*map(int.__add__, requests, self._calls.requests)]
            found |= self._calls.counters
            found["exchanges_lost"] += self._calls.lost
        return request_counters(requests) | found

    def _is_told(self, exchanges: Exchanges) -> npt.NDArray[np.bool_]:
        if not len(self._told) or not len(exchanges):
            return np.zeros(len(exchanges), np.bool_)
        at = np.minimum(np.searchsorted(self._told["flow_id"], exchanges["flow_id"]), len(self._told) - 1)
        told: npt.NDArray[np.bool_] = self._told["flow_id"][at] == exchanges["flow_id"]
        told &= self._told["number"][at] == exchanges["number"]
        return told


def _call_reader() -> CallReader | None:
    """Who keeps calls of HTTP/2; None where its library is not compiled for this machine: they are not followed then."""
    with contextlib.suppress(CaptureError):
        return CallReader()
    return None


class ExchangeRing(RingBuffer):
    """Ended exchanges: records of one size, read as an array."""

    def take(self) -> Exchanges:
        """Return a copy of the records that are whole, and make room for others."""
        memory, at, length = self.unread()
        count = length // _RING_RECORD.itemsize
        if memory is None or not count:
            return np.zeros(0, EXCHANGE)
        records = np.frombuffer(memory, _RING_RECORD, count, at)
        busy = np.flatnonzero(records["length"] & BUSY)
        if len(busy):
            records = records[: busy[0]]
        taken: Exchanges = records["exchange"][(records["length"] & DISCARDED) == 0]
        self.make_room(len(records) * _RING_RECORD.itemsize)
        return taken


class FrameRing(RingBuffer):
    """What is told of frames of HTTP/2."""

    def read(self, calls: CallReader) -> None:
        """Have the records that are whole taken over, and make room for others."""
        memory, at, length = self.unread()
        if memory is None:
            return
        whole = np.frombuffer(memory, np.uint8)
        self.make_room(calls.read(whole.ctypes.data + at, length))
