"""The machine of the one NATS server loses power, and with it all that the server had acknowledged and not yet synced."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proto.subjects import MESSAGE_ID_HEADER, RAW_STREAM, raw_subject
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings
from tests.e2e.conftest import needed
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.power_cut import Disk

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/fuse").exists(), reason="needs root and FUSE"),
]

SYNC_SECONDS = 1
CUTS = 3
MESSAGES_BETWEEN_CUTS = 150


@contextmanager
def power(tmp_path: Path) -> Iterator[tuple[NatsServer, Disk]]:
    """A server that syncs once a second, on a disk that can lose power."""
    program = needed("power_cut")
    with Disk(program, tmp_path / "machine") as disk:
        server = NatsServer(tmp_path / "nats", jetstream=f"sync_interval: {SYNC_SECONDS}s", store=disk.mount)
        with server:
            yield server, disk


def cut(server: NatsServer, disk: Disk) -> None:
    """Lose power, and come back."""
    server.kill()
    disk.power_off()
    disk.power_on()
    server.start()


async def published(bus: Bus, server: NatsServer, disk: Disk) -> list[str]:
    """Publish at a steady pace through some cuts of the power; return the ids of all that was acknowledged."""
    acknowledged: list[str] = []
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - of a failure
    chance = random.Random(seed)

    async def publish(number: int) -> None:
        message_id = f"batch-{number}"
        await bus.publish(raw_subject("node-a"), os.urandom(chance.randrange(200, 20_000)), message_id=message_id)
        acknowledged.append(message_id)

    for number_of_cut in range(CUTS):
        first = number_of_cut * MESSAGES_BETWEEN_CUTS
        at = chance.randrange(MESSAGES_BETWEEN_CUTS // 3, MESSAGES_BETWEEN_CUTS)
        for number in range(first, first + MESSAGES_BETWEEN_CUTS):
            publishing = asyncio.create_task(publish(number))
            if number == first + at:
                await asyncio.to_thread(cut, server, disk)
            await publishing
            await asyncio.sleep(0.01)
    return acknowledged


async def stored(bus: Bus, wanted: set[str]) -> set[str]:
    """Return the ids of what the stream holds, once that is all, or no more comes."""
    found: set[str] = set()
    for _ in range(20):
        found = {message.headers.get(MESSAGE_ID_HEADER, "") async for message in bus.peek(RAW_STREAM)}
        if wanted <= found:
            break
        await asyncio.sleep(0.5)
    return found


@pytest.mark.parametrize("unsynced_seconds", [2.0 * SYNC_SECONDS, 0.0], ids=["kept", "not kept"])
async def test_what_was_acknowledged_outlives_the_power(tmp_path: Path, unsynced_seconds: float) -> None:
    """All of it, since whoever published it has kept it for twice the server's interval. Without that, some is lost: the model
    does take away what a disk without power would.
    """
    with power(tmp_path) as (server, disk):
        settings = NatsSettings(url=server.url, reconnect_seconds=0.1, unsynced_seconds=unsynced_seconds)
        async with connect(settings, name="capture") as bus:
            await bus.ensure_streams()
            disk.settle()  # nobody syncs the description of a stream
            wanted = set(await published(bus, server, disk))
            lost = wanted - await stored(bus, wanted)
    print(f"{len(lost)} of {len(wanted)} lost")  # noqa: T201
    assert bool(lost) == (not unsynced_seconds), f"{len(lost)} of {len(wanted)} lost"
