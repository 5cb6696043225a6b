"""`wirespan tap --kube-context`: through the API server to a real bus, as the user who may only read.

The API server is a stand-in that answers the four requests that are made of it as the real one does; the client's side of the
port-forward, the bus, its certificates and its permissions are real. With a real API server: tests/cluster/test_one_node.py.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web

from proto.flow_batch import encode
from proto.subjects import batch_id, enriched_subject
from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings
from tests.support.certificates import make_certificates
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.nats_server import NatsServer

ROOT = Path(__file__).parents[3]
NATS_PORT = 4222
READING = [
    *("INFO", "STREAM.LIST", "STREAM.NAMES", "STREAM.INFO.*", "CONSUMER.LIST.*", "CONSUMER.NAMES.*", "CONSUMER.INFO.*.*"),
    *("DIRECT.GET.>", "STREAM.MSG.GET.*"),
]
"""What the chart lets its reader ask of JetStream."""
USERS = json.dumps(
    [
        {"user": "admin", "password": "admin"},
        {
            "user": "reader",
            "password": "secret",
            "permissions": {
                "publish": [f"$JS.API.{each}" for each in READING],
                "subscribe": ["_INBOX_reader.>", "flows.>"],
            },
        },
    ]
)


def pod(name: str, *, ready: bool = True) -> dict[str, object]:
    """As the API server lists it."""
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"metadata": {"name": name, "namespace": "flows"}, "status": {"conditions": conditions}}


class Api:
    """The stand-in. Each forwarded connection goes to `nats_port`."""

    def __init__(self, nats_port: int, authority: str) -> None:
        self.nats_port = nats_port
        self.authority = authority
        self.pods = [pod("release-nats-0", ready=False), pod("release-nats-1")]
        self.asked: list[str] = []
        self.url = ""

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[Api]:
        """Serve on a free port."""
        app = web.Application()
        base = "/api/v1/namespaces/flows"
        app.router.add_get(f"{base}/pods", self.list_pods)
        app.router.add_get(f"{base}/secrets/release-nats-reader", self.secret)
        if self.authority:
            app.router.add_get(f"{base}/configmaps/release-nats-ca", self.config_map)
        app.router.add_get(f"{base}/pods/release-nats-1/portforward", self.forward)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def list_pods(self, request: web.Request) -> web.Response:
        """The pods of the release's NATS."""
        self.asked.append(request.query["labelSelector"])
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.pods})

    async def secret(self, _request: web.Request) -> web.Response:
        """As the chart makes it."""
        data = {"password": base64.b64encode(b"secret").decode()}
        return web.json_response({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}, "data": data})

    async def config_map(self, _request: web.Request) -> web.Response:
        """As the chart makes it."""
        tree = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "x"}, "data": {"ca.crt": self.authority}}
        return web.json_response(tree)

    async def forward(self, request: web.Request) -> web.WebSocketResponse:
        """Two channels for the port, of which each begins with its number; then bytes."""
        assert request.query["ports"] == str(NATS_PORT)
        socket = web.WebSocketResponse(protocols=request.headers["sec-websocket-protocol"].split(","))
        await socket.prepare(request)
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + NATS_PORT.to_bytes(2, "little"))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.nats_port)

        async def back() -> None:
            while data := await reader.read(65536):
                await socket.send_bytes(b"\0" + data)
            await socket.close()

        task = asyncio.create_task(back())
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                writer.write(message.data[1:])
        task.cancel()
        writer.close()
        return socket


async def tapped(folder: Path, api: Api, *arguments: str) -> tuple[str, str, int]:
    """What the command prints, says and ends with."""
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "other",
        "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": api.url}}], "users": [{"name": "u", "user": {"token": "t"}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(json.dumps(config))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "tap", *arguments, cwd=ROOT,
        env=kept | {"KUBECONFIG": str(folder / "kubeconfig"), "TMPDIR": str(folder)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return out.decode(), err.decode(), process.returncode or 0


@pytest.fixture(params=[False, True], ids=["without TLS", "with TLS"])
async def api(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """A cluster with a release, and three records that passed lately on its bus."""
    pems = make_certificates(tmp_path)
    tls = f'tls {{ cert_file: "{pems.server_certificate}", key_file: "{pems.server_key}" }}' if request.param else ""
    server = NatsServer(tmp_path / "nats", extra_config=f"authorization {{ users: {USERS} }}\n{tls}", tls=request.param)
    authority = pems.authority if request.param else None
    with server:
        async with connect(NatsSettings(url=server.url, user="admin", password="admin", tls_ca=authority), name="test") as bus:
            await bus.ensure_streams()
            batch = enriched_batch(3)
            await bus.publish(
                enriched_subject(batch.node), encode(batch), message_id=batch_id(batch.node, batch.epoch, batch.sequence)
            )
        async with Api(server.port, authority.read_text() if authority else "").served() as api:
            yield api


async def test_a_clusters_bus_is_read_through_its_api_server(api: Api, tmp_path: Path) -> None:
    """Found by its labels, asked as reader, of a pod that is ready."""
    out, said, status = await tapped(
        tmp_path, api, "--kube-context", "prod", "--kube-namespace", "flows", "--last", "2", "-o", "json"
    )
    assert (status, said) == (0, "")
    assert [json.loads(line)["flow_id"] for line in out.splitlines()] == [1, 2]
    assert api.asked == ["app.kubernetes.io/part-of=wirespan,app.kubernetes.io/component=nats"]


async def test_what_keeps_it_from_that_is_one_line(api: Api, tmp_path: Path) -> None:
    """No such context, no release there, another namespace than the user may see, a way that leads nowhere."""
    out, said, status = await tapped(tmp_path, api, "--kube-context", "gone", "--last", "1")
    assert (out, status, said.count("\n")) == ("", 2, 1)
    assert "--kube-context gone" in said
    _, said, status = await tapped(tmp_path, api, "--kube-context", "prod", "--kube-namespace", "other", "--last", "1")
    assert (status, said) == (1, "wirespan: the API server refuses: 404 Not Found\n")
    there = ("--kube-context", "prod", "--kube-namespace", "flows", "--last", "1", "--timeout", "2")
    api.nats_port = 1
    _, said, status = await tapped(tmp_path, api, *there)
    assert status == 1
    assert "has not let us in for 2 s" in said
    api.pods = []
    _, said, status = await tapped(tmp_path, api, *there)
    assert (status, said.count("\n")) == (1, 1)
    assert "no NATS of Wirespan is ready in namespace flows" in said
