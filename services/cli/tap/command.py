"""The `wirespan tap` command."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console

from services.cli import interruption
from services.cli.errors import CliError
from services.cli.interruption import Interruption
from services.cli.options import kube_snapshot_option, quiet_logs
from services.cli.run.at_once import NOT_READ_WHOLE, CaptureRecords
from services.cli.run.capture_files import as_files, check_capture
from services.cli.settings import BusSettings, bus_settings
from services.cli.tap.bus_source import BusSource
from services.cli.tap.filter_options import FilterCommand, conditions
from services.cli.tap.filters import FlowFilter, between
from services.cli.tap.held import Held, by_time, latest
from services.cli.tap.input_file import InputLines
from services.cli.tap.printing import Format, Printer
from services.cli.views import units
from services.cli.views.flow_view import printable
from services.cli.waiting import DEFAULT_SECONDS, reached, timeout_option


class _Moment(click.ParamType[int]):
    """A moment as a person says it: so long ago, or RFC 3339. Unix nanoseconds."""

    name = "moment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        with contextlib.suppress(ValueError):
            return time.time_ns() - units.nanoseconds(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r}: neither a duration (90s, 10m, 1h30m) nor a time (2026-05-28T07:12:09Z)", param, ctx)
        return int((moment if moment.tzinfo else moment.astimezone(UTC)).timestamp() * 1_000_000) * 1000


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which records, from when, and how they are shown."""

    wanted: FlowFilter
    printer: Printer
    last: int | None
    history: bool
    follow: bool


@click.command(cls=FilterCommand)
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option(
    "--nats-url",
    metavar="URL",
    help="NATS to listen on. Default: WIRESPAN_NATS_URL, else that of a `wirespan up` of yours, else nats://127.0.0.1:4222.",
)
@click.option(
    "--kube-context", metavar="NAME", help="Listen on the bus of this context's cluster, through its API server, as reader."
)
@click.option("--kube-namespace", metavar="NAME", help="Namespace of the release there.", default="wirespan", show_default=True)
@timeout_option
@click.option(
    "--input-file",
    metavar="FILE",
    type=click.File("rb"),
    help="Read JSON lines instead: records (`-o json`) or spans (OTLP/JSON); - is standard input.",
)
@kube_snapshot_option
@click.option("--raw/--enriched", default=False, help="Records as captured, or with the workloads they belong to (default).")
@click.option("--last", metavar="NUMBER", type=click.IntRange(min=1), help="The latest records of those that passed lately.")
@click.option("--since", metavar="WHEN", type=_Moment(), help="Those since then: 10m, 1h30m, or a time (RFC 3339).")
@click.option("--until", metavar="WHEN", type=_Moment(), help="Those until then.")
@click.option("-f", "--follow", is_flag=True, help="Go on with those that pass from now on. So it is without the three above.")
@click.option("--numeric", is_flag=True, help="Show addresses where there are names.")
@click.option(
    "-o", "--output", "form", type=click.Choice(["compact", "table", "json", "dict"]), default="compact", show_default=True
)
@click.pass_context
def tap(
    ctx: click.Context,
    /,
    *,
    files: tuple[Path, ...],
    kube_snapshot: Path | None,
    nats_url: str | None,
    kube_context: str | None,
    kube_namespace: str,
    timeout_seconds: float | None,
    input_file: BinaryIO | None,
    raw: bool,
    last: int | None,
    since: int | None,
    until: int | None,
    follow: bool,
    numeric: bool,
    form: Format,
    **_filters: object,
) -> None:
    """Print flow records, one line each: those that pass, until Ctrl-C, or those that passed lately, or those of files.

    Only listens: nothing is taken from the pipeline, and what comes faster than it can be printed is left out and counted.
    FILE is a capture file (pcap, pcapng; also in gzip or zstd; - is standard input), shown at once and without a bus.

    Values of one filter are alternatives, different filters must all hold, --not leaves out what the next one accepts:

    \b
      wirespan tap --to-service redis --min-response-time 100ms
      wirespan tap --from-namespace shop --failed --not --port 53 --since 10m
      wirespan tap incident.pcap --slower-than 100ms
    """  # noqa: D301  # \b is click's: leave the lines as they are
    history = last is not None or since is not None or until is not None
    ends = {"--until": until is not None, "--input-file": input_file is not None, "FILE": bool(files)}
    if follow and any(ends.values()):
        raise click.UsageError(f"--follow has no end, {next(name for name, given in ends.items() if given)} has one")
    if files and input_file is not None:
        raise click.UsageError("--input-file and FILE are two places to read from: give one of them")
    if kube_snapshot is not None and not files:
        raise click.UsageError("--kube-snapshot names the workloads of capture files: give FILE")
    if raw and (history or input_file is not None or files):
        raise click.UsageError("--raw is for what passes now: raw records are gone once they are enriched")
    wanted = FlowFilter([*conditions(ctx, enriched=not raw), *between(since, until)])
    asked = _Asked(wanted, Printer(form, numeric=numeric), last, history, follow or not history)
    if input_file is not None:
        _show_file(input_file, asked)
        return
    if files:
        raise SystemExit(_show_captures(files, kube_snapshot, asked))
    if kube_context is not None and nats_url is not None:
        raise click.UsageError("--nats-url and --kube-context are two places to listen: give one of them")
    quiet_logs()
    patience = timeout_seconds or (None if asked.follow else DEFAULT_SECONDS)
    with chosen_bus(nats_url, kube_context, kube_namespace) as settings:
        raise SystemExit(interruption.run(lambda each: _tap(settings, each, asked, raw=raw, timeout_seconds=patience)))


def chosen_bus(nats_url: str | None, kube_context: str | None, kube_namespace: str) -> AbstractContextManager[BusSettings]:
    """Return where to listen: a cluster's bus through its API server, or what `bus_settings` says."""
    if kube_context is None:
        return contextlib.nullcontext(bus_settings(nats_url))
    from services.cli.tap.cluster_bus import cluster_bus  # noqa: PLC0415 - Kubernetes' client is large

    return cluster_bus(kube_context, kube_namespace)


async def _tap(
    settings: BusSettings, interrupted: Interruption, asked: _Asked, *, raw: bool, timeout_seconds: float | None
) -> int:
    from services.runtime.nats import bus as runtime_bus  # noqa: PLC0415 - a file is shown before the bus's client is loaded

    notes = _notes()
    async with runtime_bus.connect(settings.nats, name="wirespan-tap") as bus:
        source = BusSource(bus, notes, raw=raw)

        async def listen() -> None:
            await reached(bus, settings.nats.url, say=partial(notes.print, markup=False), timeout_seconds=timeout_seconds)
            if asked.history:
                held = [Held(batch).only(asked.wanted) async for batch in source.recent()]
                asked.printer.show(by_time(list(latest(iter(held), asked.last))))
            if asked.follow:
                async for batch in source.live():
                    asked.printer.show(Held(batch).only(asked.wanted).shown())

        ended = await interrupted.unless_asked(listen())
        if source.left_out:
            notes.print(f"{units.counted(source.left_out, 'message')} came faster than they could be shown", style="yellow")
    return 0 if interrupted.exit_status or (ended and not asked.follow) else 1


def _show_file(lines: BinaryIO, asked: _Asked) -> None:
    source = InputLines(lines)
    _show(source.held(), asked)
    if source.refused:
        reason = f"neither records nor spans ({printable(source.first_reason)})"
        if source.refused == source.read:
            raise CliError(f"{getattr(lines, 'name', '<stdin>')}: {reason}")
        _notes().print(f"{units.counted(source.refused, 'line')} left out: {reason}", style="yellow", markup=False)


def _show_captures(files: Sequence[Path], kube_snapshot: Path | None, asked: _Asked) -> int:
    """Show the records of capture files; return the exit status."""
    with as_files(files) as kept:
        for file in kept:
            check_capture(file)
        source = CaptureRecords(kept, kube_snapshot)
        _show(map(Held, source.batches()), asked)
    for fault in source.faults:
        _notes().print(printable(fault), style="red", markup=False, soft_wrap=True)
    return NOT_READ_WHOLE if source.faults else 0


def _show(some: Iterator[Held], asked: _Asked) -> None:
    wanted = (held.only(asked.wanted) for held in some)
    if asked.history:
        asked.printer.show(by_time(list(latest(wanted, asked.last))))
        return
    for held in wanted:
        asked.printer.show(held.shown())


def _notes() -> Console:
    return Console(file=sys.stderr, highlight=False)
