"""The cluster that the bundled capture was taken in: its nodes, pods and services, spelt once.

`kubernetes_objects` turns it into what kubectl would print, `scenario` into namespaces and traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CAPTURED_AT: Final = "2026-06-02T09:30:00Z"
"""Time of the capture's first packet; the file's times are moved there, so that it comes out the same whenever it is made."""
CAPTURED_AT_UNIX_NS: Final = 1_780_392_600 * 1_000_000_000

INGRESS_ADDRESS: Final = "198.51.100.20"
"""Of the LoadBalancer."""
EXTERNAL_CLIENT: Final = "203.0.113.10"
BLACKHOLE: Final = "198.51.100.99"
"""Outside the cluster; packets to it are dropped on their way."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node with its addresses and what its pods' bridge has."""

    name: str
    address: str
    address6: str
    zone: str
    bridge: str
    bridge6: str
    pod_cidrs: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with the address it has, or the node's where it uses the host network. Ports are (name, port, protocol)."""

    name: str
    namespace: str
    app: str
    node: str
    address: str
    address6: str
    owners: tuple[tuple[str, str], ...]
    """Controllers that lead to the pod, top first: (kind, name)."""
    image: str
    ports: tuple[tuple[str, int, str], ...] = ()
    host_network: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """A service: ports are (name, port, target port, protocol); no cluster address means headless."""

    name: str
    namespace: str
    app: str
    address: str
    address6: str
    ports: tuple[tuple[str, int, int, str], ...]
    load_balancer: str = ""


NODES: Final = (
    Node("worker-a", "172.18.0.11", "fd00:172:18::11", "eu-west-1a", "10.42.0.1", "fd42::1", ("10.42.0.0/24", "fd42::/64")),
    Node(
        "worker-b",
        "172.18.0.12",
        "fd00:172:18::12",
        "eu-west-1b",
        "10.42.1.1",
        "fd42:0:0:1::1",
        ("10.42.1.0/24", "fd42:0:0:1::/64"),
    ),
)

_FRONTEND: Final = (("Deployment", "frontend"), ("ReplicaSet", "frontend-7d9c6b5f4"))
_FRONTEND_VERSION: Final = (("resource.opentelemetry.io/service.version", "2.4.1"),)
_SHOP: Final = (("app.kubernetes.io/part-of", "shop"),)
PODS: Final = (
    Pod("frontend-7d9c6b5f4-q7m4z", "shop", "frontend", "worker-a", "10.42.0.10", "fd42::10", _FRONTEND,
        "registry.example/shop/frontend:2.4.1", (("http", 8080, "TCP"),),
        labels=(*_SHOP, ("app.kubernetes.io/version", "2.4.1")), annotations=_FRONTEND_VERSION),
    Pod("frontend-7d9c6b5f4-x2k8p", "shop", "frontend", "worker-a", "10.42.0.11", "fd42::11", _FRONTEND,
        "registry.example/shop/frontend:2.4.1", (("http", 8080, "TCP"),),
        labels=(*_SHOP, ("app.kubernetes.io/version", "2.4.1")), annotations=_FRONTEND_VERSION),
    Pod("cart-6f8d4c9b7-h5t2w", "shop", "cart", "worker-a", "10.42.0.12", "fd42::12",
        (("Deployment", "cart"), ("ReplicaSet", "cart-6f8d4c9b7")), "registry.example/shop/cart:1.9.0",
        (("http", 8080, "TCP"),), labels=(*_SHOP, ("app.kubernetes.io/version", "1.9.0"))),
    Pod("ingress-nginx-controller-5c7b9d8f6-w9s4d", "ingress-nginx", "ingress-nginx", "worker-a", "10.42.0.13", "fd42::13",
        (("Deployment", "ingress-nginx-controller"), ("ReplicaSet", "ingress-nginx-controller-5c7b9d8f6")),
        "registry.example/ingress-nginx/controller:v1.12.1", (("http", 80, "TCP"), ("https", 443, "TCP"))),
    Pod("prometheus-0", "monitoring", "prometheus", "worker-a", "10.42.0.14", "fd42::14", (("StatefulSet", "prometheus"),),
        "registry.example/prometheus/prometheus:v3.2.1", (("http", 9090, "TCP"),)),
    Pod("nightly-backup-29672730-m4x7c", "shop", "nightly-backup", "worker-a", "10.42.0.15", "fd42::15",
        (("CronJob", "nightly-backup"), ("Job", "nightly-backup-29672730")), "registry.example/shop/backup:1.2.0",
        labels=(*_SHOP, ("batch.kubernetes.io/job-name", "nightly-backup-29672730"))),
    Pod("kube-proxy-tq8vn", "kube-system", "kube-proxy", "worker-a", "172.18.0.11", "fd00:172:18::11",
        (("DaemonSet", "kube-proxy"),), "registry.example/kube-proxy:v1.33.1", (("metrics", 10249, "TCP"),), host_network=True),
    Pod("coredns-5d78c9869d-v6k2m", "kube-system", "kube-dns", "worker-b", "10.42.1.10", "fd42:0:0:1::10",
        (("Deployment", "coredns"), ("ReplicaSet", "coredns-5d78c9869d")), "registry.example/coredns/coredns:v1.12.0",
        (("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", 9153, "TCP"))),
    Pod("redis-0", "shop", "redis", "worker-b", "10.42.1.11", "fd42:0:0:1::11", (("StatefulSet", "redis"),),
        "registry.example/redis:7.4.2", (("redis", 6379, "TCP"),), labels=_SHOP),
    Pod("payments-84d5c6f7b9-k3n8r", "shop", "payments", "worker-b", "10.42.1.12", "fd42:0:0:1::12",
        (("Deployment", "payments"), ("ReplicaSet", "payments-84d5c6f7b9")), "registry.example/shop/payments:3.0.2",
        (("http", 8080, "TCP"),), labels=(*_SHOP, ("app.kubernetes.io/version", "3.0.2"))),
    Pod("legacy-59c8d7b6f-p2v6j", "shop", "legacy", "worker-b", "10.42.1.13", "fd42:0:0:1::13",
        (("Deployment", "legacy"), ("ReplicaSet", "legacy-59c8d7b6f")), "registry.example/shop/legacy:0.7.4",
        (("http", 8081, "TCP"),), labels=_SHOP),
    Pod("archive-66b7f9d5c4-t8z5q", "shop", "archive", "worker-b", "10.42.1.14", "fd42:0:0:1::14",
        (("Deployment", "archive"), ("ReplicaSet", "archive-66b7f9d5c4")), "registry.example/shop/archive:1.1.3",
        (("s3", 9000, "TCP"),), labels=_SHOP),
    Pod("kube-proxy-z4r9b", "kube-system", "kube-proxy", "worker-b", "172.18.0.12", "fd00:172:18::12",
        (("DaemonSet", "kube-proxy"),), "registry.example/kube-proxy:v1.33.1", (("metrics", 10249, "TCP"),), host_network=True),
)  # fmt: skip

SERVICES: Final = (
    Service("kubernetes", "default", "", "10.43.0.1", "", (("https", 443, 6443, "TCP"),)),
    Service("kube-dns", "kube-system", "kube-dns", "10.43.0.10", "",
            (("dns", 53, 53, "UDP"), ("dns-tcp", 53, 53, "TCP"), ("metrics", 9153, 9153, "TCP"))),
    Service("frontend", "shop", "frontend", "10.43.20.10", "fd43::2010", (("http", 80, 8080, "TCP"),)),
    Service("cart", "shop", "cart", "", "", (("http", 8080, 8080, "TCP"),)),
    Service("redis", "shop", "redis", "", "", (("redis", 6379, 6379, "TCP"),)),
    Service("payments", "shop", "payments", "10.43.20.12", "fd43::2012", (("http", 80, 8080, "TCP"),)),
    Service("legacy", "shop", "legacy", "10.43.20.13", "", (("http", 8081, 8081, "TCP"),)),
    Service("archive", "shop", "archive", "10.43.20.14", "", (("s3", 9000, 9000, "TCP"),)),
    Service("prometheus", "monitoring", "prometheus", "10.43.40.10", "", (("http", 9090, 9090, "TCP"),)),
    Service("ingress-nginx-controller", "ingress-nginx", "ingress-nginx", "10.43.30.10", "",
            (("http", 80, 80, "TCP"), ("https", 443, 443, "TCP")), load_balancer=INGRESS_ADDRESS),
)  # fmt: skip


def pod(app: str, number: int = 0) -> Pod:
    """The pod of an application, the first one or the one of that number."""
    return [found for found in PODS if found.app == app][number]


def service(name: str) -> Service:
    """The service of that name."""
    return next(found for found in SERVICES if found.name == name)
