"""A BPF ring buffer as this process reads it: polled, mapped only while it is read."""

from __future__ import annotations

import mmap
from typing import Any, Final

import numpy as np
import numpy.typing as npt

HEADER_BYTES: Final = 8
"""In front of a record (kernel/bpf/ringbuf.c): its length, with these two flags, and what the kernel needs."""
BUSY: Final = np.uint32(1 << 31)
DISCARDED: Final = np.uint32(1 << 30)


class RingBuffer:
    """Its pages can be mapped twice in a row, so that what is unread lies in one piece.

    What is read is mapped while it is read: mapped pages count as this process's memory, used or not.
    """

    def __init__(self, map_fd: int, size: int) -> None:
        """`size` is the map's max_entries, in bytes."""
        page = mmap.PAGESIZE
        self._map_fd = map_fd
        self._size = size
        self._consumer_memory = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_memory = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer: npt.NDArray[Any] | None = np.frombuffer(self._consumer_memory, "<u8", 1)
        self._producer: npt.NDArray[Any] | None = np.frombuffer(self._producer_memory, "<u8", 1)

    @property
    def filled(self) -> float:
        """Which part of it is unread, 1 being all."""
        if self._consumer is None or self._producer is None:
            return 0
        return int(self._producer[0] - self._consumer[0]) / self._size

    def unread(self) -> tuple[mmap.mmap | None, int, int]:
        """Return memory, and where in it how many bytes are unread. Records may still be written: they are BUSY."""
        if self._consumer is None or self._producer is None:
            return None, 0, 0
        first, end = int(self._consumer[0]), int(self._producer[0])
        if first == end:
            return None, 0, 0
        within = first % self._size % mmap.PAGESIZE
        begin = first % self._size - within
        length = within + end - first
        memory = mmap.mmap(self._map_fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=2 * mmap.PAGESIZE + begin)
        return memory, within, end - first

    def make_room(self, length: int) -> None:
        """So many bytes were read."""
        if self._consumer is not None:
            self._consumer[0] += np.uint64(length)

    def close(self) -> None:
        """Unmap it."""
        self._consumer = self._producer = None
        self._consumer_memory.close()
        self._producer_memory.close()
