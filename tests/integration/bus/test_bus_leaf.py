"""A leaf node between services and the streams, as large installations have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proto.subjects import ENRICHER_DURABLE, RAW_STREAM, raw_subject
from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings
from tests.support.pipeline.nats_server import NatsServer
from tests.support.ports import free_ports


@pytest.fixture(params=["leaf without JetStream", "leaf with JetStream"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[NatsServer, NatsServer]]:
    """A hub with the streams in its domain, and a leaf that hands on to it."""
    (port,) = free_ports(1)
    listening = f'server_name: hub\nleafnodes {{ listen: "127.0.0.1:{port}" }}'
    own = f'jetstream {{ store_dir: "{tmp_path / "edge"}", domain: edge }}' if request.param == "leaf with JetStream" else ""
    remote = f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}'
    config = f'server_name: leaf\nlisten: "127.0.0.1:@PORT@"\n{own}\n{remote}\n'
    with (
        NatsServer(tmp_path / "hub", jetstream="domain: hub", extra_config=listening) as hub,
        NatsServer(tmp_path / "leaf", config=config) as leaf,
    ):
        yield hub, leaf


async def test_nodes_may_be_behind_a_leaf(servers: tuple[NatsServer, NatsServer]) -> None:
    """What is published at a leaf is stored in the hub, once; with the domain named, consuming works through the leaf too."""
    hub, leaf = servers
    async with connect(NatsSettings(url=hub.url), name="hub") as at_hub:
        await at_hub.ensure_streams()
        async with connect(NatsSettings(url=leaf.url), name="capture") as at_leaf:
            for _ in range(2):
                await at_leaf.publish(raw_subject("node-a"), b"batch", message_id="node-a/e/0")
        assert (await at_hub.stream_state(RAW_STREAM)).messages == 1
        async with connect(NatsSettings(url=leaf.url, jetstream_domain="hub"), name="enricher") as bus:
            deliveries = bus.consume(RAW_STREAM, ENRICHER_DURABLE, max_ack_pending=10, ack_wait_seconds=10, batch=1)
            async with deliveries:
                delivery = await anext(deliveries)
                assert delivery.data == b"batch"
                await delivery.ack()
        assert (await at_hub.stream_state(RAW_STREAM)).messages == 0
