"""What tests of live requests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.node.namespaces import Namespace, Network


@pytest.fixture(params=["offload", "packets of 1500 bytes"])
def network(request) -> Iterator[Namespace]:
    """A network with nothing but its loopback, whose packets are of up to 64 KiB, or of a wire's size."""
    with Network() as network:
        alone = network.namespace("alone")
        if request.param != "offload":
            alone.ip("link", "set", "lo", "mtu", "1500")
            alone.disable_offloads("lo")
        yield alone
