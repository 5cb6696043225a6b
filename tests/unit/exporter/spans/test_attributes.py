"""The table of attributes is complete."""

import re

import pytest
from hypothesis import given, settings

from proto.flow_batch import Entity
from services.exporter.spans.attributes import DNS, END, FILE, INTEGERS, NAT, PEER, RESOURCE, TLS, TUNNEL, VERDICT, WORDS
from services.exporter.spans.entities import Origin, end_attributes, resource_attributes, service_name
from services.exporter.spans.facts import Facts
from services.exporter.spans.pieces import address_text, peer_attributes
from tests.support.pipeline.batches import flow_batches
from tests.support.pipeline.reference_spans import reference_spans


def test_names_stand_once_and_follow_the_rules():
    """A name is lower case with dots, is in the table once, and is not the namespace of another."""
    names = [row.name for row in WORDS] + [row.name for block in INTEGERS for row in block.attributes]
    names += [
        row.name.format(end=end) for row in END for end in ("source", "destination") if re.fullmatch(r"[a-z.{}]+", row.name)
    ]
    names += [row.name for row in PEER]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", name)
        assert not any(other.startswith(f"{name}.") for other in names)


@given(flow_batches())
@settings(deadline=None)
def test_nothing_is_sent_that_is_not_in_the_table(batch):
    """Every attribute that the reference gives a span stands in the table, or is an entity's own under its end's name."""
    known = {row.name for row in (*WORDS, *DNS, *TLS, *PEER, *TUNNEL, *FILE, *NAT, *VERDICT)} | {
        row.name for block in INTEGERS for row in block.attributes
    }
    ends = {row.name.format(end=end) for row in END for end in ("source", "destination")}
    for span in reference_spans(batch, "c", "v"):
        others = {name for name in span.attributes if not name.startswith(("source.", "destination."))}
        assert others <= known | ends


def test_every_resource_attribute_is_in_the_table():
    """What a resource without an entity holds is listed."""
    origin = Origin("prod", "1", host_name="node", pod_uid="uid", container_id="id")
    assert set(resource_attributes(None, origin)) <= {row.name for row in RESOURCE}


@pytest.mark.parametrize(
    ("entity", "service", "named"),
    [
        (None, None, None),
        ({"service.name": "cart", "service.namespace": "shop"}, {"service.name": "cart-svc"}, ("cart", "shop")),
        ({"k8s.pod.name": "x"}, {"service.name": "cart", "k8s.namespace.name": "shop"}, ("cart", "shop")),
        ({"k8s.pod.name": "x"}, {"k8s.service.name": "cart", "k8s.namespace.name": "shop"}, ("cart", "shop")),
        (None, {"k8s.service.name": "cart"}, ("cart", "")),
        ({"service.name": "", "k8s.node.name": "n"}, None, None),
    ],
)
def test_an_end_is_named_by_its_workload_then_its_service(entity, service, named):
    """The name is what the peer's own SDK would call itself where that is known."""
    found = (Entity("k8s.pod", known) if known is not None else None for known in (entity, service))
    assert service_name(*found) == named


def test_peers_outside_the_cluster_have_one_name_for_all():
    """An address never becomes a peer's name; nobody is named where nothing is known."""
    assert peer_attributes(None, external=True) == {"peer.service": "external"}
    assert peer_attributes(None, external=False) == {}


def test_an_end_carries_its_workload_and_its_service():
    """Both are under the end's name; where they disagree the workload's word stands; the address is nobody's to change."""
    pod = Entity("k8s.pod", {"k8s.pod.name": "cart-1", "k8s.namespace.name": "shop", "address": "6.6.6.6"})
    service = Entity("k8s.service", {"k8s.service.name": "cart", "k8s.namespace.name": "other"})
    assert end_attributes("destination", pod, service) == {
        "destination.k8s.pod.name": "cart-1",
        "destination.k8s.namespace.name": "shop",
        "destination.k8s.service.name": "cart",
    }


def test_a_resource_always_has_a_service_name():
    """Tempo leaves spans without one out of its graphs."""
    assert resource_attributes(None, Origin("", "1"))["service.name"] == "unknown_service"
    assert resource_attributes(Entity("host", {"service.name": ""}), Origin("", "1"))["service.name"] == "unknown_service"
    assert resource_attributes(Entity("k8s.pod", {"service.name": "cart"}), Origin("", "1"))["service.name"] == "cart"


def test_the_cluster_is_named_for_what_is_in_it():
    """Pods, nodes and sockets of the cluster's nodes carry its name; an outside address in a capture file does not."""
    outside, inside = Origin("prod", "1"), Origin("prod", "1", host_name="node-a")
    assert "k8s.cluster.name" not in resource_attributes(None, outside)
    assert resource_attributes(None, inside)["k8s.cluster.name"] == "prod"
    assert resource_attributes(Entity("k8s.pod", {}), outside)["k8s.cluster.name"] == "prod"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("00000000000000000000ffff0a000001", "10.0.0.1"),
        ("00000000000000000000000000000001", "::1"),
        ("0000000000000000000000000a000001", "::a00:1"),
        ("20010db8000000000001000000000001", "2001:db8::1:0:0:1"),
        ("20010db8000100010001000100010000", "2001:db8:1:1:1:1:1:0"),
        ("00000000000000000000000000000000", "::"),
    ],
)
def test_addresses_are_written_as_rfc_5952_says(address, text):
    """IPv4 dotted, IPv6 in lower case with the longest run of zeros left out."""
    assert address_text(bytes.fromhex(address)) == text


@pytest.mark.parametrize(
    ("outcome", "closed_by", "cut_short", "error"),
    [
        (3, None, False, ("connection_refused", "SYN answered by RST")),
        (4, None, False, ("timeout", "SYN never answered")),
        (5, "source", True, ("connection_reset", "connection reset by source")),
        (5, None, True, ("connection_reset", "connection reset")),
        (5, "source", False, None),
        (1, "destination", True, ("connection_reset", "connection reset by destination")),
        (6, "source", False, None),
        (99, None, False, None),
    ],
)
def test_failures_are_said_in_a_word_and_in_words(outcome, closed_by, cut_short, error):
    """Connections refused, timed out, or reset with something under way are errors; an outcome of a later version is none."""
    facts = Facts(6, True, 1, "forward", 1, outcome, False, closed_by, 0, 0, cut_short=cut_short)  # noqa: FBT003 - in order
    assert facts.error == error
