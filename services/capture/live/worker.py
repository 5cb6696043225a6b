"""Live capture's work: every tick what is due, published; a flow's watermark moves when the bus has stored its record.

While the bus refuses (a full stream), deltas stay in the table and merge: nothing is lost, resolution is. While it does not
answer, `Bus.publish` sends the same message again; its flows wait, the others' records go on as far as the window allows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import structlog

from proto.columns import Reason
from proto.subjects import asked_subject, raw_subject
from services.capture.counter_metrics import show_counters
from services.capture.errors import CaptureError
from services.capture.flows.exchange_table import ExchangeEmission
from services.capture.flows.table import ROLE_METRIC, WITHOUT_ROLE
from services.capture.live.owners.cgroups import find_root
from services.capture.live.reader import LiveBatch, LiveReader
from services.capture.live.tap.loader import TapLoadError
from services.capture.meeting.meeting import Meeting
from services.capture.outbox import OVERSIZED_METRIC, Outbox
from services.capture.progress import Progress, ProgressReport
from services.capture.settings import CaptureSettings
from services.runtime.account import Account
from services.runtime.health import Health, serve
from services.runtime.host.cgroup2 import hook_trouble, look_at_tree
from services.runtime.lifecycle import Lifecycle
from services.runtime.nats.bus import Bus, StreamFullError, Watch, connect
from services.runtime.nats.unsynced_metrics import show_unsynced
from services.runtime.telemetry import Telemetry

logger = structlog.get_logger()

_WINDOW: Final = 2
"""Batches that are sent and not settled, of about a megabyte each in memory: a bus that takes 50 ms for each still takes 38,000
records a second."""
_LOOK_SECONDS: Final = 0.02
"""Between two looks whether the capture that this one replaces is gone."""
FRAMES_SECONDS: Final = 0.25
"""Between two looks whether the ring buffer of frames fills: it has room for what is told of 20,000 ends of calls."""
_RETRY_SECONDS: Final = 0.5
"""Between two attempts at the last records, where the stream is full when capture ends."""
_MAKERS_UNSEEN: Final = (
    "own connections are told once capture connects again, and programs whose sockets are closed may have no name: "
    "a program at this group or above it may hold the hook sock_create for itself"
)
_WHY_REFUSED: Final = (
    "flows merge until there is room: enrichers do not keep up, or it is this node's share (WIRESPAN_STREAMS_RAW_NODE_SHARE)"
)


async def run(settings: CaptureSettings, lifecycle: Lifecycle) -> None:
    """Capture until the service is to stop, then have every flow's last record stored.

    Raises TapLoadError, NoCgroup2Error or OSError where the node cannot be captured; PublishRefusedError where the bus will
    never take a batch.
    """
    report = ProgressReport(settings.progress_file)
    try:
        await _capture(settings, lifecycle, report)
    except (CaptureError, OSError) as error:
        report.progress.error = str(error)
        raise
    finally:
        report.write()


async def _capture(settings: CaptureSettings, lifecycle: Lifecycle, report: ProgressReport) -> None:
    options = settings.live
    look_at_host(options.cgroup_root)
    reader = LiveReader(node=settings.node_name, epoch=settings.epoch, options=options, table=settings.flow_table)
    with Telemetry("capture", settings.telemetry) as telemetry:
        async with connect(settings.nats, name=f"wirespan-capture {settings.node_name}") as bus:
            bus.expect_streams(settings.streams)
            async with _attached(reader):
                await bus.hear()  # behind a Service's address the connection's other end is known by what it gets from this one
                publisher = LivePublisher(
                    reader, bus, raw_subject(settings.node_name, settings.streams.partitions), report.progress
                )
                publisher.account.show(telemetry, "capture", "record")
                show_unsynced(bus, "capture", telemetry)
                health = Health(lifecycle)
                health.check("bus", lambda: bus.connected)
                _show(telemetry, reader, report.progress)
                async with serve(settings.health, health, telemetry):
                    lifecycle.start("progress", report.keep_writing())
                    if reader.meeting is not None:
                        lifecycle.start("questions", _hear(reader.meeting, bus.watch(asked_subject(settings.node_name))))
                    report.progress.capturing = True
                    _tell_started(reader, options.capacity)
                    if options.trace_context and reader.tap.exchanges is None:
                        logger.warning("trace_context.unavailable", advice="this kernel does not take its program")
                    await publisher.run(options.drain_interval_seconds, lifecycle.stopping)
            await bus.synced()  # nothing is attached any more; a server that loses its power now is given the last again
    report.progress.finished = True
    logger.info("capture.ended", records=report.progress.records, batches=report.progress.batches)


def _tell_started(reader: LiveReader, capacity: int) -> None:
    loaded = reader.tap.loaded
    if loaded.refusal:
        logger.warning("programs.refused", detail=loaded.refusal, advice="this machine's bcc compiled others: see origin")
    if reader.tap.makers_unseen:
        logger.warning("sockets.makers_unseen", error=reader.tap.makers_unseen, hint=_MAKERS_UNSEEN)
    logger.info(
        "capture.started",
        capacity=capacity, takes_over=reader.succession.share.waits, origin=loaded.origin, compiler=loaded.compiler,
        left_out=sorted(loaded.refused),
    )  # fmt: skip


async def _hear(meeting: Meeting, questions: Watch) -> None:
    """Take what enrichers ask: which exchanges of this node lie within an application's spans."""
    async for message in questions:
        meeting.ask(message.data)


def look_at_host(cgroup_root: Path | None) -> None:
    """Say what `wirespan doctor` would, before anything is compiled and whether or not there is a bus.

    Raises NoCgroup2Error or TapLoadError where nothing would be seen. A part of the tree that somebody names is their choice.
    """
    root = find_root(given=cgroup_root)
    trouble = look_at_tree(given=cgroup_root).trouble
    if trouble is not None:
        logger.warning("cgroups.own_part_only", detail=trouble.found)
    held = hook_trouble(root)
    if held is not None:
        raise TapLoadError("hook_taken", held.found, held.fix)


@contextlib.asynccontextmanager
async def _attached(reader: LiveReader) -> AsyncIterator[None]:
    """Load and attach in a thread: it takes a second or more, in which the bus has to be answered."""
    await asyncio.to_thread(reader.__enter__)
    try:
        yield
    finally:
        reader.__exit__(None, None, None)


class LivePublisher:
    """Moves batches from the reader to the bus and settles them."""

    def __init__(self, reader: LiveReader, bus: Bus, subject: str, progress: Progress) -> None:
        self._reader = reader
        self.account = Account("stored", "merged", "oversized")
        """Of the records that were read from the table."""
        self._bus = bus
        self._subject = subject
        self._progress = progress
        self._window = asyncio.Semaphore(_WINDOW)
        self._flow_packets = 0
        self._flow_bytes = 0
        self._refusing = False
        self._reading = asyncio.Lock()  # the reader is not for two threads at once

    async def run(self, interval_seconds: float, stopping: asyncio.Event) -> None:
        """Publish every `interval_seconds` until `stopping`, then what is left; cut off, it says how much is abandoned."""
        left = True
        try:
            async with asyncio.TaskGroup() as group:
                while not stopping.is_set():
                    await self._publish_due(group, None, interval_seconds)
                    await self._pause(interval_seconds, stopping)
            while await self._publish_last():  # noqa: ASYNC110 - a full stream tells nobody when it has room
                await asyncio.sleep(_RETRY_SECONDS)
            left = False
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            if left:
                logger.error("flows.abandoned", flows=self._reader.tap.used_slots)

    async def _pause(self, seconds: float, stopping: asyncio.Event) -> None:
        """Wait for the next tick, or until there is something to take over. What is told of frames meanwhile is read before its
        ring buffer is full.
        """
        succession, now = self._reader.succession, asyncio.get_running_loop().time
        end, waiting = now() + seconds, succession.share.waits
        while not stopping.is_set() and now() < end and waiting == succession.share.waits:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), min(_LOOK_SECONDS if waiting else FRAMES_SECONDS, end - now()))
            if waiting:
                succession.look()
            if self._reader.frames_wait:
                async with self._reading:
                    await asyncio.to_thread(self._reader.read_frames)

    async def _publish_last(self) -> bool:
        """Publish every flow's last record; return whether some were refused."""
        before = self._reader.refused_batches
        async with asyncio.TaskGroup() as group:
            await self._publish_due(group, Reason.SHUTDOWN, None)
        return self._reader.refused_batches != before

    async def _may_send(self, patience_seconds: float | None) -> bool:
        """Wait for room in the window, and take it; False where there was none in time."""
        try:
            async with asyncio.timeout(patience_seconds):
                await self._window.acquire()
        except TimeoutError:
            return False
        return True

    async def _publish_due(self, group: asyncio.TaskGroup, final: Reason | None, patience_seconds: float | None) -> None:
        batches = self._reader.read(final)
        refused = self._reader.refused_batches
        while True:
            if not await self._may_send(patience_seconds):
                return  # the rest is due again at the next tick
            try:
                async with self._reading:
                    batch = await asyncio.to_thread(next, batches, None)
            except BaseException:
                self._window.release()
                raise
            # A full stream refuses the next one too: it merges with what comes.
            if batch is None or self._reader.refused_batches != refused:
                if batch is not None:
                    with self.account.over(batch.records) as records:
                        self._reader.refuse(batch)
                        records.tell("merged")
                self._window.release()
                return
            group.create_task(self._store(batch))

    async def _store(self, batch: LiveBatch) -> None:
        outbox = Outbox(self._bus, self._subject, ((each.message_id, each.message) for each in batch.messages))
        try:
            with self.account.over(batch.records) as records:
                stored = await self._publish(outbox)
                async with self._reading:
                    if stored:
                        self._reader.accept(batch)
                    else:
                        self._reader.refuse(batch)
                records.tell("oversized", outbox.oversized if stored else 0)
                records.tell("stored" if stored else "merged")
        finally:
            self._window.release()
        if stored:
            self._count(batch, outbox.oversized)

    def _count(self, batch: LiveBatch, oversized: int) -> None:
        progress = self._progress
        progress.oversized += oversized
        progress.records += batch.records - oversized
        progress.spans += batch.spans - oversized
        progress.batches += len(batch.messages)
        if isinstance(batch.emission, ExchangeEmission):
            progress.exchanges += batch.records
        else:
            columns = batch.emission.columns
            progress.flows += int((columns["record"] == 0).sum())
            self._flow_packets += int(columns["tx_packets"].sum() + columns["rx_packets"].sum())
            self._flow_bytes += int(columns["tx_bytes"].sum() + columns["rx_bytes"].sum())
        progress.counters = self._reader.counters | {"flow_packets": self._flow_packets, "flow_bytes": self._flow_bytes}
        progress.packets = sum(number for name, number in progress.counters.items() if name.endswith("_packets"))
        progress.bytes = sum(number for name, number in progress.counters.items() if name.endswith("_bytes"))
        progress.refused_waits = self._reader.refused_batches

    async def _publish(self, outbox: Outbox) -> bool:
        """Return whether the batch is stored: all of it, or nothing. Once a part is, the rest waits for room."""
        while True:
            try:
                await outbox.send()
            except StreamFullError as refused:
                self._refused(refused)
                if not outbox.begun:
                    return False
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                if self._refusing:
                    self._refusing = False
                    logger.info("batches.taken_again")
                return True

    def _refused(self, refused: StreamFullError) -> None:
        """Say it once, until the stream takes something again."""
        logger.debug("batch.refused", error=str(refused))
        if not self._refusing:
            self._refusing = True
            logger.warning("batches.refused", error=str(refused), hint=_WHY_REFUSED)


def _show(telemetry: Telemetry, reader: LiveReader, progress: Progress) -> None:
    """Make the ledger's figures metrics."""
    figures: tuple[tuple[str, str, str, Callable[[], int]], ...] = (
        ("records", "Records in batches that the bus has stored", "{record}", lambda: progress.records),
        ("batches", "Batches that the bus has stored", "{batch}", lambda: progress.batches),
        ("refused", "Times that a full stream refused a batch", "{batch}", lambda: reader.refused_batches),
        (*OVERSIZED_METRIC, lambda: progress.oversized),
        (*ROLE_METRIC, lambda: progress.counters.get(WITHOUT_ROLE, 0)),
        (
            "merged",
            "Records that a full stream refused; they merged into later ones",
            "{record}",
            lambda: reader.merged_records,
        ),
    )
    for name, description, unit, read in figures:
        telemetry.cumulative(f"wirespan.capture.{name}", description, unit, read)

    show_counters(telemetry, lambda: progress.counters)
    telemetry.gauge("wirespan.capture.slots.used", "Slots of the flow table in use", "{slot}", lambda: reader.tap.used_slots)
    telemetry.gauge(
        "wirespan.capture.pods.unidentified",
        "Pods that have control groups of version 1 alone, so that their connections have no pod",
        "{pod}",
        lambda: progress.counters.get("unidentified_pods", 0),
    )
    if (meeting := reader.meeting) is not None:
        telemetry.gauge(
            "wirespan.capture.exchanges.remembered",
            "How far back exchanges are remembered, for spans that ask for theirs",
            "s",
            lambda: meeting.remembered_seconds,
        )
        telemetry.gauge(
            "wirespan.capture.exchanges.remembered.udp",
            "How far back questions over UDP and their answers are remembered, likewise",
            "s",
            lambda: meeting.remembered_datagram_seconds,
        )
        telemetry.gauge(
            "wirespan.capture.sender.clock.offset",
            "How far the clock of that sender of spans is ahead that is known to be farthest apart; 0: none is",
            "s",
            lambda: meeting.clock_offset_seconds,
        )
    telemetry.gauge("wirespan.capture.slots", "Slots of the flow table", "{slot}", lambda: reader.tap.capacity)
