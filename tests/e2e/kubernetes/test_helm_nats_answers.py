"""The chart's users against the rendered nats.conf: whom the server's answers can reach, wherever they are asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proto.subjects import (
    CACHE_STREAM,
    DEAD_STREAM,
    ENRICHED_STREAM,
    ENRICHED_SUBJECTS,
    ENRICHER_DURABLE,
    RAW_SEEN_SUBJECTS,
    RAW_STREAM,
    RECENT_STREAM,
)
from services.runtime.errors import ApiError
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings
from tests.support.kubernetes.helm_chart import MATRIX, merged, render
from tests.support.kubernetes.helm_nats import NODE, RenderedNats, plain_client, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it

PATIENCE_SECONDS = 60


@pytest.fixture(scope="module", params=["", "hub"], ids=["no domain", "a domain"])
def nats_of_all(
    request: pytest.FixtureRequest, helm_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RenderedNats]:
    """The chart's NATS with one user for all nodes, without and with a JetStream domain."""
    values = {"toolbox": {"enabled": True}, "nats": {"domain": request.param}}
    with running(render(helm_binary, values), tmp_path_factory.mktemp("one")) as bus:
        yield bus


@pytest.fixture(scope="module")
def nats_of_nodes(helm_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RenderedNats]:
    """The chart's NATS with a user for each of two nodes."""
    values = merged(MATRIX["a user for each node"], {"toolbox": {"enabled": True}})
    with running(render(helm_binary, values), tmp_path_factory.mktemp("nodes")) as bus:
        yield bus


STREAMS = (RAW_STREAM, ENRICHED_STREAM, DEAD_STREAM, RECENT_STREAM, CACHE_STREAM)
ANSWERS = (
    *(
        "kube.cache.log",
        "kube.cache.pulse",
        "flows.raw.other",
        "flows.enriched.other",
        "flows.dead.enricher",
        "flows.recent.other",
    ),
    *("$JS.API.STREAM.PURGE.KUBE_CACHE", "_INBOX_enricher.forged"),
)
"""Where nobody but others may publish, and where an answer that is sent there does harm."""
ASKED = {
    "capture": ("flows.raw.mine",),
    "exporter": ("flows.dead.exporter", "$JS.API.CONSUMER.INFO.FLOWS_ENRICHED.exporter"),
    "toolbox": ("$JS.API.STREAM.INFO.FLOWS_RAW", "$JS.API.DIRECT.GET.FLOWS_DEAD", "$JS.API.INFO"),
    "operator": ("flows.raw.mine", "flows.enriched.mine", "$JS.API.STREAM.INFO.FLOWS_RAW"),
}


async def test_a_reader_hears_what_is_captured(nats_of_all: RenderedNats) -> None:
    """`tap --raw` and `tap` of the toolbox, in an account of its own, hear batches while they pass."""
    settings = {name: nats_of_all.settings(name) for name in ("capture", "enricher", "toolbox")}
    async with (
        connect(settings["enricher"], name="enricher") as enricher,
        connect(settings["capture"], name="capture") as capture,
    ):
        await enricher.ensure_streams()
        async with connect(settings["toolbox"], name="tap") as tap:
            raw, enriched = tap.watch(RAW_SEEN_SUBJECTS), tap.watch(ENRICHED_SUBJECTS)
            await raw.start()
            await enriched.start()
            # The server knows of the two before it knows of a request that comes after them.
            await tap.stream_state(RAW_STREAM)
            await capture.publish("flows.raw.node-a", b"raw", message_id="heard")
            await enricher.publish("flows.enriched.node-a", b"enriched", message_id="heard")
            assert ((await anext(raw)).data, (await anext(enriched)).data) == (b"raw", b"enriched")


@pytest.mark.parametrize("user", ASKED)
async def test_an_answer_reaches_nothing_of_others(nats_of_all: RenderedNats, user: str) -> None:
    """Whoever has the server's answer sent to a subject where only others may publish: no stream has it, nobody hears it."""
    settings = nats_of_all.settings_of(user) if user == "operator" else nats_of_all.settings(user)
    await no_answer_reaches_others(nats_of_all, settings, ASKED[user])


async def test_a_nodes_answers_reach_nothing_of_other_nodes(nats_of_nodes: RenderedNats) -> None:
    """The same with a user for each node: nor does a node's answer reach the stream under another node's name."""
    own = "flows.raw.ip-10-0-0-7-eu-west-1-compute-internal"
    await no_answer_reaches_others(nats_of_nodes, nats_of_nodes.settings("capture", NODE), (own,))


GARBAGE = (
    b"HPUB flows.raw.mine 7 8\r\ngarbageX\r\n",
    b"HPUB flows.raw.mine 29 30\r\nNATS/1.0\r\nStatus: x\r\n\xff: \xfe\r\n\r\nX\r\n",
    b"HPUB flows.raw.mine kube.cache.log 12 13\r\nNATS/1.0\r\n\r\nX\r\n",
)
"""A header block that is none, one with a status that is no number, and one with an answer to a subject of others."""


async def nobody_asks(enricher: Bus) -> None:
    """Return once no client of a test before asks for raw messages any more: the server may not know yet that it is gone."""
    with contextlib.suppress(ApiError):  # there is no consumer yet
        while True:
            info = await enricher._jetstream._ask(f"CONSUMER.INFO.{RAW_STREAM}.{ENRICHER_DURABLE}")
            if not info["num_waiting"]:
                return
            await asyncio.sleep(0.05)


async def test_what_capture_writes_around_its_messages_stops_nobody(nats_of_all: RenderedNats) -> None:
    """Garbage in the place of headers, from another account: the enricher takes it, and what comes after it, at once."""
    async with (
        connect(nats_of_all.settings("enricher"), name="enricher") as enricher,
        connect(nats_of_all.settings("capture"), name="capture") as capture,
        plain_client(nats_of_all.settings("capture"), []) as client,
    ):
        await enricher.ensure_streams()
        await nobody_asks(enricher)
        for command in GARBAGE:
            await client._send_command(command)
        await client.flush()
        await capture.publish("flows.raw.mine", b"good", message_id="after garbage")
        taken: list[bytes] = []
        async with enricher.consume(
            RAW_STREAM, ENRICHER_DURABLE, max_ack_pending=99, ack_wait_seconds=3600, batch=4
        ) as deliveries:
            # The server stores what two connections say in an order of its own.
            while b"good" not in taken or taken.count(b"X") < len(GARBAGE):
                delivery = await anext(deliveries)
                taken.append(delivery.data)
                await delivery.ack()
        assert taken.count(b"X") == len(GARBAGE)


async def test_messages_asked_for_are_delivered_to_who_asks_only(nats_of_all: RenderedNats) -> None:
    """An exporter that has its messages delivered to a subject of a stream puts them nowhere."""
    async with connect(nats_of_all.settings("enricher"), name="enricher") as bus:
        await bus.ensure_streams(cache=True)
        await bus.publish("flows.enriched.node-a", b"batch", message_id="deliver/1")
        async with (
            connect(nats_of_all.settings("exporter"), name="exporter") as other,
            other.consume(ENRICHED_STREAM, "exporter", max_ack_pending=9, ack_wait_seconds=30, batch=1) as deliveries,
        ):
            await (await anext(deliveries)).ack()
        await bus.publish("flows.enriched.node-a", b"batch", message_id="deliver/2")
        api = "$JS.API.CONSUMER"
        asked = (f"{api}.MSG.NEXT.FLOWS_ENRICHED.exporter", f"{api}.INFO.FLOWS_ENRICHED.exporter")
        await no_answer_reaches_others(nats_of_all, nats_of_all.settings("exporter"), asked)


async def no_answer_reaches_others(bus: RenderedNats, settings: NatsSettings, asked: tuple[str, ...]) -> None:
    """Ask with every subject of others to answer to; look what is in the streams, and what the enricher heard."""
    async with (
        connect(bus.settings("enricher"), name="enricher") as owner,
        connect(bus.settings("toolbox"), name="look") as look,
    ):
        await owner.ensure_streams(cache=True)
        before = [(await look.stream_state(stream)).last_sequence for stream in STREAMS]
        heard: list[str] = []

        async def hear(message: Any) -> None:
            heard.append(message.subject)

        async with plain_client(bus.settings("enricher"), []) as enricher, plain_client(settings, []) as connected:
            await enricher.subscribe("_INBOX_enricher.forged", cb=hear)
            await enricher.flush()
            prefix = f"$JS.{settings.jetstream_domain}.API." if settings.jetstream_domain else "$JS.API."
            asked = tuple(subject.replace("$JS.API.", prefix) for subject in asked)
            for subject in asked:
                for answer in ANSWERS:
                    await connected.publish(subject, b"", reply=answer)
            # What is stored by then was asked for after all of it.
            inbox = f"{settings.inbox_prefix}.done"
            answered = await connected.subscribe(inbox)
            await connected.publish(asked[-1], b"", reply=inbox)
            await answered.next_msg(PATIENCE_SECONDS)
            await enricher.flush()
        stored = [
            [message.subject async for message in look.peek(stream) if message.sequence > sequence]
            for stream, sequence in zip(STREAMS, before, strict=True)
        ]
    assert heard == []
    assert {subject for subjects in stored for subject in subjects} & set(ANSWERS) == set()
