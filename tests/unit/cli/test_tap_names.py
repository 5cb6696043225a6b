"""Names that were looked up, as people ask for them and see them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import click
import numpy as np
import pytest
from click.testing import CliRunner

from proto.columns import FIRST_EXCHANGE, NO_ANSWER, NO_INDEX, Reason, Role
from proto.flow_batch import Entity, FlowBatch
from proto.rows import batches, rows
from services.cli.tap.filter_options import FilterCommand, conditions
from services.cli.tap.filters import FlowFilter
from services.cli.tap.span_records import records as span_rows
from services.cli.views.conversations import Conversations
from services.cli.views.flow_line import flow_line
from services.cli.views.flow_view import flow_views
from services.exporter.delivery.file import json_line
from services.exporter.encoder import SpanEncoder
from tests.unit.cli.flow_records import START, record_batch

# 0: looks up the shop, A and AAAA, of which one is not there; 1: a lookup without answer; 2: connects to what it looked up
BATCH = FlowBatch(
    node="worker-a",
    epoch="e",
    sequence=0,
    count=3,
    interval=(0, 0),
    columns={
        "flow_id": np.arange(3, dtype="<u8"),
        "dns_first_name": np.array([0, 2, NO_INDEX], "<u4"),
        "dns_slowest_name": np.array([1, 2, NO_INDEX], "<u4"),
        "dns_codes": np.array([[1, 0, 0, 1, 0, 0, 0, 0], [0] * 7 + [1], [0] * 8], "<u4"),
        "remote_name": np.array([NO_INDEX, NO_INDEX, 0], "<u4"),
        "tls_server_name": np.array([NO_INDEX, NO_INDEX, 2], "<u4"),
    },
    names=("api.shop.example", "www.shop.example", "lost.example"),
)


def found(batch: FlowBatch, *arguments: str, column: str = "record") -> list[int]:
    """What of a column passes filters."""
    passed: list[int] = []

    @click.command(cls=FilterCommand)
    @click.pass_context
    def command(ctx: click.Context, **_: object) -> None:
        passed.extend(FlowFilter(conditions(ctx, enriched=True))(batch).column(column).tolist())

    result = CliRunner().invoke(command, arguments)
    if result.exit_code:
        raise click.UsageError(result.output)
    return passed


def asked(*arguments: str) -> list[int]:
    """The flow ids that pass filters."""
    return found(BATCH, *arguments, column="flow_id")


@pytest.mark.parametrize(("arguments", "flows"), [
    (["--dns-name", "api.shop.example"], [0]),
    (["--dns-name", "*.Shop.example."], [0]),
    (["--dns-name", "*"], [0, 1]),
    (["--dns-name", "shop"], []),
    (["--not", "--dns-name", "*.shop.example"], [1, 2]),
    (["--to-name", "*.shop.example"], [2]),
    (["--to-name", "lost.example"], [2]),
    (["--dns-code", "nxdomain"], [0]),
    (["--dns-code", "NOERROR", "--dns-code", "none"], [0, 1]),
    (["--dns-code", "servfail"], []),
])  # fmt: skip
def test_records_are_found_by_name_and_code(arguments, flows):
    """Patterns in any case, of either question that a record tells, and of the name of the destination."""
    assert asked(*arguments) == flows


def test_a_code_that_nobody_knows_is_refused():
    """With those that there are."""
    with pytest.raises(click.UsageError, match=r"one of noerror, .*, other, none"):
        asked("--dns-code", "nxdomian")


def lookup_batch(**changes):
    """A batch of one record that tells two questions."""
    told = {
        "dns_first_name": 0, "dns_first_type": 1, "dns_slowest_name": 1, "dns_slowest_type": 28, "dns_slowest_code": NO_ANSWER,
        "dns_codes": [1, 0, 0, 0, 0, 0, 0, 1],
    }  # fmt: skip
    return replace(record_batch(transport=17, remote_port=53, **told | changes), names=("api.shop.example", "evil\x1b[2J.org"))


def test_a_line_says_what_was_looked_up():
    """Type, name and code of both questions; what would command the terminal is escaped."""
    (view,) = flow_views(lookup_batch())
    assert str(flow_line(view)).endswith(r"A api.shop.example NOERROR  AAAA evil\x1b[2J.org no answer")


def test_one_question_is_said_once():
    """The first is the slowest too."""
    (view,) = flow_views(lookup_batch(dns_slowest_name=0, dns_slowest_type=1, dns_slowest_code=0))
    assert str(flow_line(view)).count("api.shop.example") == 1


def test_a_peer_that_nobody_knows_has_the_name_that_was_looked_up():
    """Where the index knows it, its workload's name stays; with numeric views, the address."""
    batch = replace(record_batch(remote_name=0), names=("api.shop.example",))
    assert [str(view.destination) for view in flow_views(batch)] == ["api.shop.example:6379"]
    assert [str(view.destination) for view in flow_views(batch, numeric=True)] == ["[2001:db8::1]:6379"]
    redis = Entity("k8s.pod", {"k8s.pod.name": "redis-0", "k8s.namespace.name": "shop"})
    known = replace(record_batch(remote_name=0, remote_entity=0, entities=[redis]), names=("api.shop.example",))
    assert [str(view.destination) for view in flow_views(known)] == ["shop/redis-0:6379"]


@pytest.mark.parametrize(("role", "expected"), [
    (Role.CLIENT, ["[2001:db8::1]:6379", "shop.example:6379"]),
    (Role.SERVER, ["10.0.0.5:48112", "shop.example:48112"]),
])  # fmt: skip
def test_the_name_that_was_asked_for_by_tls_is_the_servers(role, expected):
    """At either end, and before the one that was looked up."""
    names = ("looked-up.example", "shop.example")
    plain, asked_for = (
        str(view.destination)
        for changes in ({}, {"remote_name": 0, "tls_server_name": 1})
        for view in flow_views(replace(record_batch(role=role, **changes), names=names))
    )
    assert [plain, asked_for] == expected


def test_names_come_back_from_rows():
    """What `wirespan decode` shows can be read again."""
    batch = replace(lookup_batch(role=Role.CLIENT), names=("api.shop.example", "lost.example"))
    (again,) = batches(list(rows(batch)))
    assert list(rows(again)) == list(rows(batch))
    assert again.names == ("api.shop.example", "lost.example")


NO_CONNECTION = {"outcome": 0, "syn_unix_ns": 0, "start_unix_ns": START, "local_container": NO_INDEX}


def question_batch():
    """A batch of a flow's record and of one question of it, of a quarter of a second, asked twice."""
    flow = lookup_batch(dns_codes=[1, 0, 1, 0, 0, 0, 0, 0], dns_slowest_code=2, flow_id=1, **NO_CONNECTION)
    told = {"name": 1, "type": 1, "code": 2, "time_ns": 250_000_000, "repeats": 1}
    record = {"record": FIRST_EXCHANGE, "reason": Reason.EXCHANGE, "flow_id": 1, "responses": 0, "response_time_max_ns": 0}
    record |= NO_CONNECTION | {f"dns_first_{name}": value for name, value in told.items()}
    asked = record_batch(transport=17, remote_port=53, tx_bytes=0, rx_bytes=0, **record)
    both = flow.columns.keys() | asked.columns.keys()
    columns = {name: np.concatenate([flow.column(name), asked.column(name)]) for name in both}
    names = ("api.shop.example", "slow.example")
    return replace(flow, count=2, columns=columns, names=names)


def test_a_question_by_itself_is_a_line_by_itself():
    """What was asked, the answer, how long it took and how often it was sent; it is no traffic of its own."""
    flow, asked = flow_views(question_batch())
    assert re.search(r"udp  question +A slow.example SERVFAIL in 250 ms, 1 repeat$", str(flow_line(asked)))
    assert (flow.of_flow, asked.of_flow, asked.failed) == (True, False, True)
    conversations = Conversations()
    for view in (flow, asked):
        conversations.add(0, view)
    (talk,) = conversations.current(0)
    assert (talk.flows, talk.bytes_out) == (1, 1024)


@pytest.mark.parametrize(("arguments", "records"), [
    (["--dns-name", "slow.*"], [0, FIRST_EXCHANGE]), (["--dns-code", "servfail"], [0, FIRST_EXCHANGE]),
    (["--dns-code", "noerror"], [0]), (["--failed", "--dns-name", "*"], [FIRST_EXCHANGE]),
    (["--slower-than", "200ms"], [FIRST_EXCHANGE]),
])  # fmt: skip
def test_a_question_is_found_as_its_flow_is(arguments, records):
    """By name, code, time and failure: as it came over the bus, and as spans in a file say it."""
    tree = json.loads(json_line(SpanEncoder(cluster_name="c").encode(replace(question_batch(), entities=[]))))
    (from_spans,) = batches(list(span_rows(tree)))
    assert found(question_batch(), *arguments) == found(from_spans, *arguments) == records


def test_spans_say_of_lookups_what_records_say():
    """Of the first question, of the slowest where it is another, and of one by itself."""
    batch = replace(question_batch(), entities=[])
    tree = json.loads(json_line(SpanEncoder(cluster_name="c", profile="full").encode(batch)))
    (from_spans,) = batches(list(span_rows(tree)))
    assert [view.lookups for view in flow_views(from_spans)] == [view.lookups for view in flow_views(batch)]
