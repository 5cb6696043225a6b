"""Verdicts: nanoseconds of processor time a record, beside those of decoding the same batch and encoding it again.

    python -m tests.bench.enricher.bench_verdicts [records in a batch]

One kind of batch as nodes send them, of which most is well, and one in which every column is filled and every rule has work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from proto.columns import EXCHANGE, NAMES, NO_INDEX, RAW, SOCKET, Observer, Role
from proto.flow_batch import FlowBatch, decode, encode
from proto.verdicts.rules import judged
from tests.bench.exporter.bench_encoder import node_batch

ROUNDS = 300


def full_batch(count: int) -> FlowBatch:
    """Records with every column that a socket's may have, small numbers in all of them."""
    draw = np.random.default_rng(7)
    columns = {}
    for column in RAW + SOCKET + NAMES + EXCHANGE:
        if column.default == NO_INDEX:
            continue
        values = draw.integers(0, 7, (count, column.numpy_dtype.itemsize)).astype("u1")
        columns[column.name] = (
            np.ascontiguousarray(values).view(column.numpy_dtype.base).reshape(count, *column.numpy_dtype.shape)
        )
    columns |= {
        "observer": np.full(count, Observer.SOCKET, "u1"),
        "role": draw.choice([Role.CLIENT, Role.SERVER], count).astype("u1"),
        "transport": draw.choice([6, 17], count).astype("u1"),
    }
    return FlowBatch("node-a", "bench", 0, count, (0, 1), columns)


def nanoseconds(run: Callable[[], object], records: int) -> float:
    """The least processor time of many rounds, for each record."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time_ns()
        run()
        best = min(best, time.process_time_ns() - started)
    return best / records


def main() -> None:
    """Measure both kinds."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for name, batch in (("as nodes send them", node_batch(count)), ("every column filled", full_batch(count))):
        message = encode(batch)
        decoded = decode(message)
        passing, judging = (
            nanoseconds(lambda m=message: encode(decode(m)), count),
            nanoseconds(lambda b=decoded: judged(b), count),
        )
        sys.stdout.write(
            f"{count} records, {name}: {judging:.0f} ns a record to judge, {passing:.0f} ns to decode and encode: "
            f"{judging / passing:.2f} of that\n"
        )


if __name__ == "__main__":
    main()
