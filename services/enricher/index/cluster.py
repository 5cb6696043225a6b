"""The cluster as it is and as it lately was: objects in, an index to ask out.

A snapshot is fed once. A watch feeds the same objects as they change, with the time at which it saw them so. Neither an
address that changed hands nor a deleted object is forgotten at once: for `tombstone_seconds` it still answers for the time
before, because records arrive after the fact.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np

from proto.flow_batch import Entity
from proto.subjects import subject_token
from services.enricher.index.claims import (
    SECOND_NS,
    Claim,
    Key,
    Rank,
    Sight,
    Table,
    Target,
    claims,
    packed_address,
    service_of,
    settle,
)
from services.enricher.index.entities import STAND_IN, EntityFactory
from services.enricher.index.index import Index, PodContainers
from services.enricher.index.interval_table import IntervalRows, IntervalTable
from services.enricher.index.possible_networks import PossibleNetworks, around
from services.enricher.index.service_names import addresses
from services.enricher.kubernetes.network_policy import NetworkPolicy
from services.enricher.kubernetes.object_meta import STATIC_POD_ANNOTATION, KubeObject, object_key
from services.enricher.kubernetes.objects import EndpointSlice, Node, Service
from services.enricher.kubernetes.pods import Pod
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
        self._ended_at: dict[Key, int] = {}
        """When the last of them ended that was on a key."""
        self._removed: dict[str, int] = {}
        """When a removed object was removed, by its key."""
        self._without: dict[str, int] = {}
        """When a pod that has no address yet was last seen so, by its key."""
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

    def _feed(self, obj: KubeObject, observed_unix_ns: int | None, *, was_so: bool = False) -> None:
        """Take an object; with `was_so` what it says of itself is no news."""
        name = object_key(obj.kind, obj.metadata.namespace or "", obj.metadata.name)
        before = self._objects.get(self._current.get(name, obj.key))
        if before == obj and obj.key not in self._removed:
            return
        if before is not None and before.key != obj.key:
            if observed_unix_ns is not None:
                self._remove(before.key, observed_unix_ns)
            before = None
        if obj.key in self._removed:
            before = None
        before = obj if was_so else before
        self._current[name] = obj.key
        self._objects[obj.key] = obj
        self._removed.pop(obj.key, None)
        if isinstance(obj, EndpointSlice):
            self._slices[obj.service_key][obj.key] = obj
        elif isinstance(obj, NetworkPolicy):
            self._policies[obj.metadata.namespace or ""][obj.key] = obj
        self._replace_claims(obj, observed_unix_ns, before)
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
        self._without.pop(obj.key, None)
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
            self._ended_at |= {claim.key: claim.end_unix_ns for claim in sorted(self._ended, key=lambda each: each.end_unix_ns)}
            for obj, starts, removed_unix_ns in kept:
                if removed_unix_ns:
                    self._objects[obj.key], self._removed[obj.key] = obj, removed_unix_ns
                    continue
                self._feed(obj, starts[0] if starts else 0, was_so=True)
                held = self._claims[obj.key]
                if len(held) == len(starts):
                    pairs = zip(held, starts, strict=True)
                    self._claims[obj.key] = tuple(claim.beginning(start) for claim, start in pairs)

    def expire(self, now_unix_ns: int) -> None:
        """Forget what ended longer ago than the tombstones last."""
        oldest = now_unix_ns - self._tombstone_ns
        self._ended = [claim for claim in self._ended if claim.end_unix_ns > oldest]
        self._ended_at = {key: end for key, end in self._ended_at.items() if end > oldest}
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
        kinds = [self._kind(target) for target in targets.listed]
        networks = self._networks(rows[Table.ADDRESS], kinds)
        return Index(
            tables={table: IntervalTable(rows.pop(table)) for table in Table},
            targets=targets.listed,
            kinds=kinds,
            homes=[self._home(target) for target in targets.listed],
            wholes=[targets.number(Target(target.key)) for target in targets.listed],
            stand_ins=[stand_ins.get(number, number) for number in range(len(targets.listed))],
            hiding=hiding,
            pods=pods,
            describe=self._describe,
            networks=networks,
            named=self._named,
            complete_since_unix_ns=complete_since_unix_ns,
        )

    def _networks(self, rows: IntervalRows, kinds: Sequence[int]) -> PossibleNetworks:
        """The networks that this cluster uses for itself."""
        own, networks = bytearray(), []
        for obj in self._objects.values():
            if isinstance(obj, Node):
                networks += [network for network, _ in obj.pod_networks]
            if isinstance(obj, (Node, Service)):
                own += b"".join(filter(None, map(packed_address, obj.internal_addresses)))
        of_pods = rows.addresses_of(np.isin(kinds, (Index.POD, Index.SHARED_POD)))
        return PossibleNetworks([*networks, *around(np.concatenate((of_pods, np.frombuffer(bytes(own), "V16"))))])

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

    def _replace_claims(self, obj: KubeObject, observed_unix_ns: int | None, before: KubeObject | None) -> None:
        """Put an object's claims in the place of those that it had; what it claims no longer has ended."""
        held = {(claim.key, claim.target): claim for claim in self._claims.get(obj.key, ())}
        wanted = []
        without = self._without.pop(obj.key, 0)
        for claim in claims(obj, None if observed_unix_ns is None else Sight(observed_unix_ns, before)):
            known = held.pop((claim.key, claim.target), None)
            since = min(known.start_unix_ns, claim.start_unix_ns) if known else self._not_before_the_last(claim, without)
            wanted.append(claim if since == claim.start_unix_ns else claim.beginning(since))
        self._claims[obj.key] = tuple(wanted)
        if observed_unix_ns is not None:
            if not wanted and isinstance(obj, Pod) and not obj.spec.host_network:
                self._without[obj.key] = observed_unix_ns
            self._end(held.values(), observed_unix_ns)

    def _not_before_the_last(self, claim: Claim, without_unix_ns: int) -> int:
        """Return when a claim begins whose start is cut off to a second in which another was seen to end, and after that its
        object still claiming nothing.
        """
        start, ended = claim.start_unix_ns, self._ended_at.get(claim.key, 0)
        return ended if start < ended <= min(without_unix_ns, start + SECOND_NS) else start

    def _end(self, ending: Iterable[Claim], at_unix_ns: int) -> None:
        for claim in ending:
            end = min(claim.end_unix_ns, at_unix_ns)
            if claim.start_unix_ns < end:
                self._ended.append(claim._replace(end_unix_ns=end, outside_rank=Rank.NONE))
                self._ended_at[claim.key] = max(end, self._ended_at.get(claim.key, 0))

    def _endpoints(self, service_key: str) -> list[tuple[str, bool]]:
        slices = self._slices.get(service_key, {}).values()
        return [endpoint for each in slices for endpoint in service_of(each)[1]]

    def _describe(self, target: Target) -> Entity:
        with self._changing:
            return self._entities.describe(target)

    def _named(self, name: str, namespace: str) -> tuple[bytes, ...]:
        with self._changing:
            return addresses(name, namespace, self._objects, self._slices)

    def _kind(self, target: Target) -> int:
        obj = self._objects.get(target.key)
        if isinstance(obj, Pod):
            return Index.SHARED_POD if not target.container and len(obj.running_containers) > 1 else Index.POD
        if isinstance(obj, Node):
            return Index.NODE
        return Index.SERVICE

    def _home(self, target: Target) -> str:
        """The node that a target is on, as subjects have it; empty where it is on none, or nobody knows."""
        obj = self._objects.get(target.key)
        name = obj.spec.node_name if isinstance(obj, Pod) else obj.metadata.name if isinstance(obj, Node) else ""
        return _token(name) if name else ""


_token = lru_cache(maxsize=16_384)(subject_token)


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
    names = [container.name for container in pod.containers if container.name != only]
    by_name = {name: targets.number(Target(pod.key, name)) for name in names}
    for name, container in by_name.items():
        pods.by_name[number, name] = container  # one that is not here is found as its pod
    by_name |= {only: number} if only else {}
    for status in pod.statuses:
        ended = [state.terminated for state in (status.state, status.last_state) if state and state.terminated]
        for identity in (status.container_id, *(end.container_id for end in ended)):
            if identity and status.name in by_name:
                pods.by_container_id[identity.rpartition("/")[2] if "/" in identity else identity] = by_name[status.name]
