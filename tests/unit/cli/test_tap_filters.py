"""`wirespan tap` shows what was asked for: filters against records whose ends are known."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from proto.columns import NO_INDEX, Observer, Outcome, Reason, Role
from proto.flow_batch import Entity, FlowBatch
from proto.verdicts.names import Verdict, VerdictMeasure
from services.cli.tap.filter_options import FilterCommand, conditions
from services.cli.tap.filters import FlowFilter, between, failed, unanswered
from services.cli.views.conversation_table import totals, words
from services.cli.views.conversations import summed
from services.cli.views.flow_view import flow_views
from tests.unit.cli.flow_records import record_batch

WEB = Entity("k8s.pod", {"k8s.pod.name": "web-5d9-x7k", "k8s.deployment.name": "web", "k8s.namespace.name": "shop"})
REDIS = Entity("k8s.pod", {"k8s.pod.name": "redis-0", "k8s.statefulset.name": "redis", "k8s.namespace.name": "shop"})
DNS = Entity("k8s.pod", {"k8s.pod.name": "coredns-1", "k8s.deployment.name": "coredns", "k8s.namespace.name": "kube-system"})
REDIS_SERVICE = Entity("k8s.service", {"k8s.service.name": "cache", "k8s.namespace.name": "shop"})


def _address(text: str) -> bytes:
    return bytes(10) + b"\xff\xff" + bytes(map(int, text.split(".")))


BATCH = FlowBatch(
    node="worker-a",
    epoch="e",
    sequence=0,
    count=4,
    interval=(0, 0),
    columns={
        "flow_id": np.arange(4, dtype="<u8"),
        # 0: web -> redis:6379, seen by web; 1: the same, seen by redis; 2: web -> coredns:53; 3: an echo, nobody saw who began
        "role": np.array([Role.CLIENT, Role.SERVER, Role.CLIENT, Role.UNKNOWN], "|u1"),
        "observer": np.array([Observer.SOCKET] * 3 + [Observer.CAPTURE], "|u1"),
        "transport": np.array([6, 6, 17, 1], "|u1"),
        "local_address": np.frombuffer(b"".join(map(_address, ("10.0.0.5", "10.0.1.8", "10.0.0.5", "10.0.0.5"))), "|V16"),
        "remote_address": np.frombuffer(b"".join(map(_address, ("10.0.1.8", "10.0.0.5", "10.0.2.53", "192.0.2.1"))), "|V16"),
        "local_port": np.array([40_000, 6379, 40_001, 53], "<u2"),
        "remote_port": np.array([6379, 40_000, 53, 53], "<u2"),
        "outcome": np.array([Outcome.CLOSED, Outcome.RESET, Outcome.UNKNOWN, Outcome.UNKNOWN], "|u1"),
        "verdict": np.array([Verdict.OK, Verdict.RESET_BY_SERVER, Verdict.NAME_RESOLUTION, Verdict.UNKNOWN], "|u1"),
        "cut_short": np.array([0, 1, 0, 0], "|u1"),
        # a lookup and an echo without an answer: the lookup's flow is over
        "request_waits": np.array([0, 0, 1, 1], "|u1"),
        "reason": np.array([Reason.END_OF_FLOW, Reason.END_OF_FLOW, Reason.IDLE_TIMEOUT, Reason.ACTIVE_TIMEOUT], "|u1"),
        "local_entity": np.array([0, 1, 0, 0], "<u4"),
        "remote_entity": np.array([1, 0, 2, NO_INDEX], "<u4"),
        "local_service": np.array([NO_INDEX, 3, NO_INDEX, NO_INDEX], "<u4"),
        "remote_service": np.array([3, NO_INDEX, NO_INDEX, NO_INDEX], "<u4"),
        "response_time_max_ns": np.array([120_000_000, 90_000_000, 500_000, 0], "<u8"),
        "syn_unix_ns": np.array([1_000, 1_000, 0, 0], "<u8"),
        "handshake_ack_unix_ns": np.array([51_000_000, 0, 0, 0], "<u8"),
        "end_unix_ns": np.array([10, 20, 30, 40], "<u8"),
        "tx_retransmits": np.array([2, 0, 0, 0], "<u4"),
        "syn_repeats": np.array([1, 0, 0, 0], "<u2"),
    },
    entities=[WEB, REDIS, DNS, REDIS_SERVICE],
)


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("transport", [1, 6, 17, 58])
def test_what_failed_is_the_same_wherever_it_is_counted(verdict: Verdict, transport: int) -> None:
    """Among records, in a record's line, in the sum of a table: a flow that is called refused there has failed."""
    some = [
        record_batch(
            transport=transport, verdict=verdict, verdict_measure=VerdictMeasure.ICMP_ERRORS if verdict > Verdict.OK else 0,
            outcome=outcome, cut_short=cut_short, reason=reason, request_waits=waits, questions=waits,
        )
        for outcome in Outcome for cut_short in (0, 1) for waits in (0, 1)
        for reason in (Reason.ACTIVE_TIMEOUT, Reason.END_OF_FLOW, Reason.IDLE_TIMEOUT)
    ]  # fmt: skip
    for batch in some:
        (view,) = flow_views(batch)
        (row,) = summed([view])
        assert [view.failed] == failed(batch).tolist()
        assert row.failures == view.failed
        said = re.split(", ", words(row)["outcome"])
        assert view.failed or not {"refused", "unreachable", "timeout", "unanswered"} & set(said), said


def test_what_a_row_says_of_earlier_has_failed_too() -> None:
    """A flow of datagrams one of which was refused is in the sum as it is in its row, whatever came of the later ones."""
    refused = {"verdict": Verdict.REFUSED, "verdict_measure": VerdictMeasure.ICMP_ERRORS, "outcome": Outcome.UNKNOWN}
    batches = [record_batch(transport=17, reason=Reason.ACTIVE_TIMEOUT, **refused)]
    batches.append(record_batch(transport=17, record=1, verdict=Verdict.OK, outcome=Outcome.UNKNOWN))
    (row,) = summed(view for batch in batches for view in flow_views(batch))
    assert words(row)["outcome"] == "refused"
    assert str(totals([row], "in all")).startswith("in all: 1 flow, ")
    assert ", 1 failed" in str(totals([row], "in all"))


def asked(*arguments: str, enriched: bool = True) -> list[int]:
    """Flows of `BATCH` that a command with these arguments shows."""
    found: list[int] = []

    @click.command(cls=FilterCommand)
    @click.pass_context
    def command(ctx: click.Context, /, **_options: Any) -> None:
        found.extend(FlowFilter(conditions(ctx, enriched=enriched))(BATCH).column("flow_id").tolist())

    result = CliRunner().invoke(command, arguments)
    if result.exit_code:
        raise ValueError(result.output)
    return found


@pytest.mark.parametrize(
    ("arguments", "flows"),
    [
        ("", [0, 1, 2, 3]),
        ("--failed", [1, 2]),
        ("--not --failed", [0, 3]),
        ("--outcome unanswered", [2]),
        ("--outcome waiting", [3]),
        ("--unanswered", [2]),
        ("--slower-than 100ms", [0]),
        ("--slower-than 50ms", [0, 1]),
        ("--failed --slower-than 50ms", [1]),
        ("--pod web", [0, 1, 2, 3]),
        ("--from-pod web", [0, 1, 2, 3]),
        ("--to-pod web", []),
        ("--pod redis-0", [0, 1]),
        ("--pod shop/redis", [0, 1]),
        ("--pod kube-system/", [2]),
        ("--pod kube-system/redis", []),
        ("--namespace kube-system", [2]),
        ("--from-namespace kube-system", []),
        ("--to-namespace shop", [0, 1]),
        ("--service cache", [0, 1]),
        ("--to-service shop/cache", [0, 1]),
        ("--from-service cache", []),
        ("--workload coredns", [2]),
        ("--from-workload shop/web --to-workload redis", [0, 1]),
        ("--ip 10.0.1.8", [0, 1]),
        ("--ip 10.0.2.0/24", [2]),
        ("--to-ip 10.0.0.0/8", [0, 1, 2]),
        ("--to-ip 192.0.2.1", [3]),
        ("--ip ::/0", [0, 1, 2, 3]),
        ("--ip 2001:db8::/32", []),
        ("--port 53", [2]),
        ("--to-port 6000-7000", [0, 1]),
        ("--from-port 40001", [2]),
        ("--port 53 --port 6379", [0, 1, 2]),
        ("--port 53 --protocol tcp", []),
        ("--protocol udp --protocol 1", [2, 3]),
        ("--protocol TCP", [0, 1]),
        ("--outcome failed", [1, 2]),
        ("--outcome closed --outcome reset", [0, 1]),
        ("--outcome half-open", []),
        ("--verdict reset-by-server", [1]),
        ("--verdict NAME_RESOLUTION --verdict unknown", [2, 3]),
        ("--not --verdict ok --not --verdict unknown", [1, 2]),
        ("--seen-by server", [1]),
        ("--seen-by capture", [3]),
        ("--seen-by unknown", []),
        ("--node-name worker-a", [0, 1, 2, 3]),
        ("--node-name worker-b", []),
        ("--min-response-time 100ms", [0]),
        ("--min-response-time 90ms", [0, 1]),
        ("--min-connect-time 50ms", [0]),
        ("--min-retransmits 3", [0]),
        ("--min-retransmits 4", []),
        ("--not --port 53", [0, 1, 3]),
        ("--not --port=53 --not --outcome reset", [0, 3]),
        ("--protocol tcp --not --seen-by server", [0]),
    ],
)
def test_filters_accept_what_they_say(arguments: str, flows: list[int]) -> None:
    """Values of one filter are alternatives, different ones must all hold, and `--not` leaves out."""
    assert asked(*arguments.split()) == flows


def test_names_are_asked_of_the_end_that_they_belong_to() -> None:
    """The source is the source whichever end's socket saw the packets."""
    assert asked("--from-pod", "web", "--to-pod", "redis") == asked("--from-ip", "10.0.0.5", "--to-ip", "10.0.1.8") == [0, 1]


@pytest.mark.parametrize(
    "arguments",
    ["--ip 10.0.0.300", "--port 70000", "--port 9-8", "--port x", "--protocol pigeon", "--protocol 256", "--outcome fine",
     "--verdict guilty", "--seen-by god", "--min-response-time 100", "--min-retransmits few", "--not", "--not 53",
     "--not --not --port 53"],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_words(arguments: str) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match=r"Error: (Invalid value for '--|--not stands before a filter)"):
        asked(*arguments.split())


def test_raw_records_have_no_names_to_ask_for() -> None:
    """An empty answer would pass for "nobody talks to redis"."""
    with pytest.raises(ValueError, match="needs records with names"):
        asked("--to-pod", "redis", enriched=False)
    assert asked("--port", "53", enriched=False) == [2]


def test_a_batch_that_was_not_enriched_matches_no_name() -> None:
    """Nor does it end the tap."""
    raw = FlowBatch("n", "e", 0, 1, (0, 0), {"transport": np.array([6], "|u1")})
    shown: list[int] = []

    @click.command(cls=FilterCommand)
    @click.pass_context
    def command(ctx: click.Context, /, **_options: Any) -> None:
        shown.append(FlowFilter(conditions(ctx, enriched=True))(raw).count)

    CliRunner().invoke(command, ["--pod", "web"], catch_exceptions=False)
    CliRunner().invoke(command, ["--not", "--pod", "web"], catch_exceptions=False)
    assert shown == [0, 1]


def test_times_are_those_of_the_last_packet() -> None:
    """Both bounds belong to the range."""
    wanted = FlowFilter([*between(20, 30)])
    assert wanted(BATCH).column("flow_id").tolist() == [1, 2]


def test_unanswered_is_what_nobody_answered() -> None:
    """A server that was asked and never said anything; not what may have been a farewell, nor what still waits."""
    zeros = np.zeros(4, "<u8")
    batch = replace(
        BATCH,
        columns={
            **BATCH.columns,
            "transport": np.full(4, 6, "|u1"),
            "request_waits": np.ones(4, "|u1"),
            "reason": np.array([Reason.END_OF_FLOW] * 3 + [Reason.ACTIVE_TIMEOUT], "|u1"),
            "role": np.array([Role.CLIENT, Role.SERVER, Role.CLIENT, Role.CLIENT], "|u1"),
            "rx_payload_bytes": np.array([0, 9, 9, 0], "<u8"),
            "tx_payload_bytes": zeros,
        },
    )
    assert unanswered(batch).tolist() == [True, True, False, False]


@pytest.mark.parametrize("arguments", ["--port http", "--port 1-x", "--port 70000", "--min-retransmits many"])
def test_a_number_that_is_none_is_said_in_words(arguments: str) -> None:
    """With the option and what it takes."""
    with pytest.raises(ValueError, match=rf"Invalid value for '{arguments.split(maxsplit=1)[0]}'.* a (port is a )?number"):
        asked(*arguments.split())
