"""Entity references: which of a resource's attributes say whose it is."""

from __future__ import annotations

from dataclasses import replace

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from proto.flow_batch import Entity
from services.exporter.encoder import SpanEncoder
from tests.support.pipeline.enriched_batches import enriched_batch

POD = {"service.name": "web", "service.namespace": "shop", "k8s.pod.uid": "7d0c", "k8s.pod.name": "web-0"}


def resource_of(attributes: dict, *, entity_refs: bool) -> Resource:
    """The resource of a span of somebody with these attributes."""
    batch = replace(enriched_batch(1), entities=[Entity("k8s.pod", attributes), Entity("k8s.pod", {})])
    body = SpanEncoder(cluster_name="c", entity_refs=entity_refs).encode(batch)
    (resource_spans,) = ExportTraceServiceRequest.FromString(body).resource_spans
    return resource_spans.resource


def test_references_name_what_the_resource_has() -> None:
    """Each entity by the attribute that identifies it, which is there; the other attributes are the same with and without."""
    with_refs, without = (resource_of(POD, entity_refs=wanted) for wanted in (True, False))
    refs = {ref.type: (list(ref.id_keys), list(ref.description_keys)) for ref in with_refs.entity_refs}
    assert refs == {
        "service": (["service.name"], []),
        "service.namespace": (["service.namespace"], []),
        "k8s.pod": (["k8s.pod.uid"], ["k8s.pod.name"]),
    }
    assert with_refs.attributes == without.attributes
    assert not without.entity_refs


def test_nobody_is_no_entity() -> None:
    """`unknown_service` identifies none."""
    assert not resource_of({}, entity_refs=True).entity_refs
