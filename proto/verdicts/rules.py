"""The rules: the one table by which records are judged, and the judging.

A rule names a verdict, the measure that decided it, and all conditions that have to hold. Of several rules that hold the first
one counts; where none does, the verdict is unknown. A rule knows one end's record alone: what that cannot decide is
`path_or_server`, and where nobody can know there is no rule. Wrong is worse than unknown.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from proto.columns import (
    RESPONSE_TIME_BUCKETS,
    RESPONSE_TIME_FIRST_BOUND_NS,
    UNANSWERED,
    ExchangeEnd,
    Outcome,
    Reason,
)
from proto.flow_batch import Array, FlowBatch
from proto.verdicts.names import Verdict, VerdictMeasure
from proto.verdicts.terms import MS, Condition, Term, Thresholds, View

SYN_TIMEOUT_NS: Final = 900 * MS
"""An end asks again after a second (RFC 6298 2.1), counted in ticks: what took longer in a handshake waited for that."""
LOST_ONE_IN: Final = 200
"""More than one segment in so many is loss that a transfer feels."""
LEAST_LOST: Final = 2
"""One segment sent again may be a probe of the tail (RFC 8985 7), with nothing lost."""
LARGE_SEGMENT: Final = 1000
"""Bytes that no narrower link is expected to stop, up to a full segment's."""
LEAST_SLOW: Final = 3
"""So many slow responses in one record, and no sign of loss, are no accident of the path."""
INITIAL_WINDOW: Final = 14_600
"""Bytes that a sender sends without waiting for anybody (RFC 6928)."""
SERVFAIL: Final = 2

_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_UNREACHABLE, _UNREACHABLE_V6 = 3, 1
_PORT_UNREACHABLE, _PORT_UNREACHABLE_V6, _TOO_BIG = 3, 4, 4


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table."""

    verdict: Verdict
    measure: VerdictMeasure
    when: tuple[Condition, ...]


def _column(text: str, name: str, *, nanoseconds: bool = False) -> Term:
    return Term(text, lambda view: view.column(name), nanoseconds)


def _forward(text: str, name: str) -> Term:
    return Term(text, lambda view: view.of_client(name))


def _reverse(text: str, name: str) -> Term:
    return Term(text, lambda view: view.of_server(name))


def _less(values: Array, others: Array) -> Array:
    return np.where(values > others, values - np.minimum(values, others), np.uint64(0))


def _lookups(code: int) -> Term:
    name = "flow.dns.unanswered" if code == UNANSWERED else "flow.dns.responses.servfail"

    def values(view: View) -> Array:
        codes = view.column("dns_codes")
        return codes[:, code] if codes.ndim else codes

    return Term(f"`{name}`", values)


def _slow_responses(view: View) -> Array:
    """Responses that were slow for sure: of the histogram's buckets, those that begin there or behind."""
    counts = view.column("response_time_histogram")
    lower = RESPONSE_TIME_FIRST_BOUND_NS // 2 << np.arange(RESPONSE_TIME_BUCKETS, dtype=np.uint64)
    return counts[:, lower >= view.thresholds.slow_response_ns].sum(axis=1) if counts.ndim else counts


def _icmp_error(view: View) -> Array:
    """1: the last ICMP error says that there is no way; 2: that nobody listens at the port; 0: neither."""
    if not view.column("icmp_errors").ndim:
        return view.column("icmp_errors")
    ipv4, kind, code = view.is_ipv4(), view.column("icmp_error_type"), view.column("icmp_error_code")
    no_way = kind == np.where(ipv4, _UNREACHABLE, _UNREACHABLE_V6)
    at_port = code == np.where(ipv4, _PORT_UNREACHABLE, _PORT_UNREACHABLE_V6)
    found: Array = np.where(no_way & ~(ipv4 & (code == _TOO_BIG)), 1 + at_port, 0) * (view.column("icmp_errors") != 0)
    return found


SLOW_RESPONSE: Final = Term(
    "slow response", lambda view: np.array(view.thresholds.slow_response_ns, np.uint64), nanoseconds=True
)
SLOW_PATH: Final = Term("slow path", lambda view: np.array(view.thresholds.slow_path_ns, np.uint64), nanoseconds=True)

_transport = _column("`network.transport`", "transport")
_observer = Term("`flow.observer`", View.seen_at)
_outcome = _column("`flow.connection.outcome`", "outcome")
_cut_short = Condition("`error.type` is `connection_reset`", lambda view: view.column("cut_short") != 0)
_not_cut_short = Condition("there is no `error.type`", lambda view: view.column("cut_short") == 0)
_closer = Term("`flow.tcp.closed_by`", View.closer)
_end = _column("`flow.end_reason`", "reason")
_icmp_said = Term("the last ICMP error", _icmp_error)
_responses = _column("`flow.response.count`", "responses")
_response_max = _column("`flow.response.time_max`", "response_time_max_ns", nanoseconds=True)
_slow = Term("slow ones in `flow.response.time_histogram`", _slow_responses)
_waits = _column("`flow.request.unanswered`", "request_waits")
_questions = _column("`flow.question.count`", "questions")
_repeats = _column("`flow.question.repeats`", "question_repeats")
_socket_rtt = _column("`flow.tcp.socket.rtt.smoothed`", "smoothed_rtt_ns", nanoseconds=True)
_rtt_min = _column("`flow.tcp.socket.rtt.min`", "min_rtt_ns", nanoseconds=True)
_window = _column("`flow.tcp.socket.congestion_window`", "congestion_window")


def _of_handshake(text: str, values: str, since: str, until: str) -> Term:
    """A measure of the record that holds the handshake's end."""
    if values:
        return Term(text, lambda view: view.in_this_record("handshake_ack_unix_ns", view.column(values)))
    return Term(text, lambda view: view.in_this_record("handshake_ack_unix_ns", view.elapsed(since, until)), nanoseconds=True)


_connect = _of_handshake("`flow.tcp.connect.time`", "", "syn_unix_ns", "handshake_ack_unix_ns")
_latency = _of_handshake("`flow.tcp.handshake.latency`", "", "syn_unix_ns", "syn_ack_unix_ns")
_ack_latency = _of_handshake("`flow.tcp.handshake.ack_latency`", "", "syn_ack_unix_ns", "handshake_ack_unix_ns")
_syn_again = _of_handshake("`flow.tcp.syn_repeats`", "syn_repeats", "", "")
_syn_ack_again = _of_handshake("`flow.tcp.syn_ack_repeats`", "syn_ack_repeats", "", "")
_syn_repeats = _column("`flow.tcp.syn_repeats`", "syn_repeats")
_ipv4 = Condition("`network.type` is `ipv4`", View.is_ipv4)

_flow = Condition("", lambda view: view.column("reason") != Reason.EXCHANGE)
_exchange = Condition("an exchange", lambda view: view.column("reason") == Reason.EXCHANGE)
_tcp = _transport.equals(_TCP, "`tcp`")
_udp = _transport.equals(_UDP, "`udp`")
_ping = Condition(
    f"{_transport.text} is `icmp` or `icmpv6`",
    lambda view: (view.column("transport") == _ICMP) | (view.column("transport") == _ICMPV6),
)
_at_client = _observer.equals(1, "`client`")
_at_server = _observer.equals(2, "`server`")
_not_at_server = Condition(f"{_observer.text} is `client` or `capture`", lambda view: _observer.values(view) % 2 == 1)
_at_socket = Condition(f"{_observer.text} is `client` or `server`", lambda view: _observer.values(view) - np.uint8(1) < 2)
_over = _end.is_(Reason.END_OF_FLOW, Reason.IDLE_TIMEOUT)
_timed_out = _outcome.is_(Outcome.TIMEOUT)
_no_outcome = _outcome.is_(Outcome.TIMEOUT, Outcome.HALF_OPEN)


def _loss(verdict: Verdict, measure: VerdictMeasure, way: str) -> Rule:
    """Segments of one direction that were sent again, those in vain left out."""
    of = View.of_client if not way else View.of_server
    lost = Term(
        f"`flow.{way}tcp.retransmits` less `.spurious_retransmits`",
        lambda view: _less(of(view, "retransmits"), of(view, "spurious_retransmits")),
    )
    packets = Term(f"`flow.{way}packets.delta`", lambda view: of(view, "packets"))
    return Rule(verdict, measure, (_flow, _tcp, lost.at_least(LEAST_LOST), lost.times(LOST_ONE_IN).at_least(packets)))


def _full_segments(measure: VerdictMeasure, way: str, sender: Condition) -> Rule:
    """Nothing but full segments sent again and again by this very end, which is down to one at a time."""
    of = View.of_client if not way else View.of_server
    again = Term(f"`flow.{way}tcp.retransmits`", lambda view: of(view, "retransmits"))
    size = Term(f"`flow.{way}tcp.retransmit_bytes`", lambda view: of(view, "retransmit_bytes"))
    packets = Term(f"`flow.{way}packets.delta`", lambda view: of(view, "packets"))
    when = (
        _flow, _tcp, sender, again.at_least(LEAST_LOST), size.at_least(again.times(LARGE_SEGMENT)),
        again.times(10).at_least(packets), _window.equals(1), _outcome.is_(Outcome.ESTABLISHED),
    )  # fmt: skip
    return Rule(Verdict.MTU, measure, when)


def _unread(measure: VerdictMeasure, way: str, other_way: str) -> Rule:
    """One end closed its window, and the other waited so long that it asked whether there is room again."""
    closed = (_forward if not way else _reverse)(f"`flow.{way}tcp.zero_window`", "zero_windows")
    asked = (_forward if not other_way else _reverse)(f"`flow.{other_way}tcp.zero_window_probes`", "zero_window_probes")
    return Rule(Verdict.ZERO_WINDOW, measure, (_flow, _tcp, closed.at_least(1), asked.at_least(1)))


_no_sign_of_loss = Condition(
    "no segment of either direction was sent again or came out of order, and no ACK came twice",
    lambda view: (
        ~np.logical_or.reduce(
            np.broadcast_arrays(
                *(
                    view.column(f"{way}_{what}") != 0
                    for way in ("tx", "rx")
                    for what in ("retransmits", "out_of_order", "duplicate_acks")
                )
            )
        )
    ),
)

_answered = Condition("there is a response", lambda view: view.column("response_first_unix_ns") != 0)
_silent = Condition("there is no response", lambda view: view.column("response_first_unix_ns") == 0)
_exchange_end = _column("`flow.exchange.end_reason`", "exchange_end")
_wait = Term(
    "`flow.response.time`", lambda view: view.elapsed("request_last_unix_ns", "response_first_unix_ns"), nanoseconds=True
)
_asking = Term(
    "`flow.request.transfer_time`",
    lambda view: view.elapsed("request_first_unix_ns", "request_last_unix_ns"),
    nanoseconds=True,
)
_answering = Term(
    "`flow.response.transfer_time`",
    lambda view: view.elapsed("response_first_unix_ns", "response_last_unix_ns"),
    nanoseconds=True,
)
_asked_again = _column("`flow.request.retransmits`", "request_retransmits")
_answered_again = _column("`flow.response.retransmits`", "response_retransmits")
_request_bytes = _column("`flow.request.bytes`", "request_bytes")
_no_reset = Condition(f"{_exchange_end.text} is not `reset`", lambda view: view.column("exchange_end") != ExchangeEnd.RESET)

_asks = _questions.at_least(1)
_none_waits = _waits.equals(0)
_one_waits = _waits.at_least(1)
_one_answered = _responses.at_least(1)
_slow_answer = _response_max.at_least(SLOW_RESPONSE)
_slow_beyond_path = _response_max.at_least(SLOW_RESPONSE.plus(_socket_rtt))
_syn_was_repeated = _syn_again.at_least(1)
_slow_wait = _wait.at_least(SLOW_RESPONSE)
_idle_end = _exchange_end.is_(ExchangeEnd.IDLE_TIMEOUT)
_asked_once = _asked_again.equals(0)

_V, _M = Verdict, VerdictMeasure
RULES: Final = (
    # A connection that never was
    Rule(_V.REFUSED, _M.OUTCOME, (_flow, _tcp, _outcome.is_(Outcome.REFUSED))),
    Rule(_V.REFUSED, _M.ICMP_ERRORS, (_flow, _tcp, _icmp_said.equals(2, "that the port is unreachable"), _no_outcome)),
    Rule(_V.UNREACHABLE, _M.ICMP_ERRORS, (_flow, _tcp, _icmp_said.equals(1, "that there is no way"), _no_outcome)),
    Rule(_V.ACCEPT_QUEUE, _M.SYN_REPEATS, (_flow, _tcp, _at_server, _timed_out, _syn_repeats.at_least(1), _ipv4)),
    Rule(_V.PATH_OR_SERVER, _M.OUTCOME, (_flow, _tcp, _timed_out)),
    # One that was broken off
    Rule(_V.RESET_BY_SERVER, _M.CLOSED_BY, (_flow, _tcp, _cut_short, _closer.equals(2, "`destination`"))),
    Rule(_V.RESET_BY_CLIENT, _M.CLOSED_BY, (_flow, _tcp, _cut_short, _closer.equals(1, "`source`"))),
    # One whose packets did not arrive, or were not wanted
    _full_segments(_M.RETRANSMIT_BYTES, "", _at_client),
    _full_segments(_M.REVERSE_RETRANSMIT_BYTES, "reverse.", _at_server),
    _unread(_M.ZERO_WINDOW, "", "reverse."),
    _unread(_M.REVERSE_ZERO_WINDOW, "reverse.", ""),
    _loss(_V.PATH_LOSS, _M.RETRANSMITS, ""),
    _loss(_V.PATH_LOSS, _M.REVERSE_RETRANSMITS, "reverse."),
    # One that took long to come about
    Rule(_V.ACCEPT_QUEUE, _M.HANDSHAKE_LATENCY,
         (_flow, _tcp, _at_server, _syn_was_repeated, _latency.at_least(SYN_TIMEOUT_NS))),
    Rule(_V.PATH_LOSS, _M.SYN_ACK_REPEATS,
         (_flow, _tcp, _at_server, _syn_ack_again.at_least(1), _ack_latency.at_least(SYN_TIMEOUT_NS))),
    Rule(_V.PATH_OR_SERVER, _M.SYN_REPEATS,
         (_flow, _tcp, _not_at_server, _syn_was_repeated, _connect.at_least(SYN_TIMEOUT_NS))),
    # One on which somebody waited
    Rule(_V.SERVER_SLOW, _M.RESPONSE_TIME_MAX, (_flow, _tcp, _at_server, _slow_answer)),
    Rule(_V.SERVER_SLOW, _M.RESPONSE_TIME_MAX,
         (_flow, _tcp, _not_at_server, _slow.at_least(LEAST_SLOW), _no_sign_of_loss,
          _slow_beyond_path)),
    Rule(_V.PATH_OR_SERVER, _M.RESPONSE_TIME_MAX,
         (_flow, _tcp, _not_at_server, _slow_beyond_path)),
    Rule(_V.PATH_SLOW, _M.RTT_MIN, (_flow, _tcp, _at_socket, _rtt_min.at_least(SLOW_PATH))),
    Rule(_V.PATH_SLOW, _M.CONNECT_TIME,
         (_flow, _tcp, _connect.at_least(SLOW_PATH), _connect.below(SYN_TIMEOUT_NS), _syn_again.equals(0),
          _syn_ack_again.equals(0))),
    # Names that were looked up
    Rule(_V.NAME_RESOLUTION, _M.DNS_SERVFAIL, (_flow, _lookups(SERVFAIL).at_least(1))),
    Rule(_V.NAME_RESOLUTION, _M.DNS_UNANSWERED, (_flow, _lookups(UNANSWERED).at_least(1))),
    Rule(_V.NAME_RESOLUTION, _M.QUESTION_REPEATS, (_flow, _udp, _repeats.at_least(1))),
    Rule(_V.NAME_RESOLUTION, _M.REQUEST_UNANSWERED, (_flow, _udp, _asks, _one_waits, _over)),
    Rule(_V.NAME_RESOLUTION, _M.RESPONSE_TIME_MAX,
         (_flow, _udp, _asks, _slow_answer)),
    # Datagrams and pings
    Rule(_V.REFUSED, _M.ICMP_ERRORS, (_flow, _udp, _icmp_said.equals(2, "that the port is unreachable"))),
    Rule(_V.UNREACHABLE, _M.ICMP_ERRORS, (_flow, _udp, _icmp_said.equals(1, "that there is no way"))),
    Rule(_V.UNREACHABLE, _M.REQUEST_UNANSWERED,
         (_flow, _ping, _asks, _one_waits, _responses.equals(0), _over)),
    Rule(_V.PATH_SLOW, _M.RESPONSE_TIME_MAX,
         (_flow, _ping, _not_at_server, _asks, _response_max.at_least(SLOW_PATH))),
    # Requests of an application's trace
    Rule(_V.SERVER_SLOW, _M.RESPONSE_TIME, (_exchange, _at_server, _answered, _slow_wait)),
    Rule(_V.SERVER_SLOW, _M.EXCHANGE_END, (_exchange, _at_server, _silent, _idle_end)),
    Rule(_V.PATH_OR_SERVER, _M.RESPONSE_TIME, (_exchange, _not_at_server, _answered, _slow_wait)),
    Rule(_V.PATH_OR_SERVER, _M.EXCHANGE_END,
         (_exchange, _not_at_server, _silent, _idle_end)),
    Rule(_V.CLIENT_SLOW, _M.REQUEST_TRANSFER_TIME,
         (_exchange, _at_client, _asking.at_least(SLOW_RESPONSE), _asked_once,
          _request_bytes.below(INITIAL_WINDOW))),
    # Nothing of this
    Rule(_V.OK, _M.NONE, (_flow, _tcp, _outcome.is_(Outcome.CLOSED, Outcome.RESET), _not_cut_short)),
    Rule(_V.OK, _M.NONE, (_flow, _tcp, _outcome.is_(Outcome.ESTABLISHED), _not_cut_short, _none_waits)),
    Rule(_V.OK, _M.NONE, (_flow, _udp, _asks, _one_answered, _none_waits)),
    Rule(_V.OK, _M.NONE, (_flow, _ping, _asks, _one_answered, _none_waits)),
    Rule(_V.OK, _M.NONE, (_exchange, _answered, _no_reset, _asked_once, _answered_again.equals(0))),
    Rule(_V.OK, _M.NONE,
         (_exchange, _answered, _no_reset, _asking.below(SLOW_RESPONSE), _answering.below(SLOW_RESPONSE))),
)  # fmt: skip
"""From the first that counts to the last."""


_USES: Final = Counter(condition for rule in RULES for condition in rule.when)
_RAREST_FIRST: Final = [(rule, sorted(rule.when, key=_USES.__getitem__)) for rule in reversed(RULES)]
"""From the last rule to the first, with what few of them ask for before what many do: most rules hold nowhere in a batch."""
_COMMON: Final = [condition for condition, uses in _USES.items() if uses >= 3]
"""What many rules ask for. Where it holds nowhere (no exchange, no UDP, nothing that failed), none of them is looked at."""


def judged(batch: FlowBatch, thresholds: Thresholds | None = None) -> FlowBatch:
    """Return the batch with a verdict on each record and the measure that decided it; other columns are the same arrays."""
    verdict, measure = verdicts(batch, thresholds)
    columns = {name: array for name, array in batch.columns.items() if name not in {"verdict", "verdict_measure"}}
    return replace(batch, columns=columns | {"verdict": verdict, "verdict_measure": measure})


def verdicts(batch: FlowBatch, thresholds: Thresholds | None = None) -> tuple[Array, Array]:
    """Return the verdict on each record, and the measure that decided it."""
    view = View(batch, thresholds or Thresholds())
    verdict, measure = np.zeros(batch.count, np.uint8), np.zeros(batch.count, np.uint8)
    nowhere = {condition for condition in _COMMON if not condition.holds(view).any()}
    for rule, when in _RAREST_FIRST:
        if not nowhere.isdisjoint(when):
            continue
        holds = when[0].holds(view)
        for condition in when[1:]:
            if not holds.any():
                break
            holds = holds & condition.holds(view)
        else:
            np.copyto(verdict, np.uint8(rule.verdict), where=holds)
            np.copyto(measure, np.uint8(rule.measure), where=holds)
    return verdict, measure
