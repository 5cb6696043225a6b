"""Pieces of payload from the socket tap: what bpf/tap/pieces/pieces.h puts into its ring buffer where it is told to."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from services.capture.live.tap import bpf_syscall
from services.capture.live.tap.loader import LoadedTap
from services.capture.live.tap.ring_buffer import BUSY, DISCARDED, HEADER_BYTES, RingBuffer
from services.capture.names.pieces import Piece, PieceKind, piece_at

_LENGTH: Final = struct.Struct("<I")
_ALIGNMENT: Final = 8


class TapPieces:
    """Not for two threads at once."""

    def __init__(self, loaded: LoadedTap, cpus: int) -> None:
        """`cpus` is how many values a per-CPU map has."""
        self._lost_fd = loaded.maps["pieces_lost"]
        self._cpus = cpus
        self._ring = RingBuffer(loaded.maps["pieces"], loaded.map_descriptions["pieces"].max_entries)

    def take(self) -> Iterator[Piece]:
        """Yield the pieces that are whole, each once. Those that were yielded are gone."""
        memory, at, length = self._ring.unread()
        if memory is None:
            return
        end = at + length
        with memory:
            while at < end:
                (head,) = _LENGTH.unpack_from(memory, at)
                if head & int(BUSY):
                    return
                held = head & ~int(DISCARDED)
                content = memory[at + HEADER_BYTES : at + HEADER_BYTES + held]
                room = -(-(HEADER_BYTES + held) // _ALIGNMENT) * _ALIGNMENT
                self._ring.make_room(room)
                at += room
                if held == head:
                    yield piece_at(content, 0)

    def close(self) -> None:
        """Let go of the ring buffer."""
        self._ring.close()

    @property
    def counters(self) -> dict[str, int]:
        """Pieces that found no room, by kind; cumulative."""
        counts = bpf_syscall.counts(self._lost_fd, len(PieceKind), self._cpus)[:, 0].tolist()
        return {f"pieces_lost_{kind.name.lower()}": count for kind, count in zip(PieceKind, counts, strict=True)}
