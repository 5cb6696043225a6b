"""The network between two processes of a run: a TCP proxy for each pair, which can be cut, silent, and half open."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Final, Literal, Self

State = Literal["open", "cut", "silent", "half_open"]
"""`cut`: connections are reset, and new ones too. `silent`: what is sent waits, as for a network that comes back while TCP
repeats itself. `half_open`: an end is gone and the other was not told: what it sends goes nowhere, and it learns of that when
the network is back.
"""
_CHUNK_BYTES: Final = 1 << 16


class Link:
    """One proxy. Listens on `port` and leads to what `target` says at the time."""

    def __init__(self, name: str, target: Callable[[], int], *, delay_seconds: float = 0.0) -> None:
        self.name = name
        self.port = 0
        self.state: State = "open"
        self._target = target
        self._delay_seconds = delay_seconds
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def become(self, state: State) -> None:
        """Change what the network does."""
        before, self.state = self.state, state
        if state == "cut" or before == "half_open":
            self._reset()
        if state == "silent":
            self._passing.clear()
        else:
            self._passing.set()

    async def close(self) -> None:
        """Listen no more, and reset what is open."""
        if self._server is not None:
            self._server.close()
        self._passing.set()
        self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._passing.wait()
            if self.state == "cut":
                return
            theirs, to_them = await asyncio.open_connection("127.0.0.1", self._target())
            self._writers.add(to_them)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(reader, to_them))
                    both.create_task(self._pump(theirs, writer))
            finally:
                self._writers.discard(to_them)
                to_them.transport.abort()
        except (OSError, ExceptionGroup):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            await self._passing.wait()
            if self.state != "half_open":
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError


class Network:
    """All links of a run, in a thread of their own."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for link in self.links.values():
            with contextlib.suppress(OSError):
                self._run(link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def link(self, name: str, target: Callable[[], int], *, delay_seconds: float = 0.0) -> Link:
        """Make a link that leads to the port that `target` names."""
        link = self.links[name] = Link(name, target, delay_seconds=delay_seconds)
        self._run(link.open())
        return link

    def become(self, name: str, state: State) -> None:
        """Change what the network between two does."""
        self._run(self.links[name].become(state))

    def _run(self, coroutine: object) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)  # type: ignore[arg-type]
        future.result(30)
