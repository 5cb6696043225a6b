"""One task keeps all deliveries that are worked on, and one looks for all messages that are to be on the disk: neither ends by
what a single one trips up.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from structlog.testing import capture_logs

from services.runtime.nats.connection import Connection, Message
from services.runtime.nats.consuming import Delivery, StreamConsumption
from services.runtime.nats.jetstream import JetStream
from services.runtime.nats.publishing import Publisher
from services.runtime.nats.unsynced import Acknowledged
from services.runtime.settings import NatsSettings

_MOST_SECONDS = 60.0
"""Far beyond what is waited for."""


async def _nothing() -> None:
    """There is no stream to make."""


async def test_an_error_keeps_no_other_delivery_from_being_kept() -> None:
    """The others are kept in the same turn and later; what was given back meanwhile is not. It is said what went wrong."""
    connection = Connection(NatsSettings(), name="test")
    consumption = StreamConsumption(
        connection, JetStream(connection, domain=""), stream="S", durable="d", max_ack_pending=9, ack_wait_seconds=0.03,
        batch=9, on_no_stream=_nothing, arrived=asyncio.Event(),
    )  # fmt: skip
    kept: list[str] = []
    enough = asyncio.Event()

    class Kept(Delivery):
        async def in_progress(self) -> None:
            kept.append(self.subject)
            if self.subject == "trips":
                given_back.close()
                raise RuntimeError("unforeseen")
            if kept.count("good") > 1:
                enough.set()

    trips, gone, good = (
        Kept(consumption, Message(subject, "$JS.ACK.S.d.1.1.1.1.0", b"", {})) for subject in ("trips", "gone", "good")
    )
    with capture_logs() as logs, ExitStack() as given_back, trips.kept():
        given_back.enter_context(gone.kept())
        with good.kept():
            await asyncio.wait_for(enough.wait(), _MOST_SECONDS)
    assert kept[:4] == ["trips", "good"] * 2
    assert "deliveries.not_kept" in [line["event"] for line in logs]


async def test_an_error_keeps_nobody_from_hearing_what_is_on_the_disk(monkeypatch) -> None:
    """Whoever waits for it is told at a later look, and it is said what went wrong."""
    publisher = Publisher(Connection(NatsSettings(), name="test"), NatsSettings(), on_no_stream=_nothing)
    publisher._unsynced.add("flows.raw", Acknowledged(0.0, "flows.raw.a", b"", "a", None))
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("unforeseen")
        publisher._unsynced.forget("flows.raw", 1.0)

    monkeypatch.setattr(publisher, "_forget_synced", look)
    with capture_logs() as logs:
        await asyncio.wait_for(publisher.synced(["a"]), _MOST_SECONDS)
    assert [line["event"] for line in logs] == ["bus.not_looked_for_synced"]
