"""The verdicts, and the measures that decide them. The numbers are what records carry."""

from __future__ import annotations

import enum
from typing import Final


class Verdict(enum.IntEnum):
    """What was wrong with a connection or an exchange, as far as one end can tell: `MEANINGS`."""

    UNKNOWN = 0
    OK = 1
    SERVER_SLOW = 2
    CLIENT_SLOW = 3
    PATH_SLOW = 4
    PATH_LOSS = 5
    ACCEPT_QUEUE = 6
    REFUSED = 7
    UNREACHABLE = 8
    RESET_BY_SERVER = 9
    RESET_BY_CLIENT = 10
    ZERO_WINDOW = 11
    MTU = 12
    NAME_RESOLUTION = 13
    PATH_OR_SERVER = 14


MEANINGS: Final = {
    Verdict.UNKNOWN: "nobody can know, or nobody judged; on a span it is left out",
    Verdict.OK: "nothing that is measured was wrong",
    Verdict.SERVER_SLOW: "the server took long to answer",
    Verdict.CLIENT_SLOW: "the client took long to say what it asked for",
    Verdict.PATH_SLOW: "the way between them is long",
    Verdict.PATH_LOSS: "the way between them loses packets",
    Verdict.ACCEPT_QUEUE: "the SYN was at the server's socket and got no answer: its accept queue is full, or its host lets "
    "no answer out",
    Verdict.REFUSED: "nobody listens there, or whoever stands before it says so",
    Verdict.UNREACHABLE: "a router or the host says that there is no way to it, or a ping had no answer",
    Verdict.RESET_BY_SERVER: "the server broke off what was under way",
    Verdict.RESET_BY_CLIENT: "the client broke off what was under way",
    Verdict.ZERO_WINDOW: "one end did not read what the other had for it, until that asked for room",
    Verdict.MTU: "full segments do not arrive, small ones do",
    Verdict.NAME_RESOLUTION: "a name was looked up slowly, in vain, or more than once",
    Verdict.PATH_OR_SERVER: "the path or the server, which this end cannot tell apart: the server's own span can",
}


class VerdictMeasure(enum.IntEnum):
    """The measure that decided."""

    NONE = 0
    OUTCOME = 1
    CLOSED_BY = 2
    SYN_REPEATS = 3
    SYN_ACK_REPEATS = 4
    HANDSHAKE_LATENCY = 5
    CONNECT_TIME = 6
    RTT_MIN = 7
    RETRANSMITS = 8
    REVERSE_RETRANSMITS = 9
    RETRANSMIT_BYTES = 10
    REVERSE_RETRANSMIT_BYTES = 11
    ZERO_WINDOW = 12
    REVERSE_ZERO_WINDOW = 13
    RESPONSE_TIME_MAX = 14
    RESPONSE_TIME = 15
    REQUEST_TRANSFER_TIME = 16
    EXCHANGE_END = 17
    REQUEST_UNANSWERED = 18
    QUESTION_REPEATS = 19
    DNS_SERVFAIL = 20
    DNS_UNANSWERED = 21
    ICMP_ERRORS = 22


MEASURE_ATTRIBUTES: Final[dict[int, str]] = {
    VerdictMeasure.OUTCOME: "flow.connection.outcome",
    VerdictMeasure.CLOSED_BY: "flow.tcp.closed_by",
    VerdictMeasure.SYN_REPEATS: "flow.tcp.syn_repeats",
    VerdictMeasure.SYN_ACK_REPEATS: "flow.tcp.syn_ack_repeats",
    VerdictMeasure.HANDSHAKE_LATENCY: "flow.tcp.handshake.latency",
    VerdictMeasure.CONNECT_TIME: "flow.tcp.connect.time",
    VerdictMeasure.RTT_MIN: "flow.tcp.socket.rtt.min",
    VerdictMeasure.RETRANSMITS: "flow.tcp.retransmits",
    VerdictMeasure.REVERSE_RETRANSMITS: "flow.reverse.tcp.retransmits",
    VerdictMeasure.RETRANSMIT_BYTES: "flow.tcp.retransmit_bytes",
    VerdictMeasure.REVERSE_RETRANSMIT_BYTES: "flow.reverse.tcp.retransmit_bytes",
    VerdictMeasure.ZERO_WINDOW: "flow.tcp.zero_window",
    VerdictMeasure.REVERSE_ZERO_WINDOW: "flow.reverse.tcp.zero_window",
    VerdictMeasure.RESPONSE_TIME_MAX: "flow.response.time_max",
    VerdictMeasure.RESPONSE_TIME: "flow.response.time",
    VerdictMeasure.REQUEST_TRANSFER_TIME: "flow.request.transfer_time",
    VerdictMeasure.EXCHANGE_END: "flow.exchange.end_reason",
    VerdictMeasure.REQUEST_UNANSWERED: "flow.request.unanswered",
    VerdictMeasure.QUESTION_REPEATS: "flow.question.repeats",
    VerdictMeasure.DNS_SERVFAIL: "flow.dns.responses.servfail",
    VerdictMeasure.DNS_UNANSWERED: "flow.dns.unanswered",
    VerdictMeasure.ICMP_ERRORS: "flow.icmp.errors",
}
"""The attribute that has the measure, on the same span."""
