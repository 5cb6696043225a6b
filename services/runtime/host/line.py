"""Several processes that do the same for one machine, in a line: each knows who stands before it and who behind.

A place is a read lock of one byte, on a file that all of them can open and none needs to write to. Where the byte is says which
line it is, and since when its holder sees what it is there for, on CLOCK_MONOTONIC, which all containers of a machine share.
Nobody waits for a lock: whoever wants to know asks which there are. The kernel takes a lock away with the process that holds
it, however that ends, so nobody stands in the way who is gone, and no volume has to be shared. Whoever steps out leaves a lock
elsewhere that says until when it saw, for as long as its process lives.
"""

from __future__ import annotations

import fcntl
import os
import struct
from hashlib import blake2b
from pathlib import Path
from typing import Final, Self

_LOCK: Final = struct.Struct("hhxxxxqqi4x")
"""`struct flock`: type, whence, start, length, pid."""
_TIME_BITS: Final = 40
"""Milliseconds: 34 years."""
_NAME_BITS: Final = 22
_GONE: Final = 1 << (_TIME_BITS + _NAME_BITS)
"""How much further those locks are that say until when somebody saw."""
_MS: Final = 1_000_000


class Line:
    """A place in the line of a name, once it was joined. Raises OSError where the file system or a policy has no such locks."""

    def __init__(self, file: Path, name: str) -> None:
        hashed = int.from_bytes(blake2b(name.encode(errors="replace"), digest_size=8).digest(), "little")
        self._first = hashed >> (64 - _NAME_BITS) << _TIME_BITS
        self._end = self._first + (1 << _TIME_BITS)
        self._place = self._end
        self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def join(self, since_ns: int) -> int:
        """Stand behind all that are there; return since when this one counts as seeing: `since_ns`, or within 1 ms after."""
        self._place = self._first - (-since_ns // _MS)
        while self._found(self._place, self._place + 1) is not None:
            self._place += 1
        self._lock(self._place, fcntl.F_RDLCK)
        return (self._place - self._first) * _MS

    def leave(self, until_ns: int) -> None:
        """Give up the place, and say until when this one saw."""
        self._lock(self._first + _GONE + until_ns // _MS, fcntl.F_RDLCK)
        self._lock(self._place, fcntl.F_UNLCK)

    def close(self) -> None:
        """Be gone, without a word. May be called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def is_first(self) -> bool:
        """Whether nobody stands before."""
        return self._found(self._first, self._place) is None

    @property
    def next_since_ns(self) -> int | None:
        """Since when the one that stands next behind sees; None where there is none."""
        nearest, end = None, self._end
        while (found := self._found(self._place + 1, end)) is not None:
            nearest = end = found
        return None if nearest is None else (nearest - self._first) * _MS

    @property
    def left_ns(self) -> int | None:
        """Until when the last one that left saw; None where none has, or its process has ended."""
        start, found = self._first + _GONE, None
        while (later := self._found(start, self._end + _GONE)) is not None:
            found, start = later, later + 1
        return None if found is None else (found - self._first - _GONE) * _MS

    def _lock(self, place: int, kind: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, place, 1, 0))

    def _found(self, start: int, end: int) -> int | None:
        """Return a place from `start` on and before `end` that another one has."""
        if end <= start:
            return None
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
        kind, _, place, _, _ = _LOCK.unpack(fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else int(place)
