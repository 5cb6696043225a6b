"""A sink whose credentials are renewed in their files: authority, certificate, key and headers, as a kubelet does it.

The files are looked at before each attempt, which costs a stat(2) each. Once they have changed the next attempt goes out over
connections made with what they hold now; attempts under way end on the old ones. Files that do not belong together, since only
some of them are replaced yet, change nothing until they do. Where the backend does not know us, what the files hold is
compared, and if it is other than what was sent the attempt is made once more with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from services.exporter.delivery.sink import Outcome, Rejected, Sink
from services.runtime.file_stamps import stamps

logger = structlog.get_logger()


class RenewingSink:
    """The sink that `open_sink` makes of `files`, made anew when these change."""

    def __init__(self, files: Sequence[Path], open_sink: Callable[[], Sink]) -> None:
        """`open_sink` raises OSError or ValueError where the files cannot be used as they are."""
        self._files = files
        self._open_sink = open_sink
        self._stamp = stamps(self._files)
        self._contents = self._read()
        self._current = _Counted(open_sink())
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, body: bytes) -> Outcome:
        """Make one attempt to hand over `body`."""
        stamp = stamps(self._files)
        if stamp != self._stamp:
            self._stamp = stamp
            self._renew()
        used = self._current
        outcome = await used.send(body)
        if isinstance(outcome, Rejected) and outcome.unauthorized:
            if used is self._current and self._read() != self._contents:
                self._renew()
            if used is not self._current:
                return await self._current.send(body)
        return outcome

    async def close(self) -> None:
        """Close the connections."""
        await self._current.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def _renew(self) -> None:
        contents = self._read()
        try:
            fresh = self._open_sink()
        except (OSError, ValueError) as error:
            logger.warning("credentials.not_renewed", error=str(error), files=[str(file) for file in self._files])
            return
        logger.info("credentials.renewed", files=[str(file) for file in self._files])
        self._contents = contents
        old, self._current = self._current, _Counted(fresh)
        task = asyncio.create_task(old.close_when_idle())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _read(self) -> bytes:
        """Fingerprint of what the files hold."""
        digest = hashlib.blake2b()
        for file in self._files:
            with contextlib.suppress(OSError):
                digest.update(hashlib.blake2b(file.read_bytes()).digest())
        return digest.digest()


class _Counted:
    """A sink and its attempts under way."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def send(self, body: bytes) -> Outcome:
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._sink.send(body)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def close_when_idle(self) -> None:
        await self._idle.wait()
        await self._sink.close()

    async def close(self) -> None:
        await self._sink.close()
