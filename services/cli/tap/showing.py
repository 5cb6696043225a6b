"""What `wirespan tap` shows: records of the bus, of capture files, of JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rich.console import Console

from services.cli.errors import CliError
from services.cli.run.at_once import NOT_READ_WHOLE, CaptureRecords
from services.cli.tap.filters import Condition, FlowFilter, between
from services.cli.tap.held import Held, by_time, latest
from services.cli.tap.printing import Printer
from services.cli.views import units
from services.cli.views.printable import printable

if TYPE_CHECKING:
    from services.cli.interruption import Interruption
    from services.cli.settings import BusSettings


@dataclass(frozen=True, slots=True)
class Asked:
    """Which records, from when, and how they are shown."""

    wanted: FlowFilter
    printer: Printer
    last: int | None
    history: bool
    follow: bool


def wanted(conditions: Iterable[Condition], since_unix_ns: int | None, until_unix_ns: int | None) -> FlowFilter:
    """Return the filter of these conditions, between these times."""
    return FlowFilter([*conditions, *between(since_unix_ns, until_unix_ns)])


async def tap(
    settings: BusSettings, interrupted: Interruption, asked: Asked, *, raw: bool, timeout_seconds: float | None
) -> int:
    """Show what passes, or passed; return the exit status."""
    # A file is shown without the bus's client.
    from services.cli.tap.bus_source import BusSource  # noqa: PLC0415
    from services.cli.waiting import reached  # noqa: PLC0415
    from services.runtime.nats import bus as runtime_bus  # noqa: PLC0415

    notes = _notes()
    async with runtime_bus.connect(settings.nats, name="wirespan-tap") as bus:
        source = BusSource(bus, notes, raw=raw)

        async def listen() -> None:
            await reached(bus, settings.nats.url, say=partial(notes.print, markup=False), timeout_seconds=timeout_seconds)
            if asked.history:
                held = [Held(batch).only(asked.wanted) async for batch in source.recent()]
                asked.printer.show(by_time(latest(held, asked.last)))
            if asked.follow:
                async for batch in source.live():
                    asked.printer.show(Held(batch).only(asked.wanted).shown())

        ended = await interrupted.unless_asked(listen())
        if source.left_out:
            notes.print(f"{units.counted(source.left_out, 'message')} came faster than they could be shown", style="yellow")
    return 0 if interrupted.exit_status or (ended and not asked.follow) else 1


def show_file(lines: BinaryIO, asked: Asked) -> None:
    """Show the records of JSON lines. Raises CliError where there are none."""
    from services.cli.tap.input_file import InputLines  # noqa: PLC0415

    source = InputLines(lines)
    _show(source.held(), asked)
    if source.refused and source.refused == source.read:
        reason = printable(source.first_reason)
        raise CliError(f"{getattr(lines, 'name', '<stdin>')}: neither records nor spans ({reason})")
    if source.said:
        _notes().print(source.said, style="yellow", markup=False)


def show_captures(files: Sequence[Path], kube_snapshot: Path | None, asked: Asked) -> int:
    """Show the records of capture files; return the exit status."""
    source = CaptureRecords(files, kube_snapshot)
    _show(map(Held, source.batches()), asked)
    for fault in source.faults:
        _notes().print(printable(fault), style="red", markup=False, soft_wrap=True)
    return NOT_READ_WHOLE if source.faults else 0


def _show(some: Iterator[Held], asked: Asked) -> None:
    wanted = (held.only(asked.wanted) for held in some)
    if asked.history:
        asked.printer.show(by_time(latest(wanted, asked.last)))
        return
    for held in wanted:
        asked.printer.show(held.shown())


def _notes() -> Console:
    return Console(file=sys.stderr, highlight=False)
