"""The reader in Go says of every batch what the Python one says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from proto.columns import RAW, Role
from proto.flow_batch import FlowBatch, decode, encode
from proto.rows import rows
from tests.support.pipeline.batches import flow_batches

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first to ask for a tool may build it

GOLDEN = Path(__file__).parents[2] / "golden" / "flow_v1.msgpack"


def dumped(flowdump: Path, message: bytes) -> list[dict[str, Any]]:
    """What the Go program prints for a message."""
    done = subprocess.run([flowdump], input=message, capture_output=True, check=True, timeout=30)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_golden_batch(flowdump: Path) -> None:
    """The bytes that every version must be able to read."""
    message = GOLDEN.read_bytes()
    assert dumped(flowdump, message) == list(rows(decode(message)))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=flow_batches())
def test_any_batch(flowdump: Path, batch: FlowBatch) -> None:
    """Columns left out, side tables, entities, whatever is in them."""
    message = encode(batch)  # which leaves out what holds nothing but its default
    assert dumped(flowdump, message) == [json.loads(json.dumps(row)) for row in rows(decode(message))]


def test_every_value_of_every_enumeration(flowdump: Path) -> None:
    """A name that the schema gains is a name in Go too; a value without one stays a number."""
    count = 256
    columns = {
        column.name: np.arange(count, dtype="u1") for column in RAW if column.enum is not None or column.name == "transport"
    }
    message = encode(FlowBatch("n", "e", 0, count, (0, 0), columns))
    shown = dumped(flowdump, message)
    assert shown == list(rows(decode(message)))
    assert shown[Role.SERVER]["role"] == "server"


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_bytes_that_are_no_batch_are_an_error(flowdump: Path, cut: int) -> None:
    """One line on standard error and exit status 1, no panic."""
    done = subprocess.run([flowdump], input=GOLDEN.read_bytes()[:cut], capture_output=True, text=False, check=False, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith(b"flowdump: not a FlowBatch: ")
    assert done.stderr.count(b"\n") == 1
