"""Batches from the bus: those that passed lately, those that pass now."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from rich.console import Console

from proto.errors import DecodeError
from proto.flow_batch import Entity, FlowBatch, decode
from proto.subjects import ENRICHED_SUBJECTS, MESSAGE_ID_HEADER, RAW_SEEN_SUBJECTS, RECENT_STREAM, in_all_partitions
from services.cli.errors import CliError
from services.cli.views import units
from services.cli.views.printable import printable
from services.runtime.errors import ApiError

if TYPE_CHECKING:
    from services.runtime.nats import bus as runtime_bus

_MOST_KNOWN: Final = 10_000
"""Entities that batches share: beyond that, all are read anew."""


class BusSource:
    """What a tap hears. Nothing is taken from the pipeline: what comes faster than it is read is left out, and said."""

    def __init__(self, bus: runtime_bus.Bus, notes: Console, *, raw: bool) -> None:
        self._bus = bus
        self._notes = notes
        self._watch = bus.watch(*([RAW_SEEN_SUBJECTS] if raw else in_all_partitions(ENRICHED_SUBJECTS)))
        self._seen: set[str] = set()
        self._known: dict[bytes, Entity] = {}

    async def recent(self) -> AsyncIterator[FlowBatch]:
        """Yield what FLOWS_RECENT holds, oldest first. `live` goes on where this ends. Raises CliError where there is none."""
        await self._watch.start()
        try:
            async for message in self._bus.peek(RECENT_STREAM):
                self._seen.add(message.headers.get(MESSAGE_ID_HEADER, ""))
                for batch in self._decoded(message):
                    yield batch
        except ApiError as error:
            raise CliError(
                f"there is nothing to look back at: {RECENT_STREAM} is not there (WIRESPAN_STREAMS_RECENT_BYTES)"
            ) from error

    async def live(self) -> AsyncIterator[FlowBatch]:
        """Yield batches as they pass, without those that `recent` has had."""
        told = 0
        async for message in self._watch:
            if self._watch.dropped > told:
                self._notes.print(f"{units.counted(self._watch.dropped - told, 'message')} left out", style="yellow")
                told = self._watch.dropped
            if message.headers.get(MESSAGE_ID_HEADER) not in self._seen:
                for batch in self._decoded(message):
                    yield batch

    @property
    def left_out(self) -> int:
        """Messages that came faster than they were read."""
        return self._watch.dropped

    def _decoded(self, message: runtime_bus.WatchedMessage) -> list[FlowBatch]:
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        try:
            return [decode(message.data, self._known)]
        except DecodeError as error:
            self._notes.print(f"{message.subject}: not a FlowBatch: {printable(str(error))}", style="red", markup=False)
            return []
