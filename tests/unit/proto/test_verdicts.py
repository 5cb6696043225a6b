"""The rules by which records are judged."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from proto.columns import COLUMNS, UNANSWERED, End, ExchangeEnd, Observer, Outcome, Reason, Role
from proto.flow_batch import FlowBatch, decode, encode
from proto.verdicts.names import MEANINGS, MEASURE_ATTRIBUTES, Verdict, VerdictMeasure
from proto.verdicts.rules import RULES, judged
from proto.verdicts.terms import Thresholds
from tests.support.pipeline.batches import flow_batches

ROOT = Path(__file__).parents[3]
FIRST_RELEASE = ROOT / "tests" / "golden" / "flow_v1.msgpack"
V, M = Verdict, VerdictMeasure
MS = 1_000_000
SECOND = 1000 * MS
AT = 1_700_000_000 * SECOND
IPV4 = bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
TCP, UDP, ICMP = 6, 17, 1

CLIENT = {
    "role": Role.CLIENT,
    "observer": Observer.SOCKET,
    "transport": TCP,
    "reason": Reason.END_OF_FLOW,
    "local_address": IPV4,
}
CLIENT |= {"start_unix_ns": AT, "syn_unix_ns": AT, "tx_packets": 100, "rx_packets": 100, "outcome": Outcome.CLOSED}
CLIENT |= {"syn_ack_unix_ns": AT + MS, "handshake_ack_unix_ns": AT + MS}
SERVER = CLIENT | {"role": Role.SERVER}
CAPTURE = CLIENT | {"observer": Observer.CAPTURE}
OPEN = {"outcome": Outcome.ESTABLISHED, "reason": Reason.ACTIVE_TIMEOUT}
NEVER = {"outcome": Outcome.TIMEOUT, "syn_ack_unix_ns": 0, "handshake_ack_unix_ns": 0, "syn_repeats": 3}
LATE = {"handshake_ack_unix_ns": AT + SECOND}
DNS = {"role": Role.CLIENT, "observer": Observer.SOCKET, "transport": UDP, "local_address": IPV4, "questions": 1}
DNS |= {"reason": Reason.IDLE_TIMEOUT}
PING = DNS | {"transport": ICMP}
ASKED = {"reason": Reason.EXCHANGE, "observer": Observer.SOCKET, "role": Role.CLIENT, "transport": TCP, "local_address": IPV4}
ASKED |= {"request_first_unix_ns": AT, "request_last_unix_ns": AT, "exchange_end": ExchangeEnd.NEXT_REQUEST}
ASKED |= {"response_first_unix_ns": AT + MS, "response_last_unix_ns": AT + MS, "request_bytes": 500}
ASKED_SERVER = ASKED | {"role": Role.SERVER}
SILENT = {"response_first_unix_ns": 0, "response_last_unix_ns": 0, "exchange_end": ExchangeEnd.IDLE_TIMEOUT}
SLOW_BUCKETS = [0] * 14 + [3] + [0] * 5

EXAMPLES = [
    # Healthy ones
    (CLIENT, V.OK, M.NONE),
    (SERVER | OPEN, V.OK, M.NONE),
    (CLIENT | {"outcome": Outcome.RESET, "closed_by": End.LOCAL}, V.OK, M.NONE),
    (CLIENT | {"tx_retransmits": 1, "tx_out_of_order": 3, "rx_duplicate_acks": 5}, V.OK, M.NONE),
    (CLIENT | {"tx_retransmits": 5, "tx_spurious_retransmits": 4}, V.OK, M.NONE),
    (CLIENT | {"tx_retransmits": 5, "tx_packets": 1_001}, V.OK, M.NONE),
    (CLIENT | {"rx_zero_windows": 3}, V.OK, M.NONE),
    (DNS | {"responses": 1, "response_time_max_ns": MS}, V.OK, M.NONE),
    (PING | {"responses": 1, "response_time_max_ns": MS}, V.OK, M.NONE),
    (ASKED, V.OK, M.NONE),
    (ASKED | {"response_retransmits": 1}, V.OK, M.NONE),
    # What nobody can know
    ({}, V.UNKNOWN, M.NONE),
    (CLIENT | {"outcome": Outcome.UNKNOWN}, V.UNKNOWN, M.NONE),
    (CLIENT | {"outcome": Outcome.HALF_OPEN}, V.UNKNOWN, M.NONE),
    (CLIENT | OPEN | {"request_waits": 1}, V.UNKNOWN, M.NONE),
    (DNS | {"questions": 0}, V.UNKNOWN, M.NONE),
    (DNS | {"request_waits": 1, "reason": Reason.SHUTDOWN}, V.UNKNOWN, M.NONE),
    (CLIENT | {"role": Role.UNKNOWN, "outcome": Outcome.RESET, "cut_short": 1, "closed_by": End.LOCAL}, V.UNKNOWN, M.NONE),
    (ASKED | SILENT | {"exchange_end": ExchangeEnd.RESET}, V.UNKNOWN, M.NONE),
    (ASKED | {"response_retransmits": 1, "response_last_unix_ns": AT + SECOND}, V.UNKNOWN, M.NONE),
    # Connecting
    (CLIENT | {"outcome": Outcome.REFUSED}, V.REFUSED, M.OUTCOME),
    (CLIENT | NEVER, V.PATH_OR_SERVER, M.OUTCOME),
    (CAPTURE | NEVER, V.PATH_OR_SERVER, M.OUTCOME),
    (CAPTURE | NEVER | {"icmp_errors": 1, "icmp_error_type": 3, "icmp_error_code": 1}, V.UNREACHABLE, M.ICMP_ERRORS),
    (CAPTURE | NEVER | {"icmp_errors": 1, "icmp_error_type": 3, "icmp_error_code": 3}, V.REFUSED, M.ICMP_ERRORS),
    (CAPTURE | NEVER | {"icmp_errors": 1, "icmp_error_type": 3, "icmp_error_code": 4}, V.PATH_OR_SERVER, M.OUTCOME),
    (SERVER | NEVER, V.ACCEPT_QUEUE, M.SYN_REPEATS),
    # Older kernels show nobody the SYN-ACKs over IPv6, so they may have been sent.
    (SERVER | NEVER | {"local_address": bytes(15) + b"\x01"}, V.PATH_OR_SERVER, M.OUTCOME),
    (SERVER | {"syn_repeats": 1, "syn_ack_unix_ns": AT + SECOND, **LATE}, V.ACCEPT_QUEUE, M.HANDSHAKE_LATENCY),
    (SERVER | {"syn_repeats": 1, "syn_ack_repeats": 1, **LATE}, V.PATH_LOSS, M.SYN_ACK_REPEATS),
    (CLIENT | {"syn_repeats": 1, **LATE}, V.PATH_OR_SERVER, M.SYN_REPEATS),
    (CLIENT | {"syn_repeats": 1, **LATE, "start_unix_ns": AT + 2 * SECOND}, V.OK, M.NONE),
    (CLIENT | {"handshake_ack_unix_ns": AT + 60 * MS}, V.PATH_SLOW, M.CONNECT_TIME),
    (CLIENT | {"min_rtt_ns": 60 * MS}, V.PATH_SLOW, M.RTT_MIN),
    # Broken off
    (CLIENT | {"outcome": Outcome.RESET, "cut_short": 1, "closed_by": End.REMOTE}, V.RESET_BY_SERVER, M.CLOSED_BY),
    (SERVER | {"outcome": Outcome.RESET, "cut_short": 1, "closed_by": End.LOCAL}, V.RESET_BY_SERVER, M.CLOSED_BY),
    (SERVER | {"outcome": Outcome.RESET, "cut_short": 1, "closed_by": End.REMOTE}, V.RESET_BY_CLIENT, M.CLOSED_BY),
    # Packets that did not arrive, or were not wanted
    (CLIENT | {"tx_retransmits": 2}, V.PATH_LOSS, M.RETRANSMITS),
    (SERVER | {"tx_retransmits": 2}, V.PATH_LOSS, M.REVERSE_RETRANSMITS),
    (SERVER | OPEN | {"tx_retransmits": 4, "tx_retransmit_bytes": 5792, "tx_packets": 9, "congestion_window": 1},
     V.MTU, M.REVERSE_RETRANSMIT_BYTES),
    (CLIENT | OPEN | {"tx_retransmits": 4, "tx_retransmit_bytes": 5792, "tx_packets": 9, "congestion_window": 1},
     V.MTU, M.RETRANSMIT_BYTES),
    (CLIENT | OPEN | {"tx_retransmits": 4, "tx_retransmit_bytes": 400, "tx_packets": 9, "congestion_window": 1},
     V.PATH_LOSS, M.RETRANSMITS),
    (CLIENT | {"tx_zero_windows": 2, "rx_zero_window_probes": 2, "rx_retransmits": 9}, V.ZERO_WINDOW, M.ZERO_WINDOW),
    (CLIENT | {"rx_zero_windows": 2, "tx_zero_window_probes": 2}, V.ZERO_WINDOW, M.REVERSE_ZERO_WINDOW),
    # Waits
    (SERVER | {"responses": 9, "response_time_max_ns": 200 * MS}, V.SERVER_SLOW, M.RESPONSE_TIME_MAX),
    (CLIENT | {"responses": 9, "response_time_max_ns": 200 * MS}, V.PATH_OR_SERVER, M.RESPONSE_TIME_MAX),
    (CLIENT | {"responses": 9, "response_time_max_ns": 300 * MS, "response_time_histogram": SLOW_BUCKETS},
     V.SERVER_SLOW, M.RESPONSE_TIME_MAX),
    (CLIENT | {"responses": 9, "response_time_max_ns": 300 * MS, "response_time_histogram": SLOW_BUCKETS, "tx_retransmits": 1},
     V.PATH_OR_SERVER, M.RESPONSE_TIME_MAX),
    (CLIENT | {"responses": 9, "response_time_max_ns": 200 * MS, "smoothed_rtt_ns": 100 * MS, "min_rtt_ns": 99 * MS},
     V.PATH_SLOW, M.RTT_MIN),
    # Names
    (DNS | {"dns_codes": [0, 0, 1, 0, 0, 0, 0, 0]}, V.NAME_RESOLUTION, M.DNS_SERVFAIL),
    (DNS | {"dns_codes": [0] * UNANSWERED + [1]}, V.NAME_RESOLUTION, M.DNS_UNANSWERED),
    (DNS | {"question_repeats": 1, "responses": 1}, V.NAME_RESOLUTION, M.QUESTION_REPEATS),
    (DNS | {"request_waits": 1}, V.NAME_RESOLUTION, M.REQUEST_UNANSWERED),
    (DNS | {"responses": 1, "response_time_max_ns": 200 * MS}, V.NAME_RESOLUTION, M.RESPONSE_TIME_MAX),
    (DNS | {"responses": 1, "dns_codes": [0, 0, 0, 4, 0, 0, 0, 0]}, V.OK, M.NONE),
    # Datagrams and pings
    (DNS | {"questions": 0, "icmp_errors": 1, "icmp_error_type": 3, "icmp_error_code": 3}, V.REFUSED, M.ICMP_ERRORS),
    (DNS | {"questions": 0, "icmp_errors": 1, "icmp_error_type": 3, "icmp_error_code": 0}, V.UNREACHABLE, M.ICMP_ERRORS),
    (PING | {"request_waits": 3}, V.UNREACHABLE, M.REQUEST_UNANSWERED),
    (PING | {"responses": 1, "response_time_max_ns": 60 * MS}, V.PATH_SLOW, M.RESPONSE_TIME_MAX),
    # Exchanges
    (ASKED_SERVER | {"response_first_unix_ns": AT + 200 * MS, "response_last_unix_ns": AT + 200 * MS},
     V.SERVER_SLOW, M.RESPONSE_TIME),
    (ASKED | {"response_first_unix_ns": AT + 200 * MS, "response_last_unix_ns": AT + 200 * MS},
     V.PATH_OR_SERVER, M.RESPONSE_TIME),
    (ASKED_SERVER | SILENT, V.SERVER_SLOW, M.EXCHANGE_END),
    (ASKED | SILENT, V.PATH_OR_SERVER, M.EXCHANGE_END),
    (ASKED | {"request_first_unix_ns": AT - SECOND}, V.CLIENT_SLOW, M.REQUEST_TRANSFER_TIME),
    (ASKED_SERVER | {"request_first_unix_ns": AT - SECOND}, V.OK, M.NONE),
]  # fmt: skip
"""Columns of a record, its verdict, and the measure that decided it. All others hold their default."""


def batch_of(*rows: dict) -> FlowBatch:
    """The rows as a batch that was sent and read again, as services see one: without columns that hold nothing."""
    columns = {}
    for name in {name for row in rows for name in row}:
        column = COLUMNS[name]
        blank = bytes(column.numpy_dtype.itemsize) if column.dtype.startswith("|V") else np.zeros(column.numpy_dtype.shape)
        values = [row.get(name, blank) for row in rows]
        columns[name] = np.array(values, column.numpy_dtype.base).reshape(len(rows), *column.numpy_dtype.shape)
    return decode(encode(FlowBatch("node-a", "e", 0, len(rows), (0, 0), columns)))


def verdicts(batch: FlowBatch, thresholds: Thresholds | None = None) -> list[tuple[Verdict, VerdictMeasure]]:
    """What each record of a batch is judged to be, and by what."""
    found = judged(batch, thresholds)
    return [(V(one), M(by)) for one, by in zip(found.column("verdict"), found.column("verdict_measure"), strict=True)]


@pytest.mark.parametrize(("row", "verdict", "measure"), EXAMPLES)
def test_a_record_has_its_verdict_and_the_measure_that_decided_it(row, verdict, measure) -> None:
    """Each by itself: where the batch carries hardly any column."""
    assert verdicts(batch_of(row)) == [(verdict, measure)]


def test_whatever_a_record_stands_beside_its_verdict_is_the_same() -> None:
    """All of them in one batch are judged as each is alone."""
    together = verdicts(batch_of(*(row for row, *_ in EXAMPLES)))
    assert together == [(verdict, measure) for _, verdict, measure in EXAMPLES]


def test_no_rule_is_without_an_example() -> None:
    """Each pair of verdict and measure that the table can come to is shown above, and every verdict is in the table."""
    assert {(rule.verdict, rule.measure) for rule in RULES} == {(verdict, measure) for _, verdict, measure in EXAMPLES} - {
        (V.UNKNOWN, M.NONE)
    }
    assert {rule.verdict for rule in RULES} == set(Verdict) - {V.UNKNOWN}


@given(flow_batches())
def test_any_record_has_exactly_one_verdict(batch: FlowBatch) -> None:
    """Whatever its columns hold: the same as alone, with a measure where something is wrong; no other column is touched."""
    found = judged(batch)
    assert all(found.columns[name] is array for name, array in batch.columns.items() if not name.startswith("verdict"))
    together = verdicts(batch)
    assert together == [verdicts(batch.take(slice(row, row + 1)))[0] for row in range(batch.count)]
    assert all((measure == M.NONE) == (verdict in {V.OK, V.UNKNOWN}) for verdict, measure in together)
    assert verdicts(found) == together


def test_every_combination_of_what_became_of_a_connection_has_one_verdict() -> None:
    """What failed is never ok, what did not is nobody's fault, and who broke it off is the same seen from either end."""
    axes = {
        "transport": (TCP, UDP, ICMP),
        "observer": tuple(Observer),
        "role": tuple(Role),
        "outcome": tuple(Outcome),
        "closed_by": tuple(End),
        "cut_short": (0, 1),
        "reason": tuple(Reason),
        "syn_repeats": (0, 1),
        "request_waits": (0, 1),
    }
    ends = {"local_address": IPV4, "remote_address": IPV4}
    rows = [ends | dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    found = [verdict for verdict, _ in verdicts(batch_of(*rows))]
    for row, verdict in zip(rows, found, strict=True):
        broken = row["cut_short"] or row["outcome"] in {Outcome.REFUSED, Outcome.TIMEOUT, Outcome.HALF_OPEN}
        if row["reason"] == Reason.EXCHANGE or row["transport"] != TCP:
            assert verdict == V.UNKNOWN
        elif broken:
            assert verdict != V.OK
        else:
            assert verdict in {V.OK, V.UNKNOWN}
        if verdict in {V.RESET_BY_CLIENT, V.RESET_BY_SERVER}:
            closer_is_client = (row["closed_by"] == End.LOCAL) == (row["role"] == Role.CLIENT)
            assert (verdict == V.RESET_BY_CLIENT) == closer_is_client


def test_old_batches_have_no_verdict() -> None:
    """A message of the first release reads as judged by nobody."""
    assert set(decode(FIRST_RELEASE.read_bytes()).column("verdict").tolist()) == {V.UNKNOWN}


def test_what_is_slow_is_a_setting() -> None:
    """Both thresholds: from there on, not below."""
    slow = batch_of(SERVER | {"responses": 1, "response_time_max_ns": 2 * SECOND}, CLIENT | {"min_rtt_ns": 200 * MS})
    patient = Thresholds(slow_response_ns=2 * SECOND, slow_path_ns=200 * MS)
    assert [verdict for verdict, _ in verdicts(slow, patient)] == [V.SERVER_SLOW, V.PATH_SLOW]
    patient = Thresholds(slow_response_ns=2 * SECOND + 1, slow_path_ns=200 * MS + 1)
    assert [verdict for verdict, _ in verdicts(slow, patient)] == [V.OK, V.OK]


def test_each_measure_is_an_attribute_and_each_verdict_has_a_meaning() -> None:
    """What decided can be looked up on the same span."""
    known = set(re.findall(r"`([a-z_.0-9]+)`", (ROOT / "docs" / "attributes.md").read_text()))
    assert set(MEASURE_ATTRIBUTES) == set(VerdictMeasure) - {M.NONE}
    assert set(MEASURE_ATTRIBUTES.values()) <= known
    assert set(MEANINGS) == set(Verdict)
