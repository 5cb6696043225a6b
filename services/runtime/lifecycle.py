"""A service's life: start, signal, drain, end.

The first SIGTERM or SIGINT asks the service to stop, and it has `drain_seconds` to finish what is in flight. The second one
cuts it off. A named task that fails stops the rest. A process whose event loop is stuck is ended: watchdog.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

import structlog

from services.runtime import logs, settings
from services.runtime.errors import SettingsError, Stopping
from services.runtime.privacy.redaction import guard_standard_error
from services.runtime.watchdog import watched_loop

logger = structlog.get_logger()

_T = TypeVar("_T")
_Settings = TypeVar("_Settings", bound=settings.ServiceSettings)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_CANCEL_SECONDS: Final = 5.0
"""How long a cancelled task may take to clean up."""


class Lifecycle:
    """What a running service knows of its own end."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        """Set once the service should stop taking in work and drain."""
        self.forced = asyncio.Event()
        self.failure: BaseException | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, name: str, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run `coroutine` as a task of the service. If it fails, the service stops and ends with an error."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def unless_stopping(self, awaitable: Awaitable[_T]) -> _T:
        """Return the awaitable's result. Raises Stopping, with the awaitable cancelled, if the service is to stop first."""
        waited = asyncio.ensure_future(awaitable)
        stop = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({waited, stop}, return_when=asyncio.FIRST_COMPLETED)
            if waited.done():
                return waited.result()
            raise Stopping("told to stop")
        finally:
            stop.cancel()
            await _cancel({waited})

    def on_signal(self, number: signal.Signals) -> None:
        """Begin to stop; at the second signal stop at once, and leave a third to the system."""
        if not self.stopping.is_set():
            logger.info("service.stop_requested", signal=number.name)
            self.stopping.set()
            return
        logger.warning("service.stop_forced", signal=number.name)
        self.forced.set()
        loop = asyncio.get_running_loop()
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    async def cancel_tasks(self) -> None:
        """Cancel every named task and wait for them."""
        await _cancel(set(self._tasks))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or isinstance(task.exception(), Stopping):
            return
        error = task.exception()
        if error is not None and self.failure is None:
            self.failure = error
            logger.error("task.failed", task=task.get_name(), exc_info=error)
            self.stopping.set()


def run(
    main: Callable[[Lifecycle], Awaitable[None]],
    *,
    drain_seconds: float,
    exit_codes: Mapping[type[Exception], int] | None = None,
) -> int:
    """Run `main` until it ends and return the process's exit code.

    0: it ended, or it drained after a signal. 1: it or a named task failed, it did not drain within `drain_seconds`, or a
    second signal cut it off. An error of main whose type is in `exit_codes` is the user's to mend: it is printed as one line
    and the code is its own.
    """
    return asyncio.run(_supervise(main, drain_seconds, exit_codes or {}))


def service_main(
    service: str,
    settings_type: type[_Settings],
    main: Callable[[_Settings, Lifecycle], Awaitable[None]],
    *,
    exit_codes: Mapping[type[Exception], int] | None = None,
) -> int:
    """Load the settings of `service`, set up logs, run `main`; return the exit code, which `run` explains.

    0 after `--help`, which lists the settings. 2: the settings are wrong, or there are arguments, which no service takes;
    nothing was opened.
    """
    guard_standard_error()
    prefix = f"{settings.PROCESS_PREFIX}{service.upper()}_"
    if sys.argv[1:]:
        return _explain(service, settings_type, prefix)
    try:
        loaded = settings.load(settings_type, prefix=prefix)
    except SettingsError as error:
        sys.stderr.write(f"wirespan-{service}: cannot start with these settings:\n")
        sys.stderr.writelines(f"  {fault}\n" for fault in error.faults)
        return 2
    logs.configure(loaded.log, service=service)
    return run(lambda lifecycle: main(loaded, lifecycle), drain_seconds=loaded.drain_seconds, exit_codes=exit_codes)


def _explain(service: str, settings_type: type[settings.ServiceSettings], prefix: str) -> int:
    """Say what the service takes, which is no argument; return 0 if that was the question."""
    said = f"wirespan-{service} takes no arguments. Its settings are environment variables, or a TOML file (WIRESPAN_CONFIG)"
    if sys.argv[1:] not in (["--help"], ["-h"]):
        sys.stderr.write(f"{said}; --help lists them\n")
        return 2
    lines = [f"{said}:", ""]
    for variable in settings.describe(settings_type, prefix):
        default = f", {variable.default}" if variable.default else ""
        lines += [f"{variable.name} ({variable.type}{default})", f"    {variable.description}"]
    sys.stdout.write("\n".join([*lines, ""]))
    return 0


async def _supervise(
    main: Callable[[Lifecycle], Awaitable[None]], drain_seconds: float, exit_codes: Mapping[type[Exception], int]
) -> int:
    lifecycle = Lifecycle()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, lifecycle.on_signal, number)
    task = asyncio.ensure_future(main(lifecycle))
    try:
        with watched_loop():
            drained = await _until_drained(task, lifecycle, drain_seconds)
            await _cancel({task})
            await lifecycle.cancel_tasks()
        exit_code = _report(task, lifecycle, exit_codes)
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    return exit_code if drained else 1


async def _until_drained(task: asyncio.Future[None], lifecycle: Lifecycle, drain_seconds: float) -> bool:
    """Wait for main's end: without limit until the service is to stop, then `drain_seconds`."""
    stop: asyncio.Future[Any] = asyncio.ensure_future(lifecycle.stopping.wait())
    force: asyncio.Future[Any] = asyncio.ensure_future(lifecycle.forced.wait())
    main: asyncio.Future[Any] = task
    try:
        await asyncio.wait({main, stop}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({main, force}, timeout=drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not main.done() and not force.done():
            logger.error("service.drain_timed_out", drain_seconds=drain_seconds)
        return main.done()
    finally:
        stop.cancel()
        force.cancel()


def _report(task: asyncio.Future[None], lifecycle: Lifecycle, exit_codes: Mapping[type[Exception], int]) -> int:
    """Say why main failed, unless a task's failure was logged before it. Return the exit code."""
    if task.done() and not task.cancelled():
        error = task.exception()
        for kind, exit_code in exit_codes.items():
            if isinstance(error, kind):
                sys.stderr.write(f"{error}\n")
                return exit_code
        if error is not None and not isinstance(error, Stopping):
            if lifecycle.failure is None:
                logger.error("service.failed", exc_info=error)
            return 1
    return 0 if lifecycle.failure is None else 1


async def _cancel(tasks: set[Any]) -> None:
    """Cancel and wait; what a cancelled task raises is no news."""
    for task in tasks:
        task.cancel()
    if tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
