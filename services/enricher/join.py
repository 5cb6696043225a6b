"""Joins batches with the index: who is at each end of every record, and which service answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from proto.columns import ENRICHED, NO_INDEX, Observer, Resolution, Role
from proto.flow_batch import SIDE_TABLE_INDEXES, Entity, FlowBatch
from services.enricher.index.block import Block
from services.enricher.index.claims import FOREVER
from services.enricher.index.external_networks import ExternalNetworks
from services.enricher.index.index import Index
from services.enricher.index.interval_table import NOBODY, Bits, Keys, Numbers, address_words, port_words
from services.enricher.index.local_workload import Columns, name_local_workloads

_ADDED: Final = frozenset(column.name for column in ENRICHED)
_INDEXES: Final = SIDE_TABLE_INDEXES["entities"]
_IPV4_LOOPBACK_MASK: Final = np.uint64(0xFF_FFFF_FFFF)
_IPV4_LOOPBACK: Final = np.uint64(0x7F_FFFF_0000)
"""Bytes 8 to 12 of ::ffff:127.0.0.0/104, the first the least."""
_IPV6_LOOPBACK: Final = np.uint64(1 << 56)


def join(
    batch: FlowBatch,
    index: Index | None,
    *,
    complete_until_unix_ns: int = FOREVER,
    networks: ExternalNetworks | None = None,
    on_foreign: Callable[[int], None] | None = None,
) -> FlowBatch:
    """Return one batch with the entities at both ends (see `Joined`); its other columns are the same arrays.

    `on_foreign` is told how many records say of somebody on another node that he is on theirs.
    """
    joined = Joined(Block([batch]), index, complete_until_unix_ns=[complete_until_unix_ns], networks=networks)
    if joined.foreign and on_foreign is not None:
        on_foreign(joined.foreign[0])
    columns, entities = joined.own(0)
    raw = {name: array for name, array in batch.columns.items() if name not in _ADDED}
    return replace(batch, columns=raw | columns, entities=entities)


class Joined:
    """The entities at both ends of every record of a block of batches.

    A record is resolved for the time at which it starts. Without an index every end is unresolved. After the time until which
    the index is complete for its batch, an address that nobody holds may have a holder that the index has not heard of. What
    nobody holds is outside where its address says so, or where `networks` names it; where there is no index, what they name is
    outside.

    A node speaks for itself: whoever is on another one, as the index knows, is not named for its sockets.
    """

    def __init__(
        self,
        block: Block,
        index: Index | None,
        *,
        complete_until_unix_ns: Sequence[int],
        networks: ExternalNetworks | None = None,
    ) -> None:
        """`complete_until_unix_ns` is that of each batch."""
        self._block = block
        self.foreign: dict[int, int] = {}
        """By number of the batch, how many of its records say of somebody elsewhere that he is on its node."""
        until = np.array(complete_until_unix_ns, np.uint64)[block.source]
        columns, entities, in_no_pod = self._without_index() if index is None else self._looked_up(index, until)
        name_local_workloads(block, columns, entities, in_no_pod)
        if networks:
            _name_external(block.flows, columns, entities, networks)
        self._columns, self._entities = columns, entities

    def own(self, number: int) -> tuple[Columns, list[Entity]]:
        """Return the new columns of one of the batches, and those of the entities that it speaks of.

        They are the same whatever is in the block beside it: a batch that comes again is split into the same parts.
        """
        begin, end = self._block.bounds[number : number + 2]
        columns = {name: column[begin:end] for name, column in self._columns.items()}
        names = [name for name in columns if name in _INDEXES]
        nothing = len(self._entities)
        found = np.minimum(np.stack([columns[name] for name in names]), nothing)
        # In the order in which the batch speaks of them: that of the block depends on the others.
        spoken = found.ravel()
        first_at = np.full(nothing + 1, found.size, np.intp)
        first_at[spoken[::-1]] = np.arange(found.size)[::-1]
        rows = np.flatnonzero(first_at[:nothing] < found.size)
        rows = rows[np.argsort(first_at[rows])]
        position = np.full(nothing + 1, NO_INDEX, np.uint32)
        position[rows] = np.arange(len(rows), dtype=np.uint32)
        columns |= zip(names, position[found], strict=True)
        return columns, [self._entities[row] for row in rows.tolist()]

    def _without_index(self) -> tuple[Columns, list[Entity], Bits]:
        count = self._block.flows.count
        unknown = np.full(count, Resolution.UNRESOLVED, np.uint8)
        nobody = np.full(count, NO_INDEX, np.uint32)
        columns: Columns = {"local_entity": nobody, "remote_entity": nobody}
        columns |= {"local_resolution": unknown, "remote_resolution": unknown}
        return columns, [], np.ones(count, np.bool_)

    def _looked_up(self, index: Index, complete_until: npt.NDArray[np.uint64]) -> tuple[Columns, list[Entity], Bits]:
        batch = self._block.flows
        count = batch.count
        times = np.tile(batch.column("start_unix_ns"), 2)
        keys = _keys(batch)
        backends = _backends(batch, keys)
        holders = _holders(keys, backends, times, index)
        contradicted = _name_local(holders[:count], self._block, index)
        contradicted |= self._take_out_foreign(holders[:count], index)
        _name_loopback(holders, backends, index)
        rows = _responders(batch)
        services = np.full(2 * count, NOBODY, np.int32)
        services[rows] = index.services(keys.take(rows), holders[rows], times[rows])
        if backends is not keys:
            unnamed = rows[services[rows] == NOBODY]
            services[unnamed] = index.services(backends.take(unnamed), holders[unnamed], times[unnamed])
        holders[rows] = index.listening_containers(backends.take(rows), holders[rows], times[rows])
        holders = np.where((services != NOBODY) & index.is_kind(holders, Index.SERVICE), services, holders)

        _doubt_nodes(holders, services, batch, index)
        unresolved = (times < index.complete_since_unix_ns) | (times > np.tile(complete_until, 2))
        unresolved[:count] |= contradicted
        resolutions = np.where(unresolved, np.uint8(Resolution.UNRESOLVED), np.uint8(Resolution.EXTERNAL))
        nobodys = np.flatnonzero((holders == NOBODY) & ~unresolved)
        possible = index.networks.hold(keys.high[nobodys], keys.low[nobodys])
        resolutions[nobodys[possible]] = Resolution.UNKNOWN
        resolutions[holders != NOBODY] = Resolution.RESOLVED
        columns, entities = _entity_columns(index, holders, services)
        columns |= {"local_resolution": resolutions[:count], "remote_resolution": resolutions[count:]}
        local = holders[:count]
        return columns, entities, (local == NOBODY) | index.is_kind(local, Index.NODE)

    def _take_out_foreign(self, holders: Numbers, index: Index) -> Bits:
        """Name nobody where a node tells of a pod that is on another one; return where that is."""
        batch, block = self._block.flows, self._block
        # What a capture file has on the path of packets is nobody's socket; a control group is one's own in any case.
        of_the_node = (batch.column("observer") == Observer.SOCKET) | (batch.column("local_container") != NO_INDEX)
        places = index.places(batch.node for batch in block.batches)
        foreign: Bits = index.are_elsewhere(holders, places[block.source]) & of_the_node
        holders[foreign] = NOBODY
        self.foreign = {number: len(rows) for number, rows in block.by_batch(np.flatnonzero(foreign))}
        return foreign


def _keys(batch: FlowBatch) -> Keys:
    """Address and port of both ends of every record, those of the local ends first."""
    high, low = address_words(np.concatenate((batch.column("local_address"), batch.column("remote_address"))))
    ports = np.concatenate((batch.column("local_port"), batch.column("remote_port")))
    return Keys(high, low, port_words(ports, np.tile(batch.column("transport"), 2)))


def _backends(batch: FlowBatch, keys: Keys) -> Keys:
    """The same, but with where packets went in the place of remote ends that NAT translated: `keys` itself where none was."""
    if "remote_nat_port" not in batch.columns:
        return keys
    rows = np.flatnonzero(batch.column("remote_nat_port"))
    high, low, ports = keys.high.copy(), keys.low.copy(), keys.port.copy()
    at = rows + batch.count
    high[at], low[at] = address_words(batch.column("remote_nat_address")[rows])
    ports[at] = port_words(batch.column("remote_nat_port")[rows], batch.column("transport")[rows])
    return Keys(high, low, ports)


def _holders(keys: Keys, backends: Keys, times: npt.NDArray[np.uint64], index: Index) -> Numbers:
    """Who has the addresses: of what was translated the backend, or else who was asked."""
    holders = index.holders(backends.high, backends.low, times)
    if backends is not keys:
        rows = np.flatnonzero(holders == NOBODY)
        asked = keys.take(rows)
        holders[rows] = index.holders(asked.high, asked.low, times[rows])
    return holders


def _name_local(holders: Numbers, block: Block, index: Index) -> Bits:
    """Put the pods that the sockets belong to in the place of what their addresses say.

    Returns the records whose pod is not in the index. An address that is another pod's says nothing about them then, but one
    that is a node's does: such pods use their node's network. A socket in no pod is the node's.
    """
    known = np.array([index.container(row) for row in block.containers], np.int32)
    identified = np.array([bool(row.get("pod_uid") or row.get("container_id")) for row in block.containers])
    named = known[block.container]
    holders[:] = np.where(named != NOBODY, named, holders)
    in_a_pod = identified[block.container]
    unknown: Bits = in_a_pod & (named == NOBODY)
    holders[unknown & ~index.is_kind(holders, Index.NODE)] = NOBODY
    nodes = np.array([index.node(batch.node) for batch in block.batches], np.int32)[block.source]
    # What an address of the node's own says of it may be nothing, or a Service: IPVS has their addresses on every node.
    in_no_pod = (nodes != NOBODY) & ~in_a_pod & (block.flows.column("observer") == Observer.SOCKET)
    rows = np.flatnonzero(in_no_pod & ((holders == NOBODY) | index.is_kind(holders, Index.SERVICE)))
    holders[rows] = nodes[rows]
    return unknown


def _name_loopback(holders: Numbers, keys: Keys, index: Index) -> None:
    """Put the pod or node of the local end at remote ends that have a loopback address."""
    count = len(holders) // 2
    low = keys.low[count:]
    loopback = ((low & _IPV4_LOOPBACK_MASK) == _IPV4_LOOPBACK) | (low == _IPV6_LOOPBACK)
    rows = np.flatnonzero(loopback & (keys.high[count:] == 0))
    holders[count + rows] = index.whole(holders[rows])


def _doubt_nodes(holders: Numbers, services: Numbers, batch: FlowBatch, index: Index) -> None:
    """Put what says that it may stand for somebody outside in the place of nodes at the clients' ends, where that can be."""
    count = batch.count
    handed_on = index.hides_clients(services[:count]) & (batch.column("role") == Role.SERVER)
    holders[count:] = np.where(handed_on, index.stand_ins(holders[count:]), holders[count:])


def _name_external(batch: FlowBatch, columns: Columns, entities: list[Entity], networks: ExternalNetworks) -> None:
    """Put the names of networks at the ends that are outside."""
    has_index = "local_service" in columns
    places: dict[int, int] = {}
    for side in ("local", "remote"):
        entity, resolution = columns[f"{side}_entity"], columns[f"{side}_resolution"]
        doubtful = resolution == Resolution.UNRESOLVED
        rows = np.flatnonzero((entity == NO_INDEX) & (~doubtful | (not has_index)))
        high, low = address_words(batch.column(f"{side}_address")[rows])
        found = networks.find(high, low)
        rows, found = rows[found != NOBODY], found[found != NOBODY]
        if not len(rows):
            continue
        numbers, inverse = np.unique(found, return_inverse=True)
        for number in numbers.tolist():
            if places.setdefault(number, len(entities)) == len(entities):
                entities.append(networks.entities[number])
        entity, resolution = entity.copy(), resolution.copy()
        entity[rows] = np.array([places[number] for number in numbers.tolist()], np.uint32)[inverse]
        resolution[rows] = Resolution.EXTERNAL
        columns |= {f"{side}_entity": entity, f"{side}_resolution": resolution}


def _responders(batch: FlowBatch) -> npt.NDArray[np.intp]:
    """Ends, numbered as in `_keys`, that may answer on their port: both where it is not known which end began."""
    role = batch.column("role")
    local, remote = np.flatnonzero(role != Role.CLIENT), np.flatnonzero(role != Role.SERVER)
    return np.concatenate((local, remote + batch.count))


def _entity_columns(index: Index, holders: Numbers, services: Numbers) -> tuple[Columns, list[Entity]]:
    """Turn target numbers into indexes into a list of only the entities that the batch speaks of."""
    used = np.zeros(len(index) + 1, np.bool_)
    used[holders] = True
    used[services] = True
    used[NOBODY] = False
    targets = np.flatnonzero(used)
    position = np.full(len(index) + 1, NO_INDEX, np.uint32)
    position[targets] = np.arange(len(targets), dtype=np.uint32)
    count = len(holders) // 2
    entity, service = position[holders], position[services]
    columns = {
        "local_entity": entity[:count],
        "remote_entity": entity[count:],
        "local_service": service[:count],
        "remote_service": service[count:],
    }
    return columns, index.entities(targets.tolist())
