"""Capture's work: read flows, make batches of their records, and have every batch stored before the service ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import structlog

from proto.subjects import raw_subject
from services.capture.counter_metrics import show_counters
from services.capture.errors import CaptureError
from services.capture.flows.table import ROLE_METRIC, WITHOUT_ROLE
from services.capture.outbox import OVERSIZED_METRIC, Outbox
from services.capture.progress import Progress, ProgressReport
from services.capture.replay.epoch import is_repeatable, replay_epoch
from services.capture.replay.reader import ReadyBatch, ReplayReader
from services.capture.settings import CaptureSettings
from services.runtime.account import Account
from services.runtime.health import Health, serve
from services.runtime.lifecycle import Lifecycle
from services.runtime.nats.bus import Bus, PublishRefusedError, StreamFullError, connect
from services.runtime.nats.unsynced_metrics import show_unsynced
from services.runtime.telemetry import Telemetry

logger = structlog.get_logger()

_WINDOW: Final = 4
"""Batches that are sent and not stored yet: reading goes on meanwhile."""
_FIRST_WAIT_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 2.0
_NS: Final = 1_000_000_000


async def run(settings: CaptureSettings, lifecycle: Lifecycle) -> None:
    """Replay the files of `settings` until they are read, or until the service is to stop.

    A replay that a start would repeat under the same ids ends as it stands when it is stopped: last records of flows that were
    cut off would take the place of the whole ones. All others send the last records of all flows.

    Raises CaptureFileError, before anything is sent, for a file that is no capture; PublishRefusedError where the bus will
    never take a batch.
    """
    report = ProgressReport(settings.progress_file)
    try:
        reader = await asyncio.to_thread(ReplayReader, settings, replay_epoch(settings), report)
        await _replay(settings, lifecycle, reader, report)
    except (CaptureError, PublishRefusedError) as error:
        report.progress.error = str(error)
        raise
    finally:
        report.write()


async def _replay(settings: CaptureSettings, lifecycle: Lifecycle, reader: ReplayReader, report: ProgressReport) -> None:
    with Telemetry("capture", settings.telemetry) as telemetry:
        async with connect(settings.nats, name=f"wirespan-capture {settings.node_name}") as bus:
            health = Health(lifecycle)
            health.check("bus", lambda: bus.connected)
            _show(telemetry, report.progress, report)
            account = Account("stored", "oversized")
            account.show(telemetry, "capture", "record")
            show_unsynced(bus, "capture", telemetry)
            async with serve(settings.health, health, telemetry):
                lifecycle.start("progress", report.keep_writing())
                bus.expect_streams(settings.streams)
                report.progress.capturing = True
                logger.info("replay.started", files=len(settings.replay_files), loop=settings.replay_loop)
                batches = _read(reader, lifecycle.stopping, report.progress, cut_off=is_repeatable(settings))
                await _store_all(
                    batches, bus, raw_subject(settings.node_name, settings.streams.partitions), report.progress, account
                )
                await bus.synced()  # a server that loses its power now is given it again
            duplicates = bus.duplicates
    report.progress.finished = not lifecycle.stopping.is_set()
    reader.close()
    if duplicates:
        logger.warning("batches.stored_before", batches=duplicates, hint="an earlier start sent them under the same ids")
    logger.info("replay.ended", finished=report.progress.finished, records=report.progress.records)


async def _read(
    reader: ReplayReader, stopping: asyncio.Event, progress: Progress, *, cut_off: bool
) -> AsyncIterator[ReadyBatch]:
    """Yield batches when they are due; once the service is to stop, the last ones of all flows, unless they are cut off."""
    while not stopping.is_set():
        ready = await asyncio.to_thread(reader.read)
        for fault in reader.faults:
            if fault not in progress.faults:
                progress.faults.append(fault)
                logger.warning("file.not_read_whole", fault=fault)
        if ready is None:
            return
        for batch in ready:
            await _wait_until(batch.due_unix_ns, stopping)
            yield batch
    if cut_off:
        logger.warning("replay.cut_off", hint="started again, it begins anew and sends the same batches")
        return
    rest = reader.finish()
    while last := await asyncio.to_thread(next, rest, None):
        for batch in last:
            yield batch


async def _wait_until(due_unix_ns: int, stopping: asyncio.Event) -> None:
    wait_seconds = (due_unix_ns - time.time_ns()) / _NS if due_unix_ns else 0
    if wait_seconds > 0:
        waiting = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({waiting}, timeout=wait_seconds)
        waiting.cancel()


async def _store_all(batches: AsyncIterator[ReadyBatch], bus: Bus, subject: str, progress: Progress, account: Account) -> None:
    """Have every batch stored, a few at a time. Whatever is left undone when this is cut off is said."""
    window = asyncio.Semaphore(_WINDOW)
    read = 0

    async def store(batch: ReadyBatch) -> None:
        try:
            with account.over(batch.records) as records:
                oversized = await _store(batch, bus, subject, progress)
                records.tell("oversized", oversized)
                records.tell("stored")
        finally:
            window.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for batch in batches:
                read += batch.records
                await window.acquire()
                group.create_task(store(batch))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        left = read - progress.records - progress.oversized
        if left > 0:
            logger.error("records.abandoned", records=left)


async def _store(batch: ReadyBatch, bus: Bus, subject: str, progress: Progress) -> int:
    """Have one batch stored, and return how many of its records no message takes; a full stream is waited for."""
    wait_seconds = _FIRST_WAIT_SECONDS
    outbox = Outbox(bus, subject, [(batch.message_id, batch.message)])
    while True:
        try:
            await outbox.send()
        except StreamFullError as refused:
            progress.refused_waits += 1
            logger.debug("batch.refused", message_id=batch.message_id, error=str(refused))
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(wait_seconds * 2, _LONGEST_WAIT_SECONDS)
        else:
            progress.oversized += outbox.oversized
            progress.records += batch.records - outbox.oversized
            progress.exchanges += batch.exchanges
            progress.spans += batch.spans - outbox.oversized
            progress.batches += 1
            return outbox.oversized


def _show(telemetry: Telemetry, progress: Progress, report: ProgressReport) -> None:
    """Make the ledger's figures metrics."""
    figures: tuple[tuple[str, str, str, Callable[[], int]], ...] = (
        ("records", "Records in batches that the bus has stored", "{record}", lambda: progress.records),
        ("batches", "Batches that the bus has stored", "{batch}", lambda: progress.batches),
        ("refused", "Times that a full stream refused a batch", "{batch}", lambda: progress.refused_waits),
        ("exchanges", "Of the records, exchanges of application traces", "{record}", lambda: progress.exchanges),
        ("flows", "Flows begun", "{flow}", lambda: report.refresh().flows),
        (*OVERSIZED_METRIC, lambda: progress.oversized),
        (*ROLE_METRIC, lambda: report.counters.get(WITHOUT_ROLE, 0)),
    )
    for name, description, unit, read in figures:
        telemetry.cumulative(f"wirespan.capture.{name}", description, unit, read)

    show_counters(telemetry, lambda: report.counters)
