"""A batch as people read it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given

from proto.columns import ENRICHED, EXCHANGE, FILE, RAW, SOCKET, Outcome
from proto.errors import DecodeError
from proto.flow_batch import Entity, FlowBatch, decode, encode
from proto.rows import address_text, batches, rows
from tests.support.pipeline.batches import flow_batches


def _batch(count: int = 1, **fields) -> FlowBatch:
    columns = {name: np.asarray(values) for name, values in fields.pop("columns", {}).items()}
    return FlowBatch(node="node-a", epoch="e", sequence=7, count=count, interval=(1, 2), columns=columns, **fields)


@given(flow_batches())
def test_any_batch_becomes_strict_json(batch) -> None:
    """Whatever a batch holds, each record is one JSON object that any parser reads."""
    shown = list(rows(decode(encode(batch))))
    assert len(shown) == batch.count
    for row in shown:
        json.dumps(row, allow_nan=False)


def test_keys_are_the_same_whether_a_column_was_sent_or_not() -> None:
    """A filter written for one batch works on every batch of its kind."""
    (empty,) = rows(_batch())
    assert list(empty) == ["node", "epoch", "sequence", *(column.name for column in RAW)]
    (enriched,) = rows(_batch(entities=[]))
    assert list(enriched) == list(empty) + [column.name for column in ENRICHED]
    (live,) = rows(_batch(columns={"congestion_window": [1]}))
    assert list(live) == list(empty) + [column.name for column in SOCKET]
    (tunnelled,) = rows(_batch(columns={"tx_tunnel_id": [1]}))
    assert list(tunnelled) == list(empty) + [column.name for column in FILE]
    assert tunnelled["local_tunnel_address"] == "::"
    (exchange,) = rows(_batch(columns={"trace_id": np.frombuffer(bytes(range(16)), "|V16")}))
    assert list(exchange) == list(empty) + [column.name for column in EXCHANGE]
    assert (exchange["trace_id"], exchange["parent_span_id"]) == (bytes(range(16)).hex(), bytes(8).hex())


def test_addresses_are_text() -> None:
    """IPv4 is dotted, IPv6 is written as RFC 5952 recommends."""
    assert address_text(bytes(10) + b"\xff\xff\x0a\x00\x00\x05") == "10.0.0.5"
    assert address_text(bytes.fromhex("20010db8000000000001000000000001")) == "2001:db8::1:0:0:1"
    assert address_text(bytes(16)) == "::"


def test_numbers_become_names() -> None:
    """Enumerations and transports are shown by name, a number without a name as it is."""
    shown = list(rows(_batch(3, columns={"transport": [6, 58, 253], "outcome": [Outcome.REFUSED, Outcome.HALF_OPEN, 99]})))
    assert [row["transport"] for row in shown] == ["tcp", "icmpv6", 253]
    assert [row["outcome"] for row in shown] == ["refused", "half_open", 99]


def test_index_columns_hold_what_they_point_at() -> None:
    """A container or an entity stands in the record itself; nothing pointed at is null."""
    pod = Entity("k8s.pod", {"k8s.pod.name": "redis-0"})
    batch = _batch(
        2,
        columns={
            "local_container": np.array([0, 0xFFFF_FFFF], "<u4"),
            "remote_entity": np.array([0xFFFF_FFFF, 0], "<u4"),
        },
        containers=[{"pod_uid": "7d0c"}],
        entities=[pod],
    )
    first, second = rows(batch)
    assert (first["local_container"], first["remote_entity"]) == ({"pod_uid": "7d0c"}, None)
    assert (second["local_container"], second["remote_entity"]) == (None, {"type": "k8s.pod", "k8s.pod.name": "redis-0"})


def test_unknown_columns_are_shown_as_they_are() -> None:
    """What a newer writer adds is visible to an older reader, and cannot pass for what the batch says of itself."""
    columns = {
        "new_count": np.array([3], "<u4"),
        "new_bytes": np.frombuffer(b"\x01\x02", "|V2"),
        "new_ratio": np.array([[0.5, np.nan]], "<f8"),
        "node": np.array([9], "<u4"),
    }
    (row,) = rows(_batch(columns=columns))
    assert list(row)[-3:] == ["new_count", "new_bytes", "new_ratio"]
    assert (row["new_count"], row["new_bytes"], row["new_ratio"], row["node"]) == (3, "0102", [0.5, None], "node-a")


def test_times_and_histograms_keep_every_digit() -> None:
    """Times are integers in nanoseconds, a histogram is a list with one count per bucket."""
    histogram = np.arange(20, dtype="<u4").reshape(1, 20)
    columns = {"start_unix_ns": np.array([1_700_000_000_123_456_789], "<u8"), "response_time_histogram": histogram}
    (row,) = rows(_batch(columns=columns))
    assert row["start_unix_ns"] == 1_700_000_000_123_456_789
    assert row["response_time_histogram"] == list(range(20))


def test_what_only_a_socket_knows_is_shown_where_it_is_there():
    """The kernel's figures of live capture are rows' fields; a replay's rows do not have them."""
    (live,) = rows(_batch(columns={"smoothed_rtt_ns": [7]}))
    assert (live["smoothed_rtt_ns"], live["congestion_window"]) == (7, 0)
    (replayed,) = rows(_batch())
    assert "smoothed_rtt_ns" not in replayed


@given(flow_batches())
def test_rows_become_a_batch_again(batch) -> None:
    """What JSON lines say can be asked the same questions as what passed on the bus."""
    shown = [json.loads(json.dumps(row)) for row in rows(batch)]
    assert [row for again in batches(shown) for row in rows(again)] == shown


def test_rows_of_several_batches_stay_apart() -> None:
    """Each row keeps the node, epoch and sequence it has."""
    shown = [row for node in "aab" for row in rows(_batch(columns={"tx_bytes": [len(node)]}) if node == "a" else _batch())]
    shown[2]["node"] = "node-b"
    assert [(again.node, again.count) for again in batches(shown)] == [("node-a", 2), ("node-b", 1)]


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"node": "n", "epoch": "e"},
        {"node": "n", "epoch": "e", "sequence": 0, "local_address": "nowhere"},
        {"node": "n", "epoch": "e", "sequence": 0, "outcome": "splendid"},
        {"node": "n", "epoch": "e", "sequence": 0, "transport": "pigeon"},
        {"node": "n", "epoch": "e", "sequence": 0, "tx_bytes": -1},
        {"node": "n", "epoch": "e", "sequence": 0, "tx_bytes": []},
        {"node": "n", "epoch": "e", "sequence": 0, "local_entity": "redis"},
        {"node": "n", "epoch": "e", "sequence": 0, "response_time_histogram": [1]},
    ],
)
def test_what_no_batch_would_show_is_refused(row) -> None:
    """With the error that other bad input has."""
    with pytest.raises(DecodeError, match="no record"):
        list(batches([row]))
