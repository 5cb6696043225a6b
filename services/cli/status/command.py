"""The `wirespan status` command."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

import click
import msgspec

from services.cli import interruption
from services.cli.bus import bus_options, chosen_bus
from services.cli.errors import CliError
from services.cli.interruption import Interruption
from services.cli.options import quiet_logs
from services.cli.run.processes.service_log import backend_trouble
from services.cli.run.run_folder import running
from services.cli.settings import BusSettings
from services.cli.status.show import lines
from services.cli.status.state import SILENT_SECONDS, Status, troubles
from services.cli.views.printable import printable
from services.cli.waiting import DEFAULT_SECONDS, reached

if TYPE_CHECKING:
    from services.runtime.nats import bus as runtime_bus

TROUBLE: Final = 5
"""Exit status where something is wrong: not that of a bus that cannot be reached, which is 1."""
_CLEAR: Final = "\033[H\033[2J"


@click.command()
@bus_options
@click.option(
    "--silent-after",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=SILENT_SECONDS,
    show_default=True,
    help="A node that tells nothing for so long is trouble.",
)
@click.option("--watch", metavar="SECONDS", type=click.FloatRange(min=0.5), help="Again and again, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def status(
    *,
    nats_url: str | None,
    kube_context: str | None,
    kube_namespace: str,
    timeout_seconds: float | None,
    silent_after: float,
    watch: float | None,
    as_json: bool,
) -> None:
    """Say how the pipeline is: which nodes are heard, what waits and for how long, what is lost and why.

    Asks the bus alone, and may do so as the user who only reads. Exit status 0: all is well. 5: something is wrong; a line each
    says what. 1: the bus cannot be reached.
    """
    quiet_logs()

    patience = timeout_seconds or DEFAULT_SECONDS

    async def show(settings: BusSettings, asked: Interruption) -> int:
        from services.runtime.nats import bus as runtime_bus  # noqa: PLC0415 - help needs no client

        found: list[int] = []
        async with runtime_bus.connect(settings.nats, name="wirespan-status") as bus:

            async def look() -> None:
                say = partial(click.echo, err=True)
                await reached(bus, settings.nats.url, say=say, timeout_seconds=patience)
                while True:
                    now = await _status(bus, settings, patience)
                    found.append(_show(now, silent_after, as_json=as_json, watched=watch is not None))
                    if watch is None:
                        return
                    await asyncio.sleep(watch)

            await asked.unless_asked(look())
        return asked.exit_status or found[-1]

    with chosen_bus(nats_url, kube_context, kube_namespace) as settings:
        raise SystemExit(interruption.run(lambda asked: show(settings, asked)))


async def _status(bus: runtime_bus.Bus, settings: BusSettings, patience_seconds: float) -> Status:
    from services.cli.status.asking import asked  # noqa: PLC0415

    # A run of this user that has its bus there: its exporter's log says more than a bus can.
    here = [folder for folder in running() if settings.nats.token and folder.bus.exists()]
    backend = backend_trouble(here[0].log("exporter")) if here else None
    server = printable(settings.nats.url.rpartition("@")[2])
    try:
        async with asyncio.timeout(patience_seconds):
            return await asked(bus, server, backend=backend or "")
    except TimeoutError as error:
        raise CliError(f"JetStream at {server} has not answered for {patience_seconds:g} s") from error


def _show(found: Status, silent_after: float, *, as_json: bool, watched: bool) -> int:
    """Print it; return the exit status."""
    wrong = troubles(found, silent_after)
    if as_json:
        click.echo(msgspec.json.encode({"ok": not wrong, "troubles": wrong, **msgspec.to_builtins(found)}))
    else:
        if watched and sys.stdout.isatty():
            click.echo(_CLEAR, nl=False)
        for line in lines(found, silent_after):
            click.echo(line)
        for trouble in map(printable, wrong):
            click.secho(f"trouble: {trouble}", fg="red")
        if not wrong:
            click.secho("all is well", fg="green")
    return TROUBLE if wrong else 0
