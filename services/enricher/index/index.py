"""The index: who was at an address at a time, which service was behind a port, whose container a cgroup is.

It does not change once it is made. It answers for a whole batch at once, in target numbers; `entity` says what a target is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from proto.flow_batch import Entity
from proto.subjects import subject_token
from services.enricher.index.claims import Table, Target
from services.enricher.index.interval_table import NOBODY, Bits, IntervalTable, Keys, Numbers, Words
from services.enricher.index.possible_networks import PossibleNetworks


@dataclass(slots=True)
class PodContainers:
    """Target numbers by the identities that need no address."""

    by_uid: dict[str, int] = field(default_factory=dict)
    by_container_id: dict[str, int] = field(default_factory=dict)
    by_name: dict[tuple[int, str], int] = field(default_factory=dict)
    """By number of the pod and name of the container."""
    nodes: dict[str, int] = field(default_factory=dict)
    """Nodes by name."""


class Index:
    """Targets by address, port and time."""

    POD: Final = 0
    SHARED_POD: Final = 1
    """A pod of several containers, none of them meant in particular."""
    NODE: Final = 2
    SERVICE: Final = 3

    def __init__(
        self,
        *,
        tables: Mapping[Table, IntervalTable],
        targets: Sequence[Target],
        kinds: Sequence[int],
        homes: Sequence[str],
        wholes: Sequence[int],
        stand_ins: Sequence[int],
        hiding: Sequence[int],
        pods: PodContainers,
        describe: Callable[[Target], Entity],
        networks: PossibleNetworks,
        named: Callable[[str, str], tuple[bytes, ...]] = lambda _name, _namespace: (),
        complete_since_unix_ns: int = 0,
    ) -> None:
        self._tables = tables
        self.targets: Final = targets
        """What the numbers mean."""
        self._pods = pods
        self._describe = describe
        self._entities: list[Entity | None] = [None] * len(targets)
        self._kinds = np.array([*kinds, self.POD], np.uint8)
        """Kind of each target; one more at the end, where NOBODY points."""
        self._places = {home: number for number, home in enumerate(dict.fromkeys(homes)) if home}
        """Numbers of nodes by what subjects have of their names: that is what a node cannot choose."""
        self._homes = np.array([*(self._places.get(home, NOBODY) for home in homes), NOBODY], np.int32)
        """The node that each target is on."""
        self._wholes = np.array([*wholes, NOBODY], np.int32)
        """The pod that each container belongs to, and what is no container itself."""
        self._stand_ins = np.array([*stand_ins, NOBODY], np.int32)
        """What each target is where it may stand for somebody outside: of nodes another target, others are themselves."""
        self._hiding = np.zeros(len(targets) + 1, np.bool_)
        self._hiding[list(hiding)] = True
        self.networks: Final = networks
        """Where somebody may be whom it does not know."""
        self.named: Final = named
        """Addresses behind a name as a pod of a namespace asks for it: those of now, whenever the index was made."""
        self.complete_since_unix_ns: Final = complete_since_unix_ns
        """Earlier than this, an address without a holder may have had one."""

    def __len__(self) -> int:
        """How many targets it knows."""
        return len(self.targets)

    def entities(self, numbers: Sequence[int]) -> list[Entity]:
        """Return what targets are, each time the same object for the same target."""
        made = self._entities
        return [made[number] or self._make(number) for number in numbers]

    def _make(self, number: int) -> Entity:
        entity = self._entities[number] = self._describe(self.targets[number])
        return entity

    def is_kind(self, numbers: Numbers, kind: int) -> Bits:
        """Return which targets are of a kind; NOBODY is of none but POD."""
        matches: Bits = self._kinds[numbers] == kind
        return matches

    def places(self, nodes: Iterable[str]) -> Numbers:
        """Return the number of each node that can be told by its name; NOBODY where nobody here has heard of it."""
        return np.array([self._places.get(subject_token(node), NOBODY) for node in nodes], np.int32)

    def are_elsewhere(self, numbers: Numbers, places: Numbers) -> Bits:
        """Return which targets are on another node than on that of their place; none where that is NOBODY."""
        homes = self._homes[numbers]
        elsewhere: Bits = (homes != places) & (homes != NOBODY) & (places != NOBODY)
        return elsewhere

    def hides_clients(self, services: Numbers) -> Bits:
        """Return of which services the clients may be outside though they come from the address of a node."""
        return self._hiding[services]

    def stand_ins(self, numbers: Numbers) -> Numbers:
        """Return the targets that say of nodes that they may stand for somebody outside; other targets as they are."""
        return self._stand_ins[numbers]

    def whole(self, numbers: Numbers) -> Numbers:
        """Return the pods that containers belong to; other targets as they are."""
        return self._wholes[numbers]

    def holders(self, high: Words, low: Words, times_unix_ns: Words) -> Numbers:
        """Return the pod, node or service that has each address, given in halves, at its time, or NOBODY."""
        return self._tables[Table.ADDRESS].find(Keys(high, low, np.zeros(len(high), np.uint64)), times_unix_ns)

    def services(self, keys: Keys, holders: Numbers, times_unix_ns: Words) -> Numbers:
        """Return the service behind each address and port at its time, or NOBODY. `holders` are those of the addresses."""
        found = self._tables[Table.ENDPOINT].find(keys, times_unix_ns)
        rows = np.flatnonzero((found == NOBODY) & self.is_kind(holders, self.NODE))
        if len(rows) and len(self._tables[Table.NODE_PORT]):
            anywhere = np.zeros(len(rows), np.uint64)
            found[rows] = self._tables[Table.NODE_PORT].find(Keys(anywhere, anywhere, keys.port[rows]), times_unix_ns[rows])
        return found

    def listening_containers(self, keys: Keys, holders: Numbers, times_unix_ns: Words) -> Numbers:
        """Return the container that says it listens at each address and port, where the holder is a pod of several, else the
        holder.
        """
        rows = np.flatnonzero(self.is_kind(holders, self.SHARED_POD))
        if not len(rows):
            return holders
        containers = self._tables[Table.CONTAINER_PORT].find(keys.take(rows), times_unix_ns[rows])
        found = containers != NOBODY
        holders = holders.copy()
        holders[rows[found]] = containers[found]
        return holders

    def container(self, identity: Mapping[str, str]) -> int:
        """Return the target of a row of a batch's `containers`: the container, or else its pod, or NOBODY."""
        uid, container_id = identity.get("pod_uid", ""), identity.get("container_id", "")
        by_id = self._pods.by_container_id.get(container_id, NOBODY)
        if not uid or by_id != NOBODY:
            return by_id
        pod = self._pods.by_uid.get(uid, NOBODY)
        return self._pods.by_name.get((pod, identity.get("container_name", "")), pod)

    def node(self, name: str) -> int:
        """Return the node of a name, or NOBODY."""
        return self._pods.nodes.get(name, NOBODY)
