"""Batches of one record for the tests of what people see."""

from __future__ import annotations

from typing import Any

import numpy as np

from proto.columns import COLUMNS, Outcome, Role
from proto.flow_batch import Entity, FlowBatch

START = 1_700_000_000_000_000_000
LOCAL = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 5])
REMOTE = bytes.fromhex("20010db8000000000000000000000001")


def record_batch(*, entities: list[Entity] | None = None, **changes: Any) -> FlowBatch:
    """A closed HTTP-like connection of a client at 10.0.0.5 with 2001:db8::1, changed as told."""
    values = {
        "local_address": np.void(LOCAL),
        "remote_address": np.void(REMOTE),
        "local_port": 48112,
        "remote_port": 6379,
        "transport": 6,
        "role": Role.CLIENT,
        "outcome": Outcome.CLOSED,
        "end_unix_ns": START + 5_000_000,
        "syn_unix_ns": START,
        "syn_ack_unix_ns": START + 300_000,
        "handshake_ack_unix_ns": START + 400_000,
        "tx_bytes": 1024,
        "rx_bytes": 3_565_158,
        "responses": 2,
        "response_time_sum_ns": 4_000_000,
        "response_time_max_ns": 3_000_000,
        **changes,
    }
    columns = {name: np.array([value], COLUMNS[name].numpy_dtype.base) for name, value in values.items()}
    return FlowBatch("node-a", "e", 0, 1, (START, START + 1), columns, entities=entities)
