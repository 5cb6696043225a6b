"""The `wirespan view` command."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import click
from click.core import ParameterSource
from rich.console import Console

from services.cli import interruption
from services.cli.bus import bus_options, chosen_bus
from services.cli.errors import UsageError
from services.cli.explain.queries import in_files, on_bus
from services.cli.interruption import Interruption
from services.cli.options import kube_snapshot_option, quiet_logs
from services.cli.run.capture_files import as_files
from services.cli.screen.available import has_screen
from services.cli.settings import BusSettings
from services.cli.tap.bus_source import BusSource
from services.cli.view.access import Access
from services.cli.view.kept import Kept
from services.cli.view.listening import DEFAULT_PORT, listener
from services.cli.view.running import bus_pipeline, keep_bus, keep_files
from services.cli.view.server import Page, State, serving
from services.cli.views.conversations import MOST_RECORDS
from services.cli.views.printable import printable
from services.cli.waiting import reached

Served: TypeAlias = Callable[..., AbstractAsyncContextManager[str]]
_STARTED: Final = "look at {url} (Ctrl-C ends it)"
_OF_THE_PAGE: Final = ("port", "listen", "hosts", "token_file", "trusted_header")
"""Parameters that say where the page is and who may see it."""


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@bus_options
@kube_snapshot_option
@click.option(
    "-t", "--terminal", is_flag=True, help="Show the pairs at this terminal instead, as `wirespan up` does; ? tells the keys."
)
@click.option(
    "--port",
    type=click.IntRange(0, 0xFFFF),
    help=f"Where to serve the page. Default: {DEFAULT_PORT}, or another where that is taken; 0 is any.",
)
@click.option(
    "--listen",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Beyond loopback it takes --token-file or --trusted-header.",
)
@click.option("--host", "hosts", metavar="NAME", multiple=True, help="A name by which the page is asked for there.")
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="Holds a token of 16 characters or more, without which nobody sees the page.",
)
@click.option(
    "--trusted-header",
    metavar="NAME",
    default="",
    help="Of requests that an ingress has let in, such as X-Forwarded-User: the ingress must be the only way here.",
)
@click.option(
    "--keep",
    metavar="NUMBER",
    type=click.IntRange(min=1000),
    default=MOST_RECORDS,
    show_default=True,
    help="Records to look back on at the most.",
)
def view(
    *,
    files: tuple[Path, ...],
    nats_url: str | None,
    kube_context: str | None,
    kube_namespace: str,
    timeout_seconds: float | None,
    kube_snapshot: Path | None,
    terminal: bool,
    port: int | None,
    listen: str,
    hosts: tuple[str, ...],
    token_file: Path | None,
    trusted_header: str,
    keep: int,
) -> None:
    """Serve a page to look at: a map of who talks to whom, flows, each connection as both ends saw it, traces, the pipeline.

    Of FILEs that are given (captures, or JSON lines of spans or records), else of what passed on the bus lately and passes.
    Nothing is taken from the pipeline, and the page asks nobody but this command:

    \b
      wirespan view
      wirespan view incident.pcap --kube-snapshot cluster.json
      wirespan view --terminal incident.pcap
    """  # noqa: D301  # \b is click's: leave the lines as they are
    if files and (nats_url or kube_context):
        raise UsageError("FILE and a bus are two places to look at: give one of them")
    if kube_snapshot is not None and not files:
        raise UsageError("--kube-snapshot names the workloads of capture files: give FILE")
    if terminal and (given := _given(_OF_THE_PAGE)):
        raise UsageError(f"--terminal shows no page: leave out {', '.join(given)}")
    token = token_file.read_text().strip() if token_file else None
    access = Access(address=listen, hosts=hosts, token=token, header=trusted_header)
    access.check()
    if terminal and not has_screen():
        raise UsageError("--terminal takes a terminal that can do more than plain lines, and the Python package textual")
    quiet_logs()
    kept = Kept(keep)

    def served(source: str, pipeline: State | None = None) -> AbstractAsyncContextManager[str]:
        if terminal:
            return _at_terminal(kept, source)
        return serving(Page(kept, source, pipeline), access, listener(listen, port))

    if files:
        with as_files(files) as readable:
            kept.place = in_files(files, readable, kube_snapshot)
            ended = interruption.run(lambda each: _files(kept, readable, kube_snapshot, served, each))
    else:
        kept.place = on_bus(nats_url, kube_context, kube_namespace, "10m")
        with chosen_bus(nats_url, kube_context, kube_namespace) as settings:
            ended = interruption.run(lambda each: _bus(kept, settings, timeout_seconds, served, each))
    raise SystemExit(0 if terminal else ended)


def _given(parameters: Sequence[str]) -> list[str]:
    """Return those of the options that somebody has given, by the names they have on the command line."""
    context = click.get_current_context()
    return [
        each.opts[0]
        for each in context.command.params
        if each.name in parameters and context.get_parameter_source(each.name) is not ParameterSource.DEFAULT
    ]


@contextlib.asynccontextmanager
async def _at_terminal(kept: Kept, source: str) -> AsyncIterator[str]:
    from services.cli.screen.kept_view import shown  # noqa: PLC0415 - a page does without what draws on terminals

    async with shown(kept, source):
        yield ""


async def _files(kept: Kept, files: tuple[Path, ...], kube_snapshot: Path | None, served: Served, asked: Interruption) -> int:
    notes = Console(stderr=True, highlight=False)

    async def look() -> None:
        await keep_files(kept, files, kube_snapshot)
        for line in kept.notes if url else ():  # the screen of a terminal has them on it
            notes.print(printable(line), style="yellow", markup=False, soft_wrap=True)
        await asyncio.Event().wait()

    async with served(", ".join(printable(file.name) for file in files)) as url:
        if url:
            click.echo(_STARTED.format(url=url), err=True)
        await asked.unless_asked(look())
    return asked.exit_status


async def _bus(kept: Kept, settings: BusSettings, timeout_seconds: float | None, served: Served, asked: Interruption) -> int:
    from services.runtime.nats import bus as runtime_bus  # noqa: PLC0415 - a file is shown before the bus's client is loaded

    notes = Console(stderr=True, highlight=False)
    server = printable(settings.nats.url.rpartition("@")[2])
    async with (
        runtime_bus.connect(settings.nats, name="wirespan-view") as bus,
        served(f"the bus at {server}", partial(bus_pipeline, bus, server)) as url,
    ):
        if url:
            click.echo(_STARTED.format(url=url), err=True)

        async def look() -> None:
            await reached(bus, settings.nats.url, say=partial(notes.print, markup=False), timeout_seconds=timeout_seconds)
            await keep_bus(kept, BusSource(bus, notes, raw=False))

        await asked.unless_asked(look())
    return asked.exit_status
