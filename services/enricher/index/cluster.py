"""The cluster as it is and as it lately was: objects in, an index to ask out.

A snapshot is fed once. A watch feeds the same objects as they change, with the time at which it saw them so. Neither an
address that changed hands nor a deleted object is forgotten at once: for `tombstone_seconds` it still answers for the time
before, because records arrive after the fact.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from proto.flow_batch import Entity
from services.enricher.index.claims import Claim, Key, Rank, Table, Target, claims, service_of, settle
from services.enricher.index.entities import STAND_IN, EntityFactory
from services.enricher.index.index import Index, PodContainers
from services.enricher.index.interval_table import IntervalRows, IntervalTable
from services.enricher.kubernetes.network_policy import NetworkPolicy
from services.enricher.kubernetes.object_meta import STATIC_POD_ANNOTATION, KubeObject, object_key
from services.enricher.kubernetes.objects import EndpointSlice, Node, Pod, Service
from services.enricher.kubernetes.selection import Selection

_NS_PER_SECOND = 1_000_000_000


class Kept(NamedTuple):
    """An object with what a cluster knows of it: when each of its claims began, and when it was removed, 0 where it was not."""

    obj: KubeObject
    starts_unix_ns: list[int]
    removed_unix_ns: int


class Cluster:
    """Objects by key, what they claim, and what has lately ended.

    One thread may change and compile it while another asks its indexes.
    """

    def __init__(
        self,
        *,
        name: str = "",
        selection: Selection | None = None,
        service_name_from_labels: bool = False,
        tombstone_seconds: float = 300.0,
    ) -> None:
        self._tombstone_ns = round(tombstone_seconds * _NS_PER_SECOND)
        self._changing = threading.Lock()
        """Held for one change, or while one entity is described."""
        self._objects: dict[str, KubeObject] = {}
        self._current: dict[str, str] = {}
        """Key of the object that has a name now, by kind/namespace/name."""
        self._claims: dict[str, tuple[Claim, ...]] = {}
        self._ended: list[Claim] = []
        self._removed: dict[str, int] = {}
        """When a removed object was removed, by its key."""
        self._slices: dict[str, dict[str, EndpointSlice]] = defaultdict(dict)
        """Slices of a service by their own key, by the service's key."""
        self._policies: dict[str, dict[str, NetworkPolicy]] = defaultdict(dict)
        """NetworkPolicies by their own key, by namespace."""
        self._entities = EntityFactory(
            self._objects,
            self._endpoints,
            lambda namespace: self._policies.get(namespace, {}).values(),
            selection=selection or Selection(),
            cluster_name=name,
            service_name_from_labels=service_name_from_labels,
        )

    def feed(self, obj: KubeObject, *, observed_unix_ns: int | None = None) -> None:
        """Take an object that is new or has changed.

        `observed_unix_ns` is when the change was seen; None says that the object stands for all times, as in a snapshot.
        """
        with self._changing:
            self._feed(obj, observed_unix_ns)

    def _feed(self, obj: KubeObject, observed_unix_ns: int | None) -> None:
        name = object_key(obj.kind, obj.metadata.namespace or "", obj.metadata.name)
        before = self._objects.get(self._current.get(name, obj.key))
        if before == obj and obj.key not in self._removed:
            return
        if before is not None and before.key != obj.key and observed_unix_ns is not None:
            self._remove(before.key, observed_unix_ns)
        self._current[name] = obj.key
        self._objects[obj.key] = obj
        self._removed.pop(obj.key, None)
        if isinstance(obj, EndpointSlice):
            self._slices[obj.service_key][obj.key] = obj
        elif isinstance(obj, NetworkPolicy):
            self._policies[obj.metadata.namespace or ""][obj.key] = obj
        self._replace_claims(obj, observed_unix_ns)
        self._entities.doubt()

    def remove(self, obj: KubeObject, *, observed_unix_ns: int) -> None:
        """Take the news that an object is deleted. One that is not known is nothing to remove."""
        self.remove_key(obj.key, observed_unix_ns=observed_unix_ns)

    def remove_key(self, key: str, *, observed_unix_ns: int) -> None:
        """Take the news that the object with a key is deleted."""
        with self._changing:
            self._remove(key, observed_unix_ns)

    def _remove(self, key: str, observed_unix_ns: int) -> None:
        obj = self._objects.get(key)
        if obj is None or key in self._removed:
            return
        name = object_key(obj.kind, obj.metadata.namespace or "", obj.metadata.name)
        self._removed[obj.key] = observed_unix_ns
        if self._current.get(name) == obj.key:
            del self._current[name]
        self._end(self._claims.pop(obj.key, ()), observed_unix_ns)
        if isinstance(obj, EndpointSlice):
            self._slices[obj.service_key].pop(obj.key, None)
        elif isinstance(obj, NetworkPolicy):
            self._policies[obj.metadata.namespace or ""].pop(obj.key, None)
        self._entities.doubt()

    def kept(self) -> Iterator[Kept]:
        """Yield every object, with all that its claims cannot be told from it alone. No change may come meanwhile."""
        for key, obj in self._objects.items():
            starts = [claim.start_unix_ns for claim in self._claims.get(key, ())]
            yield Kept(obj, starts, self._removed.get(key, 0))

    @property
    def ended(self) -> list[Claim]:
        """Claims that have ended and still answer for their time."""
        return self._ended

    def restore(self, kept: Iterable[Kept], ended: Iterable[Claim]) -> None:
        """Take what another cluster `kept` and what had `ended` there."""
        with self._changing:
            self._ended.extend(ended)
            for obj, starts, removed_unix_ns in kept:
                if removed_unix_ns:
                    self._objects[obj.key], self._removed[obj.key] = obj, removed_unix_ns
                    continue
                self._feed(obj, starts[0] if starts else 0)
                held = self._claims[obj.key]
                if len(held) == len(starts):
                    pairs = zip(held, starts, strict=True)
                    self._claims[obj.key] = tuple(claim._replace(start_unix_ns=start) for claim, start in pairs)

    def expire(self, now_unix_ns: int) -> None:
        """Forget what ended longer ago than the tombstones last."""
        oldest = now_unix_ns - self._tombstone_ns
        self._ended = [claim for claim in self._ended if claim.end_unix_ns > oldest]
        gone = [key for key, removed in self._removed.items() if removed <= oldest]
        with self._changing:
            for key in gone:
                del self._objects[key], self._removed[key]
            self._entities.forget(Target(key) for key in gone)

    def compile(self, *, complete_since_unix_ns: int = 0) -> Index:
        """Return the index of all that is known now. Later changes do not alter it.

        `complete_since_unix_ns` is the time from which on every object was seen: at an earlier one an address that nobody
        holds may have had a holder all the same.
        """
        targets = _Targets()
        pods = PodContainers()
        for key, obj in self._objects.items():
            if isinstance(obj, Pod):
                _add_pod(pods, obj, targets)
            elif isinstance(obj, Node) and key not in self._removed:
                pods.nodes[obj.metadata.name] = targets.number(Target(key))
        rows = {table: IntervalRows() for table in Table}
        for (table, address, port, transport), held in self._contenders().items():
            intervals = [(start, end, targets.number(target)) for start, end, target in settle(held)]
            rows[table].add(address, port, transport, intervals)
        hiding, stand_ins = self._stand_ins(targets)
        return Index(
            tables={table: IntervalTable(rows.pop(table)) for table in Table},
            targets=targets.listed,
            kinds=[self._kind(target) for target in targets.listed],
            wholes=[targets.number(Target(target.key)) for target in targets.listed],
            stand_ins=[stand_ins.get(number, number) for number in range(len(targets.listed))],
            hiding=hiding,
            pods=pods,
            describe=self._describe,
            complete_since_unix_ns=complete_since_unix_ns,
        )

    def _stand_ins(self, targets: _Targets) -> tuple[list[int], dict[int, int]]:
        """Number the services that hide their clients, and if there are any, a second target for each node; nodes to those."""
        services = (key for key, obj in self._objects.items() if isinstance(obj, Service) and obj.hides_clients)
        hiding = [targets.number(Target(key)) for key in services]
        nodes = [target for target in targets.listed if isinstance(self._objects.get(target.key), Node)] if hiding else []
        return hiding, {targets.number(node): targets.number(node._replace(container=STAND_IN)) for node in nodes}

    def _contenders(self) -> dict[Key, Sequence[Claim]]:
        """The claims on each key. Nearly all keys have but one."""
        contenders: dict[Key, Sequence[Claim]] = {}
        for claim in chain(chain.from_iterable(self._claims.values()), self._ended):
            held = contenders.get(claim.key, ())
            contenders[claim.key] = (*held, claim)
        return contenders

    def _replace_claims(self, obj: KubeObject, observed_unix_ns: int | None) -> None:
        """Put an object's claims in the place of those that it had; what it claims no longer has ended."""
        held = {(claim.key, claim.target): claim for claim in self._claims.get(obj.key, ())}
        wanted = []
        for claim in claims(obj, observed_unix_ns):
            before = held.pop((claim.key, claim.target), None)
            start = claim.start_unix_ns if before is None else min(before.start_unix_ns, claim.start_unix_ns)
            wanted.append(claim if start == claim.start_unix_ns else claim._replace(start_unix_ns=start))
        self._claims[obj.key] = tuple(wanted)
        if observed_unix_ns is not None:
            self._end(held.values(), observed_unix_ns)

    def _end(self, ending: Iterable[Claim], at_unix_ns: int) -> None:
        for claim in ending:
            end = min(claim.end_unix_ns, at_unix_ns)
            if claim.start_unix_ns < end:
                self._ended.append(claim._replace(end_unix_ns=end, outside_rank=Rank.NONE))

    def _endpoints(self, service_key: str) -> list[tuple[str, bool]]:
        slices = self._slices.get(service_key, {}).values()
        return [endpoint for each in slices for endpoint in service_of(each)[1]]

    def _describe(self, target: Target) -> Entity:
        with self._changing:
            return self._entities.describe(target)

    def _kind(self, target: Target) -> int:
        obj = self._objects.get(target.key)
        if isinstance(obj, Pod):
            return Index.SHARED_POD if not target.container and len(obj.running_containers) > 1 else Index.POD
        if isinstance(obj, Node):
            return Index.NODE
        return Index.SERVICE


class _Targets:
    """Targets numbered in the order in which they are first asked for."""

    def __init__(self) -> None:
        self.listed: list[Target] = []
        self._numbers: dict[Target, int] = {}

    def number(self, target: Target) -> int:
        number = self._numbers.setdefault(target, len(self.listed))
        if number == len(self.listed):
            self.listed.append(target)
        return number


def _add_pod(pods: PodContainers, pod: Pod, targets: _Targets) -> None:
    """Let a pod and its containers be found by the ids that cgroups have."""
    number = targets.number(Target(pod.key))
    for uid in {pod.metadata.uid, pod.metadata.annotation(STATIC_POD_ANNOTATION)} - {None, ""}:
        pods.by_uid[uid or ""] = number
    running = pod.running_containers
    only = running[0].name if len(running) == 1 else ""
    names = [container.name for container in (*running, *(pod.spec.init_containers or ())) if container.name != only]
    by_name = {name: targets.number(Target(pod.key, name)) for name in names}
    for name, container in by_name.items():
        pods.by_name[number, name] = container  # one that is not here is found as its pod
    by_name |= {only: number} if only else {}
    for status in (*(pod.status.container_statuses or ()), *(pod.status.init_container_statuses or ())):
        ended = [state.terminated for state in (status.state, status.last_state) if state and state.terminated]
        for identity in (status.container_id, *(end.container_id for end in ended)):
            if identity and status.name in by_name:
                pods.by_container_id[identity.rpartition("/")[2] if "/" in identity else identity] = by_name[status.name]
