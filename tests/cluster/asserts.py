"""What clients say beside what the backend was sent."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.spans import Seen, matching
from tests.support.cluster.workloads import Asked, Client

ARRIVAL_SECONDS = 60


def seen_by(name: str, kind: str, transport: str = "tcp") -> Callable[[Seen], bool]:
    """Whether a span is of the kind, seen by a socket of the pod."""
    return lambda span: (
        span.kind == kind and span.resource.get("k8s.pod.name") == name and span["network.transport"] == transport
    )


def is_datagrams(span: Seen) -> bool:
    """Whether it is of UDP."""
    return bool(span["network.transport"] == "udp")


def arrived(cluster: Cluster, wanted: Callable[[Seen], bool], number: int) -> list[Seen]:
    """The spans that are wanted, once there are so many, or no more come: what is missing is said by whoever compares."""
    receiver = cluster.receiver
    with contextlib.suppress(TimeoutError):
        receiver.wait_for(lambda: len(matching(receiver, wanted)) >= number, ARRIVAL_SECONDS)
    return matching(receiver, wanted)


def children_of(cluster: Cluster, clients: list[Seen]) -> list[Seen]:
    """The SERVER spans that are children of these, in their trace, once each has one, or no more come."""
    parents = {(span.trace_id, span.span_id) for span in clients}
    return arrived(cluster, lambda span: span.kind == "SERVER" and (span.trace_id, span.parent_id) in parents, len(parents))


def counted_as_said(cluster: Cluster, client: Client, asked: list[Asked]) -> None:
    """Each connection that the client says it had is a CLIENT span of its pod, with one SERVER span as its child, to which the
    client is the same pod; nothing else is, nothing failed, and nothing was sent twice with different content.
    """
    ports = Counter(each.port for each in asked if each.transport == "tcp")
    assert ports
    clients = arrived(cluster, seen_by(client.name, "CLIENT"), ports.total())
    assert Counter(span["source.port"] for span in clients) == ports
    assert [span.attributes for span in clients if span.error] == []
    each_has_one_child(cluster, clients)
    servers = children_of(cluster, clients)
    told = Counter((span["source.k8s.pod.name"], span["flow.source.resolution"], span.error) for span in servers)
    assert told == {(client.name, None, False): ports.total()}
    assert conflicts(cluster) == []


def conflicts(cluster: Cluster) -> list[str]:
    """Spans that came again with another content, but for clients' whose server's end the enricher had met only one of the
    times: they name the Service's backend once, in the span's name too, and not the other time (docs/kubernetes.md, backends of
    pods).
    """
    return [each.told for each in cluster.receiver.conflicts if not (each.only_attributes and _of_backend(each.attributes))]


def _of_backend(names: frozenset[str]) -> bool:
    others = names - {"name"}
    return "destination.nat.ip" in names and all(name.startswith(("destination.", "peer.", "service.peer.")) for name in others)


def each_has_one_child(cluster: Cluster, clients: list[Seen]) -> None:
    """Each of the client's spans has one of the server's as its child."""
    found = Counter(span.parent_id for span in children_of(cluster, clients))
    times = Counter(found[span.span_id] for span in clients)
    assert times == {1: len(clients)}, f"children of the {len(clients)} spans, and how many have so many: {dict(times)}"
