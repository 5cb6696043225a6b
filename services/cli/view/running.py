"""The page over what runs: the bus of a cluster or of `wirespan up`, or files that are read while it is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proto.errors import DecodeError
from proto.flow_batch import FlowBatch, decode
from services.cli.errors import CliError
from services.cli.run.shown.ledger_table import ledger_rows
from services.cli.status.asking import asked
from services.cli.status.show import said_of
from services.cli.status.state import SILENT_SECONDS, troubles
from services.cli.tap.bus_source import BusSource
from services.cli.tap.files import FileRecords
from services.cli.view.access import Access
from services.cli.view.kept import Kept
from services.cli.view.server import Page, serving
from services.cli.views.printable import printable
from services.runtime.errors import BusError

if TYPE_CHECKING:
    from services.cli.run.pipeline import Pipeline
    from services.runtime.nats import bus as runtime_bus

_AT_ONCE: Final = 20
"""Batches of a file between two looks at what else there is to do."""


async def keep_files(kept: Kept, files: Sequence[Path], kube_snapshot: Path | None) -> None:
    """Read all of them; what cannot be read is a note. The page is there meanwhile. Raises CliError where nothing can be."""
    source = FileRecords(files, kube_snapshot)
    some = source.batches()
    more, error = True, None
    while more and error is None:
        batches, error = await asyncio.to_thread(_next, some)
        more = bool(batches)
        for batch in batches:
            kept.add(batch)
    kept.end([*source.faults, *source.left_out, *([] if error is None else [str(error)])])
    if error is not None and not kept.last:
        raise CliError(str(error)) from error


def _next(some: Iterator[FlowBatch]) -> tuple[list[FlowBatch], CliError | DecodeError | None]:
    """Return the next batches, and why there are no more of them where that is an error: what came before it was read."""
    found: list[FlowBatch] = []
    try:
        found.extend(itertools.islice(some, _AT_ONCE))
    except (CliError, DecodeError) as error:
        return found, error
    return found, None


async def keep_bus(kept: Kept, source: BusSource) -> None:
    """Keep what passed lately and what passes, until cancelled."""
    try:
        await _keep(kept, source.recent())
    except CliError as error:
        kept.note(str(error))
    async for batch in source.live():
        kept.left_out = source.left_out
        kept.add(batch)


async def _keep(kept: Kept, some: AsyncIterable[FlowBatch]) -> None:
    async for batch in some:
        kept.add(batch)


async def bus_pipeline(bus: runtime_bus.Bus, server: str) -> Mapping[str, Any]:
    """Return what `wirespan status` says."""
    now = await asked(bus, server)
    wrong = troubles(now)
    return {"rows": [*said_of(now, SILENT_SECONDS)], "troubles": wrong, "ok": not wrong}


@contextlib.asynccontextmanager
async def beside(pipeline: Pipeline, said: str, where: socket.socket) -> AsyncIterator[str]:
    """Serve the page of a run of `wirespan up` while the block runs; yields its address."""
    kept = Kept()
    server = printable(pipeline.nats.url.rpartition("@")[2])

    async def keep() -> None:
        watch = pipeline.watch()
        try:
            async for message in watch:
                kept.left_out = watch.dropped
                with contextlib.suppress(DecodeError):
                    kept.add(decode(message.data))
        except BusError as error:  # the run goes on, and says itself what becomes of it
            kept.end([f"the page hears no more of the bus: {error}"])

    async def state() -> Mapping[str, Any]:
        found = await bus_pipeline(pipeline.bus, server)
        ledger = ledger_rows(await pipeline.ledger(), str(pipeline.plan.destination), live=pipeline.plan.live)
        return {**found, "ledger": [(name, str(number), note) for name, number, note in ledger]}

    async with serving(Page(kept, said, state), Access(), where) as url, _running(keep()):
        yield url


@contextlib.asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
