"""How far capture is, for whoever started it: a JSON file that is replaced as a whole."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

_INTERVAL_SECONDS: Final = 0.5


class Progress(msgspec.Struct, kw_only=True):
    """Everything so far, all passes of a loop together."""

    packets: int = 0
    bytes: int = 0
    """On the wire, link layer included."""
    file_bytes_read: int = 0
    file_bytes_total: int = 0
    flows: int = 0
    records: int = 0
    """Of batches that the bus has stored."""
    oversized: int = 0
    """Records that alone are more than the bus takes in one message: stored nowhere."""
    exchanges: int = 0
    """Of the records, those of requests in an application's trace."""
    spans: int = 0
    """What the records become."""
    batches: int = 0
    counters: dict[str, int] = msgspec.field(default_factory=dict)
    """Packets and bytes by what they are."""
    refused_waits: int = 0
    """How often a full stream made capture wait."""
    capturing: bool = False
    """The sockets are tapped, or packets are read."""
    finished: bool = False
    """The files were read to their end, and every batch is stored."""
    faults: list[str] = msgspec.field(default_factory=list)
    """What could not be read of the files, a line for each file."""
    error: str | None = None


class Counting(Protocol):
    """Who counts by name."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What was counted so far."""


class Source(Counting, Protocol):
    """What is read: its figures so far. It counts packets and bytes by what they are."""

    @property
    def flows(self) -> int:
        """Begun so far."""

    @property
    def file_bytes_read(self) -> int:
        """Of the files, so far."""

    @property
    def file_bytes_total(self) -> int:
        """Of all files."""


class ProgressReport:
    """Keeps the figures and writes them to `path`, if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.progress = Progress()
        self._path = path
        self._source: Source | None = None
        self._tables: tuple[Counting, ...] = ()
        self._earlier: Counter[str] = Counter()
        self._earlier_flows = 0
        self._lock = threading.RLock()
        self._written = b""

    @property
    def counters(self) -> dict[str, int]:
        """The counters of the source and of its table now, those of earlier passes added."""
        with self._lock:
            return {name: number + self._earlier[name] for name, number in self._counters_of_pass().items()}

    def begin_pass(self, source: Source, *tables: Counting) -> None:
        """Report of `source` and its tables from here on, added to what earlier ones came to, which are left alone."""
        with self._lock:
            if self._source is not None:
                self._earlier.update(self._counters_of_pass())
                self._earlier_flows += self._source.flows
            self._source, self._tables = source, tables

    def refresh(self) -> Progress:
        """Take over the source's figures as they are now. The source may be read in another thread meanwhile."""
        progress = self.progress
        with self._lock:
            source = self._source
            if source is not None:
                progress.counters = self.counters
                progress.packets, progress.bytes = progress.counters["packets"], progress.counters["bytes"]
                progress.flows = self._earlier_flows + source.flows
                progress.file_bytes_read, progress.file_bytes_total = source.file_bytes_read, source.file_bytes_total
        return progress

    def _counters_of_pass(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for counting in () if self._source is None else (self._source, *self._tables):
            found |= counting.counters
        return found

    def write(self) -> None:
        """Replace the file, if anything has changed. Raises OSError."""
        if self._path is None:
            return
        content = msgspec.json.encode(self.refresh())
        if content != self._written:
            fresh = self._path.with_name(f"{self._path.name}.new")
            fresh.write_bytes(content)
            fresh.replace(self._path)
            self._written = content

    async def keep_writing(self) -> None:
        """Write twice a second until cancelled."""
        import asyncio  # noqa: PLC0415 - a capture that is only shown has no event loop to load

        while True:
            self.write()
            await asyncio.sleep(_INTERVAL_SECONDS)
