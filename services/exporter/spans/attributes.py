"""Every attribute that a flow span and its resource carry: the one table.

The encoder writes what is here, docs/attributes.md is made from it (`make docs`), and `profiles.py` says which profile carries
what. A new attribute needs a row here, and the reference in the tests (tests/support/pipeline/reference_spans.py) needs it too.

Three sorts of span attribute, by how their values come about:

- `INTEGERS`: blocks of int attributes that are present together, each computed as a column for all rows at once.
- `WORDS`: computed once per distinct combination of a record's small facts (`Facts`), of which a batch holds few.
- `END` and `PEER`: what is known of the ends, computed once per distinct address and entity (`pieces`, `entities`). An entity's
  own attributes, whatever they are, come with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from proto.columns import OTHER_CODE, RESPONSE_TIME_BUCKETS, UNANSWERED
from proto.dns import RESPONSE_CODES
from proto.flow_batch import Array, AttributeValue
from proto.verdicts.names import Verdict
from services.exporter.spans.facts import ICMP, PORTS, TCP, Facts
from services.exporter.spans.identity import Mask
from services.exporter.spans.records import Records

Values: TypeAlias = Callable[[Records], Array]
"""A column of unsigned integers: (rows,), or (rows, n) for an array of n."""

STABLE: Final = "OpenTelemetry, stable"
DEVELOPMENT: Final = "OpenTelemetry, development"
DEPRECATED: Final = "OpenTelemetry, deprecated"
MERMIN: Final = "Mermin"
ECS: Final = "Elastic Common Schema"
OURS: Final = "Wirespan"


@dataclass(frozen=True, slots=True)
class Attribute:
    """A row of the table."""

    name: str
    convention: str
    meaning: str
    presence: str = "always"
    type: str = "string"
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Word(Attribute):
    """A span attribute computed from a record's small facts; absent where that gives None."""

    value: Callable[[Facts], AttributeValue | None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True)
class Integer:
    """A span attribute computed as a column; the block that holds it says when it is present."""

    name: str
    convention: str
    meaning: str
    unit: str
    values: Values


@dataclass(frozen=True, slots=True)
class Integers:
    """Int attributes that a span carries all of or none of."""

    presence: str
    present: Callable[[Records], Mask] | None
    """None: always."""
    attributes: tuple[Integer, ...]


_ICMP_ONLY: Final = "ICMP, ICMPv6"
_FLAGS_SEEN: Final = "TCP, where any was seen"
_TAGS: Final = "their names, from bit 0: `fin`, `syn`, `rst`, `psh`, `ack`, `urg`, `ece`, `cwr`"

_TUNNELLED: Final = "a capture file, in a tunnel"
_TRANSLATED: Final = "live capture, a client whose own node translates what it sends, or whose server the enricher has seen"

WORDS: Final = (
    Word("network.transport", STABLE, "`tcp`, `udp`, `icmp`, `icmpv6`, `sctp` ...; `ip_protocol_<n>` for what has no name here",
         value=lambda facts: facts.transport_name),
    Word("network.type", STABLE, "`ipv4` or `ipv6`", value=lambda facts: "ipv4" if facts.ipv4 else "ipv6"),
    Word("tunnel.type", MERMIN, "the innermost tunnel that the flow's packets travel in: `vxlan`, `geneve`, `gre`, `ipip` "
         "(IPv4 or IPv6 in either), `gtpu`", _TUNNELLED, value=lambda facts: facts.tunnel_type),
    Word("tunnel.network.type", MERMIN, "`ipv4` or `ipv6`: what the tunnel's own packets are", _TUNNELLED,
         value=lambda facts: facts.tunnel_network_type),
    Word("tunnel.network.transport", MERMIN, "`udp` or `gre`: what carries them", f"{_TUNNELLED}, but ipip",
         value=lambda facts: facts.tunnel_transport),
    Word("flow.direction", MERMIN, "whether the resource is the source (`forward`) or the destination (`reverse`); `unknown` "
         "where nobody saw which end began, and the local end stands as the source", value=lambda facts: facts.direction),
    Word("flow.direction_source", OURS, "how that is known of a TCP connection: `handshake`; where it is older than the "
         "capture, `listener` (somebody listens on the port), `content` (one end was heard to ask or to answer) or `ports` "
         "(a guess: one is a service's, the other ephemeral)", "TCP, where known", value=lambda facts: facts.direction_source),
    Word("flow.observer", OURS, "whose socket saw the packets: `client`, `server`, `unknown`; `capture` for a capture file, "
         "which stands at neither end", value=lambda facts: facts.observer),
    Word("flow.unseen", OURS, "`source` or `destination`: of whom no packet was seen, though the other end's show that there "
         "were some; what this end sent, and all times that need it, are missing, not none", "TCP, where a SYN was answered or "
         "a SYN-ACK acknowledged that was not seen", value=lambda facts: facts.unseen),
    Word("flow.end_reason", MERMIN, "why the record was made: `end_of_flow`, `idle_timeout`, `active_timeout`, `shutdown`, "
         "`table_pressure`", "where known", value=lambda facts: facts.end_reason),
    Word("flow.connection.state", MERMIN, "TCP state at the record's end: `syn_sent`, `syn_received`, `established`, `closed`",
         "where known", value=lambda facts: facts.connection_state),
    Word("flow.connection.outcome", OURS, "what became of the connection so far: `half_open`, `established`, `refused` (a SYN "
         "answered by RST), `timeout` (a SYN never answered), `reset` (a RST ended it), `closed`", "where known",
         value=lambda facts: facts.connection_outcome),
    Word("error.type", STABLE, "`connection_refused`, `timeout`, or `connection_reset`: a RST came while a request had no "
         "response or what was sent no acknowledgment, or from a server to a client that had not closed; the span's status is "
         "then ERROR",
         "the connection failed", value=lambda facts: facts.error[0] if facts.error else None),
    Word("flow.tcp.closed_by", OURS, "which end sent the first FIN or the RST: `source` or `destination`", "once one was seen",
         value=lambda facts: facts.closed_by),
    Word("flow.tcp.flags.bits", MERMIN, "TCP flags from source to destination over the flow's life; bit 0 is FIN", _FLAGS_SEEN,
         "int", "bits", value=lambda facts: facts.flags(facts.forward)),
    Word("flow.tcp.flags.tags", MERMIN, _TAGS, _FLAGS_SEEN, "string[]", value=lambda facts: facts.tags(facts.forward)),
    Word("flow.reverse.tcp.flags.bits", MERMIN, "as flow.tcp.flags.bits, from destination to source", _FLAGS_SEEN,
         "int", "bits", value=lambda facts: facts.flags(facts.reverse)),
    Word("flow.reverse.tcp.flags.tags", MERMIN, _TAGS, _FLAGS_SEEN, "string[]", value=lambda facts: facts.tags(facts.reverse)),
    Word("flow.icmp.type.id", MERMIN, "type of the first message", _ICMP_ONLY, "int",
         value=lambda facts: facts.icmp(facts.forward)),
    Word("flow.icmp.type.name", MERMIN, "its name, such as `echo_request`", f"{_ICMP_ONLY}: the common types",
         value=lambda facts: facts.icmp_type_name),
    Word("flow.icmp.code.id", MERMIN, "code of the first message", _ICMP_ONLY, "int",
         value=lambda facts: facts.icmp(facts.reverse)),
)  # fmt: skip


def _column(name: str) -> Values:
    return lambda records: records.column(name)


def _forward(name: str) -> Values:
    return lambda records: records.forward(name)


def _reverse(name: str) -> Values:
    return lambda records: records.reverse(name)


def _both(name: str) -> Callable[[Records], Mask]:
    return lambda records: records.either(name)


def _pair(name: str, column: str, meaning: str, unit: str = "packets", convention: str = OURS) -> Integers:
    """A count of each direction, present where either is not 0."""
    return Integers("where either is not 0", _both(column), (
        Integer(f"flow.{name}", convention, meaning, unit, _forward(column)),
        Integer(f"flow.reverse.{name}", convention, "the same from destination to source", unit, _reverse(column)),
    ))  # fmt: skip


def _some(values: Values, name: str) -> Callable[[Records], Mask]:
    """Where values made of a column, or of that of either direction, are not 0."""
    names = (name, f"tx_{name}", f"rx_{name}")
    return lambda records: values(records) != 0 if records.has(*names) else records.nobody


def _round_trips(prefix: str, way: Callable[[str], Values], of: str) -> Integers:
    """Round trips of one direction's data."""
    return Integers(f"a capture file, a round trip from {of}'s data was measured", _some(way("rtt_samples"), "rtt_samples"), (
        Integer(f"{prefix}.tcp.rtt.count", OURS, f"round trips from the {of}'s data to its acknowledgment, in this record", "",
                way("rtt_samples")),
        Integer(f"{prefix}.tcp.rtt.mean", OURS, "their mean", "ns",
                lambda records: way("rtt_sum_ns")(records) // np.maximum(way("rtt_samples")(records), 1)),
        Integer(f"{prefix}.tcp.rtt.min", OURS, "the shortest since the flow began", "ns", way("rtt_min_ns")),
        Integer(f"{prefix}.tcp.rtt.max", OURS, "the longest since the flow began", "ns", way("rtt_max_ns")),
    ))  # fmt: skip


def _dscp(way: Callable[[str], Values]) -> Values:
    return lambda records: way("traffic_class")(records) >> np.uint8(2)


def _ecn(way: Callable[[str], Values]) -> Values:
    return lambda records: way("traffic_class")(records) & np.uint8(3)


def _elapsed(since: str, until: str) -> Values:
    return lambda records: records.elapsed(since, until)


def _lookups(code: int, what: str, name: str) -> Integers:
    """DNS questions of one response code."""

    def values(records: Records) -> Array:
        counted: Array = records.column("dns_codes")[:, code]
        return counted

    def present(records: Records) -> Mask:
        some: Mask = values(records) != 0 if records.has("dns_codes") else records.nobody
        return some

    return Integers("where not 0", present, (Integer(name, OURS, f"DNS questions of this record that {what}", "", values),))


def _answered(records: Records, told_by_source: Mask) -> Mask:
    if not records.has("responses"):
        return records.nobody
    tcp: Mask = records.column("transport") == TCP
    return tcp & records.nonzero("responses") & records.has_initiator() & told_by_source


INTEGERS: Final = (
    Integers("a summary of several flows", lambda records: records.nonzero("summary_records"), (
        Integer("flow.summary.records", OURS, "records that the span stands for: of the same two workloads, port of the "
                "responder and minute", "", _column("summary_records")),
        Integer("flow.summary.flows", OURS, "of these, how many are the first of their flow", "", _column("summary_flows")),
    )),
    Integers("always", None, (
        Integer("flow.bytes.delta", MERMIN, "IP bytes from source to destination in this record", "bytes", _forward("bytes")),
        Integer("flow.bytes.total", MERMIN, "the same since the flow began", "bytes", _forward("bytes_total")),
        Integer("flow.packets.delta", MERMIN, "packets from source to destination in this record", "packets",
                _forward("packets")),
        Integer("flow.packets.total", MERMIN, "the same since the flow began", "packets", _forward("packets_total")),
        Integer("flow.reverse.bytes.delta", MERMIN, "IP bytes from destination to source in this record", "bytes",
                _reverse("bytes")),
        Integer("flow.reverse.bytes.total", MERMIN, "the same since the flow began", "bytes", _reverse("bytes_total")),
        Integer("flow.reverse.packets.delta", MERMIN, "packets from destination to source in this record", "packets",
                _reverse("packets")),
        Integer("flow.reverse.packets.total", MERMIN, "the same since the flow began", "packets", _reverse("packets_total")),
        Integer("flow.payload.bytes.delta", OURS, "bytes after the transport's header, from source to destination, in this "
                "record", "bytes", _forward("payload_bytes")),
        Integer("flow.reverse.payload.bytes.delta", OURS, "the same from destination to source", "bytes",
                _reverse("payload_bytes")),
        Integer("flow.record", OURS, "number of this record within its flow, from 0", "", _column("record")),
    )),
    Integers("TCP, UDP, SCTP, DCCP, UDP-Lite", lambda records: records.transport_in(PORTS), (
        Integer("source.port", DEVELOPMENT, "port of the source", "", lambda records: records.source("port")),
        Integer("destination.port", DEVELOPMENT, "port of the destination", "", lambda records: records.destination("port")),
        Integer("network.local.port", STABLE, "port of the resource's end", "", lambda records: records.told("port")),
        Integer("network.peer.port", STABLE, "port of the other end", "", lambda records: records.peer("port")),
    )),
    Integers("TCP, UDP, SCTP, DCCP, UDP-Lite, where it is known which end began",
             lambda records: records.transport_in(PORTS) & records.has_initiator(), (
        Integer("client.port", STABLE, "source.port, by the name that conventions have for it where roles are known", "",
                lambda records: records.source("port")),
        Integer("server.port", STABLE, "destination.port, likewise", "", lambda records: records.destination("port")),
    )),
    Integers("an ICMP or ICMPv6 echo", lambda records: records.transport_in(ICMP) & records.nonzero("local_port"), (
        Integer("flow.icmp.echo.id", OURS, "the echo's identifier", "", _column("local_port")),
    )),
    Integers("records after a flow's first", lambda records: records.nonzero("record"), (
        Integer("flow.start", OURS, "the flow's first packet, Unix time; a first record's span begins there", "ns",
                _column("flow_start_unix_ns")),
    )),
    Integers("the record that holds the SYN-ACK, the SYN seen",
             lambda records: records.nonzero("syn_unix_ns") & records.happened_here("syn_ack_unix_ns"), (
        Integer("flow.tcp.handshake.latency", MERMIN, "first SYN to first SYN-ACK: the network's round trip at the client, the "
                "host's own delay at the server", "ns", _elapsed("syn_unix_ns", "syn_ack_unix_ns")),
    )),
    Integers("the record that holds the handshake's ACK, the SYN seen",
             lambda records: records.nonzero("syn_unix_ns") & records.happened_here("handshake_ack_unix_ns"), (
        Integer("flow.tcp.connect.time", OURS, "first SYN to the ACK that completes the handshake, lost SYNs and their waits "
                "included", "ns", _elapsed("syn_unix_ns", "handshake_ack_unix_ns")),
    )),
    Integers("the record that holds the handshake's ACK, the SYN-ACK seen",
             lambda records: records.nonzero("syn_ack_unix_ns") & records.happened_here("handshake_ack_unix_ns"), (
        Integer("flow.tcp.handshake.ack_latency", OURS, "first SYN-ACK to the ACK that completes the handshake: the network's "
                "round trip at the server", "ns", _elapsed("syn_ack_unix_ns", "handshake_ack_unix_ns")),
    )),
    Integers("the server's record that holds the handshake's ACK, the SYN-ACK not seen",
             lambda records: records.happened_here("handshake_ack_unix_ns") & ~records.nonzero("syn_ack_unix_ns"), (
        Integer("flow.tcp.syn_ack_unseen", OURS, "SYN-ACKs that were sent, since they were acknowledged, and that the kernel "
                "showed no program: they and their bytes are missing from the flow's counters", "packets",
                lambda records: np.ones(records.count, np.uint64)),
    )),
    Integers("where either is not 0", lambda records: records.nonzero("syn_repeats", "syn_ack_repeats"), (
        Integer("flow.tcp.syn_repeats", OURS, "SYNs after the first, since the flow began", "packets", _column("syn_repeats")),
        Integer("flow.tcp.syn_ack_repeats", OURS, "SYN-ACKs after the first, since the flow began", "packets",
                _column("syn_ack_repeats")),
    )),
    Integers("where either is not 0", lambda records: records.nonzero("tx_retransmits", "rx_retransmits"), (
        Integer("flow.tcp.retransmits", OURS, "segments from source to destination in this record whose payload had been seen "
                "before", "packets", _forward("retransmits")),
        Integer("flow.reverse.tcp.retransmits", OURS, "the same from destination to source", "packets",
                _reverse("retransmits")),
    )),
    _pair("tcp.retransmit_bytes", "retransmit_bytes", "payload from source to destination in this record that had been "
          "seen before", "bytes"),
    _pair("tcp.spurious_retransmits", "spurious_retransmits", "of flow.tcp.retransmits, segments that the other end had"),
    _pair("tcp.out_of_order", "out_of_order", "segments from source to destination in this record that were overtaken"),
    _pair("tcp.duplicate_acks", "duplicate_acks", "duplicate ACKs from source to destination in this record"),
    _pair("tcp.zero_window", "zero_windows", "segments from source to destination in this record that close the "
          "source's window"),
    _pair("tcp.window_full", "window_full", "segments from source to destination in this record that fill the destination's "
          "window; capture files only"),
    _pair("tcp.keep_alives", "keep_alives", "keep-alives from source to destination in this record"),
    _pair("tcp.zero_window_probes", "zero_window_probes", "segments from source to destination since the flow began that ask "
          "the destination's closed window for room"),
    _pair("tcp.fins", "fins", "FINs from source to destination since the flow began"),
    _pair("tcp.resets", "resets", "RSTs from source to destination since the flow began"),
    _round_trips("flow", _forward, "source"),
    _round_trips("flow.reverse", _reverse, "destination"),
    Integers("live, TCP, once the kernel has measured", _some(_column("smoothed_rtt_ns"), "smoothed_rtt_ns"), (
        Integer("flow.tcp.socket.rtt.smoothed", OURS, "the kernel's smoothed round-trip time at the socket that saw the record "
                "(`srtt`)", "ns", _column("smoothed_rtt_ns")),
        Integer("flow.tcp.socket.rtt.min", OURS, "the least that the kernel remembers there", "ns", _column("min_rtt_ns")),
        Integer("flow.tcp.socket.retransmits", OURS, "segments it has sent again since it was opened (`total_retrans`)",
                "packets", _column("socket_retransmits")),
        Integer("flow.tcp.socket.lost", OURS, "segments in flight that it holds for lost", "packets", _column("lost_segments")),
        Integer("flow.tcp.socket.congestion_window", OURS, "segments that it may have in flight", "packets",
                _column("congestion_window")),
    )),
    Integers("where not 0", _some(_dscp(_forward), "traffic_class"), (
        Integer("flow.ip.dscp.id", MERMIN, "DSCP of the first packet from source to destination", "", _dscp(_forward)),
    )),
    Integers("where not 0", _some(_dscp(_reverse), "traffic_class"), (
        Integer("flow.reverse.ip.dscp.id", MERMIN, "the same from destination to source", "", _dscp(_reverse)),
    )),
    Integers("where not 0", _some(_ecn(_forward), "traffic_class"), (
        Integer("flow.ip.ecn.id", MERMIN, "ECN of the first packet from source to destination", "", _ecn(_forward)),
    )),
    Integers("where not 0", _some(_ecn(_reverse), "traffic_class"), (
        Integer("flow.reverse.ip.ecn.id", MERMIN, "the same from destination to source", "", _ecn(_reverse)),
    )),
    Integers("where not 0", _some(_forward("hop_limit"), "hop_limit"), (
        Integer("flow.ip.ttl", MERMIN, "TTL or hop limit of the first packet from source to destination", "",
                _forward("hop_limit")),
    )),
    Integers("where not 0", _some(_reverse("hop_limit"), "hop_limit"), (
        Integer("flow.reverse.ip.ttl", MERMIN, "the same from destination to source", "", _reverse("hop_limit")),
    )),
    _pair("ip.ecn.ce", "ecn_ce", "packets from source to destination in this record that arrived marked "
          "Congestion Experienced"),
    Integers(_TUNNELLED, lambda records: records.nonzero("tunnel"), (
        Integer("tunnel.bytes.total", MERMIN, "IP bytes of the outermost packets from source to destination since the flow "
                "began; less flow.bytes.total, it is what the tunnels add", "bytes", _forward("tunnel_bytes_total")),
        Integer("tunnel.reverse.bytes.total", MERMIN, "the same from destination to source", "bytes",
                _reverse("tunnel_bytes_total")),
        Integer("tunnel.depth", OURS, "tunnels around the flow, one in the other", "", _column("tunnel_depth")),
    )),
    Integers(_TRANSLATED, lambda records: records.has_backend, (
        Integer("destination.nat.port", ECS, "port of destination.nat.ip", "", _column("remote_nat_port")),
    )),
    Integers("where either is not 0", _both("tunnel_id"), (
        Integer("tunnel.id", MERMIN, "VNI, GRE key or TEID of the packets from source to destination", "",
                _forward("tunnel_id")),
        Integer("tunnel.reverse.id", OURS, "the same from destination to source", "", _reverse("tunnel_id")),
    )),
    _pair("ip.fragments.count", "fragments", "fragments from source to destination since the flow began; capture files only"),
    _pair("ip.fragments.overlapping", "overlapping_fragments", "of them, those that hold what another one held before"),
    _pair("copies.count", "copies", "packets from source to destination that the file has again, from another point of their "
          "way, since the flow began; in no other count"),
    Integers("a capture file, an older flow of it is the same connection", lambda records: records.nonzero("translated"), (
        Integer("flow.translated", OURS, "1: that flow, in the same trace, has the addresses before or behind an address "
                "translation; who adds up bytes leaves this one out", "", _column("translated")),
    )),
    _pair("ip.datagrams.incomplete", "incomplete_datagrams", "datagrams from source to destination whose fragments are not all "
          "there", "datagrams"),
    Integers("a capture file, an ICMP error quotes the flow", lambda records: records.nonzero("icmp_errors"), (
        Integer("flow.icmp.errors", OURS, "ICMP errors in this record that quote a packet of the flow", "packets",
                _column("icmp_errors")),
        Integer("flow.icmp.error.type.id", OURS, "type of the last of them", "", _column("icmp_error_type")),
        Integer("flow.icmp.error.code.id", OURS, "code of the last of them", "", _column("icmp_error_code")),
    )),
    Integers("a request has no response yet", lambda records: records.nonzero("request_waits"), (
        Integer("flow.request.unanswered", OURS, "requests that have no response yet; in a flow's last record, that never had "
                "one; 255 stands for more", "", _column("request_waits")),
    )),
    Integers("requests have numbers: DNS over UDP, ICMP queries", lambda records: records.nonzero("questions"), (
        Integer("flow.question.count", OURS, "questions asked in this record, each once however often it was sent", "",
                _column("questions")),
        Integer("flow.question.repeats", OURS, "how often one was sent again before it was answered", "",
                _column("question_repeats")),
    )),
    Integers("DNS, the first question was answered", lambda records: records.nonzero("dns_first_time_ns"), (
        Integer("flow.dns.time", OURS, "how long the answer to dns.question.name took since it was first asked", "ns",
                _column("dns_first_time_ns")),
    )),
    Integers("DNS, the first question was sent again", lambda records: records.nonzero("dns_first_repeats"), (
        Integer("flow.dns.repeats", OURS, "how often dns.question.name was sent again before it was answered", "",
                _column("dns_first_repeats")),
    )),
    Integers("DNS, the slowest question was sent again and is another than the first",
             lambda records: records.nonzero("dns_slowest_repeats") & records.has_slowest, (
        Integer("flow.dns.slowest.repeats", OURS, "the same of flow.dns.slowest.name", "", _column("dns_slowest_repeats")),
    )),
    Integers("DNS, the slowest question was answered and is another than the first",
             lambda records: records.nonzero("dns_slowest_time_ns") & records.has_slowest, (
        Integer("flow.dns.slowest.time", OURS, "the same of flow.dns.slowest.name", "ns", _column("dns_slowest_time_ns")),
    )),
    *(_lookups(code, f"were answered by {RESPONSE_CODES[code]}", f"flow.dns.responses.{RESPONSE_CODES[code].lower()}")
      for code in range(OTHER_CODE)),
    _lookups(OTHER_CODE, "were answered by another code", "flow.dns.responses.other"),
    _lookups(UNANSWERED, "were never answered", "flow.dns.unanswered"),
    Integers("TLS, the record that holds it", lambda records: records.nonzero("tls_handshake_time_ns"), (
        Integer("flow.tls.handshake.time", OURS, "from the ClientHello's first byte to the client's first record of "
                "application data: in TLS 1.3 what ends its handshake, in TLS 1.2 what it says first, however long it waits "
                "with that", "ns", _column("tls_handshake_time_ns")),
    )),
    Integers("a capture file, where either is not 0",
             lambda records: records.nonzero("request_transfer_sum_ns", "response_transfer_sum_ns"), (
        Integer("flow.request.transfer_time", OURS, "sum over this record's requests of first byte to last", "ns",
                _column("request_transfer_sum_ns")),
        Integer("flow.request.transfer_time_max", OURS, "the longest since the flow began", "ns",
                _column("request_transfer_max_ns")),
        Integer("flow.response.transfer_time", OURS, "sum over this record's responses of first byte to last", "ns",
                _column("response_transfer_sum_ns")),
        Integer("flow.response.transfer_time_max", OURS, "the longest since the flow began", "ns",
                _column("response_transfer_max_ns")),
    )),
    Integers("a request was answered", lambda records: records.nonzero("responses"), (
        Integer("flow.response.count", OURS, "requests answered in this record", "", _column("responses")),
        Integer("flow.response.time", OURS, "mean response time: from a request's last byte to its response's first", "ns",
                Records.mean_response_time),
        Integer("flow.response.time_max", OURS, "longest response time", "ns", _column("response_time_max_ns")),
        Integer("flow.response.time_sum", OURS, "sum of the response times", "ns", _column("response_time_sum_ns")),
        Integer("flow.response.time_histogram", OURS, f"{RESPONSE_TIME_BUCKETS} counts: element i counts response times in "
                "[16 us * 2**i, 16 us * 2**(i+1)), the first also what is shorter, the last what is longer", "",
                _column("response_time_histogram")),
    )),
    Integers("TCP, a request was answered, told by the client's end",
             lambda records: _answered(records, records.told_by_source()), (
        Integer("flow.tcp.rndtrip.latency", MERMIN, "flow.response.time", "ns", Records.mean_response_time),
    )),
    Integers("TCP, a request was answered, told by the server's end",
             lambda records: _answered(records, ~records.told_by_source()), (
        Integer("flow.tcp.svc.latency", MERMIN, "flow.response.time", "ns", Records.mean_response_time),
    )),
)  # fmt: skip

_KNOWN: Final = "the index knows the end"
_NAMED: Final = "kind CLIENT, where there is a name"

END: Final = (
    Attribute("{end}.address", DEVELOPMENT, "IP address; IPv6 as RFC 5952 writes it"),
    Attribute("flow.{end}.resolution", OURS, "`external`: outside the cluster; `unknown`: nobody that the index knows had that "
              "address then, and it need not be outside (private, link-local, in a network of the cluster); `unresolved`: the "
              "index could not answer in time", "the index knows nobody there"),
    Attribute("{end}.service.name", OURS, "`service.name` of the workload, as its own SDK would have it", _KNOWN),
    Attribute("{end}.service.namespace", OURS, "its `service.namespace`", _KNOWN),
    Attribute("{end}.k8s.namespace.name", MERMIN, "its namespace", _KNOWN),
    Attribute("{end}.k8s.pod.name, .uid", MERMIN, "the pod", "the end is a pod"),
    Attribute("{end}.k8s.container.name", OURS, "the pod's container: of the socket's control group, or the pod's only one, or "
              "the one that says it listens on that port", "the end is a pod, and its container is known"),
    Attribute("{end}.container.image.name", OURS, "the container's image, without tag and digest", "the container is known"),
    Attribute("{end}.container.image.tags", OURS, "the tag that it was started by", "one was named", "string[]"),
    Attribute("{end}.k8s.<kind>.name, .uid", MERMIN, "what owns the pod: `deployment`, `statefulset`, `daemonset`, `job` ...",
              "the pod is owned"),
    Attribute("{end}.k8s.node.name, .uid", MERMIN, "the node that the end is or runs on", "the end is a pod or a node"),
    Attribute("{end}.k8s.node.source_nat", OURS, "the client is this node, or somebody outside whose connection it handed on "
              "under its own address: no parent is assumed", "the Service that answers takes connections from outside", "bool"),
    Attribute("{end}.cloud.availability_zone", OURS, "the zone of the node that the end is or runs on, as its labels have it",
              "the node has one"),
    Attribute("{end}.k8s.service.name, .uid", MERMIN, "the Service that the end serves on that port", "there is one"),
    Attribute("{end}.external.name", OURS, "the name that users gave to the network that the address lies in",
              "the address is outside and in such a network"),
    Attribute("{end}.network.policy.ingress, .egress", MERMIN, "names of the NetworkPolicies that select the pod",
              "asked for, and there are some", "string[]"),
    Attribute("{end}.*", MERMIN, "every other attribute of the entity, under the end's name", _KNOWN, "any"),
)  # fmt: skip
"""Attributes of each end; `{end}` is `source` (the initiator) or `destination` (the responder)."""

TUNNEL: Final = (
    Attribute("tunnel.source.address", MERMIN, "the tunnel's end on the source's side", _TUNNELLED),
    Attribute("tunnel.destination.address", MERMIN, "the tunnel's end on the destination's side", _TUNNELLED),
)

FILE: Final = (
    Attribute("flow.capture.file", OURS, "name of the capture file that the record's first packet is in", "a capture file"),
)

NAT: Final = (
    Attribute("destination.nat.ip", ECS, "where the packets went, as NAT translated their destination: the backend that was "
              "chosen for the Service at destination.address; what is known of the destination is the backend's", _TRANSLATED),
)  # fmt: skip

VERDICT: Final = (
    Attribute("flow.verdict", OURS, "what was wrong, as far as this end can tell: "
              + ", ".join(f"`{verdict.name.lower()}`" for verdict in Verdict if verdict != Verdict.UNKNOWN)
              + " ([diagnosis.md](diagnosis.md#verdicts))", "one end can know"),
    Attribute("flow.verdict.measure", OURS, "the attribute whose value decided it, of this span or, where both ends were on "
              "one node, of the other's, such as `flow.response.time_max`; not every profile carries each",
              "the verdict is not `ok`"),
)  # fmt: skip
"""On flows and exchanges; summaries have none."""

_LOOKED_UP: Final = "a question was answered or given up in this record"
_SLOWEST: Final = "another question than the first took longest, or was never answered"

DNS: Final = (
    Attribute("dns.question.name", DEVELOPMENT, "the name that the record's first question is about, in lower case, `\\DDD` "
              "for bytes that are no text", _LOOKED_UP),
    Attribute("dns.question.type", ECS, "the type of record that it asks for: `A`, `AAAA`, `SRV` ...; `TYPE<n>`", _LOOKED_UP),
    Attribute("dns.response_code", ECS, "what it was answered by: `NOERROR`, `NXDOMAIN`, `SERVFAIL` ...; `RCODE<n>`",
              f"{_LOOKED_UP}, and was answered"),
    Attribute("flow.dns.answer.count", OURS, "records in its answer", f"{_LOOKED_UP}, and was answered", "int"),
    Attribute("flow.dns.slowest.name", OURS, "the same of the slowest: dns.question.name", _SLOWEST),
    Attribute("flow.dns.slowest.type", OURS, "dns.question.type", _SLOWEST),
    Attribute("flow.dns.slowest.response_code", OURS, "dns.response_code", f"{_SLOWEST}, answered"),
    Attribute("flow.dns.slowest.answer.count", OURS, "flow.dns.answer.count", f"{_SLOWEST}, answered", "int"),
    Attribute("error.type", STABLE, "`dns_server_failure`: a question was answered by SERVFAIL; `dns_no_answer`: one never "
              "was. The span's status is then ERROR. NXDOMAIN is none: resolvers try search domains", "DNS, a lookup failed"),
)  # fmt: skip

_SHAKEN: Final = "a TLS handshake was seen, in this record or before it"

TLS: Final = (
    Attribute("network.protocol.name", STABLE, "`quic`", "the handshake of a QUIC connection was seen"),
    Attribute("network.protocol.version", STABLE, "`1`, `2`: QUIC's", "the same"),
    Attribute("tls.protocol.name", DEVELOPMENT, "`tls`, or `ssl`", "TLS, answered"),
    Attribute("tls.protocol.version", DEVELOPMENT, "`1.2`, `1.3`: the version that the server chose", "TLS, answered"),
    Attribute("tls.cipher", DEVELOPMENT, "the cipher suite that it chose, as IANA names it, such as "
              "`TLS_AES_128_GCM_SHA256`; `0x<number>`", "TLS, answered"),
    Attribute("tls.next_protocol", DEVELOPMENT, "the application's protocol that it chose (ALPN), such as `h2`",
              "TLS 1.2 and before; in 1.3 it is encrypted"),
    Attribute("tls.resumed", DEVELOPMENT, "whether an earlier session goes on, so that no certificate was sent",
              "TLS, answered, known", "bool"),
    Attribute("flow.tls.offered_protocols", OURS, "the application's protocols that the client offered, the one that it likes "
              "best first: `h2,http/1.1`", _SHAKEN),
    Attribute("flow.tls.ech_offered", OURS, "the client offered an encrypted ClientHello, or pretended to: `server.address` "
              "may be the outer name, which many servers share", "TLS, it did", "bool"),
    Attribute("flow.tls.alert", OURS, "the alert that ended the handshake: `unknown_ca`, `handshake_failure` ...; "
              "`encrypted` for a client's of TLS 1.3, which is known by its length alone", "TLS, the record that holds it"),
    Attribute("flow.tls.alert_by", OURS, "who sent it: `source` or `destination`", "TLS, the record that holds it"),
    Attribute("error.type", STABLE, "`tls_alert`; the span's status is then ERROR. `close_notify` and `user_canceled` are none",
              "TLS, an alert ended the handshake"),
)  # fmt: skip

PEER: Final = (
    Attribute("network.local.address", STABLE, "IP address of the resource's end"),
    Attribute("network.peer.address", STABLE, "IP address of the other end"),
    Attribute("service.peer.name", DEVELOPMENT, "`service.name` of the destination: its workload's or its Service's, or its "
              "`external.name`; with WIRESPAN_EXPORTER_LOOKED_UP_PEERS, else server.address", _NAMED),
    Attribute("service.peer.namespace", DEVELOPMENT, "its `service.namespace`, else its Kubernetes namespace", _NAMED),
    Attribute("peer.service", DEPRECATED, "service.peer.name, under the name that Tempo's service graph reads; `external` "
              "for an address outside the cluster, so that the edge is drawn and no address becomes a series",
              "kind CLIENT, where there is a name or the address is external"),
    Attribute("client.address", STABLE, "source.address, by the name that conventions have for it where roles are known",
              "where it is known which end began"),
    Attribute("server.address", STABLE, "the name that the client asked for by TLS (SNI); else the domain name that the source "
              "had looked up for the destination's address before the flow began, unless the index knows the destination; if "
              "only others on the node had, and several names, there is none",
              "a name is known, and the destination has no `external.name`"),
)  # fmt: skip

RESOURCE: Final = (
    Attribute("service.name", STABLE, "the workload's; `unknown_service` where there is none"),
    Attribute("service.namespace", STABLE, "the workload's", _KNOWN),
    Attribute("k8s.*", STABLE, "everything that the index says of the entity, under its own name", _KNOWN),
    Attribute("k8s.pod.uid", STABLE, "the pod, known from the socket's cgroup even before the index knows it",
              "a pod's socket"),
    Attribute("k8s.cluster.name", STABLE, "the cluster's name as it is set", "set, and the end is of the cluster"),
    Attribute("container.id", STABLE, "the container that owns the socket", "a container's socket"),
    Attribute("container.image.name, .tags", DEVELOPMENT, "its image, and the tag that it was started by; `k8s.container.name` "
              "and `container.name` are the container's", "known"),
    Attribute("host.name", STABLE, "the node that captured", "seen at a socket"),
    Attribute("process.executable.name", DEVELOPMENT, "the program that held the socket",
              "asked for, and known; a socket in no pod and no container"),
    Attribute("telemetry.distro.name", STABLE, "`wirespan`"),
    Attribute("telemetry.distro.version", STABLE, "Wirespan's version"),
)  # fmt: skip
