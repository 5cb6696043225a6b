"""The journal: one writer at a time, by where the log ends. Against a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proto.subjects import CACHE_BELL_SUBJECTS, CACHE_LOG_SUBJECT, CACHE_PULSE_SUBJECT, CACHE_STREAM
from services.runtime.nats.bus import Bus, Journal, JournalMovedError, StreamFullError, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.pipeline.nats_server import NatsServer

pytestmark = pytest.mark.timeout(300)  # for machines that are busy; nothing here is timed


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection, with the streams made."""
    async with connect(NatsSettings(url=nats_server.url, publish_timeout_seconds=0.5), name="test") as connected:
        await connected.ensure_streams(StreamSettings(cache_bytes=1 << 20), cache=True)
        yield connected


@pytest.fixture
def journal(bus: Bus) -> Journal:
    """The cache's stream as a journal."""
    return bus.journal(CACHE_STREAM, CACHE_BELL_SUBJECTS)


async def read(journal: Journal, after: int = 0) -> list[tuple[int, bytes]]:
    """Sequence and content of what there is."""
    return [(entry.sequence, entry.data) async for entry in journal.entries(after)]


async def test_of_two_writers_one_is_refused(bus: Bus, journal: Journal) -> None:
    """Whoever does not know the last message cannot append; what he tried is not there."""
    other = bus.journal(CACHE_STREAM, CACHE_BELL_SUBJECTS)
    first = await journal.append(CACHE_LOG_SUBJECT, b"a", after=0)
    second = await other.append(CACHE_LOG_SUBJECT, b"b", after=first)
    with pytest.raises(JournalMovedError):
        await journal.append(CACHE_LOG_SUBJECT, b"c", after=first)
    tried = await asyncio.gather(
        *(each.append(CACHE_LOG_SUBJECT, b"d", after=second) for each in (journal, other)), return_exceptions=True
    )
    assert sorted(type(each) for each in tried if isinstance(each, Exception)) == [JournalMovedError]
    assert await read(journal) == [(1, b"a"), (2, b"b"), (3, b"d")]


async def test_only_the_last_pulse_stays_and_what_is_trimmed_goes(journal: Journal) -> None:
    """A subject that keeps one message keeps the last; reading goes over the gaps, from wherever it begins."""
    position = 0
    for number in range(40):
        position = await journal.append(CACHE_LOG_SUBJECT, b"%d" % number, after=position)
        position = await journal.append(CACHE_PULSE_SUBJECT, b"pulse", after=position, only=True)
    found = await read(journal)
    assert [data for _, data in found] == [b"%d" % number for number in range(40)] + [b"pulse"]
    await journal.trim(61)
    assert [sequence for sequence, _ in await read(journal)] == [*range(61, 80, 2), 80]
    assert await read(journal, after=77) == [(79, b"39"), (80, b"pulse")]
    assert await journal.last_sequence() == 80


async def test_an_outage_of_the_bus_is_waited_for(nats_server: NatsServer, journal: Journal) -> None:
    """Appending while the server is away ends once it is back, with the message stored once."""
    position = await journal.append(CACHE_LOG_SUBJECT, b"a", after=0)
    nats_server.kill()
    appending = asyncio.create_task(journal.append(CACHE_LOG_SUBJECT, b"b", after=position))
    nats_server.start()
    position = await appending
    assert await read(journal) == [(1, b"a"), (position, b"b")]


async def test_a_full_stream_refuses(journal: Journal) -> None:
    """Nothing that is there is lost to what comes."""
    position = await journal.append(CACHE_LOG_SUBJECT, bytes(900_000), after=0)
    with pytest.raises(StreamFullError):
        await journal.append(CACHE_LOG_SUBJECT, bytes(900_000), after=position)
    assert [sequence for sequence, _ in await read(journal)] == [position]


async def test_whoever_waits_is_told(bus: Bus, journal: Journal) -> None:
    """A reader need not ask again and again."""
    await journal.wait(0)
    waiting = asyncio.create_task(journal.wait(30))
    await bus.journal(CACHE_STREAM, CACHE_BELL_SUBJECTS).append(CACHE_LOG_SUBJECT, b"a", after=0)
    await waiting


async def test_a_stream_that_is_deleted_is_made_again_for_whoever_reads(bus: Bus, journal: Journal) -> None:
    """Its messages, its end, its trimming: nobody who asks meanwhile ends with an error, and what is found is a new log."""
    await journal.append(CACHE_LOG_SUBJECT, b"a", after=0)
    for ask in (lambda: read(journal), journal.last_sequence, lambda: journal.trim(1)):
        await bus._jetstream._ask(f"STREAM.DELETE.{CACHE_STREAM}")
        assert not await ask()
