"""Records of exchanges wait for the bus: what it refuses, and what nobody asked for yet, is due again."""

from __future__ import annotations

import numpy as np
import pytest

from proto.columns import EXCHANGE, RAW, SOCKET, ExchangeMatched
from services.capture.flows import exchange_table
from services.capture.flows.exchange_layout import MET, NO_EXCHANGES
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.flows.timing import FlowTableSettings
from services.capture.replay.source import ReplaySource
from tests.support.packets.pcap import ACK, PSH, Conversation, write

REQUEST = f"GET / HTTP/1.1\r\ntraceparent: 00-{'ab' * 16}-{'cd' * 8}-01\r\n\r\n".encode()
NEVER = 2**63


@pytest.fixture
def table(tmp_path):
    """A table over five connections with an open exchange each, two records to an emission."""
    frames = []
    for number in range(5):
        talk = Conversation(client_port=40000 + number).handshake()
        frames += talk.tcp(1 + number / 10, "client", PSH | ACK, seq=1001, ack=5001, payload=REQUEST).frames
    path = write(tmp_path / "frames.pcap", sorted(frames, key=lambda frame: frame.time_ns))
    with ReplaySource([path], 64, trace_context=True) as source:
        source.open_next_file()
        source.advance(NEVER)
        yield ExchangeTable(source, FlowTableSettings(max_rows=2))


def flows(emissions):
    """The flow ids of records."""
    return [int(flow) for emission in emissions for flow in emission.columns["flow_id"]]


def test_records_come_once_in_order(table):
    """By flow, in emissions of a limited size; then there is nothing left."""
    emissions = list(table.drain(0, final=True))
    assert [len(emission) for emission in emissions] == [2, 2, 1]
    assert flows(emissions) == [1, 2, 3, 4, 5]
    assert list(table.drain(0, final=True)) == []


def test_what_was_met_by_a_span_is_told_with_what_was_read_on_the_wire(table):
    """Also the first exchange of a connection. Whoever meets them is told what the wire says by itself, open or over."""
    said = []

    def meet(by_wire):
        said.append(by_wire)
        met = by_wire[:1].copy()
        met["slot"], met["parent_span_id"] = MET, b"span-id."
        return met

    batches = [emission.columns for emission in table.drain(0, final=True, meet=meet)]
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in ("exchange_matched", "parent_span_id")}
    assert sorted(set(said[0]["flow_id"].tolist())) == [1, 2, 3, 4, 5]
    of_spans = columns["exchange_matched"] == ExchangeMatched.SPAN
    assert (len(of_spans), columns["parent_span_id"][of_spans].tolist()) == (6, [b"span-id."])


def test_columns_are_of_the_schema(table):
    """Each of the type that it has on the wire."""
    known = {column.name: column.numpy_dtype.base for column in RAW + SOCKET + EXCHANGE}
    for emission in table.drain(0, final=True):
        for name, column in emission.columns.items():
            assert (column.dtype, len(column)) == (np.dtype(known[name]), len(emission))


def test_what_is_refused_is_due_again(table):
    """In the order that it would have had."""
    first, *_ = list(table.drain(0, final=True))
    table.refuse(first)
    assert flows(table.drain(1)) == [1, 2]
    assert flows(table.drain(2)) == []


def test_what_was_not_asked_for_is_due_again(table):
    """Whoever stops in the middle has lost nothing."""
    emissions = table.drain(0, final=True)
    first = next(emissions)
    emissions.close()
    assert flows([first]) + flows(table.drain(1)) == [1, 2, 3, 4, 5]


def test_what_waits_too_long_is_dropped_and_counted(table, monkeypatch):
    """The bus is away and exchanges go on: memory is bounded."""
    monkeypatch.setattr(exchange_table, "MOST_WAITING", 3)
    for emission in list(table.drain(0, final=True)):
        table.refuse(emission)
    assert table.dropped == 2
    assert flows(table.drain(1)) == [1, 2, 3]


def test_what_is_refused_is_kept_or_counted_where_too_many_wait_already(table, monkeypatch):
    """More may be over at once than waits for the bus: what that refuses of them is dropped, all of it."""
    monkeypatch.setattr(exchange_table, "MOST_WAITING", 2)
    emissions = table.drain(0, final=True, meet=lambda _: NO_EXCHANGES)
    table.refuse(next(emissions))
    assert table.dropped == 2
    assert flows(emissions) == [3, 4, 5]
