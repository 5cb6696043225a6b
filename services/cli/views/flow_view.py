"""A flow record as a person thinks of it: who talked to whom, what came of it, how much and how long.

The wire says local and remote, after the socket that saw the packets; people ask for source and destination, after who began.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from proto.columns import CONNECTION_PART, NO_ANSWER
from proto.dns import record_type, response_code
from proto.flow_batch import FlowBatch
from proto.rows import rows
from proto.verdicts.names import MEASURE_ATTRIBUTES, VerdictMeasure
from services.cli.views.printable import printable

WORKLOAD_NAMES: Final = (
    "k8s.deployment.name",
    "k8s.statefulset.name",
    "k8s.daemonset.name",
    "k8s.cronjob.name",
    "k8s.owner.name",
    "k8s.job.name",
    "k8s.replicaset.name",
    "k8s.pod.name",
    "k8s.service.name",
    "k8s.node.name",
    "host.name",
    "service.name",
)
"""Attributes that name a workload, the one people speak of first: the deployment, not one of its pods."""
_LOCAL_NAMES: Final = ("service.name", "host.name", "external.name")
"""Of what runs on a host outside any pod: the unit or the container, not the host that it shares with all others."""
_BOTH_ISNS: Final = 3
"""`isn_seen` of a connection whose handshake was seen."""

_ICMP: Final = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo", 11: "time exceeded"}
_ICMPV6: Final = {
    1: "unreachable",
    2: "too big",
    3: "time exceeded",
    128: "echo",
    129: "echo reply",
    130: "listener query",
    131: "listener report",
    132: "listener done",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbour solicitation",
    136: "neighbour advertisement",
    143: "listener report",
}

_MEASURES: Final = {VerdictMeasure(number).name.lower(): name for number, name in MEASURE_ATTRIBUTES.items()}
FAILURES: Final = frozenset({"refused", "timeout", "unanswered", "unreachable"})
"""Outcomes and verdicts of what never came about."""
_OVER: Final = frozenset({"end_of_flow", "idle_timeout", "shutdown", "table_pressure"})
"""Reasons of a flow's last record."""
_NUMBERED: Final = frozenset({"icmp", "icmpv6"})
"""Transports whose queries have numbers."""
_DNS_PORT: Final = 53


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a flow: the workload's name where it is known, else the address; port 0 where the transport has none."""

    name: str
    is_address: bool
    port: int
    looked_up: bool = False
    """Nobody knows the workload: it is the name that a client looked up, or asked for by TLS."""
    is_host: bool = False
    """No more is known than on which host it is."""

    @property
    def is_known(self) -> bool:
        """Whether it is somebody: not a mere address, nor a whole host."""
        return not self.is_address and not self.is_host

    def __str__(self) -> str:
        if not self.port:
            return self.name
        return f"[{self.name}]:{self.port}" if self.is_address and ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class ExchangeView:
    """What is looked at of one request of an application's trace. Nanoseconds; None where no response came."""

    trace_id: str
    request_ns: int
    wait_ns: int | None
    response_ns: int | None
    end: str
    is_part: bool = False
    """It is no request, but what a connection that several share did while a span of the trace lasted."""


@dataclass(frozen=True, slots=True)
class LookupView:
    """A name that was looked up."""

    name: str
    type: str
    code: str
    """Of its answer, such as `NXDOMAIN`; `no answer` where there was none."""
    failed: bool
    time_ns: int
    """Until its answer; 0 where there was none."""
    repeats: int
    """How often it was sent again."""


@dataclass(frozen=True, slots=True)
class FlowView:
    """What people look at of one record. Times are nanoseconds; None is "not seen". `out` is source to destination."""

    flow: tuple[str, str, int]
    """Identity of the flow: node, epoch, flow id."""
    connection: Hashable
    """Identity of the connection: the same in the records of the sockets at its two ends, once both have seen its handshake."""
    seen_at: tuple[str, int]
    """Address and port of the local end."""
    first: bool
    """This is the flow's first record."""
    end_unix_ns: int
    source: Peer
    destination: Peer
    directed: bool
    """It is known who began; else source is merely the local end."""
    local_is_source: bool
    """The source's end saw this, not the destination's."""
    captured: bool
    """A capture file saw it, which stands at neither end."""
    transport: str
    outcome: str
    verdict: str
    """What was wrong, such as `server slow`, or `ok`; empty where nobody can know."""
    verdict_measure: str
    """The attribute that decided it; empty where nothing was wrong."""
    failed: bool
    """As `failed` of services/cli/tap/filters.py has it."""
    bytes_out: int
    bytes_in: int
    connect_ns: int | None
    """First SYN to the ACK that completes the handshake, SYNs sent again included."""
    syn_repeats: int
    responses: int
    response_sum_ns: int
    response_max_ns: int
    retransmits: int
    """Segments sent again by either end, as far as they came by here."""
    local_retransmits: int
    """Those that the local end sent again, which its socket sees all of."""
    waiting: int
    """Questions that have no answer yet; of a flow that is over, that never had one. Of TCP a request on a connection over
    which the server has never sent anything: what a client sends last on others may be a farewell, as TLS has it."""
    over: bool
    """This is the flow's last record."""

    exchange: ExchangeView | None = None
    """The record tells of one request and not of the flow: bytes and retransmissions are the request's and its response's."""

    lookups: tuple[LookupView, ...] = ()
    """The record's first DNS question, and the slowest where it is another."""

    question: bool = False
    """The record tells of that one question and not of the flow."""

    @property
    def of_flow(self) -> bool:
        """The record tells of the flow."""
        return self.exchange is None and not self.question

    @property
    def local(self) -> Peer:
        """The end that saw this."""
        return self.source if self.local_is_source else self.destination


def flow_views(batch: FlowBatch, *, numeric: bool = False) -> Iterator[FlowView]:
    """Yield a view of every record of a raw or enriched batch; `numeric` ones have addresses where there are names."""
    return (flow_view(row, numeric=numeric) for row in rows(batch))


def flow_view(row: Mapping[str, Any], *, numeric: bool = False) -> FlowView:
    """Return the view of one row of `proto.rows`."""
    source, destination = ("remote", "local") if row["role"] == "server" else ("local", "remote")
    bytes_out, bytes_in = ("rx_bytes", "tx_bytes") if source == "remote" else ("tx_bytes", "rx_bytes")
    exchange = _exchange(row)
    outcome, verdict = _outcome(row), _verdict(row)
    if exchange is not None:
        bytes_out, bytes_in, outcome = "request_bytes", "response_bytes", "exchange"
    question = exchange is None and row["reason"] == "exchange"
    lookups = tuple(_lookups(row, alone=question))
    return FlowView(
        flow=(row["node"], row["epoch"], row["flow_id"]),
        connection=_connection(row),
        seen_at=(row["local_address"], row["local_port"]),
        first=row["record"] == 0,
        end_unix_ns=row["end_unix_ns"],
        source=_peer(row, source, numeric=numeric),
        destination=_peer(row, destination, numeric=numeric),
        directed=row["role"] != "unknown",
        local_is_source=source == "local",
        captured=row["observer"] == "capture",
        transport=_transport(row),
        outcome="question" if question else outcome,
        verdict=verdict,
        verdict_measure=_MEASURES.get(row.get("verdict_measure", ""), ""),
        failed=_failed(row, {outcome, verdict}) or (question and lookups[0].failed),
        bytes_out=row[bytes_out],
        bytes_in=row[bytes_in],
        connect_ns=_connect_ns(row),
        syn_repeats=row["syn_repeats"],
        responses=row["responses"],
        response_sum_ns=row["response_time_sum_ns"],
        response_max_ns=row["response_time_max_ns"],
        retransmits=_retransmits(row, exchange),
        local_retransmits=row["tx_retransmits"],
        waiting=row["request_waits"] if _asks(row) or _never_answered(row, source) else 0,
        over=row["reason"] in _OVER,
        exchange=exchange,
        lookups=lookups,
        question=question,
    )


def _failed(row: Mapping[str, Any], said: AbstractSet[str]) -> bool:
    return bool(row["cut_short"]) or not FAILURES.isdisjoint({row["outcome"], *said})


def _lookups(row: Mapping[str, Any], *, alone: bool) -> Iterator[LookupView]:
    """What a record says of the questions of its flow, or of the one that it is about `alone`."""
    if not alone and not any(row.get("dns_codes", ())):
        return
    told = ("name", "type", "code", "time_ns", "repeats")
    questions = [tuple(row.get(f"dns_{which}_{what}") for what in told) for which in ("first", "slowest")[: 2 - alone]]
    for name, kind, code, time_ns, repeats in dict.fromkeys(questions):
        answered = code != NO_ANSWER
        text = response_code(code or 0) if answered else "no answer"
        failed = text in {"no answer", "SERVFAIL"}
        yield LookupView(printable(name or "?"), record_type(kind or 0), text, failed, time_ns or 0, repeats or 0)


def _exchange(row: Mapping[str, Any]) -> ExchangeView | None:
    if row["reason"] != "exchange" or not row.get("trace_id", "").strip("0"):
        return None
    times = ("request_first", "request_last", "response_first", "response_last")
    first, asked, begun, done = (row[f"{name}_unix_ns"] for name in times)
    return ExchangeView(
        trace_id=row["trace_id"],
        request_ns=max(asked - first, 0),
        wait_ns=max(begun - asked, 0) if begun else None,
        response_ns=max(done - begun, 0) if begun else None,
        end=str(row["exchange_end"]).replace("_", " "),
        is_part=row.get("exchange_shared") == CONNECTION_PART,
    )


def _outcome(row: Mapping[str, Any]) -> str:
    """What became of the connection, or of the questions of DNS and ICMP, which have none."""
    if row["request_waits"] and _asks(row):
        return "unanswered" if row["reason"] in _OVER else "waiting"
    return "" if row["outcome"] == "unknown" else str(row["outcome"]).replace("_", " ")


def _verdict(row: Mapping[str, Any]) -> str:
    verdict = str(row.get("verdict", "unknown"))
    return "" if verdict == "unknown" else verdict.replace("_", " ")


def _asks(row: Mapping[str, Any]) -> bool:
    """Whether the flow's datagrams are questions. Of others nobody knows whether they want an answer."""
    if row["questions"] or row["transport"] in _NUMBERED:
        return True
    return row["transport"] == "udp" and _DNS_PORT in (row["local_port"], row["remote_port"])


def _never_answered(row: Mapping[str, Any], source: str) -> bool:
    """Whether the server of a connection that has this one record has sent nothing over it."""
    of_server = row["rx_payload_bytes"] if source == "local" else row["tx_payload_bytes"]
    return bool(row["transport"] == "tcp" and row["record"] == 0 and of_server == 0)


def _retransmits(row: Mapping[str, Any], exchange: ExchangeView | None) -> int:
    first, second = (
        ("tx_retransmits", "rx_retransmits") if exchange is None else ("request_retransmits", "response_retransmits")
    )
    retransmits: int = row[first] + row[second]
    return retransmits


def _connection(row: Mapping[str, Any]) -> Hashable:
    """What the records of both ends have in common: the initial sequence numbers, which no translation of addresses changes,
    else addresses and ports. A capture file tells of each connection once.
    """
    if row["observer"] != "socket":
        return row["node"], row["epoch"], row["flow_id"]
    if row["isn_seen"] == _BOTH_ISNS:
        return row["transport"], frozenset((row["local_isn"], row["remote_isn"]))
    return row["transport"], frozenset((row[f"{end}_address"], row[f"{end}_port"]) for end in ("local", "remote"))


def _peer(row: Mapping[str, Any], end: str, *, numeric: bool) -> Peer:
    port = 0 if row["transport"] in {"icmp", "icmpv6"} else row[f"{end}_port"]
    entity = row.get(f"{end}_entity")
    name = "" if numeric else _workload(entity) or _workload(row.get(f"{end}_service"))
    if not name and not numeric:
        asked_for = row.get("tls_server_name") if end == ("local" if row["role"] == "server" else "remote") else None
        looked_up = row.get("remote_name") if end == "remote" else None
        # A client may ask for whatever it likes: by a slash its name would be that of a namespace's workload.
        name = printable(asked_for or looked_up or "").replace("/", "\\x2f")
        if name:
            return Peer(name, is_address=False, port=port, looked_up=True)
    if not name:
        return Peer(row[f"{end}_address"], is_address=True, port=port)
    return Peer(name, is_address=False, port=port, is_host=_is_mere_host(entity))


def _workload(entity: Mapping[str, Any] | None) -> str:
    """`namespace/name` of an entity, or its bare name; empty where it has none."""
    if entity is None:
        return ""
    names = WORKLOAD_NAMES if _is_of_cluster(entity) else _LOCAL_NAMES
    name = next((entity[key] for key in names if entity.get(key)), "")
    namespace = entity.get("k8s.namespace.name", "")
    return printable(f"{namespace}/{name}" if namespace and name else str(name))


def _is_mere_host(entity: Mapping[str, Any] | None) -> bool:
    return entity is not None and entity["type"] == "host" and not entity.get("service.name")


def _is_of_cluster(entity: Mapping[str, Any]) -> bool:
    """Whether Kubernetes names it: not what runs on a node, or on any other host, as a unit or container of its own."""
    if entity["type"] == "k8s.node":
        return not (entity.get("systemd.unit") or entity.get("container.id"))
    return str(entity["type"]).startswith("k8s.")


def _transport(row: Mapping[str, Any]) -> str:
    transport = row["transport"]
    if transport in {"icmp", "icmpv6"}:
        kind = (_ICMP if transport == "icmp" else _ICMPV6).get(row["icmp_type"], f"type {row['icmp_type']}")
        return f"{transport} {kind}"
    return transport if isinstance(transport, str) else f"protocol {transport}"


def _connect_ns(row: Mapping[str, Any]) -> int | None:
    """How long connecting took: told by the connection's records, and not again by the exchange that waited for it."""
    if row["reason"] == "exchange":
        return None
    syn, ack = row["syn_unix_ns"], row["handshake_ack_unix_ns"]
    return ack - syn if syn and ack >= syn else None
