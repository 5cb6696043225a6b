"""Who says to be where, and when: the claims that objects make on addresses and ports, and how they are settled.

A claim says that an address, or an address with a port, belonged to a target for a time. Claims on one address may overlap
(an end that was seen late and the pod that has the address since, two services over one pod); `settle` turns them into
intervals of which one at the most holds at any time.
"""

from __future__ import annotations

import enum
import functools
import socket
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from services.enricher.kubernetes.object_meta import HEADLESS_LABEL, KubeObject, object_key
from services.enricher.kubernetes.objects import EndpointSlice, Node, Service
from services.enricher.kubernetes.pods import Pod

FOREVER: Final = 2**64 - 1
"""End, in Unix nanoseconds, of what has not ended."""
ANY_ADDRESS: Final = bytes(16)
CLOCK_SKEW_NS: Final = 5_000_000_000
"""How much earlier than a pod is known to have its address the clock of another node may put its first packet."""

SECOND_NS: Final = 1_000_000_000
"""The API's times are cut off to whole seconds: what began at :05 began before :06, what ended at :05 was there until :06."""

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
    """Which claim holds where several do at one time: the highest; of the same rank, the one that began last.

    The shared cache's messages have them: readers of other releases know no others.
    """

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


_TENURES: Final = frozenset((Rank.POD, Rank.FINISHED_POD))
"""Ranks of claims of which an address can bear but one: who claims it after another has it after him."""


class Claim(NamedTuple):
    """A target's claim on a key: with `rank` from `start_unix_ns` to before `end_unix_ns`, for `lead_ns` before that with
    POD_LEAD where nobody else has just had it, else with `outside_rank`.
    """

    key: Key
    target: Target
    rank: Rank
    start_unix_ns: int = 0
    end_unix_ns: int = FOREVER
    outside_rank: Rank = Rank.NONE
    lead_ns: int = 0

    def beginning(self, start_unix_ns: int) -> Claim:
        """Return the claim with another start; a lead that is longer than clocks differ still begins where it did."""
        longer = self.lead_ns + start_unix_ns - self.start_unix_ns if self.lead_ns > CLOCK_SKEW_NS else 0
        lead_ns = min(start_unix_ns, max(CLOCK_SKEW_NS, longer)) if self.lead_ns else 0
        return self._replace(start_unix_ns=start_unix_ns, lead_ns=lead_ns)


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


class Sight(NamedTuple):
    """How a watch has seen an object."""

    at_unix_ns: int
    """When it was first seen as it is."""
    before: KubeObject | None = None
    """What it was until then."""


@functools.singledispatch
def claims(obj: KubeObject, sight: Sight | None) -> Iterator[Claim]:
    """Yield an object's claims.

    No sight is for a snapshot, which knows no times but those that its objects say: they claim for all times, more weakly for
    those at which they cannot be known to have been there.
    """
    del obj, sight
    return iter(())


@claims.register
def _pod_claims(pod: Pod, sight: Sight | None) -> Iterator[Claim]:
    if pod.spec.host_network:
        return
    rank, start, end = _tenure(pod, sight)
    outside, lead = Rank.NONE, 0
    if sight is None:
        outside = Rank.FINISHED_POD_AT_ANY_TIME if pod.finished else Rank.POD_AT_ANY_TIME
    else:
        # A container that was started again may have been there since the pod was.
        since = _begun(pod) if pod.restarted else FOREVER
        lead = min(start, max(CLOCK_SKEW_NS, start - since))
    containers = pod.running_containers
    for address in _packed(pod.addresses):
        yield Claim(Key(Table.ADDRESS, address), Target(pod.key), rank, start, end, outside, lead)
        if len(containers) == 1:
            continue
        for container in containers:
            for port in container.ports or ():
                key = _port_key(Table.CONTAINER_PORT, address, port.container_port, port.protocol)
                yield Claim(key, Target(pod.key, container.name), rank, start, end, outside, lead)


def _tenure(pod: Pod, sight: Sight | None) -> tuple[Rank, int, int]:
    """From when to before when a pod can be known to have its addresses, and how surely.

    Of the times that it says what it said before, when it had other addresses or none, says nothing of those that it has now.
    """
    seen = sight or Sight(FOREVER)
    said = pod.started_at - (seen.before.started_at if isinstance(seen.before, Pod) else frozenset())
    start = min((seen.at_unix_ns, *map(unix_ns, said)))
    if not said and seen.before is None and pod.finished:
        start = _begun(pod)
    if pod.finished:
        ended = unix_ns(pod.finished_at)
        end = ended + SECOND_NS if ended else sight.at_unix_ns if sight else 0
        return Rank.FINISHED_POD, min(start, end), end
    if start == FOREVER:  # nobody has seen it and no container says that it ran
        return Rank.POD_LEAD, _begun(pod), FOREVER
    return Rank.POD, start, FOREVER


def _begun(pod: Pod) -> int:
    """When its node took the pod on, which is before it has an address."""
    return unix_ns(pod.status.start_time or pod.metadata.creation_timestamp)


@claims.register
def _node_claims(node: Node, sight: Sight | None) -> Iterator[Claim]:
    target, start, outside = Target(node.key), sight.at_unix_ns if sight else 0, Rank.ENDPOINT_AT_ANY_TIME
    own = dict.fromkeys(_packed(node.addresses))
    for address in own:
        yield Claim(Key(Table.ADDRESS, address), target, Rank.NODE, start, outside_rank=outside)
    for address in dict.fromkeys(_packed(node.plugin_addresses)):
        if address not in own:
            yield Claim(Key(Table.ADDRESS, address), target, Rank.NODE_BRIDGE, start)


@claims.register
def _service_claims(service: Service, sight: Sight | None) -> Iterator[Claim]:
    target, start, outside = Target(service.key), sight.at_unix_ns if sight else 0, Rank.ENDPOINT_AT_ANY_TIME
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
def _endpoint_claims(endpoints: EndpointSlice, sight: Sight | None) -> Iterator[Claim]:
    if not endpoints.service_key:
        return
    target, start = Target(endpoints.service_key), sight.at_unix_ns if sight else 0
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
        return [Interval(start - lead, end, target)] if start < end else []
    pieces = [piece for claim in _in_turn(contenders) for piece in _pieces(claim)]
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
        yield Rank.POD if rank in _TENURES else rank, start, end, target
        if lead:
            yield Rank.POD_LEAD, start - lead, start, target
    if outside:
        yield from ((outside, *part, target) for part in ((0, start), (max(start, end), FOREVER)) if part[0] < part[1])


def _in_turn(contenders: Sequence[Claim]) -> list[Claim]:
    """Let each claim begin only when the one before it had ended, where that is within the second that its start is cut off to.

    A pod that has the address has ended whoever had it before, however late that was seen; in the second in which both may have
    had it, and where another has ended shortly before a pod is known to be there, nobody is known to.
    """
    turns: list[Claim] = []
    for claim in sorted(contenders, key=lambda each: (each.start_unix_ns, each.end_unix_ns)):
        begun, lead = claim.start_unix_ns, claim.lead_ns
        for place, other in enumerate(turns):
            if other.target.key == claim.target.key or not _of_a_kind(other, claim):
                continue
            if begun - lead < other.end_unix_ns:
                lead = 0
            if claim.rank in _TENURES and claim.start_unix_ns < other.end_unix_ns:
                turns[place] = other._replace(end_unix_ns=claim.start_unix_ns)
            cut_off = 0 if claim.start_unix_ns % SECOND_NS else SECOND_NS
            if begun < other.end_unix_ns <= claim.start_unix_ns + cut_off and other.end_unix_ns < claim.end_unix_ns:
                begun = other.end_unix_ns
        turns.append(claim._replace(start_unix_ns=begun, lead_ns=lead))
    return turns


def _of_a_kind(one: Claim, other: Claim) -> bool:
    return one.rank == other.rank or (one.rank in _TENURES and other.rank in _TENURES)


def _packed(addresses: Iterable[str]) -> Iterator[bytes]:
    return (packed for address in addresses if (packed := packed_address(address)) is not None)


def _port_key(table: Table, address: bytes, port: int, protocol: str | None) -> Key:
    return Key(table, address, port, _TRANSPORTS.get((protocol or "TCP").upper(), 0))


def _ready(conditions: object) -> bool:
    return getattr(conditions, "ready", None) is not False
