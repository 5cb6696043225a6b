"""Three servers that lost power, and have different things left of it: one what the others lost, or all where a consumer stood
and not its stream.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proto.subjects import CACHE_BELL_SUBJECTS, CACHE_LOG_SUBJECT, CACHE_STREAM, ENRICHER_DURABLE, RAW_STREAM, raw_subject
from services.runtime.nats.bus import Bus, Journal, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.pipeline.nats_server import NatsServer, clustered
from tests.support.ports import free_ports

pytestmark = pytest.mark.timeout(300)  # for machines that are busy; nothing here is timed

OTHERS = 2
READS = 30
"""Of as many, some would be answered by the third server, were they not the leader's: any of three answers a direct read."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[NatsServer]]:
    """Three that are a cluster."""
    ports = free_ports(3)
    with ExitStack() as stack:
        made = [NatsServer(tmp_path / f"nats-{number}", extra_config=clustered(number, ports)) for number in range(3)]
        yield [stack.enter_context(server) for server in made]


def lose_since(copy: Path, store: Path) -> None:
    """Have in the store what a copy of it has, but of Raft's terms and votes, which are synced at once, the latest."""
    kept = {
        path.relative_to(store): path.read_bytes() for path in store.rglob("*.idx") if path.name in {"tav.idx", "peers.idx"}
    }
    shutil.rmtree(store)
    shutil.copytree(copy, store)
    for path, content in kept.items():
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).write_bytes(content)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once something is so."""
    while not await condition():  # noqa: ASYNC110 - what is waited for happens in the servers
        await asyncio.sleep(0.05)


async def replicated(bus: Bus) -> bool:
    """Whether both other servers have all that the stream's leader has."""
    cluster = (await bus._jetstream._ask(f"STREAM.INFO.{CACHE_STREAM}"))["cluster"]
    return bool(cluster.get("leader")) and sum(each["current"] for each in cluster.get("replicas", ())) == OTHERS


async def leader_ends(journal: Journal, position: int) -> bool:
    """Whether there is a leader whose journal ends there."""
    return await journal.last_sequence() == position


async def answered_by_one_that_has(bus: Bus, sequence: int) -> bool:
    """Whether that message is there for whoever asks any replica, and happens to ask the one that has it."""
    return await bus._jetstream.next_message(CACHE_STREAM, sequence) is not None


def settings(servers: list[NatsServer]) -> NatsSettings:
    """Of a client of these servers."""
    return NatsSettings(url=",".join(server.url for server in servers), publish_timeout_seconds=2, reconnect_seconds=0.1)


async def written(bus: Bus, after: int, *contents: bytes) -> int:
    """Append so much, which all servers then have; return where the journal ends."""
    journal = bus.journal(CACHE_STREAM, CACHE_BELL_SUBJECTS)
    for data in contents:
        after = await journal.append(CACHE_LOG_SUBJECT, data, after=after)
    await until(lambda: replicated(bus))
    return after


async def contents(journal: Journal) -> set[bytes]:
    """What it holds, in many readings."""
    return {b"".join([entry.data async for entry in journal.entries(0)]) for _ in range(READS)}


async def test_the_journal_is_what_its_leader_has(servers: list[NatsServer]) -> None:
    """A message that one replica alone has is nowhere: the writer goes on behind the last one that the leader has."""
    async with connect(settings(servers), name="test") as bus:
        await bus.ensure_streams(StreamSettings(replicas=3), cache=True)
        position = await written(bus, 0, b"a", b"b", b"c")
    for server in servers:
        server.stop()
    unlucky, lucky = servers[:2], servers[2]
    for server in unlucky:
        shutil.copytree(server.folder / "store", server.folder / "copy")
    for server in servers:
        server.start()
    async with connect(settings(servers), name="test") as bus:
        await written(bus, position, b"lost")
    for server in servers:
        server.stop()
    for server in unlucky:
        lose_since(server.folder / "copy", server.folder / "store")
        server.start()
    async with connect(settings(unlucky), name="test") as bus:
        journal = bus.journal(CACHE_STREAM, CACHE_BELL_SUBJECTS)
        await until(lambda: leader_ends(journal, position))
        lucky.start()
        await until(lambda: answered_by_one_that_has(bus, position + 1))
        assert await contents(journal) == {b"abc"}
        assert await journal.append(CACHE_LOG_SUBJECT, b"d", after=position) == position + 1
        assert await contents(journal) == {b"abcd"}


def restart(servers: list[NatsServer], copies: Path, *, lose: bool) -> None:
    """With what streams had at the last restart, and consumers have now; without `lose` with all that there is."""
    for server in servers:
        server.stop()
    for server in servers:
        store = server.folder / "store"
        for number, part in enumerate([*sorted(store.rglob("S-R3F-*")), *store.rglob(f"{RAW_STREAM}/msgs")]):
            copy = copies / server.folder.name / str(number)
            if lose:
                lose_since(copy, part)
            else:
                shutil.copytree(part, copy)
    for server in servers:
        server.start()


async def test_what_is_stored_in_the_place_of_what_was_lost_is_delivered(servers: list[NatsServer], tmp_path: Path) -> None:
    """All servers lose what a stream had taken last, and none what its consumer had acknowledged: what comes next has the same
    places, and nobody has acknowledged it.
    """
    urls = ",".join(server.url for server in servers)
    forgetful = NatsSettings(url=urls, publish_timeout_seconds=2, reconnect_seconds=0.1, unsynced_seconds=0)
    async with connect(forgetful, name="test") as bus:
        await bus.ensure_streams(StreamSettings(replicas=3, recent_bytes=0))
        async with bus.consume(RAW_STREAM, ENRICHER_DURABLE, max_ack_pending=9, ack_wait_seconds=5, batch=1) as deliveries:

            async def passes(message_id: str) -> None:
                await bus.publish(raw_subject("node-a"), b"", message_id=message_id)
                found = ""
                while found != message_id:
                    delivery = await anext(deliveries)
                    await delivery.ack()
                    found = delivery.message_id

            await passes("kept")
            await asyncio.to_thread(restart, servers, tmp_path / "copies", lose=False)
            await passes("lost")
            await asyncio.to_thread(restart, servers, tmp_path / "copies", lose=True)
            await passes("new")
