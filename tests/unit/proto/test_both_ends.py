"""Which records are of the two ends of one connection."""

from __future__ import annotations

import numpy as np
import pytest

from proto.both_ends import other_ends
from proto.columns import COLUMNS, Observer, Reason, Role
from proto.flow_batch import FlowBatch
from proto.verdicts.names import Verdict
from proto.verdicts.pairs import decided
from proto.verdicts.rules import judged

HERE, THERE = bytes(10) + b"\xff\xff\x7f\x00\x00\x01", bytes(10) + b"\xff\xff\x7f\x00\x4d\x02"
CLIENT = {"observer": Observer.SOCKET, "role": Role.CLIENT, "transport": 6, "isn_seen": 3, "local_isn": 7, "remote_isn": 9}
CLIENT |= {"local_address": HERE, "remote_address": THERE, "local_port": 40000, "remote_port": 8080, "parent_span_id": bytes(8)}
CLIENT |= {"reason": Reason.END_OF_FLOW}
SERVER = CLIENT | {"role": Role.SERVER, "local_isn": 9, "remote_isn": 7, "local_address": THERE, "remote_address": HERE}
SERVER |= {"local_port": 8080, "remote_port": 40000}
UDP = {"transport": 17, "isn_seen": 0, "local_isn": 0, "remote_isn": 0}
ASKED = {"reason": Reason.EXCHANGE, "parent_span_id": b"12345678"}


def batch(*some: dict) -> FlowBatch:
    """Records with these values."""
    columns = {}
    for name in {name for one in some for name in one}:
        values = [one.get(name, COLUMNS[name].default) for one in some]
        columns[name] = np.array([np.void(v) if isinstance(v, bytes) else v for v in values], COLUMNS[name].numpy_dtype)
    return FlowBatch(node="a", epoch="e", sequence=0, count=len(some), interval=(0, 0), columns=columns)


@pytest.mark.parametrize(
    ("client", "server", "same"),
    [
        (CLIENT, SERVER, True),
        # Somebody translated an address on the way.
        (CLIENT | {"remote_port": 80, "remote_address": HERE}, SERVER, True),
        (CLIENT, SERVER | {"remote_isn": 8}, False),
        (CLIENT | UDP, SERVER | UDP, True),
        (CLIENT | UDP, SERVER | UDP | {"remote_port": 40001}, False),
        (CLIENT | UDP, SERVER | UDP | {"transport": 132}, False),
        (CLIENT | ASKED, SERVER | ASKED, True),
        (CLIENT | ASKED, SERVER | ASKED | {"parent_span_id": b"87654321"}, False),
        (CLIENT | ASKED, SERVER, False),
        (CLIENT, SERVER | {"role": Role.CLIENT}, False),
        (CLIENT, SERVER | {"observer": Observer.CAPTURE}, False),
    ],
)
def test_the_other_end_is_the_one_that_tells_of_the_same(client, server, same) -> None:
    """By sequence numbers, else by addresses and ports; of a request by its span too."""
    others = other_ends(batch(CLIENT | {"local_isn": 1, "local_port": 1}, client, server), np.arange(3))
    assert others.tolist() == ([-1, 2, 1] if same else [-1, -1, -1])


def test_of_several_none_is_it() -> None:
    """Two records of the other end, of which nobody knows which it is."""
    assert other_ends(batch(CLIENT, SERVER, SERVER), np.arange(3)).tolist() == [-1, 0, 0]
    assert other_ends(batch(CLIENT, SERVER), np.arange(0)).tolist() == []


def test_what_the_client_cannot_tell_is_decided_where_the_servers_record_is_there() -> None:
    """And stays as it is where it is not."""
    slow = {"responses": 1, "response_time_max_ns": 400_000_000}
    both = decided(judged(batch(CLIENT | slow, SERVER | slow)))
    assert both.column("verdict").tolist() == [Verdict.SERVER_SLOW] * 2
    alone = judged(batch(CLIENT | slow, SERVER | slow | {"local_isn": 1}))
    assert decided(alone) is alone
    assert alone.column("verdict").tolist() == [Verdict.PATH_OR_SERVER, Verdict.SERVER_SLOW]
