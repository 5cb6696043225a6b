"""Spans become questions to the node that they were made on, with the addresses that their peers may have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from proto.asked.batch import AskedBatch, decode_asked
from proto.asked.columns import OTHER_END
from proto.flow_batch import FlowBatch
from proto.subjects import MAX_BATCH_BYTES, asked_subject
from services.enricher.index.claims import packed_address
from services.enricher.index.cluster import Cluster
from services.enricher.index.source import index_of_snapshot
from services.enricher.intake.clocks import RECENT_NS, SendersClocks
from services.enricher.intake.counts import PEERS, SPAN_RESULTS, IntakeCounts
from services.enricher.intake.door import Waiting
from services.enricher.intake.locals import Locals
from services.enricher.intake.names import NamesSeen
from services.enricher.intake.peers import Peers
from services.enricher.intake.questions import Questions
from services.enricher.intake.scan import MOST_SPANS
from services.enricher.kubernetes.selection import Selection
from services.runtime.telemetry import Telemetry
from tests.support.otlp_requests import SERVER, key_values, request, span, together

SNAPSHOT = Path(__file__).parents[3] / "data" / "cluster.json"
NOW = 1_790_000_000_000_000_000
SECOND = 1_000_000_000
CART, FRONTEND, REDIS = (
    "0f42bcfb-2cc7-4352-bfa0-a7dc0f183b0a",
    "f635afc7-2b4d-4309-b186-014697f556c3",
    "b7ba031f-2b6c-48db-a9cd-6fbb35dfd898",
)


PAYMENTS = ["10.43.20.12", "fd43::2012", "10.42.1.12", "fd42:0:0:1::12"]


@pytest.fixture(scope="module")
def index():
    """The bundled cluster's."""
    return index_of_snapshot(SNAPSHOT, Cluster(), Selection())


class Asking:
    """Questions, with all that they stand on."""

    def __init__(self, index=None, node: str = "") -> None:
        self.index = index
        self.names = NamesSeen()
        self.counts = IntakeCounts(Telemetry("test"))
        self.questions = Questions(self.counts, Locals(this_host="this-host", node=node), Peers(self.names))

    def ask(self, *spans, sender: str = "10.42.0.14", **resource: str) -> dict[str, AskedBatch]:
        """What is asked of each subject about spans of one resource."""
        return self.ask_of(request(spans, **resource), len(spans), sender)

    def ask_of(self, payload: bytes, spans: int, sender: str = "10.42.0.14") -> dict[str, AskedBatch]:
        """The same of a whole request."""
        self.questions.add(Waiting(payload, spans, sender), self.index, NOW)
        made: dict[str, list[AskedBatch]] = {}
        for subject, questions, _rows, message in self.questions.messages(MAX_BATCH_BYTES):
            batch = decode_asked(message)
            assert len(set(batch.columns["question"][batch.columns["kind"] != OTHER_END].tolist())) == questions
            assert asked_subject(batch.node) == subject
            made.setdefault(subject, []).append(batch)
        assert all(len(batches) == 1 for batches in made.values())
        return {subject: batches[0] for subject, batches in made.items()}

    @property
    def spans(self) -> Mapping[str, int]:
        """What became of spans."""
        return dict(self.counts.spans.total)


def near(number: int = 1, **more):
    """A span of the last second."""
    return span(number, start=NOW - SECOND, end=NOW - SECOND // 2, **more)


def addresses(batch: AskedBatch) -> list[str]:
    """Addresses of peers, as text is packed."""
    return [row.tobytes() for row in batch.columns["peer_address"]]


def packed(*texts: str) -> list[bytes]:
    """The same of texts."""
    return [packed_address(text) or bytes(16) for text in texts]


def test_a_span_is_asked_of_its_pods_node(index):
    """The UID of a pod says the node; ids, times, kind and ports go along, and nothing else does."""
    (subject, batch), *others = (
        Asking(index).ask(near(7, network__peer__address="10.42.1.11", network__peer__port=6379), k8s__pod__uid=CART).items()
    )
    assert not others
    assert (subject, batch.node, list(batch.locals)) == ("spans.asked.worker-a", "worker-a", [CART])
    row = {name: column[0] for name, column in batch.columns.items()}
    assert (row["trace_id"].tobytes(), row["span_id"].tobytes()) == ((7).to_bytes(16, "big"), (7).to_bytes(8, "big"))
    assert (row["start_ns"], row["end_ns"]) == (NOW - SECOND, NOW - SECOND // 2)
    assert (row["kind"], row["flags"], row["peer_port"], row["local_port"], row["local"]) == (3, 1, 6379, 0, 0)
    assert addresses(batch) == packed("10.42.1.11")


@pytest.mark.parametrize(
    ("resource", "sender", "node", "local"),
    [
        ({"k8s__pod__uid": REDIS}, "10.42.0.14", "worker-b", REDIS),
        ({"k8s__pod__ip": "10.42.1.11"}, "10.42.0.14", "worker-b", REDIS),
        ({"k8s__pod__uid": "elsewhere", "k8s__pod__ip": "10.42.1.11"}, "", "worker-b", REDIS),
        ({"host__name": "worker-b"}, "10.42.0.12", "worker-b", ""),
        ({"host__name": "cart-6f8d4c9b7-h5t2w"}, "10.42.0.12", "worker-a", CART),
        ({}, "10.42.0.12", "worker-a", CART),
        ({}, "172.18.0.12", "worker-b", ""),
    ],
)
def test_whose_a_span_is(index, resource, sender, node, local):
    """The resource's identity counts, the pod's before the host's, and where it has none the sender's address."""
    ((_, batch),) = Asking(index).ask(near(server__address="10.0.0.1"), sender=sender, **resource).items()
    assert (batch.node, list(batch.locals)) == (node, [local])


@pytest.mark.parametrize(
    ("resource", "sender"),
    [({"k8s__pod__uid": "nobody"}, "10.42.0.12"), ({"container__id": "ab" * 32}, "10.42.0.12"), ({}, "192.0.2.1"), ({}, "")],
)
def test_a_pod_that_nobody_knows_is_counted_and_not_asked_about(index, resource, sender):
    """A resource that names an unknown pod is not taken for its sender, who may be a Collector."""
    asking = Asking(index)
    assert asking.ask(near(), near(2), sender=sender, **resource) == {}
    assert asking.spans == {"unknown_local": 2}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("payments", PAYMENTS),
        ("PAYMENTS.shop.", PAYMENTS),
        ("payments.shop.svc", PAYMENTS),
        ("payments.shop.svc.cluster.local", PAYMENTS),
        ("redis", ["10.42.1.11", "fd42:0:0:1::11"]),
        ("redis-0.redis", ["10.42.1.11", "fd42:0:0:1::11"]),
        ("redis-0.redis.shop.svc.example.org", ["10.42.1.11", "fd42:0:0:1::11"]),
        ("redis-9.redis", []),
        ("prometheus", []),
        ("prometheus.monitoring", ["10.43.40.10", "10.42.0.14"]),
        ("db.example.com", []),
        ("10.42.1.12", ["10.42.1.12"]),
        ("localhost", ["127.0.0.1", "::1"]),
    ],
)
def test_names_are_meant_as_the_pods_dns_means_them(index, name, expected):
    """A Service's addresses are its own and its endpoints'; what is none may be anywhere, at the port that is said."""
    ((_, batch),) = Asking(index).ask(near(server__address=name, server__port=80), k8s__pod__uid=FRONTEND).items()
    assert sorted(addresses(batch)) == sorted(packed(*expected) or [bytes(16)])
    assert set(batch.columns["peer_port"].tolist()) == {80}
    assert set(batch.columns["question"].tolist()) == {0}


def test_names_that_dns_has_answered_are_known(index):
    """What a flow of the node had looked up before names the peer, also where there is no cluster."""
    for which, resource in ((index, {"k8s__pod__uid": FRONTEND}), (None, {"host__name": "worker-a"})):
        asking = Asking(which)
        columns = {
            "remote_name": np.array([0, 0xFFFF_FFFF, 0], "<u4"),
            "remote_address": np.frombuffer(b"".join(packed("203.0.113.7", "203.0.113.8", "203.0.113.9")), "V16"),
        }
        asking.names.learn(FlowBatch("worker-a", "e", 0, 3, (0, 0), columns, names=["db.example.com"]))
        asking.names.learn(
            FlowBatch("worker-b", "e", 0, 1, (0, 0), {"remote_name": np.zeros(1, "<u4")}, names=["db.example.com"])
        )
        ((_, batch),) = asking.ask(near(server__address="DB.example.com"), **resource).items()
        assert sorted(addresses(batch)) == packed("203.0.113.7", "203.0.113.9")
        assert asking.counts.peers.total == {"dns": 1}


def test_without_a_cluster_the_host_itself_is_asked():
    """A plain host's spans are of whoever runs on it, a container's of the container; a setting may say which node that is."""
    ((_, batch),) = Asking().ask(near()).items()
    assert (batch.node, list(batch.locals)) == ("this-host", [""])
    ((_, batch),) = Asking().ask(near(), host__name="other", container__id="ab" * 32).items()
    assert (batch.node, list(batch.locals)) == ("other", ["ab" * 32])
    ((_, batch),) = Asking(node="host").ask(near(), host__name="3f2a", container__id="short").items()
    assert (batch.node, list(batch.locals)) == ("host", [""])


def test_spans_that_no_capture_can_know_of_are_counted_by_why(index):
    """Of tomorrow, of yesterday, of a day's length, of no network, without ids: none is asked about, each is counted once."""
    asking = Asking(index)
    broken = near(9)
    broken.ClearField("trace_id")
    day = 86_400 * SECOND
    spans = [
        near(1),
        span(2, start=NOW + day, end=NOW + day + 1),
        span(3, start=NOW - day, end=NOW - day + 1),
        span(4, start=NOW - day, end=NOW - 1),
        span(5, start=2**64 - 2, end=2**64 - 1),
        near(6, kind=1),
        span(7, start=NOW, end=NOW - 1),
        broken,
        span(8, start=1, end=2**64 - 1),
    ]
    ((_, batch),) = asking.ask(*spans, k8s__pod__uid=CART).items()
    assert batch.count == 1
    assert asking.spans == {"future": 3, "too_old": 1, "too_long": 1, "kind": 1, "malformed": 2}
    assert set(asking.spans) < set(SPAN_RESULTS)


def test_a_million_spans_that_name_one_peer_take_no_more_than_their_rows(index):
    """One name is looked up once, however often it is there, and a request's rows are bounded."""
    asking = Asking(index)
    spans = [near(number, server__address="payments") for number in range(1, MOST_SPANS + 100)]
    payload = request(spans, k8s__pod__uid=CART)
    asking.questions.add(Waiting(payload, len(spans), ""), index, NOW)
    assert asking.questions.rows == 4 * MOST_SPANS
    assert asking.spans == {"beyond": 99}
    messages = asking.questions.messages(MAX_BATCH_BYTES)
    assert sum(questions for _, questions, _, _ in messages) == MOST_SPANS
    assert max(len(message) for _, _, _, message in messages) <= MAX_BATCH_BYTES
    assert asking.questions.messages(MAX_BATCH_BYTES) == []


def test_spans_of_many_pods_come_to_their_nodes(index):
    """Each node is asked about its own pods' spans, and each span's local is its pod."""
    asking = Asking(index)
    pods = [CART, REDIS, FRONTEND, "nobody"]
    groups = [
        (key_values({"k8s.pod.uid": uid}), [near(place * 10 + 1), near(place * 10 + 2)]) for place, uid in enumerate(pods)
    ]
    made = asking.ask_of(together(groups), 8)
    assert set(made) == {"spans.asked.worker-a", "spans.asked.worker-b"}
    found = {
        int.from_bytes(trace.tobytes(), "big"): batch.locals[local]
        for batch in made.values()
        for trace, local in zip(batch.columns["trace_id"], batch.columns["local"].tolist(), strict=True)
    }
    assert found == {1: CART, 2: CART, 11: REDIS, 12: REDIS, 21: FRONTEND, 22: FRONTEND}
    assert asking.spans == {"unknown_local": 2}


def test_a_node_of_which_nothing_is_left_to_ask_is_not_asked(index):
    """Where all of a node's spans are too old, and those of another are not."""
    asking = Asking(index)
    groups = [(key_values({"k8s.pod.uid": uid}), [made]) for uid, made in ((CART, near()), (REDIS, span(2, start=1, end=2)))]
    assert set(asking.ask_of(together(groups), 2)) == {"spans.asked.worker-a"}
    assert asking.spans == {"too_old": 1}


def test_a_servers_span_asks_about_its_client(index):
    """The peer of a SERVER span is who asked, by address and port."""
    made = near(kind=SERVER, client__address="10.42.0.10", client__port=40016, server__port=80)
    asking = Asking(index)
    ((_, batch),) = asking.ask(made, k8s__pod__uid=CART).items()
    assert addresses(batch) == packed("10.42.0.10")
    assert (batch.columns["peer_port"][0], batch.columns["local_port"][0]) == (40016, 0)
    assert set(asking.counts.peers.total) <= set(PEERS)


def test_a_servers_span_tells_its_clients_node_which_connection_its_parent_has(index):
    """The client's address and port, under the id of the span that is the parent; of a client that nobody knows nothing."""
    known, unknown = (
        near(number, kind=SERVER, client__address=address, client__port=40016, server__port=80)
        for number, address in enumerate(("10.42.1.12", "192.0.2.9"), 1)
    )
    known.parent_span_id = unknown.parent_span_id = b"parentid"
    asking = Asking(index)
    made = asking.ask(known, unknown, k8s__pod__uid=CART)
    assert {node: batch.columns["kind"].tolist() for node, batch in made.items()} == {
        "spans.asked.worker-a": [SERVER, SERVER],
        "spans.asked.worker-b": [OTHER_END],
    }
    columns = made["spans.asked.worker-b"].columns
    assert [columns[name][0].tobytes() for name in ("trace_id", "span_id")] == [known.trace_id, b"parentid"]
    assert (addresses(made["spans.asked.worker-b"]), columns["peer_port"].tolist()) == (packed("10.42.1.12"), [40016])
    assert asking.spans == {}


def test_hostile_bytes_are_counted(index):
    """A request that cannot be read after all costs its spans and nothing else."""
    asking = Asking(index)
    inner = b"\x12\x04\x12\x02\x0a\x7f"  # a span whose id is longer than the span
    assert asking.ask_of(b"\x0a" + bytes([len(inner)]) + inner, 1) == {}
    assert asking.spans == {"malformed": 1}


def test_a_sender_whose_clock_is_ahead_is_named_once_and_measured(index):
    """Spans that end after they came, whether they are asked about or not; a span of the past is no sign of anything."""
    asking, clocks = Asking(index), SendersClocks()
    asking.questions.clocks = clocks
    for ahead in (-30, 0.05):
        asking.ask(span(1, start=NOW - 40 * SECOND, end=NOW + int(ahead * SECOND)), **{"k8s.pod.uid": CART})
    assert clocks.largest_seconds(NOW) == 0
    with capture_logs() as logs:
        for ahead in (2, 90):
            asking.ask(span(1, start=NOW, end=NOW + ahead * SECOND), **{"k8s.pod.uid": CART})
    assert [(line["event"], line["sender"], line["ahead_seconds"]) for line in logs] == [("intake.clock_ahead", CART, 2)]
    assert asking.spans["future"] == 1
    assert clocks.largest_seconds(NOW) == 90
    assert clocks.largest_seconds(NOW + 2 * RECENT_NS) == 0
