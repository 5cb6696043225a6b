"""What `wirespan up` shows while it runs: a table on a terminal, a line for each record elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from proto.errors import DecodeError
from proto.flow_batch import FlowBatch, decode
from proto.subjects import enriched_subject
from services.cli.run.pipeline import Pipeline, Status
from services.cli.tap.filters import FlowFilter
from services.cli.tap.held import Held
from services.cli.tap.printing import Printer
from services.cli.views import units
from services.cli.views.conversation_table import conversation_table
from services.cli.views.conversations import Conversations
from services.cli.views.flow_view import flow_views

_REFRESH_SECONDS: Final = 0.5


async def show(pipeline: Pipeline, console: Console, wanted: FlowFilter) -> None:
    """Show the wanted records of the run as they pass, until cancelled."""
    if console.is_terminal:
        await _show_table(pipeline, console, wanted)
    else:
        await _show_lines(pipeline, wanted)


async def _show_lines(pipeline: Pipeline, wanted: FlowFilter) -> None:
    printer = Printer("compact")
    async for batch in _passing(pipeline):
        printer.show(Held(batch).only(wanted).shown())


async def _show_table(pipeline: Pipeline, console: Console, wanted: FlowFilter) -> None:
    conversations = Conversations()
    watching = asyncio.create_task(_collect(pipeline, conversations, wanted))
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                notes = _notes(await pipeline.status(), str(pipeline.plan.destination))
                current = conversations.current(asyncio.get_running_loop().time())
                table = conversation_table(current, width=console.width, height=console.height - 1, notes=notes)
                live.update(table, refresh=True)
                await asyncio.sleep(_REFRESH_SECONDS)
    finally:
        watching.cancel()


async def _collect(pipeline: Pipeline, conversations: Conversations, wanted: FlowFilter) -> None:
    async for batch in _passing(pipeline):
        for view in flow_views(wanted(batch)):
            conversations.add(asyncio.get_running_loop().time(), view)


async def _passing(pipeline: Pipeline) -> AsyncIterator[FlowBatch]:
    async for message in pipeline.bus.watch(enriched_subject(pipeline.plan.node)):
        with contextlib.suppress(DecodeError):
            yield decode(message.data)


def _notes(status: Status, destination: str) -> list[Text]:
    sent = f"{units.counted(status.acknowledged, 'span')} in {destination}"
    if status.trouble:
        return [Text(sent), Text(f"waiting for the backend: {status.trouble}", style="yellow")]
    return [Text(sent)]
