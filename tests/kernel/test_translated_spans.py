"""A Service's client in the network of its node, or in that of a pod, from its packets to its spans."""

from __future__ import annotations

import socket

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proto.columns import Reason
from proto.flow_batch import decode
from services.capture.live.reader import LiveOptions, LiveReader
from services.enricher.backends import Backends
from services.enricher.join import join
from services.exporter.encoder import SpanEncoder
from tests.support.node import kube_proxy
from tests.support.node.live_capture import WAIT_SECONDS, reason_to_skip
from tests.support.node.namespaces import Network
from tests.unit.enricher.objects_as_json import backend, cluster_of, endpoint_slice, node, pod, service

pytestmark = pytest.mark.xdist_group("socket_tap")

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

NODE, POD, ASKER, SERVICE = "10.45.0.1", "10.45.0.13", "10.45.0.14", "10.96.88.1"
SPAN_KIND = ExportTraceServiceRequest().resource_spans.add().scope_spans.add().spans.add()
OBJECTS = [
    node("node-a", NODE),
    pod("web-0", POD),
    pod("asker", ASKER),
    service("web", SERVICE),
    endpoint_slice("web", [backend("web-0", POD)], 8080),
]


def spans(reader: LiveReader) -> list[tuple[object, dict[str, object]]]:
    """Every flow's span, and its attributes."""
    index = cluster_of(*OBJECTS).compile()
    encoder = SpanEncoder(cluster_name="test", distribution_version="1")
    found, backends = [], Backends()
    for batch in reader.read(Reason.SHUTDOWN):
        for message in batch.messages:
            raw = decode(message.message)
            backends.learn(raw)
            request = ExportTraceServiceRequest.FromString(encoder.encode(join(backends.tell(raw), index)))
            for span in (span for group in request.resource_spans for scope in group.scope_spans for span in scope.spans):
                values = {each.key: each.value for each in span.attributes}
                found.append((span, {key: getattr(value, value.WhichOneof("value")) for key, value in values.items()}))
        reader.accept(batch)
    return found


@pytest.mark.parametrize("asks_from", ["node", "pod"])
def test_the_clients_span_has_the_service_and_the_pod_that_was_chosen(asks_from) -> None:
    """One CLIENT span with the Service's address and name, the backend's pod and the connect time; below it the SERVER span.

    The socket of a client in its node's network sees where its packets go. A pod's does not: it has what the server's says.
    """
    with Network() as network:
        host = network.node("node", f"{NODE}/24")
        reason = kube_proxy.reason_to_skip("iptables-nft", host.namespace)
        if reason:
            pytest.skip(reason)
        web, asker = host.pod("web", f"{POD}/24"), host.pod("asker", f"{ASKER}/24")
        router = network.namespace("router")
        network.link((host.namespace, "uplink", ("192.0.2.1/24",)), (router, "eth0", ("192.0.2.254/24",)))
        host.namespace.ip("route", "add", "default", "via", "192.0.2.254")
        kube_proxy.FORMS["iptables-nft"][1](host.namespace, kube_proxy.Service("tcp", SERVICE, 80, POD, 8080))
        with (
            web.namespace.socket() as server,
            LiveReader(node="node-a", epoch="e", options=LiveOptions(), leave_out_own=False) as reader,
        ):
            server.bind((POD, 8080))
            server.listen()
            client = (host.namespace if asks_from == "node" else asker.namespace).socket()
            client.settimeout(WAIT_SECONDS)
            client.connect((SERVICE, 80))
            accepted, _ = server.accept()
            client.sendall(b"question")
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"answer")
            assert client.recv(100) == b"answer"
            client.shutdown(socket.SHUT_WR)
            assert accepted.recv(1) == b""
            accepted.close()
            assert client.recv(1) == b""
            client.close()
            ports = {80, 8080}
            told = [(span, said) for span, said in spans(reader) if said.get("destination.port") in ports]
    by_kind = {span.kind: (span, said) for span, said in told}
    assert len(told) == 2
    client_span, said = by_kind[SPAN_KIND.SPAN_KIND_CLIENT]
    server_span, theirs = by_kind[SPAN_KIND.SPAN_KIND_SERVER]
    expected = {
        **(
            {"source.address": "192.0.2.1", "source.k8s.node.name": "node-a"}
            if asks_from == "node"
            else {"source.address": ASKER}
        ),
        "destination.address": SERVICE, "destination.port": 80,
        "destination.nat.ip": POD, "destination.nat.port": 8080,
        "destination.k8s.pod.name": "web-0", "destination.k8s.service.name": "web", "peer.service": "web-0",
        "flow.connection.outcome": "closed",
    }  # fmt: skip
    assert expected.items() <= said.items()
    assert said["flow.tcp.connect.time"] > 0
    assert "error.type" not in said
    assert "destination.nat.ip" not in theirs
    assert (server_span.trace_id, server_span.parent_span_id) == (client_span.trace_id, client_span.span_id)
