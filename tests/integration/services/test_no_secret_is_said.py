"""The services as processes, with secrets wherever they take one, and neighbours that fail and repeat them: none is said."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proto.flow_batch import encode
from proto.subjects import DEAD_STREAM, enriched_subject
from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings
from tests.support.kubernetes.hostile_kube_api import HostileKubeApi, Request
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.otlp_receiver import OtlpReceiver, Refuse
from tests.support.ports import free_port

pytestmark = pytest.mark.timeout(300)  # ten processes start, on machines that are busy

SECRET = "s3cret"
"""Is in every one of them, whatever it is cut into."""
BUS_PASSWORD = f"{SECRET}-of-the-bus"
WAIT_SECONDS = 120


def secret(name: str) -> str:
    """A secret of its own."""
    return f"{SECRET}-{name}-Zx9"


@dataclass
class Service:
    """A service with a trouble, and the word in its log that shows that it has met it."""

    name: str
    trouble: str
    environ: dict[str, str]
    ends: bool = False
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    log: Path = Path()

    def start(self, folder: Path, bus_url: str) -> None:
        """Start it."""
        self.port = free_port()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("WIRESPAN_", "OTEL_", "KUBE"))}
        clean |= {"WIRESPAN_NATS_URL": bus_url, "WIRESPAN_HEALTH_PORT": str(self.port), "WIRESPAN_LOG_LEVEL": "debug"}
        self.log = folder / f"{self.port}.log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", f"services.{self.name}"]
            self.process = subprocess.Popen(command, env=clean | self.environ, stdout=log, stderr=log)

    def until_in_trouble(self) -> None:
        """Return once the log has the word."""
        assert self.process is not None
        deadline = time.monotonic() + WAIT_SECONDS
        while self.trouble not in self.log.read_text() and (self.ends or self.process.poll() is None):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        assert self.trouble in self.log.read_text()

    def said(self) -> list[str]:
        """End it; return all that it said until then, wherever it says something."""
        assert self.process is not None
        found = []
        for path in () if self.ends else ("metrics", "readyz", "healthz"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=20) as response:
                    found.append(response.read().decode())
            except urllib.error.HTTPError as error:
                with error:
                    found.append(error.read().decode())
        self.process.terminate()
        self.process.wait(60)
        return [*found, self.log.read_text()]


def kubeconfig(folder: Path, name: str, url: str, user: dict[str, Any]) -> dict[str, str]:
    """An enricher's settings that name a kubeconfig."""
    path = folder / name
    content = {
        "clusters": [{"name": "c", "cluster": {"server": url.replace("//", f"//user:{secret('server')}@")}}],
        "users": [{"name": "u", **user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(json.dumps(content))
    return {"WIRESPAN_KUBE_KUBECONFIG": str(path), "WIRESPAN_KUBE_CACHE": "direct"}


def plugin(folder: Path, name: str, code: int) -> dict[str, Any]:
    """A credential plugin that says secrets on both of its outputs."""
    script = folder / name
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": secret(name)}}
    script.write_text(f"#!/bin/sh\necho '{secret('stderr')}' >&2\necho '{json.dumps(said)}'\nexit {code}\n")
    script.chmod(0o755)
    environment = [{"name": "PASSWORD", "value": secret("plugin-environment")}]
    return {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "env": environment}


def refuse(request: Request) -> None:
    """Let nobody in, and repeat who wanted to."""
    said = f"{request.headers.get('Authorization')} is not known"
    request.send(401, {"kind": "Status", "code": 401, "message": said})


def enrichers(folder: Path, url: str) -> Iterator[Service]:
    """Enrichers whom the API server refuses, or who cannot say who they are."""
    token_file = folder / "token"
    token_file.write_text(f"{secret('file')}\n")
    broken = folder / "broken-token"
    broken.write_text(f"{secret('one')}\n{secret('two')}\n")
    for name, user in {
        "token": {"user": {"token": secret("token")}},
        "token-file": {"user": {"tokenFile": str(token_file)}},
        "broken-token-file": {"user": {"tokenFile": str(broken)}},
        "plugin": {"user": {"exec": plugin(folder, "plugin-ok", 0)}},
        "failing-plugin": {"user": {"exec": plugin(folder, "plugin-fails", 3)}},
    }.items():
        yield Service("enricher", "resource.lost", kubeconfig(folder, f"{name}.kubeconfig", url, user))
    misplaced = kubeconfig(folder, "misplaced.kubeconfig", url, {"token": secret("misplaced")})
    yield Service("enricher", "cannot reach Kubernetes", misplaced, ends=True)


def senders(folder: Path, receiver: OtlpReceiver) -> Iterator[Service]:
    """Exporters whom the backend refuses, or who find no way there: one at a time, for they share what there is to send."""
    header = folder / "header"
    header.write_text(f"{secret('header-file')}\n")
    http = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    headers = {
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{secret('header')},x-key={secret('key')}",
        "WIRESPAN_EXPORTER_HEADER_FILES": f"x-token=Bearer {header}",
        "WIRESPAN_EXPORTER_UNAUTHORIZED": "dead_letter",
        "WIRESPAN_EXPORTER_DRAIN_SECONDS": "1",
    }
    proxy = {"HTTP_PROXY": f"http://someone:{secret('proxy')}@127.0.0.1:9", "NO_PROXY": ""}
    grpc_endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint}
    yield Service("exporter", "spans.refused", http | headers)
    yield Service("exporter", "sink.throttled", http | headers | proxy)
    yield Service("exporter", "sink.throttled", grpc_endpoint | headers | proxy)


def strangers(folder: Path, receiver: OtlpReceiver, bus_url: str) -> Iterator[Service]:
    """Exporters whom the bus refuses, or whose settings are wrong."""
    grpc_endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint}
    stranger = bus_url.replace(BUS_PASSWORD, secret("stranger"))
    yield Service("exporter", "bus.failed", grpc_endpoint | {"WIRESPAN_NATS_URL": stranger})
    creds = folder / "user.creds"
    creds.write_text(f"-----BEGIN NATS USER JWT-----\n{secret('jwt')}\n------END\n\n{secret('seed')}\n")
    bare = bus_url.replace(bus_url.partition("//")[2].partition("@")[0] + "@", "")
    yield Service(
        "exporter", "bus.failed", {**grpc_endpoint, "WIRESPAN_NATS_URL": bare, "WIRESPAN_NATS_CREDS_FILE": str(creds)}
    )
    for wrong in (
        {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization {secret('malformed')}"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"https://user:{secret('endpoint')}@tempo:4317"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"grpc://user:{secret('endpoint')}@tempo:4317"},
        {"WIRESPAN_NATS_URL": f"nats://user:{secret('bus/url')}@:4222"},
        {"WIRESPAN_EXPORTER_FAILOVER_ENDPOINTS": f"http://user:{secret('failover')}@:4317"},
        {"WIRESPAN_NATS_PASSWORD": secret("password")},
    ):
        yield Service("exporter", "cannot start with these settings", wrong, ends=True)


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A server with a password."""
    login = f'authorization {{ user: "wirespan", password: "{BUS_PASSWORD}" }}'
    with NatsServer(tmp_path / "nats", extra_config=login) as server:
        yield server


async def test_no_secret_is_said(tmp_path: Path, nats: NatsServer, otlp_receiver: OtlpReceiver) -> None:
    """Not in a log or traceback at any level, not in /metrics, /readyz or /healthz, not in a dead letter."""
    bus_url = nats.url.replace("//", f"//wirespan:{BUS_PASSWORD}@")
    repeated = f"not with {secret('header')}, {secret('key')} nor {secret('header-file')}"
    otlp_receiver.default = Refuse(401, repeated)
    output: list[str] = []

    def start(stack: ExitStack, service: Service) -> None:
        service.start(tmp_path, bus_url)
        assert service.process is not None
        stack.callback(service.process.wait, 60)
        stack.callback(service.process.kill)

    with HostileKubeApi(refuse) as api, ExitStack() as stack:
        services = [*enrichers(tmp_path, api.url), *strangers(tmp_path, otlp_receiver, bus_url)]
        for service in services:
            start(stack, service)
        async with connect(NatsSettings(url=bus_url), name="test") as bus:
            await bus.ensure_streams()
            for number, service in enumerate(senders(tmp_path, otlp_receiver)):
                batch = enriched_batch(1, sequence=number)
                await bus.publish(enriched_subject(batch.node), encode(batch), message_id=str(number))
                start(stack, service)
                await asyncio.to_thread(service.until_in_trouble)
                output += await asyncio.to_thread(service.said)
            letters = [letter async for letter in bus.peek(DEAD_STREAM)]
        for service in services:
            service.until_in_trouble()
            output += service.said()
    assert letters
    output += [str(letter.headers) for letter in letters]
    assert [text for text in output if SECRET in text] == []
    assert any("not with ***, *** nor ***" in text for text in output)
