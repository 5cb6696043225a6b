"""Reads the shared cache's log: what is known after each message, and whether the chain of messages is whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from proto.subjects import CACHE_PULSE_SUBJECT
from services.enricher.cache.messages import LogNews, Pulse, ScopeState, SnapshotPart, decode, decode_object, link_of
from services.enricher.errors import CacheMessageError
from services.enricher.following.indexer import Indexer
from services.enricher.following.roster import Delta, News, Roster
from services.enricher.index.claims import FOREVER
from services.enricher.index.cluster import Cluster, Kept
from services.enricher.kubernetes.reflector import Scope
from services.runtime.nats.bus import JournalEntry

logger = structlog.get_logger()

_NO_CHAIN: Final = -1


class CacheReader:
    """What one enricher has read, and the indexer that it tells. Used by one thread at a time."""

    def __init__(self, indexer: Indexer, make_cluster: Callable[[], Cluster]) -> None:
        self._indexer = indexer
        self._make_cluster = make_cluster
        self.roster = Roster()
        self.pulse: Pulse | None = None
        self.lost_unix_ns = time.time_ns()
        """Since when nothing is known, or not what the log comes to; while all is known, of the last time that this was so."""
        self.log = ""
        """Which log is read; empty before its first message."""
        self.foreign = False
        """Whether a message of another log was met: the stream may be another one."""
        self.position = 0
        """Sequence of the last message that was read, or appended by ourselves."""
        self.log_end = 0
        """Sequence of the last message of the log's chain that is known here; negative where the chain is broken."""
        self.link = b""
        """What that message is known by."""
        self.went_back = False
        """Whether the log goes on from another message than the one that was read in its place: a server lost what it had."""
        self.log_messages = 0
        """Messages that a new reader has to read behind the last snapshot."""
        self.log_bytes = 0
        self.snapshot_bytes = 0
        self.unreadable = 0
        """Messages and objects that are not understood, such as a newer release's."""
        self._parts: list[SnapshotPart] = []

    @property
    def broken(self) -> bool:
        """Whether what is known is not what the log comes to."""
        return self.log_end == _NO_CHAIN

    def read(self, entry: JournalEntry) -> None:
        """Take a message. One that is not understood is counted; if it belongs to the log, the chain breaks there, and so it
        does with a message of another log.
        """
        self.position = entry.sequence
        try:
            message = decode(entry.data)
        except CacheMessageError as error:
            self.unreadable += 1
            logger.warning("cache.unreadable", sequence=entry.sequence, detail=str(error))
            return
        if self.log and message.log != self.log:
            self.foreign = True
            if not isinstance(message, Pulse) and not self.broken:
                self._break(entry)
            return
        self.log = message.log
        if entry.subject == CACHE_PULSE_SUBJECT and isinstance(message, Pulse):
            self._beat(message)
        elif isinstance(message, SnapshotPart):
            self._part(message, entry)
        elif isinstance(message, LogNews):
            self._news(message, entry)

    def appended(self, sequence: int, data: bytes, *, news: News | None = None, part: SnapshotPart | None = None) -> None:
        """Note what this enricher itself has written to the log."""
        self.position = self.log_end = sequence
        self.link = link_of(data)
        self._grown(len(data), part)
        if news is not None:
            self.take(news)

    def take(self, news: News) -> None:
        """Know what is news, and tell the indexer."""
        self.roster.take(news)
        self._indexer.complete_since_unix_ns = self.roster.complete_since_unix_ns
        if news.deltas or news.listed:
            self._indexer.put(news)

    def begin_anew(self, position: int = 0) -> None:
        """Forget everything: the stream is another one, or its log cannot be read."""
        self._lose_pulse()
        self.roster, self.position, self.log, self.foreign = Roster(), position, "", False
        self._parts = []
        self._restored(self._make_cluster(), FOREVER)
        self.log_end, self.link, self.went_back = 0, b"", False

    def _beat(self, pulse: Pulse) -> None:
        if self.broken:
            return
        self.pulse = pulse
        self.roster.complete_since_unix_ns = pulse.complete_since_unix_ns
        self.roster.versions |= {Scope(each.resource, each.namespace): each.version for each in pulse.scopes if each.version}

    def _news(self, message: LogNews, entry: JournalEntry) -> None:
        self._parts = []
        if not self._follows(message):
            self._break(entry)
            return
        scope = Scope(message.resource, message.namespace)
        deltas = []
        for change in message.changes:
            try:
                deltas.append(Delta(change.key, decode_object(message.resource, change.obj), change.observed_unix_ns))
            except CacheMessageError:
                self.unreadable += 1
        self._note_end(entry)
        self._grown(len(entry.data), None)
        self.take(News(scope, deltas, message.observed_unix_ns, message.version, message.listed))

    def _part(self, part: SnapshotPart, entry: JournalEntry) -> None:
        self._parts = [*self._parts, part] if part.number and self._parts else [part][: not part.number]
        whole = bool(self._parts) and part.last
        whole = whole and [each.number for each in self._parts] == list(range(part.number + 1))
        whole = whole and {each.snapshot for each in self._parts} == {part.snapshot}
        if self._follows(part):
            self._note_end(entry)
            self._grown(len(entry.data), part)
            self._parts = []  # whoever has read what it came from needs none of it
            return
        if not self.broken:
            self._break(entry)
        if whole:
            self._restore()
            self._note_end(entry)

    def _follows(self, message: LogNews | SnapshotPart) -> bool:
        """Whether it comes behind the last message that is known here."""
        if message.before != self.log_end:
            return False
        same = message.link == self.link or not (message.link and self.link)
        self.went_back = self.went_back or not same
        return same

    def _note_end(self, entry: JournalEntry) -> None:
        self.log_end, self.link = entry.sequence, link_of(entry.data)

    def _break(self, entry: JournalEntry) -> None:
        if self.log_end > 0:
            logger.info("cache.chain_broken", sequence=entry.sequence, hint="goes on from the next snapshot in the log")
        self.log_end = _NO_CHAIN
        self._lose_pulse()

    def _lose_pulse(self) -> None:
        if self.pulse is not None:
            self.pulse, self.lost_unix_ns = None, time.time_ns()

    def _grown(self, size: int, part: SnapshotPart | None) -> None:
        if part is None:
            self.log_messages, self.log_bytes = self.log_messages + 1, self.log_bytes + size
            return
        self.snapshot_bytes = size if part.number == 0 else self.snapshot_bytes + size
        if part.last:
            self.log_messages, self.log_bytes = 0, 0

    def _restore(self) -> None:
        """Begin anew from the parts of a snapshot."""
        parts, self._parts = self._parts, []
        cluster, roster = self._make_cluster(), Roster()
        namespaces = {scope.namespace for scope in parts[-1].scopes} - {""}
        for part in parts:
            kept = []
            for each in part.kept:
                try:
                    obj = decode_object(each.resource, each.obj)
                except CacheMessageError:
                    self.unreadable += 1
                    continue
                if obj is not None:
                    kept.append(Kept(obj, each.starts_unix_ns, each.removed_unix_ns))
                    space = obj.metadata.namespace or ""
                    scope = Scope(each.resource, space if space in namespaces else "")
                    if not each.removed_unix_ns:
                        roster.known[scope][obj.key] = obj
            cluster.restore(kept, part.ended)
        last = parts[-1]
        roster.listed, roster.versions = listed_and_versions(last.scopes)
        roster.complete_since_unix_ns = last.complete_since_unix_ns
        self.roster = roster
        self._restored(cluster, last.complete_since_unix_ns)
        logger.info("cache.restored", objects=len(roster), parts=len(parts))

    def _restored(self, cluster: Cluster, complete_since_unix_ns: int) -> None:
        self.log_messages, self.log_bytes, self.snapshot_bytes = 0, 0, 0
        self._indexer.complete_since_unix_ns = complete_since_unix_ns
        self._indexer.replace(cluster, self.roster.listed)


def log_of(entry: JournalEntry) -> str:
    """Return which log a message belongs to, empty where it is not understood."""
    try:
        return decode(entry.data).log
    except CacheMessageError:
        return ""


def listed_and_versions(scopes: list[ScopeState]) -> tuple[set[Scope], dict[Scope, str]]:
    """Return which scopes were listed, and where the watches of all go on."""
    listed = {Scope(each.resource, each.namespace) for each in scopes if each.listed}
    return listed, {Scope(each.resource, each.namespace): each.version for each in scopes if each.version}
