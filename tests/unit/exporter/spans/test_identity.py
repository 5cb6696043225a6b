"""Ids never change and tell what belongs together; perspectives are told by the right end."""

from dataclasses import replace

import numpy as np
import pytest

from proto.columns import NO_INDEX, Observer, Role
from proto.flow_batch import SOURCE_NAT, Entity, FlowBatch
from services.exporter.spans.identity import FLAG_IS_REMOTE, TRACE_RECORDS, IdMixer, Kind, Links, Side, SpanIds, perspective

POD, NODE, HOST, SERVICE, OTHER = (Entity(kind, {}) for kind in ("k8s.pod", "k8s.node", "host", "k8s.service", "container"))
SOCKET, CAPTURE = Observer.SOCKET, Observer.CAPTURE


def mapped(*octets: int) -> bytes:
    """An IPv4 address as columns hold it."""
    return bytes(10) + b"\xff\xff" + bytes(octets)


CLIENT_ADDRESS, SERVICE_ADDRESS, SERVER_ADDRESS = mapped(10, 0, 0, 1), mapped(10, 96, 0, 5), mapped(10, 0, 1, 2)


def record(entities=None, **values) -> FlowBatch:
    """A batch of one record, a client's TCP connection unless said otherwise."""
    values = {
        "observer": SOCKET,
        "role": Role.CLIENT,
        "transport": 6,
        "local_address": CLIENT_ADDRESS,
        "remote_address": SERVICE_ADDRESS,
        "local_port": 40_000,
        "remote_port": 6379,
        "flow_start_unix_ns": 1_700_000_000_000_000_001,
        "isn_seen": 3,
        "local_isn": 0x01020304,
        "remote_isn": 0xA0B0C0D0,
        "local_entity": NO_INDEX,
        "remote_entity": NO_INDEX,
        **values,
    }
    from proto.columns import COLUMNS

    columns = {
        name: np.frombuffer(value, "V16") if isinstance(value, bytes) else np.array([value], COLUMNS[name].dtype)
        for name, value in values.items()
    }
    return FlowBatch("node", "epoch", 0, 1, (0, 0), columns, entities=entities)


SERVERS_VIEW = {
    "role": Role.SERVER,
    "local_address": SERVER_ADDRESS,
    "remote_address": CLIENT_ADDRESS,
    "local_port": 16379,
    "remote_port": 40_000,
    "local_isn": 0xA0B0C0D0,
    "remote_isn": 0x01020304,
    "flow_start_unix_ns": 1_700_000_000_000_123_456,
}


def ids(batch: FlowBatch, cluster_name: str = "prod") -> SpanIds:
    """The ids of a batch."""
    return IdMixer(cluster_name).ids(batch, perspective(batch))


def trace_id(batch: FlowBatch, cluster_name: str = "prod") -> str:
    """The trace id of a record, as backends show it."""
    found = ids(batch, cluster_name)
    return f"{int(found.trace_id_high[0]):016x}{int(found.trace_id_low[0]):016x}"


def span_id(batch: FlowBatch) -> str:
    """The span id of a record."""
    return f"{int(ids(batch).span_id[0]):016x}"


def parent_id(batch: FlowBatch) -> str | None:
    """The span id of a record's parent."""
    found = int(ids(batch).parent_span_id[0])
    return f"{found:016x}" if found else None


@pytest.mark.parametrize(
    ("values", "cluster_name", "trace", "span"),
    [
        ({}, "prod", "1ca7e72e86926e09cdfe3a3a4b47f78f", "87522273089465f7"),
        ({"record": 256}, "prod", "8328b05221b25d42d67b23a1c56956eb", None),
        ({"record": 7}, "prod", "1ca7e72e86926e09cdfe3a3a4b47f78f", "ce1af97c809234c5"),
        (SERVERS_VIEW, "prod", "1ca7e72e86926e09cdfe3a3a4b47f78f", "676fba576d4be1dd"),
        ({"observer": CAPTURE}, "prod", "1ca7e72e86926e09cdfe3a3a4b47f78f", "810f2240ffe5e3a8"),
        ({}, "", "0fa22d94d77cd0d440a0234fb8fd97b2", None),
        ({}, "größe", "7f30276ff0e231521c6199e57e7a4231", None),
        ({"isn_seen": 1}, "prod", "64e547f17324352f24d7dae0737e44c5", "9ef515316d39f8fb"),
        (
            {"isn_seen": 0, "transport": 1, "icmp_type": 8, "icmp_code": 1, "local_port": 0, "remote_port": 0},
            "prod",
            "b49f536f7d7a192161397e2bc9cc191e",
            None,
        ),
        (
            {"role": Role.UNKNOWN, "local_isn": 0, "remote_isn": 0},
            "prod",
            "53050e66ed2c36b716323c6284022102",
            "bdea0822fb7e57ba",
        ),
    ],
)
def test_ids_never_change(values, cluster_name, trace, span):
    """Ids are the same in every process, on every platform and in every version: these are pinned."""
    assert trace_id(record(**values), cluster_name) == trace
    assert span is None or span_id(record(**values)) == span


def test_both_ends_of_a_translated_connection_are_one_trace():
    """The server's span joins the client's trace as its child though the addresses and ports it sees are others."""
    client = record()
    server = record(entities=[POD], **SERVERS_VIEW, remote_entity=0)
    assert trace_id(client) == trace_id(server)
    assert parent_id(server) == span_id(client) != span_id(server)
    assert ids(server).flags[0] & FLAG_IS_REMOTE
    assert not ids(client).flags[0] & FLAG_IS_REMOTE


def test_both_ends_of_a_connection_within_a_host_are_one_trace():
    """On a machine that is no node, the client of a loopback connection tells its side too."""
    assert parent_id(record(entities=[HOST], **SERVERS_VIEW, remote_entity=0)) == span_id(record())


@pytest.mark.parametrize(
    ("entities", "values"),
    [
        (None, {}),
        ([OTHER], {"remote_entity": 0}),
        ([SERVICE], {"remote_entity": 0}),
        ([POD], {"local_entity": 0}),
        ([POD], {"remote_entity": 0, "isn_seen": 1}),
        ([POD], {"remote_entity": 0, "observer": CAPTURE}),
    ],
)
def test_a_server_span_has_no_parent_that_never_comes(entities, values):
    """Without a client of this cluster, a seen handshake and a socket, the server's first span is a root."""
    assert parent_id(record(entities=entities, **(SERVERS_VIEW | values))) is None


def test_a_node_that_may_stand_for_somebody_outside_is_no_parent():
    """Who came from outside to a node port has no span; the server's stays a root of the same trace."""
    doubtful = Entity("k8s.node", {**NODE.attributes, SOURCE_NAT: True})
    assert parent_id(record(entities=[doubtful], **SERVERS_VIEW, remote_entity=0)) is None


def test_a_client_on_a_node_is_a_parent():
    """A host-network client's span is told by its node."""
    assert parent_id(record(entities=[NODE], **SERVERS_VIEW, remote_entity=0)) == span_id(record())


def shown(links: Links) -> tuple[str, str]:
    """The trace and the span that the first of them leads to."""
    high, low, span = (int(words[0]) for words in links)
    return f"{high:016x}{low:016x}", f"{span:016x}"


VIEWS = [{}, SERVERS_VIEW, {"observer": CAPTURE}, {"role": Role.UNKNOWN}, {"isn_seen": 0}]


@pytest.mark.parametrize("view", VIEWS)
def test_later_records_are_children_of_the_first(view):
    """Within one trace, every later record's parent is record 0 of the same side, and each has an id of its own."""
    first = record(**view)
    later = [record(**view, record=number) for number in (1, 2, TRACE_RECORDS - 1)]
    assert {trace_id(each) for each in later} == {trace_id(first)}
    assert {parent_id(each) for each in later} == {span_id(first)}
    assert len({span_id(each) for each in [first, *later]}) == 4
    assert not any(ids(each).flags[0] & FLAG_IS_REMOTE for each in later)


@pytest.mark.parametrize("view", VIEWS)
def test_a_trace_is_bounded_and_goes_on_in_another(view):
    """After so many records comes another trace, whose first record is its root, and links to the flow's first record and to
    the one before; the others are its children. However long the flow lives, no two of its spans have the same id.
    """
    numbers = (0, TRACE_RECORDS - 1, TRACE_RECORDS, TRACE_RECORDS + 1, 2 * TRACE_RECORDS, 2**32 - 1)
    first, last, root, child, next_root, latest = (record(**view, record=number) for number in numbers)
    traces = [trace_id(each) for each in (first, last, root, child, next_root, latest)]
    assert traces[0] == traces[1]
    assert traces[2] == traces[3]
    assert len(set(traces)) == 4
    assert (parent_id(root), parent_id(child), parent_id(next_root)) == (None, span_id(root), None)
    assert not any(len(ids(each).continued.rows) for each in (first, last, child, latest))
    for each, before in ((root, last), (next_root, record(**view, record=2 * TRACE_RECORDS - 1))):
        continued = ids(each).continued
        assert [shown(links) for links in (continued.first, continued.before)] == [
            (trace_id(linked), span_id(linked)) for linked in (first, before)
        ]
    batch = FlowBatch("n", "e", 0, 5000, (0, 0), {"record": np.arange(5000, dtype="<u4"), "isn_seen": np.full(5000, 3, "u1")})
    found = ids(batch)
    assert len(np.unique(found.span_id)) == 5000
    counts = np.unique(found.trace_id_high, return_counts=True)[1]
    assert counts.max() == TRACE_RECORDS
    assert len(found.continued.rows) == len(counts) - 1


def test_both_ends_go_on_in_the_same_trace():
    """Neither asks the other: the record's number says it. The server's root is no child, for the client may have ended."""
    views = ({}, SERVERS_VIEW | {"remote_entity": 0})
    client, server = (record(entities=[POD], **view, record=TRACE_RECORDS) for view in views)
    assert trace_id(client) == trace_id(server) != trace_id(record())
    assert span_id(client) != span_id(server)
    assert parent_id(server) is None


def test_enrichment_changes_no_id():
    """A record delivered again with other entities overwrites its own span."""
    for view in ({}, SERVERS_VIEW, {"observer": CAPTURE}, {"isn_seen": 0}):
        raw = record(**view)
        enriched = [record(entities=[POD, NODE], **view, **ends) for ends in ({"local_entity": 0}, {"remote_entity": 1})]
        assert {(trace_id(each), span_id(each)) for each in enriched} == {(trace_id(raw), span_id(raw))}


@pytest.mark.parametrize(
    "change",
    [
        {"local_address": SERVER_ADDRESS},
        {"remote_address": SERVER_ADDRESS},
        {"local_port": 1},
        {"remote_port": 1},
        {"transport": 17},
        {"flow_start_unix_ns": 1},
        {"icmp_type": 1},
        {"icmp_code": 1},
    ],
)
def test_without_a_handshake_flows_are_told_apart_by_everything(change):
    """Each part of the 5-tuple and the start matters."""
    assert trace_id(record(isn_seen=0)) != trace_id(record(isn_seen=0, **change))


def test_ids_of_many_records_are_distinct_and_valid():
    """A hundred thousand connections have as many traces and spans, and none is zero."""
    count = 100_000
    numbers = np.arange(count, dtype="<u4")
    columns = {
        "isn_seen": np.full(count, 3, "u1"),
        "local_isn": numbers,
        "remote_isn": numbers[::-1].copy(),
        "record": numbers % 3,
    }
    batch = FlowBatch("n", "e", 0, count, (0, 0), columns)
    found = ids(batch)
    assert len(np.unique(found.trace_id_high)) == len(np.unique(found.trace_id_low)) == len(np.unique(found.span_id)) == count
    assert found.span_id.all()
    assert (found.trace_id_high | found.trace_id_low).all()


LOCAL, REMOTE = {"local_entity": 0}, {"remote_entity": 0}


@pytest.mark.parametrize(
    ("entity", "values", "told_by_local", "kind", "side"),
    [
        (POD, LOCAL, True, Kind.CLIENT, Side.CLIENT),
        (POD, REMOTE, True, Kind.CLIENT, Side.CLIENT),
        (POD, {"role": Role.SERVER}, True, Kind.SERVER, Side.SERVER),
        (POD, {"role": Role.UNKNOWN}, True, Kind.INTERNAL, Side.UNKNOWN),
        (POD, {"record": 1}, True, Kind.INTERNAL, Side.CLIENT),
        (POD, {"observer": CAPTURE}, True, Kind.CLIENT, Side.CAPTURE),
        (POD, {"observer": CAPTURE, **LOCAL}, True, Kind.CLIENT, Side.CAPTURE),
        (POD, {"observer": CAPTURE, **REMOTE}, False, Kind.SERVER, Side.CAPTURE),
        (POD, {"observer": CAPTURE, **LOCAL, **REMOTE}, True, Kind.CLIENT, Side.CAPTURE),
        (SERVICE, {"observer": CAPTURE, **REMOTE}, True, Kind.CLIENT, Side.CAPTURE),
        (POD, {"observer": CAPTURE, **REMOTE, "record": 1}, False, Kind.INTERNAL, Side.CAPTURE),
        (POD, {"observer": CAPTURE, "role": Role.SERVER}, False, Kind.CLIENT, Side.CAPTURE),
        (POD, {"observer": CAPTURE, "role": Role.SERVER, **LOCAL}, True, Kind.SERVER, Side.CAPTURE),
        (POD, {"observer": CAPTURE, "role": Role.UNKNOWN, **REMOTE}, False, Kind.INTERNAL, Side.CAPTURE),
    ],
)
def test_perspective(entity, values, told_by_local, kind, side):
    """A socket tells its own end; a capture file's records are told by the cluster's end, else by the client's."""
    seen = perspective(record(entities=[entity], **values))
    assert (bool(seen.told_by_local[0]), seen.kind[0], seen.side[0]) == (told_by_local, kind, side)


def test_an_empty_batch_has_no_ids():
    """No rows in, no rows out."""
    empty = replace(record(), count=0, columns={})
    assert len(ids(empty).span_id) == 0
