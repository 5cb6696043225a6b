"""The chart's users against the rendered nats.conf: what one node's credential can take of the stream that all fill."""

from __future__ import annotations

from pathlib import Path

import pytest

from proto.subjects import RAW_STREAM, raw_subject
from services.runtime.nats.bus import StreamFullError, connect
from services.runtime.settings import StreamSettings
from tests.support.kubernetes.helm_chart import MATRIX, merged, render
from tests.support.kubernetes.helm_nats import NODE, plain_client, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it

STREAMS = StreamSettings(raw_bytes=8 << 20)
SHARE = 8
FLOOD = bytes(400 << 10)
PATIENCE_SECONDS = 60


async def test_a_node_that_floods_is_refused_and_the_others_go_on(helm_binary: Path, tmp_path: Path) -> None:
    """A node's user publishes as fast as it can, deaf to what the server says: half of the stream is what it gets. Its capture
    is told so; another node's user publishes as before.
    """
    values = merged(MATRIX["a user for each node"], {"toolbox": {"enabled": True}})
    with running(render(helm_binary, values), tmp_path) as nats:
        loud, quiet = (nats.settings("capture", node) for node in (NODE, "node-a"))
        async with connect(nats.settings("enricher"), name="enricher") as enricher:
            await enricher.ensure_streams(STREAMS)
            async with plain_client(loud, []) as client:
                for _ in range(5 * SHARE):
                    await client.publish(raw_subject(NODE), FLOOD)
                await client.flush(PATIENCE_SECONDS)
            async with connect(loud, name="capture") as bus:
                with pytest.raises(StreamFullError, match="per subject"):
                    await bus.publish(raw_subject(NODE), b"batch", message_id="refused")
            async with connect(quiet, name="capture") as bus:
                for number in range(SHARE):
                    await bus.publish(raw_subject("node-a"), b"batch", message_id=f"taken/{number}")
            state = await enricher.stream_state(RAW_STREAM)
    assert state.messages == 2 * SHARE
    assert state.bytes < STREAMS.raw_bytes / 2
