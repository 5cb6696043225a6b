"""Follows one resource: lists it, watches it, and hands on what changes, for ever.

A thread each, because the transport is blocking. The rules are client-go's: a list gives the version that the watch begins at;
bookmarks move it; a version that the server no longer has (410) means a new list. Where the server offers it the list is a
watch itself (`sendInitialEvents`), which costs it least. A watch asks for an end after a few minutes, a little different each
time, and a connection on which nothing comes for `silence_seconds` is taken for dead. After a fault the wait grows, with
jitter, until the resource has been followed in peace for a while; lists that succeed do not count as peace.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import structlog

from services.enricher.errors import ApiRefusedError, ApiUnreachableError
from services.enricher.kubernetes.api import Answer, KubeApi
from services.enricher.kubernetes.identity import ClusterIdentity, has_reached
from services.enricher.kubernetes.listing import GONE, whole_list
from services.enricher.kubernetes.object_meta import KubeObject
from services.enricher.kubernetes.resources import (
    Frame,
    Mark,
    Resource,
    frame_decoder,
    mark_decoder,
    object_decoders,
    watch_error_decoder,
)
from services.enricher.kubernetes.selection import Selection
from services.enricher.stoppable_thread import StoppableThread

logger = structlog.get_logger()

_FIRST_WAIT_SECONDS: Final = 0.5
_PEACE_SECONDS: Final = 10.0
_LONGEST_RETRY_AFTER_SECONDS: Final = 300.0
_FIRST_DENIED_WAIT_SECONDS: Final = 5.0
_LONGEST_DENIED_WAIT_SECONDS: Final = 60.0
_CATCH_UP_SECONDS: Final = 2.0
"""How long what was missed may take to arrive once a watch has gone on: a server that has just started reads it first."""
_MOST_LINE_BYTES: Final = 16 << 20
_INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
_DENIED: Final = frozenset((403, 404))
_NO_WATCH_LIST: Final = frozenset((400, 422, 500, 501))
"""Old servers know no such watch, and servers over an old etcd (500) have it switched on and cannot."""


class State(enum.Enum):
    """How well a resource is followed."""

    STARTING = "starting"
    FOLLOWED = "followed"
    LOST = "lost"
    """It was followed, or should be, and the server does not let it be now."""
    DENIED = "denied"
    """RBAC does not allow it, or the server has no such resource."""


class Scope(NamedTuple):
    """What a reflector follows: a resource by the name that RBAC has for it, of one namespace, or of all where it is empty."""

    resource: str
    namespace: str


class Change(NamedTuple):
    """An object as it is now, or as it last was."""

    obj: KubeObject
    deleted: bool


@dataclass(frozen=True, slots=True)
class Update:
    """News of a resource. `whole`: these are all of its objects, what else was known is gone.

    `version` is where a watch goes on behind them; there may be nothing new but it.
    """

    scope: Scope
    changes: list[Change]
    observed_unix_ns: int
    version: str = ""
    whole: bool = False


class Reflector(StoppableThread):
    """A resource, of all namespaces or of one."""

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        namespace: str,
        deliver: Callable[[Update], None],
        *,
        selection: Selection,
        watch_seconds: float,
        longest_wait_seconds: float,
        version: str = "",
        behind_since_unix_ns: int | None = None,
        identity: ClusterIdentity | None = None,
        cluster: str = "",
    ) -> None:
        """With a `version` no list is taken: what changed since is asked for, which may be all since `behind_since_unix_ns`.

        With an `identity`, a version is gone on from only where the server is of the cluster that it was got from, and has
        reached it. `cluster` is that cluster's uid, empty where it is not known.
        """
        super().__init__(f"follow {resource.name} {namespace}".strip())
        self.resource = resource
        self.namespace = namespace
        self.state = State.STARTING
        self._failing_since_unix_ns = behind_since_unix_ns
        self._resumed: tuple[int, float] | None = None
        """Since when news had been missing, and until when it may still come: a watch has just gone on."""
        self.malformed = 0
        self.lists = 0
        self.faults = 0
        self._denials = 0
        self._api = api
        self._deliver = deliver
        self._selection = selection
        self._watch_seconds = watch_seconds
        self._longest_wait_seconds = longest_wait_seconds
        self._version = version
        self._identity = identity
        self.cluster = cluster
        """Uid of the cluster that what is known is of; empty where it is not known."""
        self._answer: Answer | None = None
        self._following_since = 0.0
        self._wait_seconds = _FIRST_WAIT_SECONDS

    @property
    def scope(self) -> Scope:
        """What is followed."""
        return Scope(self.resource.name, self.namespace)

    @property
    def failing_since_unix_ns(self) -> int | None:
        """Since when it cannot be followed; None while it is."""
        return self._failing_since_unix_ns

    @property
    def behind_since_unix_ns(self) -> int | None:
        """From when on there may be news that has not come; None while it is followed, and has caught up."""
        failing, resumed = self._failing_since_unix_ns, self._resumed
        if failing is None and resumed is not None and time.monotonic() < resumed[1]:
            return resumed[0]
        return failing

    def stop(self) -> None:
        """Ask the thread to end; it does so soon."""
        super().stop()
        answer = self._answer
        if answer is not None:
            answer.abort()

    def run(self) -> None:
        """Follow until told to stop."""
        while not self._stopping.is_set():
            self._following_since = 0.0
            try:
                self._follow()
            except (ApiRefusedError, ApiUnreachableError) as error:
                wait_seconds = self._fault(error)
            else:
                wait_seconds = 0.0 if self._peaceful() else self._next_wait()
            self._stopping.wait(wait_seconds)

    def _follow(self) -> None:
        """List if need be, then watch to the end of one stream."""
        if self._identity is not None:
            self._check(self._identity)
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(self._seconds())}
        if not self._version and self._api.watch_list:
            initial = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            try:
                self._watch(query | initial, initial=[])
            except ApiRefusedError as error:
                if error.status not in _NO_WATCH_LIST:
                    raise
                self._api.watch_list = False
                logger.info("watch_list.not_offered", detail=str(error))
            else:
                return
        if not self._version:
            self._list()
        self._watch(query | {"resourceVersion": self._version}, initial=None)

    def _check(self, identity: ClusterIdentity) -> None:
        """Find out which cluster the server is of, and let go of a version that it has not given."""
        uid = identity.uid()
        is_another = bool(uid and self.cluster) and uid != self.cluster
        if self._version and (is_another or not has_reached(self._api, self.resource, self.namespace, self._version)):
            why = "the server is of another cluster" if is_another else "the server has not come so far: it was restored"
            logger.warning("resource.relisted", resource=self.resource.name, namespace=self.namespace, detail=why)
            self._version = ""
        self.cluster = uid or self.cluster

    def _seconds(self) -> int:
        return max(1, round(self._watch_seconds * random.uniform(1.0, 1.5)))  # noqa: S311 - only spreads requests out

    def _list(self) -> None:
        began = time.time_ns()
        changes, version = whole_list(self._api, self.resource, self.namespace, lambda item: self._decoded(item, deleted=False))
        self._listed(changes, version, began)

    def _listed(self, changes: list[Change], version: str, observed_unix_ns: int) -> None:
        self.lists += 1
        self._version = version
        self._deliver(Update(self.scope, changes, observed_unix_ns, version, whole=True))

    def _watch(self, query: dict[str, str], *, initial: list[Change] | None) -> None:
        """Read one stream. `initial` gathers the objects that come before the end of a list that is a watch."""
        accept = self.resource.accept(of_list=False)
        with self._api.get(self.resource.path(self.namespace), query, accept=accept) as answer:
            self._answer = answer
            try:
                if initial is None:
                    self._followed(resumed=True)
                rest = b""
                for chunk in answer.chunks():
                    lines = (rest + chunk).split(b"\n")
                    rest = lines.pop()
                    if len(rest) > _MOST_LINE_BYTES:
                        raise ApiUnreachableError("a watch without line ends")
                    initial = self._read(lines, initial)
                    if self._stopping.is_set():
                        return
            finally:
                self._answer = None
        if initial is not None:
            # Nothing is known of a list that did not end, nor whether the next one would.
            raise ApiUnreachableError("the stream ended within its initial events")

    def _read(self, lines: list[bytes], initial: list[Change] | None) -> list[Change] | None:
        """Take the lines of a chunk; return the initial events that are gathered so far, None once they are complete."""
        changes: list[Change] = []
        version = self._version
        for line in lines:
            if not line.strip():
                continue
            frame, mark = self._parsed(line)
            if frame.type == "BOOKMARK":
                version = mark.metadata.resource_version or version
                if initial is not None and (mark.metadata.annotations or {}).get(_INITIAL_EVENTS_END) == "true":
                    self._listed([*initial, *changes], version, time.time_ns())
                    self._followed()
                    initial, changes = None, []
                continue
            change = self._decoded(frame.object, deleted=frame.type == "DELETED")
            changes += [change] if change is not None else []
            version = mark.metadata.resource_version or version
        if initial is not None:
            initial.extend(changes)
            return initial
        if changes or version != self._version:
            self._deliver(Update(self.scope, changes, time.time_ns(), version))
        self._version = version
        return None

    def _parsed(self, line: bytes) -> tuple[Frame, Mark]:
        try:
            frame = frame_decoder.decode(line)
            if frame.type == "ERROR":
                error = watch_error_decoder.decode(frame.object)
                raise ApiRefusedError(error.code, error.message)
            return frame, mark_decoder.decode(frame.object)
        except msgspec.DecodeError as error:
            raise ApiUnreachableError(f"no watch event: {error}") from error

    def _decoded(self, item: msgspec.Raw, *, deleted: bool) -> Change | None:
        """An object out of its JSON; one of a wrong shape is counted and left out."""
        try:
            obj = object_decoders[self.resource].decode(item)
        except msgspec.DecodeError:
            self.malformed += 1
            return None
        self._selection.trim(obj)
        return Change(obj, deleted)

    def _followed(self, *, resumed: bool = False) -> None:
        if self.state is not State.FOLLOWED:
            logger.info("resource.followed", resource=self.resource.name, namespace=self.namespace)
        self.state = State.FOLLOWED
        failing = self._failing_since_unix_ns
        self._resumed = (failing, time.monotonic() + _CATCH_UP_SECONDS) if resumed and failing is not None else None
        self._failing_since_unix_ns = None
        self._denials = 0
        self._following_since = time.monotonic()

    def _peaceful(self) -> bool:
        """Whether the stream that ended had lasted, as long as it was asked to at the most."""
        peace = self._following_since and time.monotonic() - self._following_since >= min(_PEACE_SECONDS, self._watch_seconds)
        if peace:
            self._wait_seconds = _FIRST_WAIT_SECONDS
        return bool(peace)

    def _fault(self, error: ApiRefusedError | ApiUnreachableError) -> float:
        """Note what went wrong; return how long to wait."""
        if self._stopping.is_set():
            return 0.0
        self.faults += 1
        status = error.status if isinstance(error, ApiRefusedError) else 0
        if self._failing_since_unix_ns is None:
            self._failing_since_unix_ns = self.behind_since_unix_ns or time.time_ns()
        said = {"resource": self.resource.name, "namespace": self.namespace, "detail": str(error)}
        if status in _DENIED:
            return self._denied(said)
        if status == GONE:
            self._version = ""
            logger.info("resource.relisted", **said)
        elif self.state is not State.LOST:
            logger.warning("resource.lost", **said)
        self.state = State.LOST
        self._peaceful()
        after = error.retry_after_seconds if isinstance(error, ApiRefusedError) else None
        return max(self._next_wait(), min(after or 0.0, _LONGEST_RETRY_AFTER_SECONDS))

    def _denied(self, said: dict[str, str]) -> float:
        """Note a denial. A server that has just started denies what it allows a moment later: the first one does not count
        where the resource has been followed.
        """
        self._denials += 1
        if self.state is not State.DENIED:
            logger.warning("resource.denied", **said, hint="the service account needs list and watch on it")
        self.state = State.LOST if self.lists and self._denials == 1 else State.DENIED
        wait_seconds = min(_FIRST_DENIED_WAIT_SECONDS * (1 << min(self._denials - 1, 8)), _LONGEST_DENIED_WAIT_SECONDS)
        return wait_seconds * random.uniform(1.0, 1.5)  # noqa: S311 - only spreads requests out

    def _next_wait(self) -> float:
        wait_seconds = self._wait_seconds
        self._wait_seconds = min(wait_seconds * 2, self._longest_wait_seconds)
        return wait_seconds * random.uniform(0.5, 1.0)  # noqa: S311 - only spreads requests out
