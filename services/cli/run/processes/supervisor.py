"""Child processes: started on a leash, started again when they die, stopped in order, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from services.cli.errors import ServiceFailedError

STOP_GRACE_SECONDS: Final = 10.0
"""How long a process may take to end by itself once asked to."""

_T = TypeVar("_T")
_LEASH: Final = str(Path(__file__).with_name("leash.py"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How to start one process. What it prints goes to the end of `log_path`."""

    name: str
    arguments: tuple[str, ...]
    """The program's absolute path first."""
    environ: Mapping[str, str]
    log_path: Path
    ends: bool = False
    """Exit status 0 is its natural end; else it is to run until it is stopped."""
    fatal_exits: frozenset[int] = frozenset({2})
    """Exit statuses that another start would only repeat: faulty settings, an input that cannot be used."""


@dataclass(slots=True)
class RestartPolicy:
    """Bounds how often a process is started again: at most `limit` times within `window_seconds`, each delay twice the last."""

    limit: int = 5
    window_seconds: float = 60.0
    first_delay_seconds: float = 0.1
    _restarts: deque[float] = field(default_factory=deque)

    def delay_seconds(self, now_seconds: float) -> float | None:
        """Count an exit at `now_seconds` (any monotonic clock); return how long to wait, None when it is not to start again."""
        while self._restarts and self._restarts[0] <= now_seconds - self.window_seconds:
            self._restarts.popleft()
        if len(self._restarts) >= self.limit:
            return None
        self._restarts.append(now_seconds)
        return self.first_delay_seconds * float(2 ** (len(self._restarts) - 1))


class Supervisor:
    """All processes of a run. Leaving the context stops what still runs, the last started first."""

    def __init__(self, *, say: Callable[[str], None]) -> None:
        self._say = say
        self._processes: dict[str, tuple[SupervisedProcess, asyncio.Task[None]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        for name in reversed(self._processes):
            await self.stop(name)

    def start(self, command: Command) -> None:
        """Start a process and keep it running."""
        process = SupervisedProcess(command, say=self._say)
        self._processes[command.name] = process, asyncio.create_task(process.run(), name=command.name)

    async def stop(self, name: str, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """Stop a process and wait for its end; one that has ended or was never started is fine."""
        if name in self._processes:
            process, task = self._processes[name]
            await process.stop(grace_seconds)
            await asyncio.wait({task})
            task.cancelled() or task.exception()  # looked at, or asyncio complains

    async def guard(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return what `work` returns; raise ServiceFailedError as soon as a process has failed for good."""
        task = asyncio.create_task(work)
        try:
            while not task.done():
                running = {process for _, process in self._processes.values() if not process.done()}
                await asyncio.wait({task, *running}, return_when=asyncio.FIRST_COMPLETED)
                self._raise_failure()
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})

    def _raise_failure(self) -> None:
        for _, task in self._processes.values():
            if task.done():
                task.result()


class SupervisedProcess:
    """One command kept running. `say` gets one line for each thing a person should know."""

    def __init__(self, command: Command, *, say: Callable[[str], None], policy: RestartPolicy | None = None) -> None:
        self.command = command
        self._say = say
        self._policy = policy or RestartPolicy()
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep the command running until it ends by its nature or is stopped.

        Raises ServiceFailedError where starting it again would not help, or has not helped.
        """
        try:
            while not self._stopping.is_set():
                exit_code = await self._run_once()
                if self._stopping.is_set() or (exit_code == 0 and self.command.ends):
                    return
                await self._pause(exit_code)
        finally:
            self._signal(signal.SIGKILL)

    async def stop(self, grace_seconds: float) -> None:
        """Ask the process to end, wait for it, and kill it and its group when `grace_seconds` are over."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await process.wait()
        except TimeoutError:
            self._say(f"{self.command.name} did not stop within {grace_seconds:g} s: killed")
            self._signal(signal.SIGKILL)
            await process.wait()

    async def _run_once(self) -> int:
        self._process = await start(self.command)
        if self._stopping.is_set():  # stop() came while the process was being created and saw none
            self._signal(signal.SIGTERM)
        return await self._process.wait()

    async def _pause(self, exit_code: int) -> None:
        name, ended = self.command.name, describe_exit(exit_code)
        if exit_code in self.command.fatal_exits:
            raise ServiceFailedError(name, exit_code, ended)
        delay = self._policy.delay_seconds(asyncio.get_running_loop().time())
        if delay is None:
            window = f"{self._policy.limit} restarts within {self._policy.window_seconds:g} s did not help"
            raise ServiceFailedError(name, exit_code, f"{ended}; {window}")
        self._say(f"{name} {ended}; starting it again")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._stopping.wait()

    def _signal(self, number: signal.Signals) -> None:
        """Signal the process's whole group. Only while the process is not reaped: until then nobody else can have its id."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


async def start(command: Command) -> asyncio.subprocess.Process:
    """Start a process that dies with this one.

    It gets a session of its own, so that Ctrl-C on the terminal reaches only this one, which stops the others in order.
    """
    with command.log_path.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", _LEASH, str(os.getpid())),
            *command.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(command.environ),
            start_new_session=True,
        )


def describe_exit(exit_code: int) -> str:
    """Say how a process ended; asyncio gives the number of a signal that killed it as a negative code."""
    if exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"ended with status {exit_code}"
