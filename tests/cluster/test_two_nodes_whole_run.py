"""Two nodes, at the end of all that was done there."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.cluster.asserts import conflicts
from tests.cluster.conftest import Installed
from tests.support.cluster.spans import Seen, matching
from tests.support.cluster.workloads import NAMESPACE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]  # the first to ask may build the programs and the images

AT_LEAST = 20
"""Probes that there must have been."""
WHILE_NS = 10_000_000_000
"""In which a port is not used again."""


def test_nothing_that_worked_is_told_as_failed(two_nodes: Installed) -> None:
    """Over the whole run, in which every connection of the clients was answered, no span of one is an error, however late it
    came, and no span came twice with different content. Nor is one of the kubelet's probes, at either end, which it closes as
    it likes; a probe of a server that does not listen yet was refused, and one of an address that was another pod's a moment
    ago may come to nobody: no server has told of it then.
    """
    receiver = two_nodes.cluster.receiver
    failed = matching(receiver, lambda span: span.error and _is_of_workloads(span))
    answered = matching(receiver, lambda span: span.kind == "SERVER" and not span.error)
    told = [span for span in failed if not _was_too_early(span, answered)]
    assert Counter((span.name, span["error.type"]) for span in told) == {}
    assert len(matching(receiver, lambda span: _is_of_workloads(span) and _is_by_node(span))) > AT_LEAST
    assert conflicts(two_nodes.cluster) == []


def _is_of_workloads(span: Seen) -> bool:
    return NAMESPACE in {span.resource.get("k8s.namespace.name"), span["destination.k8s.namespace.name"]}


def _is_by_node(span: Seen) -> bool:
    return span.kind == "CLIENT" and "k8s.pod.name" not in span.resource


def _was_too_early(span: Seen, answered: list[Seen]) -> bool:
    """Whether it is a probe that nobody answered, or a RST did."""
    if not _is_by_node(span):
        return False
    if span["error.type"] == "timeout":
        return not any(_ends(other) == _ends(span) and abs(other.start - span.start) < WHILE_NS for other in answered)
    return bool(span["error.type"] == "connection_refused")


def _ends(span: Seen) -> tuple[str, ...]:
    return tuple(str(span[name]) for name in ("source.address", "source.port", "destination.address", "destination.port"))
