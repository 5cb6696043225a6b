"""Kubernetes objects as `kubectl get -o json` prints them, cut down to what a test is about, and batches to join with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from proto.columns import COLUMNS, Observer, Role
from proto.flow_batch import Entity, FlowBatch
from services.enricher.index.claims import packed_address
from services.enricher.index.cluster import Cluster
from services.enricher.kubernetes.object_meta import KubeObject
from services.enricher.kubernetes.objects import KINDS

Tree = dict[str, Any]

_GROUPS = {kind: group for group, kind in KINDS}
TCP, UDP = 6, 17
SECOND = 1_000_000_000
NOW = 1_790_000_000 * SECOND


def _object(kind: str, name: str, namespace: str = "shop", **fields: Any) -> Tree:
    group = _GROUPS.get(kind, "")
    metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **fields.pop("metadata", {})}
    version = "batch/v1" if group == "batch" else f"{group}/v1" if group else "v1"
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def pod(name: str, *addresses: str, uid: str = "", owner: tuple[str, str] | None = None, **more: Any) -> Tree:
    """A running pod with one container `app`; `more` may hold labels, annotations, phase, started, created, spec, status."""
    metadata: Tree = {"uid": uid or f"uid-{name}", "labels": more.get("labels"), "annotations": more.get("annotations")}
    if owner:
        kind, owner_name = owner
        metadata["ownerReferences"] = [{"apiVersion": "x/v1", "kind": kind, "name": owner_name, "uid": "u", "controller": True}]
    if "created" in more:
        metadata["creationTimestamp"] = more["created"]
    containers = [{"name": "app", "image": "registry.example.com:5000/shop/app:1.4.2"}]
    spec = {"nodeName": "node-a", "containers": containers, **more.get("spec", {})}
    status = {"phase": more.get("phase", "Running"), "startTime": more.get("started"), **more.get("status", {})}
    if addresses:
        status |= {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
    return _object("Pod", name, more.get("namespace", "shop"), metadata=metadata, spec=spec, status=status)


def rfc3339(offset_seconds: float) -> str:
    """A time as the API gives it, so many seconds after NOW: what is less than a second is cut off."""
    return datetime.fromtimestamp(NOW // SECOND + offset_seconds // 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ran(started_at: float | None = None, finished: float | None = None, *, ready: float | None = None, **status: Any) -> Tree:
    """Status of a pod whose one container was started and has ended, or whose network was there, seconds after NOW."""
    known: Tree = {} if started_at is None else {"startedAt": rfc3339(started_at)}
    state = {"terminated": {**known, "finishedAt": rfc3339(finished)}} if finished is not None else {"running": known}
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(0)}]
    if ready is not None:
        conditions.append({"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": rfc3339(ready)})
    waits = started_at is None and finished is None
    state = {"waiting": {}} if waits else state
    return {"containerStatuses": [{"name": "app", "state": state}], "conditions": conditions, **status}


def node(name: str, *addresses: str, **more: Any) -> Tree:
    """A node; `more` may hold labels, annotations and spec."""
    status = {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]}
    status["addresses"].append({"type": "Hostname", "address": name})
    metadata = {"uid": f"uid-{name}", "labels": more.get("labels", {"kubernetes.io/hostname": f"{name}.example.com"})}
    metadata["annotations"] = more.get("annotations")
    return _object("Node", name, "", metadata=metadata, spec=more.get("spec", {}), status=status)


def owner_object(kind: str, name: str, owner: tuple[str, str] | None = None) -> Tree:
    """A ReplicaSet, Job and the like."""
    references = [{"kind": owner[0], "name": owner[1], "controller": True}] if owner else None
    return _object(kind, name, metadata={"uid": f"uid-{name}", "ownerReferences": references}, spec={"replicas": 1})


def service(name: str, *addresses: str, ports: Sequence[Tree] = ({"port": 80, "protocol": "TCP"},), **more: Any) -> Tree:
    """A service with ClusterIPs, headless without any; `more` may hold spec and status."""
    spec = {"clusterIP": addresses[0] if addresses else "None", "clusterIPs": list(addresses) or ["None"], "ports": list(ports)}
    metadata = {"uid": f"uid-svc-{name}"}
    return _object("Service", name, metadata=metadata, spec=spec | more.get("spec", {}), status=more.get("status", {}))


def endpoint_slice(service_name: str, endpoints: Sequence[Tree | str], *ports: int, protocol: str = "TCP", **more: Any) -> Tree:
    """A slice of a service. An endpoint that is text is an address without a pod."""
    listed = [{"addresses": [each]} if isinstance(each, str) else each for each in endpoints]
    labels = {"kubernetes.io/service-name": service_name, **more.get("labels", {})}
    name = f"{service_name}-{more.get('suffix', 'x')}"
    listed_ports = [{"port": port, "protocol": protocol, "name": ""} for port in ports]
    return _object("EndpointSlice", name, metadata={"labels": labels}, endpoints=listed, ports=listed_ports)


def backend(pod_name: str, address: str, **conditions: bool) -> Tree:
    """An endpoint that is a pod."""
    reference = {"kind": "Pod", "name": pod_name, "namespace": "shop", "uid": f"uid-{pod_name}"}
    return {"addresses": [address], "conditions": conditions, "targetRef": reference}


def decoded(tree: Tree) -> KubeObject:
    """The object as the snapshot reader or a watch gives it."""
    kind = KINDS[_GROUPS[tree["kind"]], tree["kind"]]
    found: KubeObject = msgspec.json.decode(msgspec.json.encode(tree), type=kind)
    return found


def cluster_of(*trees: Tree, **settings: Any) -> Cluster:
    """A cluster of a snapshot's objects."""
    cluster = Cluster(**settings)
    for tree in trees:
        cluster.feed(decoded(tree))
    return cluster


def flow(local: str, remote: str, **columns: Any) -> Tree:
    """One record, `address` or `address:port` (brackets around IPv6), a TCP client by default."""
    (local_address, local_port), (remote_address, remote_port) = _end(local), _end(remote)
    row = {
        "local_address": local_address,
        "local_port": local_port,
        "remote_address": remote_address,
        "remote_port": remote_port,
    }
    return {**row, "transport": TCP, "role": Role.CLIENT, "observer": Observer.CAPTURE, "start_unix_ns": NOW, **columns}


def batch_of(*rows: Mapping[str, Any], containers: Sequence[Mapping[str, str]] = (), node_name: str = "node-a") -> FlowBatch:
    """A batch of records."""
    names = {name for row in rows for name in row}
    columns = {name: np.array([row.get(name, _default(name)) for row in rows], COLUMNS[name].numpy_dtype) for name in names}
    return FlowBatch(node_name, "epoch", 7, len(rows), (NOW, NOW + SECOND), columns, containers)


def _default(name: str) -> bytes | int:
    column = COLUMNS[name]
    return bytes(column.numpy_dtype.itemsize) if column.numpy_dtype.kind == "V" else column.default


def at(batch: FlowBatch, column: str, row: int = 0) -> Entity | None:
    """The entity that a column points at."""
    assert batch.entities is not None
    position = int(batch.column(column)[row])
    return batch.entities[position] if position < len(batch.entities) else None


def name_at(batch: FlowBatch, column: str, row: int = 0) -> str:
    """Name of the pod, node or service that a column points at, empty where it points at none."""
    entity = at(batch, column, row)
    return str(entity.attributes[f"{entity.type}.name"]) if entity else ""


def _end(text: str) -> tuple[bytes, int]:
    if text.startswith("["):
        address, _, port = text[1:].partition("]:")
    else:
        address, _, port = text.partition(":") if text.count(":") == 1 else (text, "", "")
    packed = packed_address(address)
    assert packed is not None, text
    return packed, int(port or 0)
