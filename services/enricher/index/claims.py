"""Who says to be where, and when: the claims that objects make on addresses and ports, and how they are settled.

A claim says that an address, or an address with a port, belonged to a target for a time. Claims on one address may overlap
(a finished pod and the pod that has its address now, two services over one pod); `settle` turns them into intervals of which
one at the most holds at any time.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from services.enricher.kubernetes.object_meta import HEADLESS_LABEL, KubeObject, object_key
from services.enricher.kubernetes.objects import EndpointSlice, Node, Pod, Service

FOREVER: Final = 2**64 - 1
"""End, in Unix nanoseconds, of what has not ended."""
ANY_ADDRESS: Final = bytes(16)
CLOCK_SKEW_NS: Final = 5_000_000_000
"""How much earlier than a pod's start, known to the second, the clock of its node may put its first packet."""

_START_PRECISION_NS: Final = 2_000_000_000
"""The API's times are cut off to whole seconds, and the news of an end may take one more to arrive."""

_TRANSPORTS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
_MAPPED: Final = bytes(10) + b"\xff\xff"


class Table(enum.IntEnum):
    """What a claim is on."""

    ADDRESS = 0
    """An address: the pod, node or service that has it."""
    ENDPOINT = 1
    """An address, port and transport: the service behind it."""
    NODE_PORT = 2
    """A port and transport of any node's address: the service behind it."""
    CONTAINER_PORT = 3
    """An address, port and transport: which of a pod's containers listens there."""


class Rank(enum.IntEnum):
    """Which claim holds where several do at one time: the highest; of the same rank, the one that began last."""

    NONE = 0
    NODE_BRIDGE = 5
    FINISHED_POD_AT_ANY_TIME = 10
    ENDPOINT_AT_ANY_TIME = 12
    HEADLESS_ENDPOINT = 15
    POD_AT_ANY_TIME = 20
    POD_LEAD = 22
    ENDPOINT = 25
    FINISHED_POD = 30
    SERVICE = 35
    POD = 40
    NODE = 50


class Target(NamedTuple):
    """What claims: an object, and the container of it where a pod has several."""

    key: str
    container: str = ""


class Key(NamedTuple):
    """What is claimed. Address in network order, IPv4 mapped; `port` is 0 in the table of addresses."""

    table: Table
    address: bytes
    port: int = 0
    transport: int = 0


class Claim(NamedTuple):
    """A target's claim on a key: with `rank` from `start_unix_ns` to before `end_unix_ns`, for `lead_ns` before that with
    POD_LEAD, else with `outside_rank`.
    """

    key: Key
    target: Target
    rank: Rank
    start_unix_ns: int = 0
    end_unix_ns: int = FOREVER
    outside_rank: Rank = Rank.NONE
    lead_ns: int = 0


_Piece: TypeAlias = tuple[Rank, int, int, Target]


class Interval(NamedTuple):
    """The target that holds a key from `start_unix_ns` to before `end_unix_ns`."""

    start_unix_ns: int
    end_unix_ns: int
    target: Target


def packed_address(text: str | None) -> bytes | None:
    """Return an address as 16 bytes, IPv4 mapped into ::ffff:0:0/96; None for what is no address."""
    try:
        return _MAPPED + socket.inet_pton(socket.AF_INET, text or "")
    except OSError:
        pass
    try:
        return socket.inet_pton(socket.AF_INET6, text or "")
    except OSError:
        return None


def unix_ns(time: datetime | None) -> int:
    """Return a time in Unix nanoseconds, 0 for none."""
    return 0 if time is None else max(0, round(time.timestamp() * 1_000_000) * 1000)


@functools.singledispatch
def claims(obj: KubeObject, observed_unix_ns: int | None) -> Iterator[Claim]:
    """Yield an object's claims.

    `observed_unix_ns` is when the object was first seen so by a watch. None is for a snapshot, which knows no such time: its
    objects claim for all times, more weakly for the times at which they cannot be known to have been there.
    """
    del obj, observed_unix_ns
    return iter(())


@claims.register
def _pod_claims(pod: Pod, observed_unix_ns: int | None) -> Iterator[Claim]:
    if pod.spec.host_network:
        return
    start = unix_ns(pod.status.start_time or pod.metadata.creation_timestamp)
    lead = min(start, CLOCK_SKEW_NS) if observed_unix_ns is not None else 0
    outside = Rank.POD_AT_ANY_TIME
    rank, end = Rank.POD, FOREVER
    if pod.finished:
        outside = Rank.FINISHED_POD_AT_ANY_TIME
        rank, end = Rank.FINISHED_POD, max(start, unix_ns(pod.finished_at))
    outside = outside if observed_unix_ns is None else Rank.NONE
    containers = pod.running_containers
    for address in _packed(pod.addresses):
        yield Claim(Key(Table.ADDRESS, address), Target(pod.key), rank, start, end, outside, lead)
        if len(containers) == 1:
            continue
        for container in containers:
            for port in container.ports or ():
                key = _port_key(Table.CONTAINER_PORT, address, port.container_port, port.protocol)
                yield Claim(key, Target(pod.key, container.name), rank, start, end, outside, lead)


@claims.register
def _node_claims(node: Node, observed_unix_ns: int | None) -> Iterator[Claim]:
    target, start, outside = Target(node.key), observed_unix_ns or 0, Rank.ENDPOINT_AT_ANY_TIME
    addresses = (each.address for each in node.status.addresses or () if each.type in ("InternalIP", "ExternalIP"))
    for address in _packed(addresses):
        yield Claim(Key(Table.ADDRESS, address), target, Rank.NODE, start, outside_rank=outside)
    for cidr in node.spec.pod_cidrs or [node.spec.pod_cidr or ""]:
        for address in _bridge_addresses(cidr):
            yield Claim(Key(Table.ADDRESS, address), target, Rank.NODE_BRIDGE, start)


@claims.register
def _service_claims(service: Service, observed_unix_ns: int | None) -> Iterator[Claim]:
    target, start, outside = Target(service.key), observed_unix_ns or 0, Rank.ENDPOINT_AT_ANY_TIME
    ports = service.spec.ports or ()
    for address in _packed(service.addresses):
        yield Claim(Key(Table.ADDRESS, address), target, Rank.SERVICE, start, outside_rank=outside)
        for port in ports:
            key = _port_key(Table.ENDPOINT, address, port.port, port.protocol)
            yield Claim(key, target, Rank.SERVICE, start, outside_rank=outside)
    for port in ports:
        if port.node_port:
            key = _port_key(Table.NODE_PORT, ANY_ADDRESS, port.node_port, port.protocol)
            yield Claim(key, target, Rank.SERVICE, start, outside_rank=outside)


@claims.register
def _endpoint_claims(endpoints: EndpointSlice, observed_unix_ns: int | None) -> Iterator[Claim]:
    if not endpoints.service_key:
        return
    target, start = Target(endpoints.service_key), observed_unix_ns or 0
    headless = HEADLESS_LABEL in (endpoints.metadata.labels or {})
    rank = Rank.HEADLESS_ENDPOINT if headless else Rank.ENDPOINT
    for endpoint in endpoints.endpoints or ():
        for address in _packed(endpoint.addresses or ()):
            for port in endpoints.ports or ():
                if port.port:
                    key = _port_key(Table.ENDPOINT, address, port.port, port.protocol)
                    yield Claim(key, target, rank, start, outside_rank=Rank.ENDPOINT_AT_ANY_TIME)


def service_of(endpoints: EndpointSlice) -> tuple[str, Iterator[tuple[str, bool]]]:
    """Return the key of the service of a slice, and the key of each pod behind it with whether it is ready."""
    pods = (
        (reference.uid or object_key("Pod", reference.namespace or "", reference.name or ""), _ready(endpoint.conditions))
        for endpoint in endpoints.endpoints or ()
        if (reference := endpoint.target_ref) and reference.kind == "Pod"
    )
    return endpoints.service_key, pods


def settle(contenders: Sequence[Claim]) -> list[Interval]:
    """Return the intervals, apart from each other and in order of time, for which claims on one key hold."""
    if len(contenders) == 1:
        _, target, _rank, start, end, outside, lead = contenders[0]
        if outside:
            start, end = 0, FOREVER
        return [Interval(start - lead, end, target)] if start - lead < end else []
    claims_in_order = [_after(claim, contenders) if claim.lead_ns else claim for claim in contenders]
    pieces = [piece for claim in claims_in_order for piece in _pieces(claim)]
    cuts = sorted({cut for _, start, end, _ in pieces for cut in (start, end)})
    settled: list[Interval] = []
    for start, end in pairwise(cuts):
        holders = [piece for piece in pieces if piece[1] <= start and end <= piece[2]]
        if not holders:
            continue
        target = max(holders, key=lambda piece: (piece[0], piece[1], piece[3]))[3]
        if settled and settled[-1].end_unix_ns == start and settled[-1].target == target:
            settled[-1] = settled[-1]._replace(end_unix_ns=end)
        else:
            settled.append(Interval(start, end, target))
    return settled


def _pieces(claim: Claim) -> Iterator[_Piece]:
    """The claim as (rank, start, end, target) of constant rank."""
    _, target, rank, start, end, outside, lead = claim
    if start < end:
        yield rank, start, end, target
    if lead:
        yield Rank.POD_LEAD, start - lead, start, target
    if outside:
        yield from ((outside, *part, target) for part in ((0, start), (max(start, end), FOREVER)) if part[0] < part[1])


def _after(claim: Claim, contenders: Sequence[Claim]) -> Claim:
    """Let a pod that was watched begin only when the one before it had ended, where that is so near that its start
    may have been after it. An end that lies later was merely seen late.
    """
    ends = [
        other.end_unix_ns
        for other in contenders
        if other.rank == claim.rank
        and other.target != claim.target
        and claim.start_unix_ns < other.end_unix_ns <= claim.start_unix_ns + _START_PRECISION_NS
        and other.end_unix_ns < claim.end_unix_ns
    ]
    return claim._replace(start_unix_ns=min(claim.end_unix_ns, max(ends))) if ends else claim


def _packed(addresses: Iterable[str]) -> Iterator[bytes]:
    return (packed for address in addresses if (packed := packed_address(address)) is not None)


def _port_key(table: Table, address: bytes, port: int, protocol: str | None) -> Key:
    return Key(table, address, port, _TRANSPORTS.get((protocol or "TCP").upper(), 0))


def _bridge_addresses(cidr: str) -> Iterator[bytes]:
    """Addresses that a node itself has in the network of its pods: the network's own (VXLAN device), the next (bridge)."""
    try:
        network = ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return
    if network.num_addresses > 2:
        yield from _packed((str(network[0]), str(network[1])))


def _ready(conditions: object) -> bool:
    return getattr(conditions, "ready", None) is not False
