"""What comes piece by piece is done together: a price that is paid whatever is in it is then paid once for many.

A piece that comes alone is done as it comes. Those that come soon after it wait a moment for each other: under load, and the
more so the smaller they are, many are done at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Gathering(Generic[Piece, Result]):
    """Pieces wait here for their turn, and for each other."""

    def __init__(
        self,
        work: Callable[[list[Piece]], Awaitable[Sequence[Result | Exception]]],
        *,
        enough: int,
        pace_seconds: float,
        size: Callable[[Piece], int],
        most_size: int,
        most_pieces: int,
    ) -> None:
        """`work` says of each piece what came of it. What it raises is raised for all that it was given.

        From the start of one turn to the next it takes `pace_seconds` at the least, unless `enough` pieces wait: that is to be
        no more than ever come at the same time. No piece joins others that have `most_size` already.
        """
        self._work = work
        self._enough_pieces = enough
        self._pace_seconds = pace_seconds
        self._size = size
        self._most_size = most_size
        self._most_pieces = most_pieces
        self._waiting: deque[tuple[Piece, asyncio.Future[Result]]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._enough = asyncio.Event()

    async def done(self, piece: Piece) -> Result:
        """Return what came of the piece, or raise it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((piece, future))
        if len(self._waiting) >= self._enough_pieces:
            self._enough.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while taken := self._take():
                began = loop.time()
                try:
                    _settle(taken, await self._work([piece for piece, _ in taken]))
                except Exception as error:  # noqa: BLE001 - raised where the pieces are awaited, or they were for ever
                    _settle(taken, [error] * len(taken))
                await self._gather(began + self._pace_seconds)
        finally:
            self._running = None

    async def _gather(self, until: float) -> None:
        """Wait until then, or until there is enough for a turn."""
        self._enough.clear()
        if len(self._waiting) < self._enough_pieces:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._enough.wait()

    def _take(self) -> list[tuple[Piece, asyncio.Future[Result]]]:
        """Take what is done in one turn. What nobody awaits any more is left out."""
        taken: list[tuple[Piece, asyncio.Future[Result]]] = []
        size = 0
        while self._waiting and size < self._most_size and len(taken) < self._most_pieces:
            piece, future = self._waiting.popleft()
            if not future.done():
                taken.append((piece, future))
                size += self._size(piece)
        return taken


def _settle(taken: Sequence[tuple[Piece, asyncio.Future[Result]]], results: Sequence[Result | Exception]) -> None:
    """Tell those who still await their piece what came of it."""
    for (_, future), result in zip(taken, results, strict=True):
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
