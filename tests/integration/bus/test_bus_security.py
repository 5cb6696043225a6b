"""The bus with TLS, keys and narrow permissions, against a server that insists on them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import nkeys
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from proto.subjects import ENRICHER_DURABLE, RAW_STREAM, raw_subject
from services.runtime.nats.bus import Bus, PublishRefusedError, connect
from services.runtime.settings import NatsSettings
from tests.support.certificates import Certificates, make_certificates
from tests.support.pipeline.nats_server import NatsServer


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """An authority, a server's certificate and a client's."""
    return make_certificates(tmp_path)


@pytest.fixture
def tls_server(tmp_path: Path, certificates: Certificates) -> Iterator[NatsServer]:
    """A server that takes only clients with a certificate of the authority."""
    config = f"""
tls {{
  cert_file: "{certificates.server_certificate}"
  key_file: "{certificates.server_key}"
  ca_file: "{certificates.authority}"
  verify: true
}}
"""
    with NatsServer(tmp_path / "nats", extra_config=config, tls=True) as server:
        yield server


def settings(server: NatsServer, **more: object) -> NatsSettings:
    """Settings for the server that lose no time."""
    return NatsSettings(url=server.url, reconnect_seconds=0.05, **more)


async def round_trip(bus: Bus) -> bytes:
    """What comes back of a message that is published, consumed and acknowledged."""
    await bus.ensure_streams()
    await bus.publish(raw_subject("node-a"), b"batch", message_id="node-a/e/0")
    async with bus.consume(RAW_STREAM, ENRICHER_DURABLE, max_ack_pending=10, ack_wait_seconds=10, batch=1) as deliveries:
        delivery = await anext(deliveries)
        await delivery.ack()
        return delivery.data


async def test_mutual_tls_carries_messages(tls_server: NatsServer, certificates: Certificates) -> None:
    """With the authority, a certificate and its key, the bus works as without TLS."""
    files = {
        "tls_ca": certificates.authority,
        "tls_cert": certificates.client_certificate,
        "tls_key": certificates.client_key,
    }
    async with connect(settings(tls_server, **files), name="test") as bus:
        assert await round_trip(bus) == b"batch"


@pytest.mark.parametrize("missing", ["authority", "certificate"])
async def test_without_trust_there_is_no_connection(tls_server: NatsServer, certificates: Certificates, missing: str) -> None:
    """A server signed by nobody known, or a client without a certificate: no connection, and the reason is logged."""
    files = {"tls_ca": certificates.authority} if missing == "certificate" else {}
    await is_not_let_in(settings(tls_server, **files))


async def is_not_let_in(refused: NatsSettings) -> None:
    """The bus says that it failed, is not connected, and what was asked of it is still waiting."""
    with capture_logs() as logs:
        async with connect(refused, name="test") as bus:
            waiting = asyncio.create_task(bus.ensure_streams())
            while not any(line["event"] == "bus.failed" for line in logs):  # noqa: ASYNC110 - a log tells nobody
                await asyncio.sleep(0.02)
            assert not bus.connected
            assert not waiting.done()
            waiting.cancel()


def user_seed() -> tuple[bytes, str]:
    """A new nkey of a user: its seed and its public key."""
    raw = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    seed = nkeys.encode_seed(raw, nkeys.PREFIX_BYTE_USER)
    return seed, nkeys.from_seed(bytearray(seed)).public_key.decode()


async def test_an_nkey_opens_the_bus(tmp_path: Path) -> None:
    """A seed in a file is enough; a stranger's seed is not."""
    seed, public_key = user_seed()
    stranger, _ = user_seed()
    (tmp_path / "user.nk").write_bytes(seed)
    (tmp_path / "stranger.nk").write_bytes(stranger)
    config = f"authorization {{ users: [ {{ nkey: {public_key} }} ] }}"
    with NatsServer(tmp_path / "nats", extra_config=config) as server:
        async with connect(settings(server, nkey_file=tmp_path / "user.nk"), name="test") as bus:
            assert await round_trip(bus) == b"batch"
        await is_not_let_in(settings(server, nkey_file=tmp_path / "stranger.nk"))


@pytest.mark.parametrize("form", ["u%40corp:p%3A%2F%23%25@", "t%40ken%2B@", "u%40corp:p%3A%2F%23%25@,nobody:x@"])
async def test_user_information_in_a_url_is_percent_encoded(tmp_path: Path, form: str) -> None:
    """Characters that have a meaning in a URL are written as everywhere in users, passwords and tokens, of any server."""
    accepted = 'token: "t@ken+"' if form.startswith("t") else 'user: "u@corp", password: "p:/#%"'
    with NatsServer(tmp_path / "nats", extra_config=f"authorization {{ {accepted} }}") as server:
        urls = ",".join(server.url.replace("//", f"//{each}") for each in form.split(","))
        async with connect(NatsSettings(url=urls, reconnect_seconds=0.05), name="test") as bus:
            assert await round_trip(bus) == b"batch"


async def test_capture_needs_no_more_than_its_own_subject(tmp_path: Path) -> None:
    """A node's user may publish its own batches and hear the answers: nothing else, and nothing else is needed."""
    config = """
authorization {
  users: [
    { user: operator, password: secret }
    { user: node-a, password: secret, permissions { publish: ["flows.raw.node-a"], subscribe: ["_INBOX_node-a.>"] } }
  ]
}
"""
    with NatsServer(tmp_path / "nats", extra_config=config) as server:
        async with connect(settings(server, user="operator", password="secret"), name="operator") as operator:
            await operator.ensure_streams()
            node = settings(server, user="node-a", password="secret", inbox_prefix="_INBOX_node-a")
            async with connect(node, name="capture") as bus:
                await bus.ensure_streams()
                await bus.publish(raw_subject("node-a"), b"own", message_id="node-a/e/0")
                with pytest.raises(PublishRefusedError, match="no permission"):
                    await bus.publish(raw_subject("node-b"), b"foreign", message_id="node-b/e/0")
            assert (await operator.stream_state(RAW_STREAM)).messages == 1


async def test_what_nothing_depends_on_may_be_missing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A server without memory for the stream to look back at: the others are made, and one line says what is not there."""
    with NatsServer(tmp_path / "nats", jetstream="max_memory_store: 1MB") as server:
        async with connect(settings(server), name="test") as bus:
            assert await round_trip(bus) == b"batch"
    assert "streams.nothing_to_look_back_at" in "".join(capfd.readouterr())


def test_a_seed_is_text_that_begins_with_its_kind() -> None:
    """The seeds these tests make are what `nsc` would write."""
    seed, public_key = user_seed()
    assert seed.startswith(b"SU")
    assert public_key.startswith("U")
    assert base64.b32decode(seed + b"=" * (-len(seed) % 8))
