"""Waiting for the bus: never without a word, and not for ever where nobody asked for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import click

from services.cli.errors import CliError
from services.cli.views.printable import printable

if TYPE_CHECKING:
    from services.runtime.nats import bus as runtime_bus

DEFAULT_SECONDS: Final = 30.0
"""How long a command that comes to an end of its own waits for the bus."""

_LOOK_SECONDS: Final = 1.0

timeout_option: Final = click.option(
    "--timeout",
    "timeout_seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Give up where NATS has not let us in for so long. Default: {DEFAULT_SECONDS:g}; to follow, none.",
)


async def reached(bus: runtime_bus.Bus, url: str, *, say: Callable[[str], None], timeout_seconds: float | None) -> None:
    """Return once there is a connection. Say within a second what is waited for, and why, again for each other reason.

    Raises CliError after `timeout_seconds`; None waits without end.
    """
    import asyncio  # noqa: PLC0415 - the option above is of commands that may need no bus

    where = f"NATS at {printable(url.rpartition('@')[2])}"
    told = None
    try:
        async with asyncio.timeout(timeout_seconds):
            while not bus.connected:
                if await _within_a_look(bus):
                    return
                why = f": {printable(bus.trouble)}" if bus.trouble else ""
                if why != told:
                    told = why
                    say(f"waiting for {where} ...{why}")
    except TimeoutError as error:
        why = f": {printable(bus.trouble)}" if bus.trouble else ""
        raise CliError(f"{where} has not let us in for {timeout_seconds:g} s{why}") from error


async def _within_a_look(bus: runtime_bus.Bus) -> bool:
    import asyncio  # noqa: PLC0415

    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            await bus.wait_connected()
    except TimeoutError:
        return False
    return True
