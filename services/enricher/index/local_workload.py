"""What a socket's control group says of it where Kubernetes says nothing: a systemd unit, a container, or the host.

It names the local end of live flows on a host that is no node, and what runs on a node outside any pod. The rows are those of a
batch's `containers` side table, as capture's control-group index writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proto.both_ends import other_ends
from proto.columns import NO_INDEX, Observer, Resolution
from proto.flow_batch import AttributeValue, Entity
from services.enricher.index.block import Block
from services.enricher.index.image import image_of
from services.enricher.index.interval_table import Bits

Columns = dict[str, npt.NDArray[Any]]

_SHORT_ID: Final = 12
"""Characters of a container id that tools show."""
_NODE: Final = "k8s.node"
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFF_FFFF)
_IPV4_LOOPBACK: Final = np.frombuffer(bytes(10) + b"\xff\xff\x7f", np.uint8)
"""First bytes of ::ffff:127.0.0.0/104."""
_IPV6_LOOPBACK: Final = np.frombuffer(bytes(15) + b"\x01", np.uint8)


def name_local_workloads(block: Block, columns: Columns, entities: list[Entity], in_no_pod: Bits) -> None:
    """Fill in the local ends that have no entity, or a node's (`in_no_pod`), from the control groups of their sockets.

    `columns` and `entities` are what the index gave; entities are added to the list and `columns` gets new arrays.
    """
    peers = _name_loopback_peers(block, columns, entities)
    _name_local_ends(block, columns, entities, in_no_pod)
    for number, rows in block.by_batch(peers):
        first = block.bounds[number]
        others = other_ends(block.batches[number], rows - first)
        columns["remote_entity"][rows[others >= 0]] = columns["local_entity"][others[others >= 0] + first]


def _name_local_ends(block: Block, columns: Columns, entities: list[Entity], in_no_pod: Bits) -> None:
    rows = np.flatnonzero(in_no_pod & (block.flows.column("observer") == Observer.SOCKET))
    if not len(rows):
        return
    local = columns["local_entity"]
    pairs, inverse = np.unique(block.container[rows].astype(np.uint64) << _HALF | local[rows], return_inverse=True)
    positions = []
    for row, held in zip((pairs >> _HALF).tolist(), (pairs & _LOW).tolist(), strict=True):
        identity = block.containers[row]
        node = entities[held] if held != NO_INDEX else None
        # A pod that the index does not know is not the host's.
        of_host = not identity.get("pod_uid")
        entity = _workload(_frozen(identity), block.hosts[row], _frozen(node.attributes) if node else None) if of_host else None
        positions.append(held if entity is None else len(entities))
        if entity is not None:
            entities.append(entity)
    local = local.copy()
    local[rows] = np.array(positions, np.uint32)[inverse]
    columns["local_entity"] = local
    columns["local_resolution"] = np.where(local != NO_INDEX, np.uint8(Resolution.RESOLVED), columns["local_resolution"])


def _name_loopback_peers(block: Block, columns: Columns, entities: list[Entity]) -> npt.NDArray[np.intp]:
    """Say of remote ends at a loopback address that they are this host; return which records these are. Whose socket it is, the
    other end's record tells.
    """
    remote = columns["remote_entity"]
    rows = np.flatnonzero((block.flows.column("observer") == Observer.SOCKET) & (remote == NO_INDEX))
    addresses = np.ascontiguousarray(block.flows.column("remote_address")[rows]).view(np.uint8).reshape(-1, 16)
    loopback = (addresses[:, :13] == _IPV4_LOOPBACK).all(axis=1) | (addresses == _IPV6_LOOPBACK).all(axis=1)
    peers: npt.NDArray[np.intp] = rows[loopback]
    if len(peers):
        remote = remote.copy()
        for number, own in block.by_batch(peers):
            remote[own] = len(entities)
            entities.append(_host(block.batches[number].node))
        columns["remote_entity"] = remote
        columns["remote_resolution"] = np.where(remote != NO_INDEX, np.uint8(Resolution.RESOLVED), columns["remote_resolution"])
    return peers


@lru_cache(maxsize=256)
def _host(name: str) -> Entity:
    return Entity("host", {"host.name": name})


def _frozen(attributes: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(attributes.items())


@lru_cache(maxsize=4096)
def _workload(identity: tuple[tuple[str, str], ...], host: str, node: tuple[tuple[str, Any], ...] | None) -> Entity | None:
    """Return the entity of a control group on `host`, the same object each time.

    None where nothing is to be added: a node's own entity says it already.
    """
    row = dict(identity)
    unit = row.get("systemd_user_unit") or row.get("systemd_unit", "")
    process = row.get("process", "")
    more: dict[str, AttributeValue]
    if row.get("container_id"):
        kind, name = "container", row.get("container_name") or row["container_id"][:_SHORT_ID]
        more = {
            "container.id": row["container_id"],
            "container.name": row.get("container_name", ""),
            **image_of(row.get("container_image", "")).attributes,
            "container.runtime.name": row.get("container_runtime", ""),
        }
    elif unit:
        # A scope holds what somebody started: a login's, say, which is none of the programs in it.
        name = process if process and unit.endswith(".scope") else _unit_name(unit)
        kind, more = "systemd.unit", {"systemd.unit": unit}
    elif node is None or process:
        kind, name, more = "host", process or host, {}
    else:
        return None
    attributes = {**dict(node or {"host.name": host}), "service.name": name, **more, "process.executable.name": process}
    return Entity(_NODE if node is not None else kind, {key: value for key, value in attributes.items() if value})


def _unit_name(unit: str) -> str:
    """`nginx` of nginx.service, `postgresql` of postgresql@15-main.service: instances of a template are one service."""
    return unit.rpartition(".")[0].partition("@")[0] or unit
