"""How far a consumer is behind, over a real stream."""

from __future__ import annotations

import asyncio
import time

import pytest

from proto.subjects import ENRICHER_DURABLE, RAW_STREAM
from services.runtime.nats.bus import Bus
from services.runtime.nats.lag import Lag
from services.runtime.settings import StreamSettings
from services.runtime.telemetry import Telemetry

pytestmark = pytest.mark.timeout(300)  # for machines that are busy; nothing here is timed


async def test_lag_is_the_age_of_the_oldest_in_hand_and_what_nobody_has(bus: Bus) -> None:
    """It grows while a batch is worked on, is that of the oldest of several, and gone when none is in hand."""
    for number in range(5):
        await bus.publish("flows.raw.node-a", b"x", message_id=f"{number}")
    published = time.time_ns()
    consumption = bus.consume(RAW_STREAM, ENRICHER_DURABLE, max_ack_pending=2, ack_wait_seconds=30, batch=2)
    with Telemetry("enricher", environ={}) as telemetry:
        lag = Lag(bus, RAW_STREAM, ENRICHER_DURABLE, telemetry)
        async with consumption:
            older, younger = await anext(consumption), await anext(consumption)
            assert older.stored_unix_ns <= younger.stored_unix_ns <= published + 1_000_000_000
            assert lag.seconds() == 0.0
            with lag.over(younger):
                of_the_younger = lag.seconds()
                with lag.over(older):
                    assert lag.seconds() >= of_the_younger >= 0.0
            assert lag.seconds() == 0.0
            watching = asyncio.create_task(lag.watch())
            while b"wirespan_enricher_batches_pending 3.0" not in telemetry.prometheus():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            watching.cancel()
        assert b"wirespan_enricher_lag_seconds 0.0" in telemetry.prometheus()


async def test_a_partition_that_stands_still_hides_and_is_hidden_by_no_other(bus: Bus) -> None:
    """What waits in one is told while another says nothing; a batch in hand for too long is seen while others are done."""
    await bus.ensure_streams(StreamSettings(partitions=2))
    for number in range(2):
        await bus.publish("flows.raw.node-a", b"x", message_id=f"a{number}")
        await bus.publish("flows.1.raw.node-b", b"x", message_id=f"b{number}")
    consumption = bus.consume(RAW_STREAM, ENRICHER_DURABLE, max_ack_pending=1, ack_wait_seconds=600, batch=2, partitions=2)
    with Telemetry("enricher", environ={}) as telemetry:
        lag = Lag(bus, RAW_STREAM, ENRICHER_DURABLE, telemetry, partitions=3)  # the last of which is not there
        async with consumption:
            first, second = await anext(consumption), await anext(consumption)
            watching = asyncio.create_task(lag.watch())
            while b"wirespan_enricher_batches_pending 2.0" not in telemetry.prometheus():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            watching.cancel()
        with lag.over(first):
            lag._moved_at[first.subject.rpartition(".")[0]] -= 3600
            with lag.over(second):
                pass
            assert not lag.moving
            with lag.over(second):
                assert not lag.moving
        assert lag.moving
        with lag.over(second):
            assert lag.moving
