"""Flow records as OpenTelemetry SDK spans, one row at a time: slow, plain, and written apart from the exporter it checks.

Only the names of enumerations and columns are shared with the product.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from proto.columns import COLUMNS, NO_INDEX, Outcome, Reason
from proto.flow_batch import Entity, FlowBatch
from proto.tls import ALERTS, CIPHERS
from proto.verdicts.names import Verdict, VerdictMeasure
from services.exporter.spans.identity import TRACE_RECORDS

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
WORD = 2**64 - 1
INT64_MAX = 2**63 - 1

TRANSPORTS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp", 51: "ah", 58: "icmpv6", 132: "sctp"}
TRANSPORTS[136] = "udplite"
ICMP_NAMES = {
    (1, 0): "echo_reply",
    (1, 3): "destination_unreachable",
    (1, 5): "redirect",
    (1, 8): "echo_request",
    (1, 11): "time_exceeded",
    (1, 12): "parameter_problem",
    (1, 13): "timestamp_request",
    (1, 14): "timestamp_reply",
    (58, 1): "destination_unreachable",
    (58, 2): "packet_too_big",
    (58, 3): "time_exceeded",
    (58, 4): "parameter_problem",
    (58, 128): "echo_request",
    (58, 129): "echo_reply",
    (58, 133): "router_solicitation",
    (58, 134): "router_advertisement",
    (58, 135): "neighbor_solicitation",
    (58, 136): "neighbor_advertisement",
    (58, 137): "redirect",
}
DNS_CODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN", 7: "YXRRSET"}
DNS_CODES |= {8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE", 16: "BADVERS", 23: "BADCOOKIE", 65535: None}
DNS_TYPES = {1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 35: "NAPTR"}
DNS_TYPES |= {39: "DNAME", 43: "DS", 46: "RRSIG", 48: "DNSKEY", 52: "TLSA", 64: "SVCB", 65: "HTTPS", 252: "AXFR", 255: "ANY"}
DNS_TYPES[257] = "CAA"


VERDICT_MEASURES = {
    "outcome": "flow.connection.outcome",
    "closed_by": "flow.tcp.closed_by",
    "syn_repeats": "flow.tcp.syn_repeats",
    "syn_ack_repeats": "flow.tcp.syn_ack_repeats",
    "handshake_latency": "flow.tcp.handshake.latency",
    "connect_time": "flow.tcp.connect.time",
    "rtt_min": "flow.tcp.socket.rtt.min",
    "retransmits": "flow.tcp.retransmits",
    "reverse_retransmits": "flow.reverse.tcp.retransmits",
    "retransmit_bytes": "flow.tcp.retransmit_bytes",
    "reverse_retransmit_bytes": "flow.reverse.tcp.retransmit_bytes",
    "zero_window": "flow.tcp.zero_window",
    "reverse_zero_window": "flow.reverse.tcp.zero_window",
    "response_time_max": "flow.response.time_max",
    "response_time": "flow.response.time",
    "request_transfer_time": "flow.request.transfer_time",
    "exchange_end": "flow.exchange.end_reason",
    "request_unanswered": "flow.request.unanswered",
    "question_repeats": "flow.question.repeats",
    "dns_servfail": "flow.dns.responses.servfail",
    "dns_unanswered": "flow.dns.unanswered",
    "icmp_errors": "flow.icmp.errors",
}


def mix_a(x: int) -> int:
    """SplitMix64's finaliser."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & WORD
    return x ^ x >> 31


def mix_b(x: int) -> int:
    """MurmurHash3's 64-bit finaliser."""
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & WORD
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & WORD
    return x ^ x >> 33


def text(address: bytes) -> str:
    """An address as people write it."""
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else parsed.compressed


_PAIRS = {
    "tcp.retransmit_bytes": "retransmit_bytes",
    "tcp.spurious_retransmits": "spurious_retransmits",
    "tcp.out_of_order": "out_of_order",
    "tcp.duplicate_acks": "duplicate_acks",
    "tcp.zero_window": "zero_windows",
    "tcp.window_full": "window_full",
    "tcp.keep_alives": "keep_alives",
    "tcp.zero_window_probes": "zero_window_probes",
    "tcp.fins": "fins",
    "tcp.resets": "resets",
    "ip.ecn.ce": "ecn_ce",
    "ip.fragments.count": "fragments",
    "ip.fragments.overlapping": "overlapping_fragments",
    "ip.datagrams.incomplete": "incomplete_datagrams",
    "copies.count": "copies",
}
"""Counts of both directions that are there where either is not 0: attribute -> column."""


class Row:
    """One record of a batch as a span."""

    def __init__(self, batch: FlowBatch, at: int, cluster_name: str, version: str) -> None:
        self.batch, self.cluster_name, self.version = batch, cluster_name, version
        self.raw: dict[str, Any] = {}
        for column in COLUMNS.values():
            value = batch.column(column.name)[at]
            self.raw[column.name] = value.tobytes() if value.dtype.kind == "V" else value.tolist()
        role = self["role"]
        self.initiator_known = role in (1, 2)
        self.source, self.destination = ("remote", "local") if role == 2 else ("local", "remote")
        self.forward, self.reverse = ("rx", "tx") if role == 2 else ("tx", "rx")
        self.captured = self["observer"] == 2
        self.told = self._told()
        self.peer = "remote" if self.told == "local" else "local"
        self.side = 3 if self.captured else role if self.initiator_known else 0
        self.tcp = self["transport"] == 6
        self.icmp = self["transport"] in (1, 58)
        self.kind = SpanKind.INTERNAL
        if self["record"] == 0 and self.initiator_known:
            self.kind = SpanKind.CLIENT if self.told == self.source else SpanKind.SERVER

    def __getitem__(self, name: str) -> Any:
        return self.raw[name]

    def entity(self, index: str) -> Entity | None:
        """The entity that an index column points at."""
        row = self[index]
        return None if row == NO_INDEX or self.batch.entities is None else self.batch.entities[row]

    def in_cluster(self, end: str) -> bool:
        """Whether an end is a pod or node."""
        entity = self.entity(f"{end}_entity")
        return entity is not None and entity.type in ("k8s.pod", "k8s.node", "host")

    def _told(self) -> str:
        if not self.captured:
            return "local"
        inside = [end for end in ("local", "remote") if self.in_cluster(end)]
        return inside[0] if len(inside) == 1 else self.source

    def _first_trace(self) -> tuple[int, int, int]:
        """Halves of the id of the flow's first trace, and the seed of span ids."""
        digest = hashlib.blake2b(self.cluster_name.encode(), digest_size=40, key=b"wirespan.trace.v1").digest()
        seed = [int.from_bytes(digest[at : at + 8], "little") for at in range(0, 40, 8)]
        both = self["isn_seen"] & 3 == 3
        if both:
            word = self[f"{self.source}_isn"] << 32 | self[f"{self.destination}_isn"]
            high, low = mix_a(word ^ seed[0]), mix_b(word ^ seed[1])
        else:
            high, low = seed[2], seed[3]
            for word in self._words():
                high, low = mix_a(high ^ word), mix_b(low ^ word)
        if high == low == 0:
            low = 1
        return high, low, seed[4]

    def ids(self) -> tuple[int, int, int | None, bool]:
        """Trace id, span id, parent's span id, and whether the parent is another process's."""
        high, low, seed = self._first_trace()

        def span_id(side: int, record: int) -> int:
            base = mix_b(mix_a(low ^ seed) ^ high)
            if self.captured:
                for word in self._words():
                    base = mix_b(base ^ word)
            return mix_a(base ^ (side << 32 | record)) or 1

        def trace_id(part: int) -> int:
            mixed = (mix_a(high ^ part), mix_b(low ^ part)) if part else (high, low)
            return mixed[0] << 64 | mixed[1] or 1

        def link(part: int, record: int) -> Link:
            flags = TraceFlags(TraceFlags.SAMPLED)
            return Link(SpanContext(trace_id(part), span_id(self.side, record), is_remote=False, trace_flags=flags))

        part, within = divmod(self["record"], TRACE_RECORDS)
        self.links = [link(0, 0), link(part - 1, self["record"] - 1)] if part and not within else []
        parent = None
        joins = (
            self["isn_seen"] & 3 == 3
            and not self.captured
            and self["role"] == 2
            and self["record"] == 0
            and self.in_cluster("remote")
        )
        if within:
            parent = span_id(self.side, part * TRACE_RECORDS)
        elif joins:
            parent = span_id(1, 0)
        return trace_id(part), span_id(self.side, self["record"]), parent, joins

    def _words(self) -> list[int]:
        source, destination = self[f"{self.source}_address"], self[f"{self.destination}_address"]
        halves = [int.from_bytes(half, "big") for half in (source[:8], source[8:], destination[:8], destination[8:])]
        ports = self[f"{self.source}_port"] << 48 | self[f"{self.destination}_port"] << 32
        return [
            *halves,
            ports | self["transport"] << 16 | self["icmp_type"] << 8 | self["icmp_code"],
            self["flow_start_unix_ns"],
        ]

    def named(self, end: str) -> tuple[str, str] | None:
        """What to call an end, and its namespace."""
        known = [entity for entity in (self.entity(f"{end}_entity"), self.entity(f"{end}_service")) if entity]
        for key in ("service.name", "k8s.service.name"):
            for entity in known:
                name = entity.attributes.get(key)
                if isinstance(name, str) and name:
                    for space in ("service.namespace", "k8s.namespace.name"):
                        value = entity.attributes.get(space)
                        if isinstance(value, str) and value:
                            return name, value
                    return name, ""
        return None

    def transport(self) -> str:
        """The name of the transport."""
        return TRANSPORTS.get(self["transport"], f"ip_protocol_{self['transport']}")

    def name(self) -> str:
        """The span's name."""
        known = self.named(self.destination) if self.initiator_known else None
        return f"{self.transport()} {known[0]}" if known else self.transport()

    def status(self) -> Status:
        """The span's status."""
        by = {self.source: " by source", self.destination: " by destination"}.get(self.closer(), "")
        messages = {3: "SYN answered by RST", 4: "SYN never answered"}
        message = f"connection reset{by}" if self["cut_short"] else messages.get(self["outcome"])
        lookup = {"dns_server_failure": "answered by SERVFAIL", "dns_no_answer": "never answered"}.get(self.failed_lookup())
        message = f"a DNS question was {lookup}" if lookup else message
        message = f"a TLS handshake was ended by the alert {self.alert()}" if self.failed_handshake() else message
        return Status(StatusCode.ERROR, message) if message else Status()

    def failed_lookup(self) -> str | None:
        """Which error the DNS questions come to, where the connection has none."""
        if self["cut_short"] or self["outcome"] in (3, 4):
            return None
        return "dns_server_failure" if self["dns_codes"][2] else "dns_no_answer" if self["dns_codes"][7] else None

    def alert(self) -> str | None:
        """The alert that ended a handshake."""
        number, flags = self["tls_alert"], self["tls_flags"]
        if not flags & 8:
            return None
        return "encrypted" if flags & 32 else ALERTS.get(number, f"alert_{number}")

    def failed_handshake(self) -> bool:
        """Whether that is the span's error."""
        if self["cut_short"] or self["outcome"] in (3, 4) or self.failed_lookup():
            return False
        return self.alert() not in {None, "close_notify", "user_canceled"}

    def closer(self) -> str:
        """Which end closed."""
        return {1: "local", 2: "remote"}.get(self["closed_by"], "")

    def attributes(self) -> dict[str, Any]:
        """The span's attributes."""
        found = {
            **self._who(),
            **self._words_of_state(),
            **self._tunnel(),
            **self._backend(),
            **self._file(),
            **self._lookups(),
            **self._tls(),
            **self._counts(),
            **self._requests(),
            **self._handshake(),
            **self._responses(),
        }
        return {
            name: min(value, INT64_MAX) if type(value) is int else value for name, value in found.items() if value is not None
        }

    def _roles(self) -> dict[str, Any]:
        if self["role"] not in (1, 2):
            return {}
        out = {"client.address": text(self[f"{self.source}_address"])}
        if self["transport"] in (6, 17, 33, 132, 136):
            out |= {"client.port": self[f"{self.source}_port"], "server.port": self[f"{self.destination}_port"]}
        return out

    def _who(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for end, which in (("source", self.source), ("destination", self.destination)):
            for key in ("service", "entity"):
                entity = self.entity(f"{which}_{key}")
                for name, value in entity.attributes.items() if entity else ():
                    if name:
                        out[f"{end}.{name}"] = value
            out[f"{end}.address"] = text(self[f"{which}_address"])
            for name in ("port", "nat.ip", "nat.port"):
                out.pop(f"{end}.{name}", None)
            out[f"flow.{end}.resolution"] = {2: "external", 3: "unresolved", 4: "unknown"}.get(self[f"{which}_resolution"])
        out["network.local.address"] = text(self[f"{self.told}_address"])
        out["network.peer.address"] = text(self[f"{self.peer}_address"])
        out |= self._roles()
        if self["transport"] in (6, 17, 33, 132, 136):
            out["source.port"], out["destination.port"] = self[f"{self.source}_port"], self[f"{self.destination}_port"]
            out["network.local.port"], out["network.peer.port"] = self[f"{self.told}_port"], self[f"{self.peer}_port"]
        if self.kind == SpanKind.CLIENT:
            known = self.named(self.destination)
            if known:
                out["peer.service"] = out["service.peer.name"] = known[0]
                out["service.peer.namespace"] = known[1] or None
            elif self[f"{self.destination}_resolution"] == 2:
                out["peer.service"] = "external"
        return out

    def _words_of_state(self) -> dict[str, Any]:
        outcome = self["outcome"]
        half_open = "syn_received" if self["syn_ack_unix_ns"] else "syn_sent"
        direction = "forward" if self.told == self.source else "reverse"
        out = {
            "network.transport": self.transport(),
            "network.type": "ipv4" if ipaddress.IPv6Address(self["local_address"]).ipv4_mapped else "ipv6",
            "flow.direction": direction if self.initiator_known else "unknown",
            "flow.observer": ("unknown", "client", "server", "capture")[self.side],
            "flow.end_reason": Reason(self["reason"]).name.lower() if self["reason"] in list(Reason) else None,
            "flow.connection.outcome": Outcome(outcome).name.lower() if 1 <= outcome <= 6 else None,
            "flow.connection.state": {1: half_open, 2: "established", 3: "closed", 4: "closed", 5: "closed", 6: "closed"}.get(
                outcome
            ),
            "error.type": "connection_reset" if self["cut_short"] else {3: "connection_refused", 4: "timeout"}.get(outcome),
            "flow.direction_source": {1: "handshake", 2: "listener", 3: "content", 4: "ports"}.get(self["role_source"]),
            "flow.tcp.closed_by": {self.source: "source", self.destination: "destination"}.get(self.closer()),
            **self._verdict(),
        }
        if self.tcp:
            ends = ("source", self.forward, self.reverse), ("destination", self.reverse, self.forward)
            for end, way, other in ends:
                if not self[f"{way}_tcp_flags"] and self[f"{other}_tcp_flags"] & 2 and self[f"{other}_tcp_flags"] & 16:
                    out["flow.unseen"] = end
            for prefix, way in (("flow.", self.forward), ("flow.reverse.", self.reverse)):
                bits = self[f"{way}_tcp_flags"]
                names = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"]
                out[f"{prefix}tcp.flags.bits"] = bits or None
                out[f"{prefix}tcp.flags.tags"] = [name for at, name in enumerate(names) if bits & 1 << at] or None
        if self.icmp:
            out["flow.icmp.type.id"], out["flow.icmp.code.id"] = self["icmp_type"], self["icmp_code"]
            out["flow.icmp.type.name"] = ICMP_NAMES.get((self["transport"], self["icmp_type"]))
            out["flow.icmp.echo.id"] = self["local_port"] or None
        return out

    def _verdict(self) -> dict[str, Any]:
        if not self["verdict"] or self["verdict"] not in list(Verdict):
            return {}
        measures = {number: VERDICT_MEASURES.get(number.name.lower()) for number in VerdictMeasure}
        return {
            "flow.verdict": Verdict(self["verdict"]).name.lower(),
            "flow.verdict.measure": measures.get(self["verdict_measure"]),
        }

    def _tunnel(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if self["tx_tunnel_id"] or self["rx_tunnel_id"]:
            out["tunnel.id"], out["tunnel.reverse.id"] = (self[f"{way}_tunnel_id"] for way in (self.forward, self.reverse))
        if not self["tunnel"]:
            return out
        kinds = {1: ("vxlan", "udp"), 2: ("geneve", "udp"), 3: ("gre", "gre"), 4: ("ipip", None), 5: ("gtpu", "udp")}
        out["tunnel.type"], out["tunnel.network.transport"] = kinds.get(self["tunnel"], (None, None))
        outer = ipaddress.IPv6Address(self["local_tunnel_address"])
        out["tunnel.network.type"] = "ipv4" if outer.ipv4_mapped else "ipv6"
        out["tunnel.depth"] = self["tunnel_depth"]
        for prefix, way in (("tunnel.", self.forward), ("tunnel.reverse.", self.reverse)):
            out[f"{prefix}bytes.total"] = self[f"{way}_tunnel_bytes_total"]
        for end, which in (("source", self.source), ("destination", self.destination)):
            out[f"tunnel.{end}.address"] = text(self[f"{which}_tunnel_address"])
        return out

    def _file(self) -> dict[str, Any]:
        out = {"flow.translated": self["translated"]} if self["translated"] else {}
        files = self.batch.files
        name = files[self["file"]].get("name") if self["file"] < len(files) else None
        return out | ({"flow.capture.file": name} if name else {})

    def _lookups(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        known = self.entity(f"{self.destination}_entity"), self.entity(f"{self.destination}_service")
        if self["remote_name"] != NO_INDEX and self.destination == "remote" and self.initiator_known and known == (None, None):
            out["server.address"] = self.batch.names[self["remote_name"]] or None
        named_outside = self[f"{self.destination}_resolution"] == 2 and known != (None, None)
        if self["tls_server_name"] != NO_INDEX and self.batch.names[self["tls_server_name"]] and not named_outside:
            out["server.address"] = self.batch.names[self["tls_server_name"]]
        counted = ("noerror", "formerr", "servfail", "nxdomain", "notimp", "refused", "other")
        for at, name in enumerate(counted):
            out[f"flow.dns.responses.{name}"] = self["dns_codes"][at] or None
        out["flow.dns.unanswered"] = self["dns_codes"][7] or None
        if self.failed_lookup():
            out["error.type"] = self.failed_lookup()
        first, slowest = (
            [self[f"dns_{which}_{what}"] for what in ("name", "type", "code", "time_ns", "answers", "repeats")]
            for which in ("first", "slowest")
        )
        out["flow.dns.time"], out["flow.dns.repeats"] = first[3] or None, first[5] or None
        prefixes = {"first": ("dns.question.", "dns.", "flow.dns.")}
        if slowest[:4] != first[:4]:
            out["flow.dns.slowest.time"], out["flow.dns.slowest.repeats"] = slowest[3] or None, slowest[5] or None
            prefixes["slowest"] = ("flow.dns.slowest.",) * 3
        for which, (question, response, answer) in prefixes.items() if any(self["dns_codes"]) else ():
            name, kind, code, _, answers, _ = first if which == "first" else slowest
            out[f"{question}name"] = self.batch.names[name] or None if name != NO_INDEX else None
            out[f"{question}type"] = DNS_TYPES.get(kind, f"TYPE{kind}")
            out[f"{response}response_code"] = DNS_CODES.get(code, f"RCODE{code}")
            out[f"{answer}answer.count"] = None if code == 65535 else answers
        return out

    def _tls(self) -> dict[str, Any]:
        flags, version = self["tls_flags"], self["tls_version"]
        out: dict[str, Any] = {"flow.tls.handshake.time": self["tls_handshake_time_ns"] or None}
        if version:
            versions = {0x300: "3.0", 0x301: "1.0", 0x302: "1.1", 0x303: "1.2", 0x304: "1.3"}
            out["tls.protocol.name"] = "ssl" if version == 0x300 else "tls"
            out["tls.protocol.version"] = versions.get(version, f"0x{version:04X}")
            out["tls.cipher"] = CIPHERS.get(self["tls_cipher"], f"0x{self['tls_cipher']:04X}")
        out["network.protocol.name"] = "quic" if flags & 64 else None
        out["network.protocol.version"] = ("2" if flags & 128 else "1") if flags & 64 else None
        out["tls.resumed"] = bool(flags & 1) if flags & 2 else None
        out["flow.tls.ech_offered"] = True if flags & 4 else None
        out["flow.tls.alert"] = self.alert()
        if self.alert():
            out["flow.tls.alert_by"] = "destination" if flags & 16 else "source"
        if self.failed_handshake():
            out["error.type"] = "tls_alert"
        for name, at in (("tls.next_protocol", "protocol"), ("flow.tls.offered_protocols", "offered_protocols")):
            index = self[f"tls_{at}"]
            out[name] = self.batch.names[index] or None if index != NO_INDEX else None
        return out

    def _backend(self) -> dict[str, Any]:
        if not self["remote_nat_port"] or self.destination != "remote":
            return {}
        return {"destination.nat.ip": text(self["remote_nat_address"]), "destination.nat.port": self["remote_nat_port"]}

    def _counts(self) -> dict[str, Any]:
        out: dict[str, Any] = {"flow.record": self["record"]}
        for prefix, way in (("flow.", self.forward), ("flow.reverse.", self.reverse)):
            for unit in ("bytes", "packets"):
                out[f"{prefix}{unit}.delta"] = self[f"{way}_{unit}"]
                out[f"{prefix}{unit}.total"] = self[f"{way}_{unit}_total"]
            out[f"{prefix}payload.bytes.delta"] = self[f"{way}_payload_bytes"]
            if self["tx_retransmits"] or self["rx_retransmits"]:
                out[f"{prefix}tcp.retransmits"] = self[f"{way}_retransmits"]
            out |= self._path(prefix, way)
        if self["record"]:
            out["flow.start"] = self["flow_start_unix_ns"]
        return out | self._socket()

    def _socket(self) -> dict[str, Any]:
        if not self["smoothed_rtt_ns"]:
            return {}
        return {
            "flow.tcp.socket.rtt.smoothed": self["smoothed_rtt_ns"],
            "flow.tcp.socket.rtt.min": self["min_rtt_ns"],
            "flow.tcp.socket.retransmits": self["socket_retransmits"],
            "flow.tcp.socket.lost": self["lost_segments"],
            "flow.tcp.socket.congestion_window": self["congestion_window"],
        }

    def _path(self, prefix: str, way: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, column in _PAIRS.items():
            if self[f"tx_{column}"] or self[f"rx_{column}"]:
                out[f"{prefix}{name}"] = self[f"{way}_{column}"]
        if samples := self[f"{way}_rtt_samples"]:
            out[f"{prefix}tcp.rtt.count"] = samples
            out[f"{prefix}tcp.rtt.mean"] = self[f"{way}_rtt_sum_ns"] // samples
            out[f"{prefix}tcp.rtt.min"] = self[f"{way}_rtt_min_ns"]
            out[f"{prefix}tcp.rtt.max"] = self[f"{way}_rtt_max_ns"]
        out[f"{prefix}ip.dscp.id"] = self[f"{way}_traffic_class"] >> 2 or None
        out[f"{prefix}ip.ecn.id"] = self[f"{way}_traffic_class"] & 3 or None
        out[f"{prefix}ip.ttl"] = self[f"{way}_hop_limit"] or None
        return out

    def _requests(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if self["icmp_errors"]:
            out["flow.icmp.errors"] = self["icmp_errors"]
            out["flow.icmp.error.type.id"], out["flow.icmp.error.code.id"] = self["icmp_error_type"], self["icmp_error_code"]
        out["flow.request.unanswered"] = self["request_waits"] or None
        if self["questions"]:
            out["flow.question.count"] = self["questions"]
            out["flow.question.repeats"] = self["question_repeats"]
        if self["request_transfer_sum_ns"] or self["response_transfer_sum_ns"]:
            for what in ("request", "response"):
                out[f"flow.{what}.transfer_time"] = self[f"{what}_transfer_sum_ns"]
                out[f"flow.{what}.transfer_time_max"] = self[f"{what}_transfer_max_ns"]
        return out

    def _handshake(self) -> dict[str, Any]:
        syn, syn_ack, ack, start = (
            self[name] for name in ("syn_unix_ns", "syn_ack_unix_ns", "handshake_ack_unix_ns", "start_unix_ns")
        )
        out = {}
        if syn and syn_ack and syn_ack >= start:
            out["flow.tcp.handshake.latency"] = max(0, syn_ack - syn)
        if syn_ack and ack and ack >= start:
            out["flow.tcp.handshake.ack_latency"] = max(0, ack - syn_ack)
        if syn and ack and ack >= start:
            out["flow.tcp.connect.time"] = max(0, ack - syn)
        if ack and not syn_ack and ack >= start:
            out["flow.tcp.syn_ack_unseen"] = 1
        if self["syn_repeats"] or self["syn_ack_repeats"]:
            out["flow.tcp.syn_repeats"], out["flow.tcp.syn_ack_repeats"] = self["syn_repeats"], self["syn_ack_repeats"]
        return out

    def _responses(self) -> dict[str, Any]:
        count = self["responses"]
        if not count:
            return {}
        mean = self["response_time_sum_ns"] // count
        out = {
            "flow.response.count": count,
            "flow.response.time": mean,
            "flow.response.time_max": self["response_time_max_ns"],
            "flow.response.time_sum": self["response_time_sum_ns"],
            "flow.response.time_histogram": list(self["response_time_histogram"]),
        }
        if self.tcp and self.initiator_known:
            out["flow.tcp.rndtrip.latency" if self.told == self.source else "flow.tcp.svc.latency"] = mean
        return out

    def resource(self) -> dict[str, Any]:
        """The resource's attributes."""
        entity = self.entity(f"{self.told}_entity")
        attributes: dict[str, Any] = {}
        if not self.captured:
            attributes["host.name"] = self.batch.node
            if self["local_container"] != NO_INDEX:
                container = self.batch.containers[self["local_container"]]
                attributes["k8s.pod.uid"], attributes["container.id"] = container.get("pod_uid"), container.get("container_id")
        if (not self.captured and self.batch.node) or (entity and entity.type.startswith("k8s.")):
            attributes["k8s.cluster.name"] = self.cluster_name
        attributes = {name: value for name, value in attributes.items() if value}
        if entity:
            for name, value in entity.attributes.items():
                if name and value == "":
                    attributes.pop(name, None)
                elif name:
                    attributes[name] = value
        attributes.setdefault("service.name", "unknown_service")
        return attributes | {"telemetry.distro.name": "wirespan", "telemetry.distro.version": self.version}

    def span(self) -> ReadableSpan:
        """The record as the SDK's span."""
        trace_id, span_id, parent_id, remote = self.ids()
        return ReadableSpan(
            name=self.name(),
            context=SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)),
            parent=None if parent_id is None else SpanContext(trace_id, parent_id, is_remote=remote),
            resource=Resource(self.resource(), SCHEMA_URL),
            attributes=self.attributes(),
            links=self.links,
            kind=self.kind,
            status=self.status(),
            start_time=self["start_unix_ns"],
            end_time=self["end_unix_ns"],
            instrumentation_scope=InstrumentationScope("wirespan", self.version, SCHEMA_URL),
        )


def reference_spans(batch: FlowBatch, cluster_name: str, version: str) -> list[ReadableSpan]:
    """One span per record, in the batch's order."""
    return [Row(batch, at, cluster_name, version).span() for at in range(batch.count)]
