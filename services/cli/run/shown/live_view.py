"""What `wirespan up` shows while it runs: a screen on a terminal, a line for each record elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from typing import Final

from rich.text import Text

from proto.errors import DecodeError
from proto.flow_batch import FlowBatch, decode
from services.cli.run.pipeline import Pipeline, Status
from services.cli.screen.available import has_screen
from services.cli.tap.filters import FlowFilter
from services.cli.tap.held import Held
from services.cli.tap.printing import Printer
from services.cli.views import units

_REFRESH_SECONDS: Final = 1.0


async def show(pipeline: Pipeline, wanted: FlowFilter, said: str, told: Sequence[str]) -> None:
    """Show the wanted records of the run as they pass, until cancelled or, on a screen, until somebody ends it there. `said` is
    what is looked at, `told` what people have been told, which a screen covers.
    """
    if has_screen():
        await _show_screen(pipeline, wanted, said, told)
    else:
        await _show_lines(pipeline, wanted)


async def _show_lines(pipeline: Pipeline, wanted: FlowFilter) -> None:
    printer = Printer("compact")
    async for batch in _passing(pipeline):
        printer.show(Held(batch).only(wanted).shown())


async def _show_screen(pipeline: Pipeline, wanted: FlowFilter, said: str, told: Sequence[str]) -> None:
    # Where there is no terminal nobody waits for what draws on it.
    from services.cli.screen.pairs import Pairs  # noqa: PLC0415
    from services.cli.screen.terminal import on_terminal  # noqa: PLC0415
    from services.cli.view.kept import Kept  # noqa: PLC0415

    kept = Kept()

    async def keep() -> None:
        async for batch in _passing(pipeline):
            kept.add(batch)

    async with on_terminal(Pairs(kept, wanted), said, told) as screen:

        async def note() -> None:
            while True:
                screen.note(_notes(await pipeline.status(), str(pipeline.plan.destination)))
                await asyncio.sleep(_REFRESH_SECONDS)

        await screen.until_ended(keep(), note())
    # The key that ended it is Ctrl-C, as elsewhere: another one cuts short what is left to do.
    signal.raise_signal(signal.SIGINT)


async def _passing(pipeline: Pipeline) -> AsyncIterator[FlowBatch]:
    async for message in pipeline.watch():
        with contextlib.suppress(DecodeError):
            yield decode(message.data)


def _notes(status: Status, destination: str) -> list[Text]:
    sent = f"{units.counted(status.acknowledged, 'span')} in {destination}"
    if status.trouble:
        return [Text(sent), Text(f"waiting for the backend: {status.trouble}", style="yellow")]
    return [Text(sent)]
