"""What the tests of the socket tap share: two pods of a node, and a tap that sees them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.capture.flows.datagrams import DatagramRules
from services.capture.live.tap.socket_tap import SocketTap
from tests.support.node.live_capture import Live
from tests.support.node.namespaces import Network, Pod


@pytest.fixture(scope="module")
def pods() -> Iterator[tuple[Pod, Pod]]:
    """Two pods of a node."""
    with Network() as network:
        node = network.node("node", "10.42.0.1/24", "fd42::1/64")
        yield node.pod("client", "10.42.0.12/24", "fd42::c/64"), node.pod("server", "10.42.0.13/24", "fd42::d/64")


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """The tap with what it does by default, as after it has looked on for long."""
    with SocketTap(datagrams=DatagramRules(rest_seconds=0)) as tap:
        yield Live(tap)


@pytest.fixture(autouse=True)
def _flows_of_this_test_alone(request: pytest.FixtureRequest) -> None:
    """A flow is looked for by its ports, which one of a test before may have had."""
    for name in {"live", "young"} & set(request.fixturenames):
        tap = request.getfixturevalue(name)
        if isinstance(tap, Live):
            tap.finish(0)
