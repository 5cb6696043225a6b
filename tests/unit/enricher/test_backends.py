"""The backends of clients whose packets are translated where their own sockets do not see it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.columns import Observer, Role
from proto.flow_batch import FlowBatch
from services.enricher.backends import Backends
from services.enricher.join import join
from tests.support.pipeline.batches import flow_batches
from tests.unit.enricher.objects_as_json import backend, batch_of, cluster_of, endpoint_slice, flow, name_at, pod, service

SEEN = {"observer": Observer.SOCKET, "isn_seen": 3}
SERVICE, POD = "10.96.0.1:80", "10.42.0.7:8080"
INDEX = cluster_of(
    pod("web-0", "10.42.0.7"), pod("asker", "10.42.0.3"), service("web", "10.96.0.1"),
    endpoint_slice("web", [backend("web-0", "10.42.0.7")], 8080),
).compile()  # fmt: skip


def client(remote: str = SERVICE, number: int = 1, **columns: object) -> dict:
    """A client's record, of its connection with this number."""
    return flow("10.42.0.3:40000", remote, **{**SEEN, "local_isn": number, "remote_isn": 2**31 + number, **columns})


def server(local: str = POD, number: int = 1, **columns: object) -> dict:
    """The server's of the same connection."""
    numbers = {"local_isn": 2**31 + number, "remote_isn": number, "role": Role.SERVER}
    return flow(local, "10.42.0.1:1025", **{**SEEN, **numbers, **columns})


def test_a_pods_client_has_the_service_and_the_pod_that_was_chosen() -> None:
    """In one batch or one after the other: the span's destination is the backend, by the Service's name."""
    backends = Backends()
    both = batch_of(client(), server())
    backends.learn(both)
    for batch in (both, batch_of(client())):
        joined = join(backends.tell(batch), INDEX)
        assert name_at(joined, "remote_entity") == "web-0"
        assert name_at(joined, "remote_service") == "web"
        assert (joined.column("remote_nat_port")[0], bytes(joined.column("remote_nat_address")[0])[12:]) == (
            8080,
            bytes((10, 42, 0, 7)),
        )
        assert joined.column("remote_nat_port")[1:].tolist() == [0] * (batch.count - 1)


@pytest.mark.parametrize(
    ("asks", "tells"),
    [
        (client(), server(number=2)),
        (client(isn_seen=1), server()),
        (client(), server(isn_seen=2)),
        (client(observer=Observer.CAPTURE), server()),
        (client(), server(observer=Observer.CAPTURE)),
        (client(transport=132), server(transport=132)),
        (client(role=Role.UNKNOWN), server()),
        (client(), server(role=Role.UNKNOWN)),
        (client(POD), server()),
        (client(), {}),
    ],
)
def test_none_is_told_where_nothing_proves_it(asks, tells) -> None:
    """Another connection, one of whose numbers one is not known, a file's, another transport's; and what was not translated."""
    backends = Backends()
    if tells:
        backends.learn(batch_of(tells))
    batch = batch_of(asks)
    assert backends.tell(batch) is batch


def test_what_the_socket_saw_itself_stays() -> None:
    """A client in its node's network knows its backend."""
    backends = Backends()
    backends.learn(batch_of(server()))
    batch = batch_of(client(remote_nat_port=9, remote_nat_address=bytes(16)))
    assert backends.tell(batch) is batch


@pytest.mark.parametrize("together", [True, False])
def test_of_two_servers_neither_is_told(together) -> None:
    """They have the same numbers and other addresses: in one batch, or one after the other, and for good."""
    backends = Backends()
    two = [server(), server("10.42.0.9:8080")]
    for batch in [batch_of(*two)] if together else [batch_of(each) for each in [*two, two[1]]]:
        backends.learn(batch)
    batch = batch_of(client())
    assert backends.tell(batch) is batch


def test_the_oldest_are_forgotten() -> None:
    """Half of the bound is known at the least, and never more than it."""
    most = 64
    backends = Backends(most)
    for first in range(0, 2 * most, 8):
        backends.learn(batch_of(*(server(number=number) for number in range(first, first + 8))))
    told = backends.tell(batch_of(*(client(number=number) for number in range(2 * most))))
    known = (told.column("remote_nat_port") != 0).tolist()
    assert most // 2 <= sum(known) <= most
    assert all(known[-sum(known) :])


@given(st.lists(flow_batches(), max_size=3))
def test_whatever_a_batch_holds(batches: list[FlowBatch]) -> None:
    """It is learned from and told; all of its other columns stay the same arrays."""
    backends = Backends()
    for batch in batches:
        backends.learn(batch)
    for batch in batches:
        told = backends.tell(batch)
        assert told.count == batch.count
        kept = batch.columns.keys() - {"remote_nat_address", "remote_nat_port"}
        assert all(told.columns[name] is batch.columns[name] for name in kept)
