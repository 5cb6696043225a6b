"""Which records of a batch are asked for, as masks over whole columns.

Each filter takes the text that a person gave and returns what it accepts. Names are looked up once per entity of a batch, not
once per record: what does not match costs next to nothing, however fast it passes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from proto.columns import CONNECTION_PART, NO_ANSWER, NO_INDEX, Observer, Outcome, Reason, Role
from proto.dns import SERVER_FAILURE
from proto.exchange_phases import is_traced
from proto.flow_batch import Array, Entity, FlowBatch
from proto.rows import TRANSPORTS
from proto.verdicts.names import Verdict
from services.cli.views import units
from services.cli.views.flow_view import WORKLOAD_NAMES

Mask: TypeAlias = npt.NDArray[np.bool_]
Where: TypeAlias = Literal["either", "source", "destination"]
RecordTest: TypeAlias = Callable[[FlowBatch], Mask]
EndTest: TypeAlias = Callable[[FlowBatch, str], Mask]
"""What a filter accepts of one end, `local` or `remote`."""

_ICMP: Final = (1, 58)
_TCP: Final = 6
_UDP: Final = 17
_DNS: Final = 53
"""Its port."""
_NUMBERS: Final = {name: number for number, name in TRANSPORTS.items()}


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter as it was given."""

    field: str
    """Conditions of one field are alternatives; those of different fields must all hold."""
    accepts: RecordTest
    negated: bool = False
    """Nothing that it accepts is wanted."""


class FlowFilter:
    """Several conditions together."""

    def __init__(self, conditions: Sequence[Condition] = ()) -> None:
        wanted: dict[str, list[RecordTest]] = {}
        for condition in conditions:
            if not condition.negated:
                wanted.setdefault(condition.field, []).append(condition.accepts)
        self._wanted = [*wanted.values()]
        self._unwanted = [condition.accepts for condition in conditions if condition.negated]

    def __and__(self, other: FlowFilter) -> FlowFilter:
        """Return the filter of what both want."""
        both = FlowFilter()
        both._wanted = [*self._wanted, *other._wanted]
        both._unwanted = [*self._unwanted, *other._unwanted]
        return both

    def __call__(self, batch: FlowBatch) -> FlowBatch:
        """Return the batch with only the records that are asked for."""
        if not self._wanted and not self._unwanted:
            return batch
        return batch.take(self.mask(batch))

    def mask(self, batch: FlowBatch) -> Mask:
        """Return which records are asked for."""
        mask = np.ones(batch.count, np.bool_)
        for alternatives in self._wanted:
            mask &= np.logical_or.reduce([accepts(batch) for accepts in alternatives])
        for accepts in self._unwanted:
            mask &= ~accepts(batch)
        return mask


def at(where: Where, test: EndTest) -> RecordTest:
    """Return the test of a record whose end there passes `test`. The local end stands for a source that nobody saw begin."""

    def accepts(batch: FlowBatch) -> Mask:
        local, remote = test(batch, "local"), test(batch, "remote")
        if where == "either":
            return local | remote
        source_is_local = batch.column("role") != Role.SERVER
        return np.where(source_is_local == (where == "source"), local, remote)

    return accepts


def pod(text: str) -> EndTest:
    """`[NAMESPACE/]PREFIX` of a pod's name; `NAMESPACE/` is all its pods."""
    namespace_name, _, prefix = text.rpartition("/")

    def accepts(entity: Entity) -> bool:
        name = entity.attributes.get("k8s.pod.name")
        return isinstance(name, str) and name.startswith(prefix) and _in_namespace(entity, namespace_name)

    return _entity(accepts)


def namespace(text: str) -> EndTest:
    """Name of a namespace."""
    return _entity(lambda entity: _in_namespace(entity, text))


def service(text: str) -> EndTest:
    """`[NAMESPACE/]NAME` of a Kubernetes Service, or a `service.name`."""
    return _named(text, ("k8s.service.name", "service.name"))


def workload(text: str) -> EndTest:
    """`[NAMESPACE/]NAME` of a deployment, stateful set, daemon set, job, node, unit ...: whatever a workload is called."""
    return _named(text, (*WORKLOAD_NAMES, "external.name"))


def address(text: str) -> EndTest:
    """An IP address or a network (CIDR). Raises ValueError."""
    network = ipaddress.ip_network(text, strict=False)
    offset = 96 if isinstance(network, ipaddress.IPv4Network) else 0
    low = _mapped(network.network_address)
    mask = ((1 << 128) - 1) ^ ((1 << (128 - network.prefixlen - offset)) - 1)
    wanted, bits = (np.frombuffer(value.to_bytes(16, "big"), np.uint8) for value in (low, mask))

    def test(batch: FlowBatch, end: str) -> Mask:
        packed = np.ascontiguousarray(batch.column(f"{end}_address")).view(np.uint8).reshape(batch.count, 16)
        matches: Mask = ((packed & bits) == wanted).all(axis=1)
        return matches

    return test


def port(text: str) -> EndTest:
    """A port, or a range `FIRST-LAST`. Raises ValueError."""
    first, dash, last = text.partition("-")
    low, high = _number(first), _number(last if dash else first)
    if not 0 <= low <= high <= 0xFFFF:
        raise ValueError("a port is a number from 0 to 65535, a range two of them, the lower first")

    def test(batch: FlowBatch, end: str) -> Mask:
        ports = batch.column(f"{end}_port")
        # The port columns of an echo hold its identifier.
        return (ports >= low) & (ports <= high) & ~np.isin(batch.column("transport"), _ICMP)

    return test


def protocol(text: str) -> RecordTest:
    """A transport's name, or its IANA number. Raises ValueError."""
    number = _NUMBERS.get(text.lower())
    if number is None:
        if not text.isdecimal() or int(text) > 0xFF:
            raise ValueError(f"one of {', '.join(_NUMBERS)}, or a number up to 255")
        number = int(text)
    return lambda batch: batch.column("transport") == number


def outcome(text: str) -> RecordTest:
    """Name of an outcome, or `failed`. Raises ValueError."""
    named: dict[str, RecordTest] = {one.name.lower(): _outcome(one) for one in Outcome}
    # Of questions, as people see it in the place of an outcome.
    named |= {"unanswered": lambda batch: _questions_wait(batch) & _over(batch)}
    named |= {"waiting": lambda batch: _questions_wait(batch) & ~_over(batch), "failed": failed}
    name = text.lower().replace("-", "_")
    if name not in named:
        raise ValueError(f"one of {', '.join(named)}")
    return named[name]


def verdict(text: str) -> RecordTest:
    """Name of a verdict. Raises ValueError."""
    named = {one.name.lower(): one for one in Verdict}
    wanted = named.get(text.lower().replace("-", "_"))
    if wanted is None:
        raise ValueError(f"one of {', '.join(named)}")
    return lambda batch: batch.column("verdict") == wanted


def failed(batch: FlowBatch) -> Mask:
    """A connection refused, never answered, or reset while something was under way; a question never answered, or one
    of DNS by SERVFAIL; and whatever its verdict calls refused or unreachable, datagrams among it.
    """
    judged = np.isin(batch.column("verdict"), (Verdict.REFUSED, Verdict.UNREACHABLE))
    connections = np.isin(batch.column("outcome"), (Outcome.REFUSED, Outcome.TIMEOUT)) | (batch.column("cut_short") != 0)
    code = batch.column("dns_first_code")
    lookups = is_question(batch) & ((code == NO_ANSWER) | (code == SERVER_FAILURE))
    return np.asarray(judged | connections | lookups | (_questions_wait(batch) & _over(batch)))


def is_question(batch: FlowBatch) -> Mask:
    """Where a record tells of one DNS question."""
    return np.asarray((batch.column("reason") == Reason.EXCHANGE) & ~is_traced(batch))


def unanswered(batch: FlowBatch) -> Mask:
    """A connection attempt, a request or a question that never had an answer."""
    attempts = batch.column("outcome") == Outcome.TIMEOUT
    requests = (batch.column("request_waits") != 0) & _over(batch) & ~_may_be_farewell(batch)
    exchanges = is_traced(batch) & (batch.column("response_first_unix_ns") == 0)
    exchanges &= batch.column("exchange_shared") != CONNECTION_PART
    questions = is_question(batch) & (batch.column("dns_first_code") == NO_ANSWER)
    return np.asarray(attempts | requests | exchanges | questions)


def slower_than(text: str) -> RecordTest:
    """Connecting took at least this, or a response. Raises ValueError."""
    response, connect, least = min_response_time(text), min_connect_time(text), units.nanoseconds(text)

    def accepts(batch: FlowBatch) -> Mask:
        asked, answered = batch.column("request_last_unix_ns"), batch.column("response_first_unix_ns")
        waited = np.where(answered > asked, answered - np.minimum(asked, answered), 0)
        looked_up = is_question(batch) & (batch.column("dns_first_time_ns") >= least)
        return np.asarray(response(batch) | connect(batch) | looked_up | ((asked != 0) & (waited >= least)))

    return accepts


def observer(text: str) -> RecordTest:
    """Whose socket saw it: `client`, `server`, `unknown`; `capture` is a capture file. Raises ValueError."""
    if text == "capture":
        return lambda batch: batch.column("observer") == Observer.CAPTURE
    roles = {role.name.lower(): role for role in Role}
    if text not in roles:
        raise ValueError(f"one of {', '.join(roles)}, capture")
    role = roles[text]
    return lambda batch: (batch.column("role") == role) & (batch.column("observer") != Observer.CAPTURE)


def node(text: str) -> RecordTest:
    """Name of the node whose capture saw it."""
    return lambda batch: np.full(batch.count, batch.node == text)


def min_response_time(text: str) -> RecordTest:
    """The record's longest response time is at least this. Raises ValueError."""
    least = units.nanoseconds(text)
    return lambda batch: batch.column("response_time_max_ns") >= least


def _tells_of_a_request(batch: FlowBatch) -> Mask:
    """Which records say how a connection was set up because a request waited for it: the connection's own say so too."""
    found: Mask = batch.column("reason") == Reason.EXCHANGE
    return found


def min_connect_time(text: str) -> RecordTest:
    """From the first SYN to the end of the handshake it took at least this. Raises ValueError."""
    least = units.nanoseconds(text)

    def accepts(batch: FlowBatch) -> Mask:
        syn, ack = batch.column("syn_unix_ns"), batch.column("handshake_ack_unix_ns")
        slow: Mask = (syn != 0) & (ack >= syn) & (ack - np.minimum(syn, ack) >= least)
        return slow & ~_tells_of_a_request(batch)

    return accepts


def min_retransmits(text: str) -> RecordTest:
    """At least so many segments and SYNs were sent again. Raises ValueError."""
    least = _number(text)
    if least < 0:
        raise ValueError("a number of segments, from 0")

    def accepts(batch: FlowBatch) -> Mask:
        again = sum(batch.column(name).astype(np.uint64) for name in ("tx_retransmits", "rx_retransmits"))
        return np.asarray(again + np.where(_tells_of_a_request(batch), 0, batch.column("syn_repeats")) >= least)

    return accepts


def between(since_unix_ns: int | None, until_unix_ns: int | None) -> Iterator[Condition]:
    """Conditions on the record's last packet: not before `since_unix_ns`, not after `until_unix_ns`."""
    if since_unix_ns is not None:
        yield Condition("since", lambda batch: batch.column("end_unix_ns") >= since_unix_ns)
    if until_unix_ns is not None:
        yield Condition("until", lambda batch: batch.column("end_unix_ns") <= until_unix_ns)


def _number(text: str) -> int:
    """Return a number that is written in digits, -1 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _outcome(wanted: Outcome) -> RecordTest:
    return lambda batch: batch.column("outcome") == wanted


def _over(batch: FlowBatch) -> Mask:
    """Where a record is the last of its flow."""
    return np.isin(batch.column("reason"), (Reason.ACTIVE_TIMEOUT, Reason.EXCHANGE), invert=True)


def _questions_wait(batch: FlowBatch) -> Mask:
    """Where a question of DNS or ICMP has no answer. Of other datagrams nobody knows whether they want one."""
    dns = (batch.column("transport") == _UDP) & ((batch.column("local_port") == _DNS) | (batch.column("remote_port") == _DNS))
    asks = dns | np.isin(batch.column("transport"), _ICMP) | (batch.column("questions") != 0)
    return np.asarray(asks & (batch.column("request_waits") != 0))


def _may_be_farewell(batch: FlowBatch) -> Mask:
    """Where a connection's server has sent something, so that what its client sent last may be no request: TLS says goodbye."""
    of_server = np.where(
        batch.column("role") == Role.SERVER, batch.column("tx_payload_bytes"), batch.column("rx_payload_bytes")
    )
    return np.asarray((batch.column("transport") == _TCP) & ((batch.column("record") != 0) | (of_server != 0)))


def _mapped(parsed: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    return int(parsed) | 0xFFFF << 32 if isinstance(parsed, ipaddress.IPv4Address) else int(parsed)


def _in_namespace(entity: Entity, name: str) -> bool:
    return not name or entity.attributes.get("k8s.namespace.name") == name


def _named(text: str, attributes: Sequence[str]) -> EndTest:
    namespace_name, _, name = text.rpartition("/")
    return _entity(
        lambda entity: _in_namespace(entity, namespace_name) and any(entity.attributes.get(key) == name for key in attributes)
    )


def _entity(accepts: Callable[[Entity], bool]) -> EndTest:
    """The test of an end whose workload or whose Service is accepted."""

    def test(batch: FlowBatch, end: str) -> Mask:
        entities = batch.entities or ()
        accepted = np.array([*map(accepts, entities), False], np.bool_)  # the last one stands for nobody

        def of(index: Array) -> Mask:
            return accepted[np.where(index == NO_INDEX, len(entities), index)]

        return of(batch.column(f"{end}_entity")) | of(batch.column(f"{end}_service"))

    return test
