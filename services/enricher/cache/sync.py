"""The index of a live cluster that enrichers share: one of them follows the API server, all read what it writes.

Its cost to the API server is that of one, however many there are, and who starts finds the cluster in the log, also while the
API server is away. The log is its own election: whoever hears nothing for a while appends a pulse behind the last message it
has read, which the server allows to one only (`Journal`). No lock can outlive its holder, and there is nothing to permit but
the log's stream; a Lease would need the right to write to the API server, and the API server to be there.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from proto.subjects import CACHE_BELL_SUBJECTS, CACHE_STREAM
from services.enricher.cache.leader import Leader
from services.enricher.cache.messages import Pulse
from services.enricher.cache.reader import CacheReader, log_of
from services.enricher.following.indexer import Indexer
from services.enricher.following.live_index import LiveIndex
from services.enricher.index.cluster import Cluster
from services.enricher.kubernetes.api import KubeApi
from services.enricher.kubernetes.reflector import Scope, State
from services.enricher.kubernetes.resources import followed
from services.enricher.settings import KubeSettings
from services.runtime.errors import TaskFailedError
from services.runtime.nats.bus import Bus, Journal, JournalMovedError

logger = structlog.get_logger()

_STOP_SECONDS: Final = 5.0


class CachedSync(LiveIndex):
    """The index of a live cluster, from the shared cache."""

    def __init__(self, api: KubeApi, make_cluster: Callable[[], Cluster], settings: KubeSettings) -> None:
        indexer = Indexer(make_cluster(), interval_seconds=settings.index_interval_seconds)
        super().__init__(indexer, settings)
        self._api = api
        self._reader = CacheReader(indexer, make_cluster)
        self._name = f"{socket.gethostname()}/{os.getpid()}"
        self._began_unix_ns = time.time_ns()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._leader: Leader | None = None
        self._totals = {"lists": 0, "faults": 0, "malformed": 0, "oversized": 0}
        self._heard = 0.0
        self._patience_seconds = 0.0

    @property
    def leading(self) -> bool:
        """Whether this process follows the API server for all."""
        return self._leader is not None

    @property
    def objects(self) -> int:
        """How many objects are known."""
        return len(self._reader.roster)

    def missing(self) -> Sequence[str]:
        """Return the resources that may be read and that the index does not hold all of; all where none may be read."""
        pulse, covered = self._reader.pulse, self._indexer.covered
        if pulse is None or self._reader.broken or not covered:
            return sorted({resource.name for resource, _ in followed(self._settings)})
        scopes = pulse.scopes
        return sorted(
            {s.resource for s in scopes if Scope(s.resource, s.namespace) not in covered and s.state != State.DENIED.value}
        )

    def lost_since_unix_ns(self) -> int | None:
        """Return since when nobody leads, or who leads cannot follow a resource; None where all is followed."""
        pulse: Pulse | None = self._reader.pulse
        if pulse is None or self._reader.broken or self.missing():
            # Not since this process began: one that has lost a log that it knew waits for the next as one does that starts.
            return self._reader.lost_unix_ns
        if time.monotonic() > self._heard + 2 * self._settings.lease_seconds and not self.leading:
            return pulse.reached_unix_ns
        scopes = (each for each in pulse.scopes if each.listed or each.state != State.DENIED.value)
        return min((each.failing_since_unix_ns for each in scopes if each.failing_since_unix_ns is not None), default=None)

    def behind_since_unix_ns(self) -> int | None:
        """Return the time up to which all news is in the log and was read here."""
        pulse: Pulse | None = self._reader.pulse
        if pulse is None or self._reader.broken or self.missing():
            return self._began_unix_ns
        return pulse.reached_unix_ns

    def states(self) -> dict[State, int]:
        """Return how many resources are in each state, as the one says who follows them."""
        states = [each.state for each in self._reader.pulse.scopes] if self._reader.pulse else []
        return {state: states.count(state.value) for state in State}

    def total(self, count: str) -> int:
        """Return the sum of a count over this process's terms as leader."""
        now = self._leader.total(count) if self._leader else 0
        return self._totals[count] + now + (self._reader.unreadable if count == "malformed" else 0)

    def start(self, bus: Bus) -> None:
        """Begin to read, and to lead if nobody does."""
        self._indexer.start()
        journal = bus.journal(CACHE_STREAM, CACHE_BELL_SUBJECTS)
        self._task = asyncio.create_task(self._follow(journal), name="share the cluster")

    async def stop(self) -> None:
        """Resign if need be, and end."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_STOP_SECONDS)
            self._task.cancel()
            await asyncio.wait({self._task})
        self._indexer.stop()
        if self._indexer.ident is not None:
            await asyncio.to_thread(self._indexer.join, _STOP_SECONDS)

    async def until_broken(self) -> None:
        """Raise what ended the task, or TaskFailedError once a thread has ended that was not told to."""
        while self._task is not None and not self._stopping.is_set():
            await asyncio.wait({self._task}, timeout=1.0)
            self.note_synced()
            if self._task.done() and not self._stopping.is_set():
                self._task.result()
            threads = (self._indexer, *(self._leader.reflectors if self._leader else ()))
            if ended := [thread.name for thread in threads if thread.broken]:
                raise TaskFailedError(f"threads have ended: {', '.join(ended)}")

    async def _follow(self, journal: Journal) -> None:
        """Read what there is; lead when it seems that nobody does; for ever."""
        self._expect_pulse()
        generation = journal.generation
        while not self._stopping.is_set():
            await self._read(journal)
            if journal.generation != generation:  # silence was ours
                generation = journal.generation
                self._expect_pulse()
            if time.monotonic() < self._heard + self._patience_seconds:
                await journal.wait(self._settings.lease_seconds / 4)
            elif not await self._made_anew(journal):
                await self._lead(journal)

    async def _read(self, journal: Journal) -> None:
        async for entry in journal.entries(self._reader.position):
            await asyncio.to_thread(self._reader.read, entry)
            if not self._reader.foreign:
                self._expect_pulse()
        if self._reader.foreign:
            self._reader.foreign = False
            await self._made_anew(journal)
        if self._reader.went_back:
            logger.warning("cache.went_back", position=self._reader.position, hint="a server of NATS lost its latest writes")
            await asyncio.to_thread(self._reader.begin_anew)
            self._expect_pulse()

    def _expect_pulse(self, *, has_resigned: bool = False) -> None:
        """Be patient from now on: a lease or a bit more; less where nobody leads, but let others go before one who resigned."""
        pulse = self._reader.pulse
        nobody = self._reader.position == 0 or (pulse is not None and pulse.resigned)
        least, most = (0.6, 0.9) if has_resigned else (0.0, 0.2) if nobody else (1.0, 1.5)
        leases = random.uniform(least, most)  # noqa: S311 - only spreads enrichers out
        self._heard, self._patience_seconds = time.monotonic(), leases * self._settings.lease_seconds

    async def _made_anew(self, journal: Journal) -> bool:
        """Whether the stream is not the one that was read, to be read from its beginning: a store was lost, or deleted.

        Its sequences may be anywhere by now, so what it begins with tells; a log that is only trimmed begins with its own.
        """
        position, last = self._reader.position, await journal.last_sequence()
        first = await anext(journal.entries(0), None) if position else None
        log = await asyncio.to_thread(log_of, first) if first else ""
        if last >= position and log in ("", self._reader.log):
            return False
        logger.warning("cache.stream_lost", position=position, last_sequence=last, log=log)
        await asyncio.to_thread(self._reader.begin_anew)
        self._expect_pulse()
        return True

    async def _lead(self, journal: Journal) -> None:
        leader = Leader(journal, self._reader, self._indexer, self._api, self._settings, name=self._name)
        try:
            await leader.claim()
        except JournalMovedError:
            self._expect_pulse()
            return
        logger.info("cache.led", position=self._reader.position)
        self._leader = leader
        try:
            await leader.lead(self._stopping)
            logger.info("cache.resigned", position=self._reader.position)
        except JournalMovedError as error:
            logger.warning("cache.deposed", detail=str(error))
        finally:
            self._leader = None
            for count in self._totals:
                self._totals[count] += leader.total(count)
        self._expect_pulse(has_resigned=True)
