"""The `wirespan dead-letters` commands."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import click
from rich.console import Console

from proto.errors import DecodeError
from proto.flow_batch import decode
from proto.rows import rows
from proto.subjects import DEAD_STREAM
from services.cli import interruption
from services.cli.dead_letters.letters import Letter, Wanted, read, replay
from services.cli.dead_letters.summary import line, table
from services.cli.errors import CliError
from services.cli.options import quiet_logs
from services.cli.settings import bus_settings
from services.cli.views import units
from services.cli.views.json_line import json_line
from services.cli.waiting import DEFAULT_SECONDS, reached, timeout_option
from services.runtime.errors import ApiError, BusError, PublishRefusedError, StreamFullError
from services.runtime.nats import bus as runtime_bus

_STREAM_NOT_FOUND: Final = 10059


@click.group()
def dead_letters() -> None:
    """Show what could not be processed, put it back, or delete it.

    A message that a service cannot process, and records that the backend will never take, are kept in the stream FLOWS_DEAD
    with the reason. Once the cause is mended, `replay` puts them back where they came from.
    """


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which letters are meant."""
    for option in (
        click.argument("sequences", metavar="[NUMBER]...", nargs=-1, type=click.IntRange(min=1)),
        click.option("--detail", metavar="TEXT", default="", help="Only those whose detail holds this text."),
        click.option(
            "--reason", "reasons", metavar="WORD", multiple=True, help="Only those with this reason; may be repeated."
        ),
        click.option("--service", metavar="NAME", default="", help="Only those of this service: enricher, exporter."),
        _bus,
    ):
        command = option(command)
    return command


def _bus(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where the bus is, and how long it may let us wait."""
    where = click.option("--nats-url", metavar="URL", help="Default: WIRESPAN_NATS_URL, or nats://127.0.0.1:4222.")
    return where(timeout_option(command))


def _wanted(service: str, reasons: tuple[str, ...], detail: str, sequences: tuple[int, ...]) -> Wanted:
    return Wanted(service, frozenset(reasons), detail, frozenset(sequences))


@dead_letters.command("list")
@_filters
@click.option("--each", is_flag=True, help="One line for each letter, with the number by which the other commands know it.")
def list_letters(nats_url: str | None, timeout_seconds: float | None, *, each: bool, **filters: Any) -> None:
    """Say what is dead: by service and reason, or each letter."""
    wanted = _wanted(**filters)

    async def work(bus: runtime_bus.Bus) -> int:
        letters = []
        async for letter in wanted.letters(bus):
            if each:
                click.echo(line(letter))
            else:
                letters.append((letter.said, letter.message.stored, len(letter.message.data)))
        if not each:
            click.echo(table(letters))
        return 0

    _run(nats_url, timeout_seconds, work)


@dead_letters.command()
@click.argument("sequence", metavar="NUMBER", type=click.IntRange(min=1))
@click.option("--raw", is_flag=True, help="Its bytes as they are, instead of records as JSON.")
@_bus
def show(nats_url: str | None, timeout_seconds: float | None, *, sequence: int, raw: bool) -> None:
    """Print one letter: what is said of it on standard error, its records on standard output."""

    async def work(bus: runtime_bus.Bus) -> int:
        message = await bus.stored(DEAD_STREAM, sequence)
        if message is None:
            raise CliError(f"there is no dead letter {sequence}")
        click.echo(line(read(message)), err=True)
        if raw:
            sys.stdout.buffer.write(message.data)
            return 0
        try:
            for row in rows(decode(message.data)):
                click.echo(json_line(row))
        except DecodeError as error:
            raise CliError(f"not a FlowBatch: {error}; --raw prints its {len(message.data)} bytes") from error
        return 0

    _run(nats_url, timeout_seconds, work)


@dead_letters.command("replay")
@_filters
def replay_letters(nats_url: str | None, timeout_seconds: float | None, **filters: Any) -> None:
    """Put letters back where they came from, to be processed again.

    A letter goes once its message is stored in the stream it came from; what fails again becomes a dead letter again. Spans
    have the ids that they had, so what the backend did have is overwritten and not doubled.
    """
    wanted = _wanted(**filters)

    async def work(bus: runtime_bus.Bus) -> int:
        return await _replay_all(bus, wanted)

    _run(nats_url, timeout_seconds, work)


async def _replay_all(bus: runtime_bus.Bus, wanted: Wanted) -> int:
    replayed = left = 0
    try:
        async for letter in wanted.letters(bus):
            if await _replayed(bus, letter):
                replayed += 1
            else:
                left += 1
    except StreamFullError as error:
        raise CliError(f"{units.counted(replayed, 'letter')} replayed, then the stream was full: {error}") from error
    click.echo(f"{units.counted(replayed, 'letter')} replayed" + (f", {left} left where they are" if left else ""))
    return 1 if left else 0


async def _replayed(bus: runtime_bus.Bus, letter: Letter) -> bool:
    """Put one letter back; where that cannot be, say so and return False."""
    try:
        if letter.origin is not None:
            await replay(bus, letter, letter.origin)
            return True
        reason = "it does not say from where it came"
    except PublishRefusedError as error:
        reason = str(error)
    click.echo(f"{letter.message.sequence} cannot be put back: {reason}", err=True)
    return False


@dead_letters.command()
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(nats_url: str | None, timeout_seconds: float | None, *, yes: bool, **filters: Any) -> None:
    """Delete letters for good."""
    wanted = _wanted(**filters)

    async def work(bus: runtime_bus.Bus) -> int:
        found = [(letter.message.sequence, letter.said.records or 0) async for letter in wanted.letters(bus)]
        what = f"{units.counted(len(found), 'dead letter')} with {units.counted(sum(n for _, n in found), 'record')}"
        if found and not yes:
            click.confirm(f"Delete {what}?", abort=True, err=True)
        deleted = sum([await bus.delete(DEAD_STREAM, sequence) for sequence, _ in found])
        click.echo(f"{units.counted(deleted, 'dead letter')} deleted")
        return 0

    _run(nats_url, timeout_seconds, work)


def _run(nats_url: str | None, timeout_seconds: float | None, work: Callable[[runtime_bus.Bus], Awaitable[int]]) -> None:
    """Connect, do the work and exit with its status; Ctrl-C ends it between two letters."""
    settings = bus_settings(nats_url)
    quiet_logs()
    status = 0

    async def on_bus() -> None:
        nonlocal status
        async with runtime_bus.connect(settings.nats, name="wirespan-dead-letters") as bus:
            say = partial(Console(stderr=True, highlight=False).print, markup=False)
            await reached(bus, settings.nats.url, say=say, timeout_seconds=timeout_seconds or DEFAULT_SECONDS)
            try:
                status = await work(bus)
            except ApiError as error:
                if error.code == _STREAM_NOT_FOUND:
                    raise CliError(f"there is no stream {DEAD_STREAM} at {settings.nats.url.rpartition('@')[2]}") from error
                raise CliError(str(error)) from error
            except BusError as error:
                raise CliError(str(error)) from error

    async def main(asked: interruption.Interruption) -> int:
        await asked.unless_asked(on_bus())
        return asked.exit_status or status

    raise SystemExit(interruption.run(main))
