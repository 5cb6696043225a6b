"""The columns of a FlowBatch: the one table that names every field a flow record has on the wire.

Everything that needs to know a column reads it here: the codec (types, defaults), capture (what to fill), the enricher and
the exporter (what to expect), `wirespan decode` (how to show it) and the tables in proto/README.md (generated, and checked
by a test).

*Local* is the end whose socket saw the packets; *remote* is the other one. A capture file has no local socket: there, local is
the initiator where it is known. `tx` is local to remote, `rx` remote to local. Times are nanoseconds since the Unix epoch on
the clock of the node (live) or of the capture file (replay); 0 means "not seen".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import numpy as np

from proto.verdicts.names import Verdict, VerdictMeasure

NO_INDEX: Final = 0xFFFF_FFFF
"""Value of an index column that points at nothing."""

RESPONSE_TIME_BUCKETS: Final = 20
"""Buckets of `response_time_histogram`; bucket i counts waits in [2**i, 2**(i+1)) times 16 us, the first also everything
shorter, the last everything longer (above 8.4 s)."""

RESPONSE_TIME_FIRST_BOUND_NS: Final = 32_000
"""Upper bound of the first bucket of `response_time_histogram` in nanoseconds."""


class Role(enum.IntEnum):
    """Which end of the connection is local."""

    UNKNOWN = 0
    CLIENT = 1
    SERVER = 2


class RoleSource(enum.IntEnum):
    """How the role is known."""

    UNKNOWN = 0
    """The role is unknown, or nobody said how it is known."""
    HANDSHAKE = 1
    """A SYN or SYN-ACK was seen."""
    LISTENER = 2
    """Of a connection older than capture: somebody listens on the local port."""
    CONTENT = 3
    """One end was heard to ask or to answer."""
    PORTS = 4
    """A guess: one of the ports is a service's, the other ephemeral."""


class Observer(enum.IntEnum):
    """What saw the packets."""

    SOCKET = 1
    """A socket on the node: packets as that end sent and received them."""
    CAPTURE = 2
    """A capture file: one point on the path, seeing both directions; it stands at neither end."""


class Reason(enum.IntEnum):
    """Why a record was emitted."""

    END_OF_FLOW = 1
    IDLE_TIMEOUT = 2
    ACTIVE_TIMEOUT = 3
    SHUTDOWN = 4
    TABLE_PRESSURE = 5
    EXCHANGE = 6
    """It tells of one request and its response, not of the flow: all that is summed up over records is 0 in it. With a trace id
    it is a request of an application's trace; without one, the DNS question of `dns_first_name`."""


class ExchangeEnd(enum.IntEnum):
    """Why an exchange is over."""

    NONE = 0
    NEXT_REQUEST = 1
    """The client asked for something else."""
    CLOSED = 2
    """The connection was closed."""
    RESET = 3
    """The connection was reset."""
    IDLE_TIMEOUT = 4
    """The response paused for seconds, or the connection was given up that waited for it."""
    ACTIVE_TIMEOUT = 5
    """The response still went on; what came later is in no exchange."""
    SHUTDOWN = 6
    """Capture ended."""
    SWITCHED = 7
    """The response made another protocol's, or a tunnel, of the connection."""
    STREAM = 8
    """Both ends of a stream of HTTP/2 said that they are done."""
    STREAM_RESET = 9
    """One of them gave the stream up (RST_STREAM)."""
    COMPLETE = 10
    """The last byte of a response came whose length is known: of requests that did not wait for each other."""


class ExchangeMatched(enum.IntEnum):
    """How it is known to which span of an application an exchange belongs."""

    CONTEXT = 0
    """It carried the span's ids."""
    SPAN = 1
    """The span was asked for, and no other exchange can be its own."""


class HttpMethod(enum.IntEnum):
    """What a request asks for (RFC 9110 9, RFC 5789)."""

    UNKNOWN = 0
    """Its beginning was not seen as a whole, or is not read."""
    GET = 1
    POST = 2
    PUT = 3
    DELETE = 4
    HEAD = 5
    OPTIONS = 6
    PATCH = 7
    CONNECT = 8
    TRACE = 9
    OTHER = 10


CONNECTION_PART: Final = 2
"""`exchange_shared` of what is no exchange, but what a connection that several share did while a span lasted."""

BROKEN_OFF: Final = (ExchangeEnd.RESET, ExchangeEnd.STREAM_RESET)
"""Ends of exchanges that may come in the middle of a response, which lasted until then."""


class Outcome(enum.IntEnum):
    """What became of the connection so far. TCP states after RFC 9293."""

    UNKNOWN = 0
    """Nothing can be said: not TCP, or TCP joined after its handshake and still open."""
    HALF_OPEN = 1
    """Handshake begun and not completed while the record was made (SYN answered, never acknowledged; or still waiting)."""
    ESTABLISHED = 2
    """Handshake completed, connection open."""
    REFUSED = 3
    """A SYN was answered by RST."""
    TIMEOUT = 4
    """A SYN was never answered; the flow ended waiting, or the client gave up after it had asked again."""
    RESET = 5
    """Ended by RST after data could flow; `closed_by` says which end sent it, `cut_short` whether anything was under way."""
    CLOSED = 6
    """Ended by FIN from both ends; `closed_by` says which end was first."""


class End(enum.IntEnum):
    """An end of the connection."""

    NONE = 0
    LOCAL = 1
    REMOTE = 2


class Tunnel(enum.IntEnum):
    """What a flow's packets travel in."""

    NONE = 0
    VXLAN = 1
    GENEVE = 2
    GRE = 3
    """With a key also NVGRE."""
    IPIP = 4
    """IPv4 or IPv6 in either."""
    GTPU = 5


class Resolution(enum.IntEnum):
    """What the enricher could say about an end."""

    NONE = 0
    """Not enriched."""
    RESOLVED = 1
    EXTERNAL = 2
    """Outside the cluster: nobody in it holds the address at that time, and it is none that a cluster uses inside."""
    UNRESOLVED = 3
    """The index could not answer for that time: the address may well be a workload."""
    UNKNOWN = 4
    """Nobody that the index knows holds the address at that time, and it need not be outside: it is private, link-local or the
    like, or in a network of the cluster."""


FIRST_EXCHANGE: Final = 1 << 31
"""`record` of a flow's first exchange; from here on they are numbered, so that flow id and record stay a record's name."""

MOST_QUESTIONS: Final = 16
"""DNS questions that have a record of their own beside one record of their flow. The n-th of those beside record r, from 0, has
the number `FIRST_EXCHANGE + r * MOST_QUESTIONS + n`."""


class Kind(enum.Enum):
    """How a column relates to the record's interval."""

    CONSTANT = "constant"
    """The same in every record of the flow, once it is known."""
    STATE = "state"
    """The value at the end of the record."""
    DELTA = "delta"
    """What was added since the flow's previous accepted record."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, numpy dtype string on the wire, kind, unit and meaning."""

    name: str
    dtype: str
    kind: Kind
    unit: str
    meaning: str
    default: int = 0
    enum: type[enum.IntEnum] | None = None

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """The dtype of one row; a sub-array dtype for a histogram."""
        return np.dtype(self.dtype)


_CONSTANT, _STATE, _DELTA = Kind.CONSTANT, Kind.STATE, Kind.DELTA

RAW: Final = (
    # Which flow, which record of it
    Column("flow_id", "<u8", _CONSTANT, "", "identity of the flow within the epoch"),
    Column("record", "<u4", _CONSTANT, "", "number of this record within its flow, from 0; of an exchange, 2**31 and more"),
    Column("reason", "|u1", _CONSTANT, "", "why the record was emitted", enum=Reason),
    Column("observer", "|u1", _CONSTANT, "", "what saw the packets", enum=Observer),
    Column("role", "|u1", _CONSTANT, "", "which end is local", enum=Role),
    Column("role_source", "|u1", _STATE, "", "how the role of a TCP connection is known", enum=RoleSource),
    # Who
    Column("transport", "|u1", _CONSTANT, "", "IANA protocol number: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6, 132 SCTP"),
    Column("local_address", "|V16", _CONSTANT, "", "IPv6, or IPv4 mapped into ::ffff:0:0/96, network order"),
    Column("remote_address", "|V16", _CONSTANT, "", "as local_address"),
    Column("local_port", "<u2", _CONSTANT, "", "0 where the protocol has none; the identifier of an ICMP echo"),
    Column("remote_port", "<u2", _CONSTANT, "", "as local_port"),
    Column("icmp_type", "|u1", _CONSTANT, "", "type of the first ICMP message"),
    Column("icmp_code", "|u1", _CONSTANT, "", "code of the first ICMP message"),
    Column("local_container", "<u4", _CONSTANT, "", "index into `containers`", default=NO_INDEX),
    # When
    Column("start_unix_ns", "<u8", _CONSTANT, "ns", "first packet of the record"),
    Column("end_unix_ns", "<u8", _CONSTANT, "ns", "last packet of the record"),
    Column("flow_start_unix_ns", "<u8", _CONSTANT, "ns", "first packet of the flow"),
    Column("syn_unix_ns", "<u8", _CONSTANT, "ns", "first SYN"),
    Column("syn_ack_unix_ns", "<u8", _CONSTANT, "ns", "first SYN-ACK"),
    Column("handshake_ack_unix_ns", "<u8", _CONSTANT, "ns", "the ACK that completes the handshake"),
    # TCP connection
    Column("isn_seen", "|u1", _STATE, "bits", "1: local_isn is known; 2: remote_isn is known"),
    Column("local_isn", "<u4", _CONSTANT, "", "initial sequence number sent by local"),
    Column("remote_isn", "<u4", _CONSTANT, "", "initial sequence number sent by remote"),
    Column("syn_repeats", "<u2", _STATE, "packets", "SYNs after the first"),
    Column("syn_ack_repeats", "<u2", _STATE, "packets", "SYN-ACKs after the first"),
    Column("outcome", "|u1", _STATE, "", "what became of the connection", enum=Outcome),
    Column("closed_by", "|u1", _STATE, "", "which end sent the first FIN or the RST", enum=End),
    Column(
        "cut_short",
        "|u1",
        _STATE,
        "",
        "1: the RST came while a request had no response or what was sent no acknowledgment, or from a server to a client "
        "that had not closed",
    ),
    Column("tx_tcp_flags", "|u1", _STATE, "bits", "TCP flags sent over the flow's life, OR-ed; bit 0 is FIN (RFC 9293 3.1)"),
    Column("rx_tcp_flags", "|u1", _STATE, "bits", "as tx_tcp_flags, received"),
    # How much
    Column("tx_bytes", "<u8", _DELTA, "bytes", "IP length: header and payload, from the IP header, without the link layer"),
    Column("rx_bytes", "<u8", _DELTA, "bytes", "as tx_bytes, received"),
    Column("tx_packets", "<u8", _DELTA, "packets", "packets sent; a segmentation-offload packet counts as its segments"),
    Column("rx_packets", "<u8", _DELTA, "packets", "as tx_packets, received"),
    Column("tx_payload_bytes", "<u8", _DELTA, "bytes", "bytes after the transport header"),
    Column("rx_payload_bytes", "<u8", _DELTA, "bytes", "as tx_payload_bytes, received"),
    Column("tx_bytes_total", "<u8", _STATE, "bytes", "tx_bytes since the flow began"),
    Column("rx_bytes_total", "<u8", _STATE, "bytes", "rx_bytes since the flow began"),
    Column("tx_packets_total", "<u8", _STATE, "packets", "tx_packets since the flow began"),
    Column("rx_packets_total", "<u8", _STATE, "packets", "rx_packets since the flow began"),
    Column("tx_retransmits", "<u4", _DELTA, "packets", "segments sent whose payload had been sent before"),
    Column("rx_retransmits", "<u4", _DELTA, "packets", "as tx_retransmits, received"),
    # How long it waited
    Column("responses", "<u4", _DELTA, "", "requests that were answered (server's first payload byte after a client's)"),
    Column("response_time_sum_ns", "<u8", _DELTA, "ns", "sum of response times: request's last byte to response's first"),
    Column("response_time_max_ns", "<u8", _DELTA, "ns", "longest response time of the record"),
    Column(
        "response_time_histogram",
        f"({RESPONSE_TIME_BUCKETS},)<u4",
        _DELTA,
        "",
        "response times by power of two: bucket i counts [16 us * 2**i, 16 us * 2**(i+1)), the ends are open",
    ),
    # What the path and the ends did to the packets; docs/metrics.md has each definition with its source
    Column("tx_retransmit_bytes", "<u4", _DELTA, "bytes", "of tx_retransmits, payload that had been seen before"),
    Column("rx_retransmit_bytes", "<u4", _DELTA, "bytes", "as tx_retransmit_bytes, received"),
    Column(
        "tx_spurious_retransmits", "<u4", _DELTA, "packets", "of tx_retransmits, segments that the other end had: sent in vain"
    ),
    Column("rx_spurious_retransmits", "<u4", _DELTA, "packets", "as tx_spurious_retransmits, received"),
    Column("tx_out_of_order", "<u4", _DELTA, "packets", "segments sent that were overtaken on the way to where they were seen"),
    Column("rx_out_of_order", "<u4", _DELTA, "packets", "as tx_out_of_order, received"),
    Column("tx_duplicate_acks", "<u4", _DELTA, "packets", "duplicate ACKs sent (RFC 5681 2)"),
    Column("rx_duplicate_acks", "<u4", _DELTA, "packets", "as tx_duplicate_acks, received"),
    Column("tx_zero_windows", "<u2", _DELTA, "packets", "segments sent that close the window: local cannot take more"),
    Column("rx_zero_windows", "<u2", _DELTA, "packets", "as tx_zero_windows, received: remote cannot take more"),
    Column("tx_window_full", "<u2", _DELTA, "packets", "segments sent that fill remote's window; capture files only"),
    Column("rx_window_full", "<u2", _DELTA, "packets", "as tx_window_full, received"),
    Column(
        "tx_keep_alives",
        "<u2",
        _DELTA,
        "packets",
        "keep-alives sent (RFC 9293 3.8.4); in no other count of segments sent again",
    ),
    Column("rx_keep_alives", "<u2", _DELTA, "packets", "as tx_keep_alives, received"),
    Column(
        "tx_zero_window_probes",
        "|u1",
        _STATE,
        "packets",
        "segments sent since the flow began that ask a closed window for room (RFC 9293 3.8.6.1); 255 stands for more",
    ),
    Column("rx_zero_window_probes", "|u1", _STATE, "packets", "as tx_zero_window_probes, received"),
    Column("tx_fins", "|u1", _STATE, "packets", "FINs sent since the flow began; 255 stands for more"),
    Column("rx_fins", "|u1", _STATE, "packets", "as tx_fins, received"),
    Column("tx_resets", "|u1", _STATE, "packets", "RSTs sent since the flow began; 255 stands for more"),
    Column("rx_resets", "|u1", _STATE, "packets", "as tx_resets, received"),
    Column("tx_rtt_samples", "<u4", _DELTA, "", "round trips measured from tx data to its acknowledgment; capture files only"),
    Column("rx_rtt_samples", "<u4", _DELTA, "", "as tx_rtt_samples, from rx data"),
    Column(
        "tx_rtt_sum_ns", "<u8", _DELTA, "ns", "sum of these round trips (one segment at a time, none sent again: RFC 6298 3)"
    ),
    Column("rx_rtt_sum_ns", "<u8", _DELTA, "ns", "as tx_rtt_sum_ns, from rx data"),
    Column("tx_rtt_min_ns", "<u4", _STATE, "ns", "shortest of them since the flow began; at most 4.29 s"),
    Column("rx_rtt_min_ns", "<u4", _STATE, "ns", "as tx_rtt_min_ns, from rx data"),
    Column("tx_rtt_max_ns", "<u4", _STATE, "ns", "longest of them since the flow began; at most 4.29 s"),
    Column("rx_rtt_max_ns", "<u4", _STATE, "ns", "as tx_rtt_max_ns, from rx data"),
    Column("tx_ecn_ce", "<u4", _DELTA, "packets", "packets sent that arrived marked Congestion Experienced (RFC 3168 5)"),
    Column("rx_ecn_ce", "<u4", _DELTA, "packets", "as tx_ecn_ce, received"),
    Column("tx_traffic_class", "|u1", _CONSTANT, "", "DSCP (upper 6 bits) and ECN of the first packet sent (RFC 2474, 3168)"),
    Column("rx_traffic_class", "|u1", _CONSTANT, "", "as tx_traffic_class, received"),
    Column("tx_hop_limit", "|u1", _CONSTANT, "", "TTL or hop limit of the first packet sent"),
    Column("rx_hop_limit", "|u1", _CONSTANT, "", "as tx_hop_limit, received"),
    Column(
        "request_waits",
        "|u1",
        _STATE,
        "",
        "requests that have no response yet; in a flow's last record, that never had one; 255 stands for more",
    ),
    Column("request_transfer_sum_ns", "<u8", _DELTA, "ns", "sum over requests of first byte to last; capture files only"),
    Column("request_transfer_max_ns", "<u8", _STATE, "ns", "longest of them since the flow began, to the microsecond"),
    Column("response_transfer_sum_ns", "<u8", _DELTA, "ns", "sum over responses of first byte to last; capture files only"),
    Column("response_transfer_max_ns", "<u8", _STATE, "ns", "longest of them since the flow began, to the microsecond"),
    Column("icmp_errors", "<u2", _DELTA, "packets", "ICMP errors that quote a packet of this flow; capture files only"),
    Column("icmp_error_type", "|u1", _STATE, "", "ICMP type of the last of them"),
    Column("icmp_error_code", "|u1", _STATE, "", "ICMP code of the last of them"),
    Column("questions", "<u4", _DELTA, "", "requests that have numbers (DNS over UDP, ICMP queries), each once"),
    Column("question_repeats", "<u4", _DELTA, "", "of them, how often one was sent again before it was answered"),
)
"""Columns that capture fills."""

SOCKET: Final = (
    Column("smoothed_rtt_ns", "<u8", _STATE, "ns", "round-trip time, smoothed (RFC 6298 SRTT)"),
    Column("min_rtt_ns", "<u8", _STATE, "ns", "least round-trip time that the kernel remembers: of the last 5 minutes"),
    Column("socket_retransmits", "<u4", _STATE, "packets", "segments the socket has sent again since it was opened"),
    Column("lost_segments", "<u4", _STATE, "packets", "segments in flight that the kernel holds for lost"),
    Column("congestion_window", "<u4", _STATE, "packets", "segments that may be in flight"),
)
"""Columns that capture adds of TCP where it stands at the socket: what the kernel says of it. 0 where it was not asked."""

NAT: Final = (
    Column(
        "remote_nat_address",
        "|V16",
        _CONSTANT,
        "",
        "where packets to remote went, as NAT translated it on their way: the backend that was chosen for a Service's client",
    ),
    Column("remote_nat_port", "<u2", _CONSTANT, "", "as remote_nat_address; 0: they went to remote, as far as it was seen"),
)
"""Columns that capture adds where packets of a socket were translated: remote is whom the socket sent them to."""

NO_ANSWER: Final = 0xFFFF
"""What stands where a question that was never answered would have its response code."""

DNS_CODES: Final = 8
"""Values of `dns_codes`: response codes 0 to 5, all others, and questions that were never answered."""
OTHER_CODE: Final = 6
UNANSWERED: Final = 7


def _question(which: str, of: str) -> tuple[Column, ...]:
    """What is told of one question."""
    return (
        Column(f"dns_{which}_name", "<u4", _STATE, "", f"index into `names`: what {of} is about", default=NO_INDEX),
        Column(f"dns_{which}_type", "<u2", _STATE, "", "the type of record that it asks for (IANA): 1 A, 28 AAAA"),
        Column(f"dns_{which}_code", "<u2", _STATE, "", "its response code (IANA), EDNS's included; 65535: never answered"),
        Column(f"dns_{which}_answers", "<u2", _STATE, "", "how many records answer it, as the answer's header has it"),
        Column(f"dns_{which}_time_ns", "<u8", _STATE, "ns", "from when it was first asked to its answer; 0: there is none"),
        Column(f"dns_{which}_repeats", "<u2", _STATE, "", "how often it was sent again before its answer came"),
    )


NAMES: Final = (
    *_question("first", "the record's first DNS question that was answered, or given up"),
    *_question("slowest", "the one that took longest, never being answered the longest of all"),
    Column(
        "dns_codes",
        f"({DNS_CODES},)<u4",
        _DELTA,
        "",
        "DNS questions that were answered, by response code: 0 to 5 in their places, all others in place 6; in place 7 those "
        "that never were",
    ),
    Column(
        "remote_name",
        "<u4",
        _CONSTANT,
        "",
        "index into `names`: the name that local, a client, had looked up for remote's address before the flow began",
        default=NO_INDEX,
    ),
)
"""Columns that capture adds where it reads names."""


def _tls_name(name: str, description: str) -> Column:
    return Column(f"tls_{name}", "<u4", _STATE, "", f"index into `names`: {description}", default=NO_INDEX)


TLS: Final = (
    Column("tls_version", "<u2", _STATE, "", "the version that the server chose: 0x0303 TLS 1.2, 0x0304 TLS 1.3; 0: none"),
    Column("tls_cipher", "<u2", _STATE, "", "the cipher suite that it chose (IANA); 0: none"),
    Column(
        "tls_flags",
        "|u1",
        _STATE,
        "bits",
        "bit 0: a session was resumed, known where bit 1 is set; bit 2: the client offered an encrypted ClientHello, or "
        "pretended to; in the record that holds it, bit 3: an alert ended the handshake; bit 4: the server's; bit 5: the "
        "client's, encrypted; bit 6: the handshake is QUIC's, of version 1, or of version 2 where bit 7 is set",
    ),
    Column("tls_alert", "|u1", _STATE, "", "which alert that was (IANA), where it was not encrypted"),
    Column(
        "tls_handshake_time_ns",
        "<u8",
        _STATE,
        "ns",
        "from the ClientHello's first byte to the client's first record of application data, in the record that holds it; in "
        "TLS 1.3 that is what ends its handshake, in TLS 1.2 what it has to say first; 0: not seen",
    ),
    _tls_name("server_name", "the server that the client asked for (SNI); with bit 2 of tls_flags it may be the outer one"),
    _tls_name("protocol", "the application's protocol that the server chose (ALPN); from TLS 1.3 on nobody sees it"),
    _tls_name("offered_protocols", "those that the client offered, the one it likes best first, with commas between"),
)
"""Columns that capture adds where it reads TLS handshakes, in every record of a flow from then on."""

FILE: Final = (
    Column("file", "<u4", _CONSTANT, "", "index into `files`: where the record's first packet is", default=NO_INDEX),
    Column("tunnel", "|u1", _CONSTANT, "", "the innermost tunnel that the flow's packets travel in", enum=Tunnel),
    Column("tunnel_depth", "|u1", _CONSTANT, "", "tunnels around them, one in the other"),
    Column("local_tunnel_address", "|V16", _CONSTANT, "", "the tunnel's end on local's side; as local_address"),
    Column("remote_tunnel_address", "|V16", _CONSTANT, "", "the tunnel's end on remote's side"),
    Column("tx_tunnel_id", "<u4", _CONSTANT, "", "VNI, GRE key or TEID of the packets sent"),
    Column("rx_tunnel_id", "<u4", _CONSTANT, "", "as tx_tunnel_id, received"),
    Column(
        "tx_tunnel_bytes_total",
        "<u8",
        _STATE,
        "bytes",
        "IP length of the outermost packets sent since the flow began; tx_bytes_total is what they carry",
    ),
    Column("rx_tunnel_bytes_total", "<u8", _STATE, "bytes", "as tx_tunnel_bytes_total, received"),
    Column("tx_fragments", "<u4", _STATE, "packets", "packets sent since the flow began that are fragments"),
    Column("rx_fragments", "<u4", _STATE, "packets", "as tx_fragments, received"),
    Column(
        "tx_overlapping_fragments", "<u4", _STATE, "packets", "of tx_fragments, those that hold what another one held before"
    ),
    Column("rx_overlapping_fragments", "<u4", _STATE, "packets", "as tx_overlapping_fragments, received"),
    Column("tx_incomplete_datagrams", "<u4", _STATE, "", "datagrams sent whose fragments are not all there"),
    Column("rx_incomplete_datagrams", "<u4", _STATE, "", "as tx_incomplete_datagrams, received"),
    Column(
        "tx_copies",
        "<u4",
        _STATE,
        "packets",
        "packets sent since the flow began that the file has once more, from another point of their way; in no other count",
    ),
    Column("rx_copies", "<u4", _STATE, "packets", "as tx_copies, received"),
    Column(
        "translated",
        "|u1",
        _STATE,
        "",
        "1: an older flow of the file is the same connection, under the addresses it had before or behind a translation",
    ),
)
"""Columns that capture adds where it reads a capture file: what was around the flow's packets, which no socket sees."""
EXCHANGE: Final = (
    Column("trace_id", "|V16", _CONSTANT, "", "of the application's trace, as the request's `traceparent` has it"),
    Column("parent_span_id", "|V8", _CONSTANT, "", "of the span that made the request, from the same place"),
    Column("trace_flags", "|u1", _CONSTANT, "bits", "from the same place; bit 0, sampled, is always set"),
    Column("exchange_end", "|u1", _CONSTANT, "", "why the exchange is over", enum=ExchangeEnd),
    Column("request_first_unix_ns", "<u8", _CONSTANT, "ns", "first byte of the request"),
    Column(
        "request_last_unix_ns",
        "<u8",
        _CONSTANT,
        "ns",
        "last byte of the request, when it was sent again last if it had not arrived",
    ),
    Column("response_first_unix_ns", "<u8", _CONSTANT, "ns", "first byte of the response that is no interim one; 0: none came"),
    Column("response_last_unix_ns", "<u8", _CONSTANT, "ns", "last byte of the response, as request_last_unix_ns"),
    Column("request_bytes", "<u8", _CONSTANT, "bytes", "payload of the request, each byte counted once"),
    Column(
        "response_bytes", "<u8", _CONSTANT, "bytes", "payload of the response, interim ones included, each byte counted once"
    ),
    Column("request_retransmits", "<u4", _CONSTANT, "packets", "segments of the request's direction that were sent again"),
    Column("response_retransmits", "<u4", _CONSTANT, "packets", "segments of the response's direction that were sent again"),
    Column(
        "exchange_shared",
        "|u1",
        _CONSTANT,
        "",
        "1: other exchanges shared its connection, whose retransmissions these are; 2: it is no exchange, but what a "
        "connection that several share did from start_unix_ns to end_unix_ns: then `tx_zero_windows`, `rx_zero_windows` and "
        "`smoothed_rtt_ns` are its too, and `response_time_max_ns` is the longest time in which neither end said anything",
    ),
    Column("exchange_matched", "|u1", _CONSTANT, "", "how it is known whose span's it is", enum=ExchangeMatched),
    Column(
        "exchange_series",
        "<u4",
        _CONSTANT,
        "",
        "of the last exchange of a span: how many its connection had for it; 0: one, or it is not the last",
    ),
    Column(
        "exchange_series_wait_ns", "<u8", _CONSTANT, "ns", "of the same: how long the server took for all of them, together"
    ),
    Column("http_method", "|u1", _CONSTANT, "", "of the request", enum=HttpMethod),
    Column("http_status", "<u2", _CONSTANT, "", "status code of the final response; 0: none came, or it was not seen"),
    Column("grpc_status", "|u1", _CONSTANT, "", "gRPC's status code plus 1; 0: none came"),
)
"""Columns of records whose reason is EXCHANGE; those of RAW that are not a record's name, ends or times are 0 there, but for
what `exchange_shared` says."""

SET_UP: Final = (
    Column("tls_handshake_unix_ns", "<u8", _CONSTANT, "ns", "first byte of the ClientHello of the connection's TLS handshake"),
    Column(
        "lookup_unix_ns",
        "<u8",
        _CONSTANT,
        "ns",
        "when the DNS question was first asked whose answer the connection was opened for; what it was is in `dns_first_*`",
    ),
    Column("lookup_flow_start_unix_ns", "<u8", _CONSTANT, "ns", "first packet of that question's flow; 0: it is not known"),
    Column("lookup_local_address", "|V16", _CONSTANT, "", "of that flow, as local_address"),
    Column("lookup_remote_address", "|V16", _CONSTANT, "", "of that flow: the resolver's address"),
    Column("lookup_local_port", "<u2", _CONSTANT, "", "of that flow"),
    Column("lookup_remote_port", "<u2", _CONSTANT, "", "of that flow"),
)
"""Columns that capture adds, at the client, to the record of a connection's first exchange, which waited until the connection
was there. There it fills `syn_unix_ns`, `handshake_ack_unix_ns`, `syn_repeats`, `tls_handshake_time_ns`, `dns_first_*` too."""

ENRICHED: Final = (
    Column("local_entity", "<u4", _CONSTANT, "", "index into `entities`: who is local", default=NO_INDEX),
    Column("remote_entity", "<u4", _CONSTANT, "", "index into `entities`: who is remote", default=NO_INDEX),
    Column("local_service", "<u4", _CONSTANT, "", "index into `entities`: service that local serves here", default=NO_INDEX),
    Column("remote_service", "<u4", _CONSTANT, "", "index into `entities`: service that remote serves here", default=NO_INDEX),
    Column("local_resolution", "|u1", _CONSTANT, "", "what is known of local", enum=Resolution),
    Column("remote_resolution", "|u1", _CONSTANT, "", "what is known of remote", enum=Resolution),
)
"""Columns that the enricher adds."""

VERDICT: Final = (
    Column("verdict", "|u1", _STATE, "", "what was wrong, as far as this end can tell (docs/diagnosis.md)", enum=Verdict),
    Column("verdict_measure", "|u1", _STATE, "", "the measure that decided it; 0: there was nothing", enum=VerdictMeasure),
)
"""Columns that whoever judges records adds: the enricher, or who shows a capture file without one."""

COLUMNS: Final = {
    column.name: column for column in RAW + SOCKET + NAT + NAMES + TLS + FILE + EXCHANGE + SET_UP + ENRICHED + VERDICT
}
"""Every column of schema v1 by name."""
