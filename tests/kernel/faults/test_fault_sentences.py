"""`wirespan explain` over the fault lab: one sentence names the fault that was made, with both ends' records and with one's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest

from proto.columns import Role
from proto.flow_batch import FlowBatch
from services.cli.explain.command import explained
from services.cli.explain.explanation import Explanation
from tests.kernel.faults.fault_lab import THINK_SECONDS, Port, run_all
from tests.kernel.faults.test_fault_lab import reason_to_skip
from tests.support.node.fault_lab import FaultLab

pytestmark = pytest.mark.xdist_group("socket_tap")

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

SENTENCES = {
    Port.HEALTHY: "ok: nothing that is measured was wrong",
    Port.REFUSED: "refused: nobody listens at that port",
    Port.BLACKHOLED: "path_or_server: connecting was never answered",
    Port.LOSS_DOWN: "path_loss: the path loses packets on the way to the client",
    Port.LOSS_UP: "path_loss: the path loses packets on the way to the server",
    Port.SYN_LOST: "path_loss: a SYN was lost on the way to the server",
    Port.SYN_ACK_LOST: "path_loss: the server's SYN-ACK was lost on the way to the client",
    Port.SLOW_SERVER: "server_slow: the server is slow, not the network",
    Port.SLOWER_SERVER: "server_slow: the server is slow, not the network",
    Port.SLOW_READER: "zero_window: the client does not read what it asked for",
    Port.SERVER_RESETS: "reset_by_server: the server broke the connection off",
    Port.CLIENT_ABORTS: "reset_by_client: the client broke the connection off",
    Port.ACCEPT_QUEUE_FULL: "accept_queue: the server's accept queue is full",
    Port.ACCEPT_QUEUE_LATE: "accept_queue: the server's accept queue was full for a while",
    Port.PARTITION: "path_loss: the path loses packets on the way to the server",
    Port.SLOW_PATH: "path_slow: the path is long, the server is not slow",
    Port.LARGE_LOST: "mtu: full segments to the client do not arrive, small ones do",
    Port.DNS_LATE: "name_resolution: the resolver is slow, and connecting waits for the name",
    Port.DNS_SILENT: "name_resolution: a question had no answer in time and was asked again",
}
"""How each begins."""
ALONE = {
    **SENTENCES,
    Port.SLOW_SERVER: "path_or_server: an answer was late, by the path or by the server",
    Port.SYN_LOST: "path_or_server: connecting took a second or more",
    Port.ACCEPT_QUEUE_FULL: SENTENCES[Port.BLACKHOLED],
}
"""What the client's end alone can say, where it is less."""
ALONE[Port.SYN_ACK_LOST] = ALONE[Port.ACCEPT_QUEUE_LATE] = ALONE[Port.SYN_LOST]


@pytest.fixture(scope="module")
def batches() -> Iterator[list[FlowBatch]]:
    """The records of all faults."""
    with FaultLab((Port.DNS_LATE, Port.DNS_SILENT)) as lab:
        for found in run_all(lab).values():
            found.result()
        lab.take_records()
        yield lab.batches


def the_one(batches: list[FlowBatch], port: Port) -> Explanation:
    """What is said of the worst connection at a fault's port."""
    (found,), _ = explained(batches, f":{port}")
    return found


def sentence(found: Explanation) -> str:
    """The verdict and what it says."""
    return f"{found.verdict.name.lower()}: {found.advice.sentence}"


@pytest.mark.parametrize("port", SENTENCES, ids=lambda port: port.name.lower())
def test_the_sentence_names_the_fault_that_was_made(batches, port) -> None:
    """Of both ends' records; each has a story, its numbers, where to go on, and a query that finds more of it."""
    found = the_one(batches, port)
    assert sentence(found).startswith(SENTENCES[port])
    assert found.steps
    assert found.because
    assert found.next
    assert set(found.queries) == (set() if port == Port.HEALTHY else {"TraceQL", "OpenSearch", "tap"})
    json.dumps(found.as_json())


@pytest.mark.parametrize("port", sorted(set(SENTENCES) - {Port.LARGE_LOST, Port.LOSS_DOWN}), ids=lambda port: port.name.lower())
def test_one_end_says_no_more_than_it_can_know(batches, port) -> None:
    """Of the client's records alone: the same, or that it may be the path or the server. What only the sender is sure of is
    left out here: whether a client sees that depends on what it had to ask for again.
    """
    alone = [batch.take(np.flatnonzero(batch.column("role") == Role.CLIENT)) for batch in batches]
    found = the_one(alone, port)
    assert sentence(found).startswith(ALONE[port])


def test_the_story_has_what_each_end_took(batches) -> None:
    """The slow server's: connecting, the answer with the server's share and the path's, no loss, who closed."""
    found = the_one(batches, Port.SLOW_SERVER)
    connected, answered, lossless, closed = (step.text for step in found.steps)
    assert connected.startswith("connected in ")
    took = re.fullmatch(r"2 requests answered, the slowest after .+: the server took (\S+) ms of it, the path .+", answered)
    assert took is not None, answered
    assert float(took[1]) >= THINK_SECONDS * 1000
    assert (lossless, closed) == ("no loss", "closed by the client")


def test_a_full_queue_is_told_by_what_arrived_at_the_server(batches) -> None:
    """The evidence is the server's: how many SYNs came to its socket."""
    found = the_one(batches, Port.ACCEPT_QUEUE_FULL)
    assert "arrived at the server's socket" in found.steps[0].text
    assert found.because[0].startswith("at the server: flow.tcp.syn_repeats ")
