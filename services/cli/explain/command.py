"""The `wirespan explain` command."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from proto.flow_batch import FlowBatch
from services.cli import interruption
from services.cli.bus import bus_options, chosen_bus
from services.cli.errors import CliError
from services.cli.explain.backend import trace_of
from services.cli.explain.connections import Seen
from services.cli.explain.explanation import Explanation, explain
from services.cli.explain.queries import NOWHERE, RECENTLY, Place, in_files, on_bus
from services.cli.explain.question import is_trace_id, question, worst
from services.cli.explain.shown import lines
from services.cli.explain.words import files_and_question
from services.cli.interruption import Interruption
from services.cli.options import kube_snapshot_option, quiet_logs
from services.cli.run.at_once import NOT_READ_WHOLE
from services.cli.run.capture_files import as_files
from services.cli.settings import BusSettings
from services.cli.tap.bus_source import BusSource
from services.cli.tap.files import FileRecords
from services.cli.views import units
from services.cli.views.json_line import json_line
from services.cli.views.printable import printable
from services.cli.waiting import DEFAULT_SECONDS, reached

_SINCE: Final = "10m"
_MOST: Final = 20
"""Requests of one trace that are told; connections that are looked at where none has any trouble."""


@click.command()
@click.argument("what", nargs=-1, metavar="[FILE]... [WHAT]")
@bus_options
@click.option(
    "--backend", metavar="URL", help="Jaeger, Tempo or OpenSearch to ask for a trace by its id: http://localhost:16686."
)
@click.option("--since", metavar="DURATION", default=_SINCE, show_default=True, help="How far to look back on the bus.")
@kube_snapshot_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each connection, for programs.")
def explain_command(
    *,
    what: tuple[str, ...],
    nats_url: str | None,
    kube_context: str | None,
    kube_namespace: str,
    backend: str | None,
    since: str,
    timeout_seconds: float | None,
    kube_snapshot: Path | None,
    as_json: bool,
) -> None:
    """Say what happened on a connection, in order, what was wrong, how that is known, and where to go on.

    WHAT is a trace id, a flow id, a pair or one end of it; without any, whatever is worst. Of FILEs that are given (captures,
    or JSON lines of spans or records), else of what passed on the bus lately:

    \b
      wirespan explain
      wirespan explain shop/frontend to redis:6379
      wirespan explain 4bf92f3577b34da6a3ce929d0e0e4736
      wirespan explain incident.pcap 10.42.0.8:6379
      wirespan explain --backend http://localhost:16686 4bf92f3577b34da6a3ce929d0e0e4736
    """  # noqa: D301  # \b is click's: leave the lines as they are
    files, asked = files_and_question(what)
    quiet_logs()
    if backend is not None:
        if files:
            raise click.UsageError("--backend and FILE are two places to look at: give one of them")
        if not is_trace_id(asked):
            raise click.UsageError("--backend is asked for a trace by its id, 32 hexadecimal digits")
        found = explained(trace_of(backend, asked.lower()), asked, NOWHERE)
    elif files:
        raise SystemExit(_show_files(files, kube_snapshot, asked, as_json=as_json))
    else:
        try:
            after = time.time_ns() - units.nanoseconds(since)
        except ValueError as error:
            raise click.UsageError(f"--since {error}") from None
        batches: list[FlowBatch] = []
        patience = timeout_seconds or DEFAULT_SECONDS
        with chosen_bus(nats_url, kube_context, kube_namespace) as settings:
            ended = interruption.run(lambda each: _listen(settings, each, batches, after, patience))
        if ended:
            raise SystemExit(ended)
        found = explained(batches, asked, on_bus(nats_url, kube_context, kube_namespace, since))
    _show(*found, as_json=as_json)


def explained(some: Iterable[FlowBatch], asked: str, place: Place = RECENTLY) -> tuple[list[Explanation], int]:
    """Return what was asked for of what was told there, explained, and how many more connections have the same trouble.

    Of a trace that is all its requests, in their order; else the worst. Raises CliError where there is nothing of that.
    """
    what, seen = question(asked), Seen(some)
    found = [connection for connection in seen.connections(what.of_record) if what.of_connection(connection)]
    if not found and not asked:
        found = seen.connections(lambda _: True, most=_MOST)
    if not found:
        raise CliError(f"no connection of {printable(asked)} was seen" if asked else "no connection was seen")
    requests = [connection for connection in found if connection.told.view.exchange]
    if asked and requests and len(requests) == len(found):
        requests.sort(key=lambda connection: int(connection.told.row["start_unix_ns"]))
        return [explain(connection, place) for connection in requests[:_MOST]], max(len(requests) - _MOST, 0)
    connection, more = worst([connection for connection in found if connection.told.view.of_flow] or found)
    return ([explain(connection, place)] if connection else []), more


async def _listen(
    settings: BusSettings, interrupted: Interruption, found: list[FlowBatch], after_unix_ns: int, patience_seconds: float
) -> int:
    from services.runtime.nats import bus as runtime_bus  # noqa: PLC0415 - a file is explained before the bus's client is loaded

    notes = Console(stderr=True, highlight=False)
    async with runtime_bus.connect(settings.nats, name="wirespan-explain") as bus:
        source = BusSource(bus, notes, raw=False)

        async def listen() -> None:
            say = partial(notes.print, markup=False)
            await reached(bus, settings.nats.url, say=say, timeout_seconds=patience_seconds)
            async for batch in source.recent():
                late = batch.column("end_unix_ns") >= after_unix_ns
                found.append(batch if late.all() else batch.take(late))

        ended = await interrupted.unless_asked(listen())
    return 0 if ended else interrupted.exit_status


def _show_files(files: Sequence[Path], kube_snapshot: Path | None, asked: str, *, as_json: bool) -> int:
    """Explain what is in files; return the exit status."""
    with as_files(files) as kept:
        source = FileRecords(kept, kube_snapshot)
        try:
            _show(*explained(source.batches(), asked, in_files(files, kept, kube_snapshot)), as_json=as_json)
        finally:  # where nothing is found too: it may be in what could not be read
            source.say(Console(stderr=True, highlight=False))
    return NOT_READ_WHOLE if source.faults else 0


def _show(found: Sequence[Explanation], more: int, *, as_json: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for number, each in enumerate(found):
        if as_json:
            console.out(json_line(each.as_json()), highlight=False)
            continue
        if number:
            console.print()
        for line in lines(each):
            console.print(line)
    if more and not as_json:
        console.print(f"\n{units.counted(more, 'more connection')} between the two had the same lately", style="dim")
