"""Follows the API server for all enrichers: writes what is news to the shared cache's log, and a pulse beside it.

Every message is appended behind the last one that is known here, so a leader that was taken for dead finds out with its next
message and has written nothing wrong. What is appended is taken as others take it when they read it: all know the same.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec
import structlog

from proto.subjects import CACHE_LOG_SUBJECT, CACHE_PULSE_SUBJECT
from services.enricher.cache.messages import (
    CHUNK_BYTES,
    LogNews,
    ObjectChange,
    Pulse,
    ScopeState,
    SnapshotPart,
    encode,
    encode_object,
    key_of,
    snapshot_parts,
)
from services.enricher.cache.news import groups, pieces_of
from services.enricher.cache.reader import CacheReader
from services.enricher.following.inbox import Inbox
from services.enricher.following.indexer import Indexer
from services.enricher.following.roster import News
from services.enricher.following.sync import end_reflectors
from services.enricher.kubernetes.api import KubeApi
from services.enricher.kubernetes.identity import ClusterIdentity
from services.enricher.kubernetes.reflector import Reflector, Scope, State, Update
from services.enricher.kubernetes.resources import fields_read, followed
from services.enricher.kubernetes.selection import ALWAYS_KEPT, Selection
from services.enricher.settings import KubeSettings
from services.runtime.nats.bus import Journal, JournalMovedError, MessageTooLargeError, StreamFullError

logger = structlog.get_logger()

PULSES_PER_LEASE: Final = 10
_MOST_LOG_MESSAGES: Final = 2000
_LEAST_LOG_BYTES: Final = 4 << 20
_LEAST_CHUNK_BYTES: Final = 4 << 10
_AROUND_BYTES: Final = 4 << 10
"""For headers, and for what a message has besides its objects."""
_FULL_WAIT_SECONDS: Final = 1.0
_LEAST_ROUND_SECONDS: Final = 0.05
"""Changes that come within so long share a message."""


class Leader:
    """One term as the writer of the log. It ends with JournalMovedError once somebody else has written."""

    def __init__(
        self, journal: Journal, reader: CacheReader, indexer: Indexer, api: KubeApi, settings: KubeSettings, *, name: str
    ) -> None:
        self._journal = journal
        self._reader = reader
        self._indexer = indexer
        self._settings = settings
        self._name = name
        self._selection = kept_by(settings)
        self._inbox: Inbox[Update] = Inbox()
        self._beaten = 0.0
        self.oversized = 0
        """How often an object was left out because no message holds it."""
        self._began_unix_ns = time.time_ns()
        behind = reader.pulse.reached_unix_ns if reader.pulse else self._began_unix_ns
        resumes = reader.pulse is not None and reader.pulse.selection == self._selection
        cluster, identity = reader.pulse.cluster if reader.pulse else "", ClusterIdentity(api)
        self.reflectors = [
            Reflector(
                api,
                resource,
                namespace,
                self._deliver,
                selection=Selection(settings),
                watch_seconds=settings.watch_seconds,
                longest_wait_seconds=settings.longest_backoff_seconds,
                version=reader.roster.versions.get(Scope(resource.name, namespace), "") if resumes else "",
                behind_since_unix_ns=behind,
                identity=identity,
                cluster=cluster,
            )
            for resource, namespace in followed(settings)
        ]

    def total(self, count: str) -> int:
        """Return a count of this term: `oversized`, or the sum of one of all reflectors."""
        return self.oversized if count == "oversized" else sum(getattr(each, count) for each in self.reflectors)

    async def claim(self) -> None:
        """Become the writer. Raises JournalMovedError where somebody else is."""
        position, broken = self._reader.position, self._reader.broken
        if broken:
            # Nobody will mend a log that ends like this, and what it holds cannot be read here.
            self._reader.begin_anew(position)
        log = self._reader.log
        self._reader.log = log or secrets.token_hex(8)
        try:
            await self._beat()
        except JournalMovedError:
            self._reader.log = log
            raise
        if broken:
            await self._journal.trim(self._reader.position)

    async def lead(self, stopping: asyncio.Event) -> None:
        """Write until told to stop, or until this process has not reached the API server for so long that another should try.

        Raises JournalMovedError once somebody else has written.
        """
        async with self._following():
            while not stopping.is_set() and not self._failed():
                began, round_ends = time.time_ns(), time.monotonic() + _LEAST_ROUND_SECONDS
                updates = await asyncio.to_thread(self._inbox.take, self._pulse_seconds / 2)
                for group in groups(updates):
                    await self._write(await asyncio.to_thread(self._reader.roster.news, *group))
                self._inbox.settle()
                if time.monotonic() >= self._beaten + self._pulse_seconds:
                    # Who could not hand over what he had observed when this round began does so in the next.
                    await self._beat(reached_unix_ns=min(began, self._inbox.unsettled_since_unix_ns or began))
                if self._compaction_due():
                    await self._compact()
                if updates:
                    await asyncio.sleep(round_ends - time.monotonic())
            await self._beat(resigned=True)

    @property
    def _pulse_seconds(self) -> float:
        return self._settings.lease_seconds / PULSES_PER_LEASE

    @property
    def _chunk_bytes(self) -> int:
        """Bytes of objects in one message: what does not deflate at all fits too."""
        return max(_LEAST_CHUNK_BYTES, min(CHUNK_BYTES, self._journal.max_payload - _AROUND_BYTES))

    @asynccontextmanager
    async def _following(self) -> AsyncIterator[None]:
        for reflector in self.reflectors:
            reflector.start()
        try:
            yield
        finally:
            self._inbox.close()
            await end_reflectors(self.reflectors)

    def _deliver(self, update: Update) -> None:
        self._inbox.put(update, update.observed_unix_ns)

    def _failed(self) -> bool:
        """Whether no resource has been followed for so long that somebody else may have more luck."""
        longest_ns = max(self._settings.wait_seconds, 2 * self._settings.lease_seconds) * 1e9
        since = [each.failing_since_unix_ns for each in self.reflectors if each.state is not State.DENIED]
        now, began = time.time_ns(), self._began_unix_ns
        return bool(since) and all(each is not None and now - max(each, began) > longest_ns for each in since)

    async def _write(self, news: News, most_bytes: int | None = None) -> None:
        """Append what is news, in as many messages as it needs; then know it.

        An object that no message holds is told as one that is gone, for all have to know the same.
        """
        if not news.deltas and not news.listed:
            self._reader.take(news)  # a version that goes with the next pulse
            return
        for piece, changes in await asyncio.to_thread(pieces_of, news, most_bytes or self._chunk_bytes):
            message = LogNews(
                log=self._reader.log,
                before=self._reader.log_end,
                link=self._reader.link,
                resource=piece.scope.resource,
                namespace=piece.scope.namespace,
                changes=changes,
                observed_unix_ns=piece.observed_unix_ns,
                version=piece.version,
                listed=piece.listed,
            )
            try:
                await self._put(message, news=piece)
            except MessageTooLargeError as error:
                if len(changes) > 1:  # the server takes less by now
                    await self._write(piece, sum(len(bytes(each.obj)) for each in changes) // 2)
                    continue
                for each in changes:
                    self._leave_out(each.key, each.obj, error)
                gone = [delta._replace(obj=None) for delta in piece.deltas]
                nothing = [ObjectChange(each.key, each.observed_unix_ns, encode_object(None)) for each in changes]
                without: LogNews = msgspec.structs.replace(message, changes=nothing)
                await self._put(without, news=dataclasses.replace(piece, deltas=gone))

    async def _put(self, message: LogNews | SnapshotPart, *, news: News | None = None) -> int:
        """Append a message of the log; return its sequence. Raises MessageTooLargeError."""
        data = await asyncio.to_thread(encode, message)
        sequence = await self._append(CACHE_LOG_SUBJECT, data)
        part = message if isinstance(message, SnapshotPart) else None
        await asyncio.to_thread(partial(self._reader.appended, sequence, data, news=news, part=part))
        return sequence

    def _leave_out(self, key: str, obj: msgspec.Raw, error: MessageTooLargeError) -> None:
        self.oversized += 1
        size = len(bytes(obj))
        hint = (
            "it names nobody: raise `max_payload` of NATS, or have it carry less (labels and annotations that settings ask for)"
        )
        logger.error("cache.object_too_large", object=key, bytes=size, limit=error.limit, hint=hint)

    async def _beat(self, *, reached_unix_ns: int = 0, resigned: bool = False) -> None:
        """Say that there is a writer, and up to when all that was observed is in the log; without a time, up to when it was."""
        states = self._scope_states()
        before = self._reader.pulse.reached_unix_ns if self._reader.pulse else self._began_unix_ns
        # Until all are of one cluster, what the log has is of the one before.
        clusters = {each.cluster for each in self.reflectors}
        cluster_before = self._reader.pulse.cluster if self._reader.pulse else ""
        counted = [each.listed or each.state != State.DENIED.value for each in states]
        behind = [each.behind_since_unix_ns for each, counts in zip(self.reflectors, counted, strict=True) if counts]
        reached = min([reached_unix_ns or before, *(each for each in behind if each is not None)])
        pulse = Pulse(
            log=self._reader.log,
            writer=self._name,
            reached_unix_ns=reached,
            complete_since_unix_ns=self._reader.roster.complete_since_unix_ns,
            selection=self._selection,
            cluster=clusters.pop() if len(clusters) == 1 else cluster_before,
            scopes=states,
            resigned=resigned,
        )
        self._reader.position = await self._append(CACHE_PULSE_SUBJECT, encode(pulse), only=True)
        self._reader.pulse = pulse
        self._beaten = time.monotonic()

    def _scope_states(self) -> list[ScopeState]:
        roster = self._reader.roster
        return [
            ScopeState(
                *each.scope,
                each.state.value,
                roster.versions.get(each.scope, ""),
                each.scope in roster.listed,
                each.failing_since_unix_ns,
            )
            for each in self.reflectors
        ]

    def _compaction_due(self) -> bool:
        reader = self._reader
        return reader.log_messages > _MOST_LOG_MESSAGES or reader.log_bytes > max(_LEAST_LOG_BYTES, 2 * reader.snapshot_bytes)

    async def _compact(self) -> None:
        """Append a snapshot of all that is known, then delete what it makes superfluous."""
        snapshot = f"{self._name}/{self._reader.position}"
        most = self._chunk_bytes
        asked = await asyncio.to_thread(
            self._indexer.ask, lambda cluster: snapshot_parts(cluster.kept(), cluster.ended, snapshot, most)
        )
        parts = await asyncio.wrap_future(asked)
        first = 0
        for part in parts:
            last = part is parts[-1]
            told = {"scopes": self._scope_states(), "complete_since_unix_ns": self._reader.roster.complete_since_unix_ns}
            whole: SnapshotPart = msgspec.structs.replace(
                part,
                log=self._reader.log,
                before=self._reader.log_end,
                link=self._reader.link,
                last=last,
                selection=self._selection,
                **(told if last else {}),
            )
            try:
                sequence = await self._put(whole)
            except MessageTooLargeError as error:
                if len(whole.kept) != 1:
                    logger.warning("cache.not_compacted", error=str(error))
                    return  # the server takes less by now: the next attempt is cut to that
                (kept,) = whole.kept
                self._leave_out(key_of(kept), kept.obj, error)
                sequence = await self._put(msgspec.structs.replace(whole, kept=[]))
            first = first or sequence
        await self._beat()
        await self._journal.trim(first)
        logger.info("cache.compacted", parts=len(parts), bytes=self._reader.snapshot_bytes)

    async def _append(self, subject: str, data: bytes, *, only: bool = False) -> int:
        """Append; wait while the stream is full. Raises JournalMovedError."""
        while True:
            try:
                return await self._journal.append(subject, data, after=self._reader.position, only=only)
            except StreamFullError as error:
                logger.warning(
                    "cache.full", error=str(error), hint="WIRESPAN_STREAMS_CACHE_BYTES is too little for this cluster"
                )
            await asyncio.sleep(_FULL_WAIT_SECONDS)


def kept_by(settings: KubeSettings) -> str:
    """Return what distinguishes what an enricher of this release with these settings keeps of objects from what others keep."""
    scopes = sorted(f"{resource.name}/{namespace}" for resource, namespace in followed(settings))
    names = ("pod_labels", "pod_annotations", "namespace_labels", "namespace_annotations", "node_labels", "node_annotations")
    kept = [sorted(getattr(settings, name)) for name in names]
    return hashlib.sha256(repr((scopes, kept, fields_read(), ALWAYS_KEPT)).encode()).hexdigest()
