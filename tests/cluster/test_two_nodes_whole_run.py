"""Two nodes, at the end of all that was done there."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.cluster.conftest import Installed
from tests.support.cluster.spans import matching
from tests.support.cluster.workloads import NAMESPACE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]  # the first to ask may build the programs and the images


def test_nothing_that_worked_is_told_as_failed(two_nodes: Installed) -> None:
    """Over the whole run, in which every connection of the clients was answered, no span of one is an error, however late it
    came, and no span came twice with different content.
    """
    receiver = two_nodes.cluster.receiver
    failed = matching(receiver, lambda span: span.error and span.resource.get("k8s.namespace.name") == NAMESPACE)
    assert Counter((span.resource["k8s.pod.name"], span["error.type"]) for span in failed) == {}
    assert receiver.conflicts == []
