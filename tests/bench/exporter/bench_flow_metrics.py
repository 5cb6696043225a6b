"""What the metrics of flows cost a record, beside the encoder that makes its span, in the same run.

Run as `python -m tests.bench.exporter.bench_flow_metrics`. Figures are the least of many repeats, in processor time; on a
busy machine only the ratio means something.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from proto.flow_batch import Entity, FlowBatch, decode, encode
from services.exporter.encoder import SpanEncoder
from services.exporter.metrics import otlp
from services.exporter.metrics.exemplars import Exemplars
from services.exporter.metrics.sums import FlowSums
from services.exporter.spans.bundle import bundle
from tests.bench.exporter.bench_encoder import LOCAL_PODS, REMOTE_PODS, node_batch

TOGETHER, REPEATS, MOST_PAIRS = 16, 15, 2000


def few_peers(batch: FlowBatch) -> FlowBatch:
    """The same with workloads that talk to three others each, as in a cluster; drawn at random they all talk to all."""
    local = batch.column("local_entity")
    remote = LOCAL_PODS + (local * 37 + batch.column("flow_id").astype(np.uint32) % 3) % REMOTE_PODS
    outside = batch.column("remote_resolution") != 1
    columns = {"remote_entity": np.where(outside, batch.column("remote_entity"), remote).astype("<u4")}
    return replace(batch, columns={**batch.columns, **columns})


def least(run: Callable[[], Any]) -> float:
    """Processor seconds of the quickest of many runs."""
    found = []
    for _ in range(REPEATS):
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return min(found)


def measure(name: str, batches: list[FlowBatch]) -> None:
    """Print one line."""
    records = sum(batch.count for batch in batches)
    sums, alone = (FlowSums(MOST_PAIRS, exemplars=Exemplars("bench")) for _ in range(2))
    encoder = SpanEncoder(cluster_name="bench", profile="standard")
    together = least(partial(sums.add, batches))
    singly = least(lambda: [alone.add([batch]) for batch in batches])
    encoding = least(lambda: encoder.encode_bundle(bundle(batches), 3_500_000))
    reading = least(lambda: list(otlp.requests(sums.read(), {}, "0")))
    each, each_singly, span = (round(seconds / records * 1e9) for seconds in (together, singly, encoding))
    sys.stdout.write(
        f"{name}: {sums.pairs} pairs; metrics {each} ns a record, {each_singly} batch by batch; its span {span} ns; "
        f"ratio {each / span:.2f}; one reading {reading * 1e3:.0f} ms\n"
    )


def main() -> None:
    """Measure a usual and the worst case."""
    known: dict[bytes, Entity] = {}
    drawn = [decode(encode(node_batch(seed=seed)), known) for seed in range(TOGETHER)]
    measure("three peers each", [decode(encode(few_peers(batch)), known) for batch in drawn])
    measure("all to all", drawn)


if __name__ == "__main__":
    main()
