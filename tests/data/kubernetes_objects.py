"""The cluster's objects as kubectl prints them for `get pods,services,nodes,replicasets,deployments,statefulsets,daemonsets,
endpointslices -A -o json`: one List, kinds in that order, objects by namespace and name.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from tests.data.cluster import INGRESS_ADDRESS, NODES, PODS, SERVICES, Node, Pod, Service

Object: TypeAlias = dict[str, Any]

CREATED_AT: Final = "2026-05-28T07:12:09Z"
STARTED_AT: Final = "2026-05-28T07:12:21Z"
HEARTBEAT_AT: Final = "2026-06-02T09:28:41Z"
_API: Final = {"Deployment": "apps/v1", "ReplicaSet": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1",
               "Job": "batch/v1", "Service": "v1", "Node": "v1"}  # fmt: skip


def uid(kind: str, namespace: str, name: str) -> str:
    """The uid of an object: always the same, in the form the API server gives them."""
    return str(uuid.UUID(hex=_digest(f"{kind}/{namespace}/{name}")[:32], version=4))


def container_id(pod: Pod) -> str:
    """The id of a pod's container as its runtime names it."""
    return f"containerd://{_digest(f'container {pod.namespace}/{pod.name}')}"


def kubernetes_list() -> Object:
    """The whole List."""
    items: list[Object] = []
    for objects in (
        map(_pod, PODS), map(_service, SERVICES), map(_node, NODES), _controllers("ReplicaSet"), _controllers("Deployment"),
        _controllers("StatefulSet"), _controllers("DaemonSet"), (found for each in SERVICES for found in _slices(each)),
    ):  # fmt: skip
        items += sorted(objects, key=lambda found: (found["metadata"].get("namespace", ""), found["metadata"]["name"]))
    for number, found in enumerate(items):
        found["metadata"]["resourceVersion"] = str(41_207 + 13 * number)
    return {"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _metadata(kind: str, namespace: str, name: str, labels: Object | None = None, **more: Any) -> Object:
    metadata: Object = {"creationTimestamp": CREATED_AT, "name": name, "uid": uid(kind, namespace, name)}
    if namespace:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = labels
    return metadata | more


def _owned_by(namespace: str, kind: str, name: str, **more: Any) -> list[Object]:
    owner = {"apiVersion": _API[kind], "kind": kind, "name": name, "uid": uid(kind, namespace, name)}
    return [owner | {"blockOwnerDeletion": True, "controller": True} | more]


def _app_labels(pod: Pod) -> Object:
    key = "k8s-app" if pod.namespace == "kube-system" else "app.kubernetes.io/name"
    return {key: pod.app} | dict(pod.labels)


def _selector(app: str) -> Object:
    found = next(pod for pod in PODS if pod.app == app)
    key = "k8s-app" if found.namespace == "kube-system" else "app.kubernetes.io/name"
    return {key: app}


def _pod(pod: Pod) -> Object:
    kind, name = pod.owners[-1]
    labels = _app_labels(pod)
    if kind == "ReplicaSet":
        labels["pod-template-hash"] = name.rpartition("-")[2]
    elif kind == "StatefulSet":
        labels |= {"apps.kubernetes.io/pod-index": pod.name.rpartition("-")[2], "statefulset.kubernetes.io/pod-name": pod.name}
    annotations = {"annotations": dict(pod.annotations)} if pod.annotations else {}
    owners = _owned_by(pod.namespace, kind, name)
    metadata = _metadata("Pod", pod.namespace, pod.name, labels, ownerReferences=owners, **annotations)
    if kind in {"ReplicaSet", "DaemonSet", "StatefulSet", "Job"}:
        metadata["generateName"] = pod.name.rpartition("-")[0] + "-"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _pod_spec(pod), "status": _pod_status(pod)}


def _pod_spec(pod: Pod) -> Object:
    container: Object = {
        "image": pod.image,
        "imagePullPolicy": "IfNotPresent",
        "name": pod.app,
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "50m", "memory": "128Mi"}},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }
    if pod.ports:
        host = {"hostPort": pod.ports[0][1]} if pod.host_network else {}
        container["ports"] = [
            {"containerPort": port, "name": name, "protocol": protocol} | host for name, port, protocol in pod.ports
        ]
    spec: Object = {
        "containers": [container],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "nodeName": pod.node,
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
        "restartPolicy": "Never" if pod.owners[-1][0] == "Job" else "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "serviceAccount": "default",
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30,
        "tolerations": [
            {"effect": "NoExecute", "key": f"node.kubernetes.io/{key}", "operator": "Exists", "tolerationSeconds": 300}
            for key in ("not-ready", "unreachable")
        ],
    }
    if pod.host_network:
        spec["hostNetwork"] = True
    if pod.owners[-1][0] == "StatefulSet":
        spec |= {"hostname": pod.name, "subdomain": pod.app}
    return spec


def _pod_status(pod: Pod) -> Object:
    node = next(node for node in NODES if node.name == pod.node)
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    status = {
        "allocatedResources": {"cpu": "50m", "memory": "128Mi"},
        "containerID": container_id(pod),
        "image": pod.image,
        "imageID": f"{pod.image.rpartition(':')[0]}@sha256:{_digest(pod.image)}",
        "lastState": {},
        "name": pod.app,
        "ready": True,
        "restartCount": 0,
        "started": True,
        "state": {"running": {"startedAt": STARTED_AT}},
    }
    return {
        "conditions": [_condition(name, STARTED_AT) for name in conditions],
        "containerStatuses": [status],
        "hostIP": node.address,
        "hostIPs": [{"ip": node.address}, {"ip": node.address6}],
        "phase": "Running",
        "podIP": pod.address,
        "podIPs": [{"ip": pod.address}, {"ip": pod.address6}],
        "qosClass": "Burstable",
        "startTime": CREATED_AT,
    }


def _condition(name: str, since: str, value: str = "True", **more: str) -> Object:
    probed: Object = {} if more else {"lastProbeTime": None}
    return probed | {"lastTransitionTime": since, "status": value, "type": name} | more


def _service(service: Service) -> Object:
    ports: list[Object] = [
        {"name": name, "port": port, "protocol": protocol, "targetPort": target}
        for name, port, target, protocol in service.ports
    ]
    addresses = [address for address in (service.address, service.address6) if address]
    families = ["IPv4", "IPv6"] if service.address6 or not service.address else ["IPv4"]
    spec: Object = {
        "clusterIP": service.address or "None",
        "clusterIPs": addresses or ["None"],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": families,
        "ipFamilyPolicy": "PreferDualStack" if len(families) == 2 else "SingleStack",
        "ports": ports,
        "sessionAffinity": "None",
        "type": "LoadBalancer" if service.load_balancer else "ClusterIP",
    }
    status: Object = {"loadBalancer": {}}
    if service.app:
        spec["selector"] = _selector(service.app)
    if service.load_balancer:
        for number, port in enumerate(ports):
            port["nodePort"] = 30_480 + number
        spec |= {"allocateLoadBalancerNodePorts": True, "externalTrafficPolicy": "Local", "healthCheckNodePort": 31_902}
        status = {"loadBalancer": {"ingress": [{"ip": INGRESS_ADDRESS, "ipMode": "VIP"}]}}
    labels = _selector(service.app) if service.app else {"component": "apiserver", "provider": "kubernetes"}
    metadata = _metadata("Service", service.namespace, service.name, labels)
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": status}


def _node(node: Node) -> Object:
    labels = {
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "general-2",
        "topology.kubernetes.io/region": node.zone[:-1],
        "topology.kubernetes.io/zone": node.zone,
    }
    resources = {"cpu": "2", "ephemeral-storage": "61255492Ki", "hugepages-2Mi": "0", "memory": "8039680Ki", "pods": "110"}
    pressures = (("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False"), ("Ready", "True"))
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": _metadata("Node", "", node.name, labels),
        "spec": {"podCIDR": node.pod_cidrs[0], "podCIDRs": list(node.pod_cidrs), "providerID": f"example://{node.zone}/{node.name}"},
        "status": {
            "addresses": [
                {"address": node.address, "type": "InternalIP"},
                {"address": node.address6, "type": "InternalIP"},
                {"address": node.name, "type": "Hostname"},
            ],
            "allocatable": resources,
            "capacity": resources,
            "conditions": [
                _condition(name, CREATED_AT, value, lastHeartbeatTime=HEARTBEAT_AT, message="", reason="Kubelet")
                for name, value in pressures
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": uid("boot", "", node.name),
                "containerRuntimeVersion": "containerd://2.0.5",
                "kernelVersion": "6.6.87",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.33.1",
                "machineID": uid("machine", "", node.name).replace("-", ""),
                "operatingSystem": "linux",
                "osImage": "Example Linux 1",
                "systemUUID": uid("system", "", node.name),
            },
        },
    }  # fmt: skip


def _controllers(kind: str) -> Iterator[Object]:
    """The controllers of one kind, each once, from the pods they made."""
    seen = set()
    for pod in PODS:
        names = [owner for _, owner in pod.owners]
        kinds = [owner for owner, _ in pod.owners]
        if kind in kinds and (pod.namespace, names[kinds.index(kind)]) not in seen:
            position = kinds.index(kind)
            seen.add((pod.namespace, names[position]))
            yield _controller(kind, names[position], pod, pod.owners[position - 1] if position else None)


def _controller(kind: str, name: str, pod: Pod, owner: tuple[str, str] | None) -> Object:
    replicas = sum((kind, name) in found.owners and found.namespace == pod.namespace for found in PODS)
    labels = _app_labels(pod)
    template = {"metadata": {"labels": dict(labels)}, "spec": {"containers": _pod_spec(pod)["containers"]}}
    spec: Object = {"selector": {"matchLabels": _selector(pod.app)}, "template": template}
    more: Object = {}
    if kind == "DaemonSet":
        status: Object = {"currentNumberScheduled": replicas, "desiredNumberScheduled": replicas, "numberAvailable": replicas,
                          "numberMisscheduled": 0, "numberReady": replicas, "observedGeneration": 1}  # fmt: skip
    else:
        spec["replicas"] = replicas
        status = {"availableReplicas": replicas, "observedGeneration": 1, "readyReplicas": replicas, "replicas": replicas}
    if kind == "StatefulSet":
        spec["serviceName"] = pod.app
    if kind == "Deployment":
        spec["strategy"] = {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}, "type": "RollingUpdate"}
        more["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    if kind == "ReplicaSet" and owner:
        labels["pod-template-hash"] = spec["selector"]["matchLabels"]["pod-template-hash"] = name.rpartition("-")[2]
        template["metadata"]["labels"]["pod-template-hash"] = labels["pod-template-hash"]
        more["ownerReferences"] = _owned_by(pod.namespace, *owner)
    metadata = _metadata(kind, pod.namespace, name, labels, generation=1, **more)
    return {"apiVersion": _API[kind], "kind": kind, "metadata": metadata, "spec": spec, "status": status}


def _slices(service: Service) -> Iterator[Object]:
    """One slice per address family that the service has."""
    families = ["IPv4", "IPv6"] if service.address6 or not service.address else ["IPv4"]
    for family in families:
        suffix = _digest(f"{service.name} {family}")[:5]
        name = f"{service.name}-{suffix}" if service.app else service.name
        labels = {"kubernetes.io/service-name": service.name}
        more: Object = {"generation": 1}
        if service.app:
            labels |= {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
            more |= {
                "generateName": f"{service.name}-",
                "ownerReferences": _owned_by(service.namespace, "Service", service.name),
            }
        if service.app and not service.address:
            labels["service.kubernetes.io/headless"] = ""
        yield {
            "addressType": family,
            "apiVersion": "discovery.k8s.io/v1",
            "endpoints": [_endpoint(pod, family) for pod in PODS if pod.app == service.app] if service.app else _api_server(),
            "kind": "EndpointSlice",
            "metadata": _metadata("EndpointSlice", service.namespace, name, labels, **more),
            "ports": [{"name": port, "port": target, "protocol": protocol} for port, _, target, protocol in service.ports],
        }


def _endpoint(pod: Pod, family: str) -> Object:
    return {
        "addresses": [pod.address if family == "IPv4" else pod.address6],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": pod.node,
        "targetRef": {"kind": "Pod", "name": pod.name, "namespace": pod.namespace, "uid": uid("Pod", pod.namespace, pod.name)},
        "zone": next(node.zone for node in NODES if node.name == pod.node),
    } | ({"hostname": pod.name} if pod.owners[-1][0] == "StatefulSet" else {})


def _api_server() -> list[Object]:
    return [{"addresses": ["172.18.0.10"], "conditions": {"ready": True}}]
