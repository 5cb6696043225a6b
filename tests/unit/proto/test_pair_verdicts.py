"""What both ends say together, and what people are told of each verdict."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from proto.columns import COLUMNS, Observer, Outcome, Reason, Role
from proto.flow_batch import FlowBatch
from proto.verdicts.advice import ADVICE
from proto.verdicts.evidence import evidence
from proto.verdicts.names import Verdict, VerdictMeasure
from proto.verdicts.pairs import together
from proto.verdicts.rules import RULES, judged

V, M = Verdict, VerdictMeasure
MS = 1_000_000
AT = 1_700_000_000_000_000_000
IPV4 = bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
CLOSED = {"observer": Observer.SOCKET, "transport": 6, "reason": Reason.END_OF_FLOW, "outcome": Outcome.CLOSED}
CLOSED |= {"start_unix_ns": AT, "syn_unix_ns": AT, "handshake_ack_unix_ns": AT + MS, "tx_packets": 100, "rx_packets": 100}
CLIENT, SERVER = CLOSED | {"role": Role.CLIENT}, CLOSED | {"role": Role.SERVER}
WAITED = CLIENT | {"responses": 1, "response_time_max_ns": 400 * MS}
LATE = CLIENT | {"handshake_ack_unix_ns": AT + 1000 * MS, "syn_repeats": 1}
ASKED = {"reason": Reason.EXCHANGE, "observer": Observer.SOCKET, "transport": 6, "request_last_unix_ns": AT}


def exchange(role: Role, wait_ns: int) -> dict:
    """One request that was answered after so long."""
    return ASKED | {"role": role, "response_first_unix_ns": AT + wait_ns, "response_last_unix_ns": AT + wait_ns}


EXAMPLES = [
    (CLIENT, SERVER, V.OK, M.NONE),
    (WAITED, SERVER | {"responses": 1, "response_time_max_ns": 399 * MS}, V.SERVER_SLOW, M.RESPONSE_TIME_MAX),
    # Hardly below what counts as slow, and nearly all of it.
    (WAITED | {"response_time_max_ns": 151 * MS}, SERVER | {"responses": 1, "response_time_max_ns": 149 * MS}, V.SERVER_SLOW,
     M.RESPONSE_TIME_MAX),
    (WAITED, SERVER | {"responses": 1, "response_time_max_ns": MS}, V.PATH_SLOW, M.RESPONSE_TIME_MAX),
    (WAITED, SERVER | {"responses": 1, "response_time_max_ns": MS, "tx_retransmits": 1}, V.PATH_LOSS, M.RESPONSE_TIME_MAX),
    (WAITED, SERVER | {"responses": 1, "response_time_max_ns": MS, "tx_retransmits": 1, "tx_spurious_retransmits": 1},
     V.PATH_SLOW, M.RESPONSE_TIME_MAX),
    # The server's record has no response: nobody can know.
    (WAITED, SERVER, V.PATH_OR_SERVER, M.RESPONSE_TIME_MAX),
    (LATE, SERVER, V.PATH_LOSS, M.SYN_REPEATS),
    (LATE, SERVER | {"syn_ack_repeats": 1, "syn_ack_unix_ns": AT, "handshake_ack_unix_ns": AT + 1000 * MS, "syn_repeats": 1},
     V.PATH_LOSS, M.SYN_ACK_REPEATS),
    (LATE, SERVER | {"syn_repeats": 1, "syn_ack_unix_ns": AT + 1000 * MS}, V.ACCEPT_QUEUE, M.HANDSHAKE_LATENCY),
    (CLIENT, SERVER | {"tx_retransmits": 9}, V.PATH_LOSS, M.REVERSE_RETRANSMITS),
    (CLIENT | {"tx_retransmits": 9}, SERVER, V.PATH_LOSS, M.RETRANSMITS),
    (exchange(Role.CLIENT, 400 * MS), exchange(Role.SERVER, 399 * MS), V.SERVER_SLOW, M.RESPONSE_TIME),
    (exchange(Role.CLIENT, 400 * MS), exchange(Role.SERVER, MS), V.PATH_SLOW, M.RESPONSE_TIME),
    (exchange(Role.CLIENT, MS), exchange(Role.SERVER, MS), V.OK, M.NONE),
]  # fmt: skip


def batch(*some: dict) -> FlowBatch:
    """Judged records with these values."""
    names = {"local_address", *(name for one in some for name in one)}
    columns = {}
    for name in names:
        values = [IPV4 if name == "local_address" else one.get(name, COLUMNS[name].default) for one in some]
        columns[name] = np.array([np.void(v) if isinstance(v, bytes) else v for v in values], COLUMNS[name].numpy_dtype)
    made = FlowBatch(node="a", epoch="e", sequence=0, count=len(some), interval=(AT, AT), columns=columns)
    return judged(made)


@pytest.mark.parametrize(("client", "server", "verdict", "measure"), EXAMPLES)
def test_both_ends_decide_what_one_cannot(client, server, verdict, measure) -> None:
    """The path or the server; and what only one of them saw counts for both."""
    found = together(batch(client), batch(server))
    assert (Verdict(int(found[0][0])), VerdictMeasure(int(found[1][0]))) == (verdict, measure)


def test_many_pairs_are_decided_as_each_alone() -> None:
    """Row by row, whatever stands beside it."""
    clients, servers = batch(*(one[0] for one in EXAMPLES)), batch(*(one[1] for one in EXAMPLES))
    verdict, measure = together(clients, servers)
    assert list(zip(verdict.tolist(), measure.tolist(), strict=True)) == [(one[2], one[3]) for one in EXAMPLES]


def test_there_is_a_sentence_for_everything_that_can_be_said() -> None:
    """Of one end's rules and of those of both, with a section of the document where there is more."""
    said = {(rule.verdict, rule.measure) for rule in RULES}
    undecided = [rule.measure for rule in RULES if rule.verdict == V.PATH_OR_SERVER]
    slow = {M.RESPONSE_TIME_MAX, M.RESPONSE_TIME}
    said |= {(V.PATH_LOSS, M.SYN_REPEATS), *((V.PATH_LOSS, one) for one in slow), *((V.PATH_SLOW, one) for one in slow)}
    assert slow < set(undecided)
    assert set(ADVICE) == said | {(V.UNKNOWN, M.NONE)}
    document = (Path(__file__).parents[3] / "docs" / "diagnosis.md").read_text()
    sections = {
        re.sub(r"[^a-z ]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^##+ (.*)", document, re.MULTILINE)
    }
    assert {one.section for one in ADVICE.values() if one.section} <= sections


def test_evidence_is_the_rule_with_its_numbers() -> None:
    """The measure, its value, and the bound that it passed; of a verdict of other rules than these there is none."""
    (_, _, slow) = evidence(batch(SERVER | {"response_time_max_ns": 400 * MS}))
    assert (slow.name, slow.value, slow.sign, slow.bound) == ("`flow.response.time_max`", 400 * MS, "≥", 150 * MS)
    assert slow.nanoseconds
    other = batch(SERVER)
    other.columns["verdict"][0] = V.MTU
    assert evidence(other) == ()
