"""What the exporter sums up is exact, whatever happens on the way. A real bus, process and backend."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from proto.columns import Outcome
from proto.flow_batch import FlowBatch
from services.runtime.nats.bus import Bus
from tests.integration.services.test_exporter import (
    BATCHES,
    SPANS_EACH,
    dead_letters,
    publish,
    until_all_settled,
    wait_for,
)
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.exporter_process import Exporter
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.otlp_receiver import Accept, OtlpReceiver, Stall, TakeAndDrop


@pytest.mark.parametrize(
    "chosen",
    [{"WIRESPAN_EXPORTER_KEEP_RATIO": "0.25"}, {"WIRESPAN_EXPORTER_PRESET": "troubles"}, {"WIRESPAN_EXPORTER_PRESET": "map"}],
    ids=["a quarter drawn", "troubles", "map"],
)
async def test_sums_survive_a_kill(
    bus: Bus, nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path, chosen: dict[str, str]
):
    """Flows summed up, the process killed with some sums accepted and not acknowledged, messages delivered twice, and two
    exporters that share what is left: the totals of each pair and minute are right to the byte, and so are failures.
    """
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp_receiver.grpc_endpoint,
        "WIRESPAN_EXPORTER_CONCURRENCY": "2",
        "WIRESPAN_EXPORTER_MAX_REQUEST_BYTES": "4096",
        **chosen,
    }
    (tmp_path / "another").mkdir()
    exporter, another = (Exporter(nats_server.url, folder, **environ) for folder in (tmp_path, tmp_path / "another"))
    otlp_receiver.script(*[Accept()] * 3, *[TakeAndDrop()] * 3)
    otlp_receiver.default = Stall()
    batches = [refused_among(enriched_batch(SPANS_EACH, sequence=number)) for number in range(BATCHES)]
    await asyncio.gather(*(publish(bus, batch) for batch in batches))
    exporter.start()
    try:
        await wait_for(otlp_receiver, lambda: len(otlp_receiver.requests) >= 7)
        exporter.end(signal.SIGKILL)
        otlp_receiver.default = Accept()
        for batch in batches[::2]:
            await publish(bus, batch, again="/again")
        exporter.start()
        another.start()
        await until_all_settled(bus)
    finally:
        exporter.close()
        another.close()
    wanted, told = Counter(), Counter()
    for batch in batches:
        minutes = batch.column("end_unix_ns") // np.uint64(60_000_000_000)
        for name, column in (("flow.bytes.delta", "tx_bytes"), ("flow.reverse.bytes.delta", "rx_bytes")):
            for minute, value in zip(minutes.tolist(), batch.column(column).tolist(), strict=True):
                wanted["web", "redis", minute, name] += value
        for minute, outcome in zip(minutes.tolist(), batch.column("outcome").tolist(), strict=True):
            wanted["web", "redis", minute, "connection_refused"] += outcome == Outcome.REFUSED
    for span in otlp_receiver.spans.values():
        said = {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}
        key = said["source.service.name"], said["destination.service.name"], span.end_time_unix_nano // 60_000_000_000
        for name in ("flow.bytes.delta", "flow.reverse.bytes.delta"):
            told[*key, name] += said[name]
        if "error.type" in said:
            told[*key, said["error.type"]] += said.get("flow.summary.flows", 1)
    assert told == wanted
    assert len(otlp_receiver.spans) < BATCHES * SPANS_EACH / 2
    assert not otlp_receiver.conflicts
    assert not await dead_letters(bus)


def refused_among(batch: FlowBatch) -> FlowBatch:
    """The batch, a tenth of its connections refused."""
    outcome = batch.column("outcome").copy()
    outcome[::10] = Outcome.REFUSED
    return replace(batch, columns={**batch.columns, "outcome": outcome})
