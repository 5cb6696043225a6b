"""What one node's credential can put on the bus stops nobody: a real nats-server, bytes on its socket, a real enricher."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgpack
import pytest

from proto.flow_batch import SCHEMA, decode
from proto.subjects import DEAD_STREAM, REASON_HEADER, raw_subject
from services.runtime.nats.bus import Bus
from tests.integration.services.test_enricher import (
    NODE,
    enriched_batches,
    enricher,
    expected_ids,
    flow_ids,
    publish,
    raw_is_empty,
)
from tests.support.pipeline.nats_server import NatsServer

pytestmark = pytest.mark.timeout(300)  # for machines that are busy; nothing here is timed


async def write(server: NatsServer, *commands: bytes) -> None:
    """Send commands of the NATS protocol as they are; return once the server has read them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + b"".join(commands) + b"PING\r\n")
    while b"PONG" not in await reader.readline():
        pass
    writer.close()
    await writer.wait_closed()


def published(headers: bytes, payload: bytes) -> bytes:
    """HPUB with whatever stands for a header block."""
    subject = raw_subject(NODE).encode()
    return b"HPUB %s %d %d\r\n%s%s\r\n" % (subject, len(headers), len(headers) + len(payload), headers, payload)


def claim(node: str = NODE, count: int = 0) -> bytes:
    """A batch without a column."""
    return msgpack.packb(
        {
            "schema": SCHEMA,
            "node": node,
            "epoch": "e",
            "sequence": 0,
            "count": count,
            "interval": [0, 0],
            "columns": {},
            "types": {},
        }
    )


HOSTILE = {
    "garbage for a header block": published(b"garbage", b"x"),
    "a header line without end": published(b"NATS/1.0\r\nA: \xff\xfe", b"x"),
    "a status that is no number": published(b"NATS/1.0\r\nStatus: x\r\n\r\n", b"x"),
    "a status of the server's": published(b"NATS/1.0\r\nStatus: 404\r\n\r\n", b"x"),
    "an inline status": published(b"NATS/1.0 409 Consumer Deleted\r\n\r\n", b"x"),
    "a status of another script": published("NATS/1.0\r\nStatus: ٤٠٤\r\n\r\n".encode(), b"x"),
    "rows without columns": published(b"NATS/1.0\r\n\r\n", claim(count=8_000_000)),
    "a name without end": published(b"NATS/1.0\r\n\r\n", claim(node="n" * 5000)),
    "another node's name": published(b"NATS/1.0\r\n\r\n", claim(node="worker-b")),
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE)
async def test_good_batches_pass_whatever_comes_between(
    nats_server: NatsServer, bus: Bus, tmp_path: Path, message: bytes
) -> None:
    """Twenty of the hostile kind, more than are worked on at once, are dead letters with a reason; every good batch passes."""
    await publish(bus, range(3))
    await write(nats_server, *[message] * 20)
    await publish(bus, range(3, 6))
    with enricher(nats_server, tmp_path, WIRESPAN_ENRICHER_CONCURRENT_BATCHES="4"):
        await raw_is_empty(bus)
    assert flow_ids(await enriched_batches(bus)) == expected_ids(range(6))
    dead = [each async for each in bus.peek(DEAD_STREAM)]
    assert len(dead) == 20
    assert {each.headers[REASON_HEADER] for each in dead} <= {"undecodable", "foreign_subject"}


async def test_an_empty_batch_is_no_fault(nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """A batch that claims nothing is passed on as what it is."""
    await write(nats_server, published(b"NATS/1.0\r\n\r\n", claim()))
    with enricher(nats_server, tmp_path):
        await raw_is_empty(bus)
    assert [decode(each.data).count async for each in bus.peek("FLOWS_ENRICHED")] == [0]
