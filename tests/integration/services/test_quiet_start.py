"""A start at which nothing is wrong says nothing of trouble: not the services, not the server, not the doctor."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.cli.doctor.finding import Status
from services.cli.doctor.nats import check_nats
from services.cli.settings import BusSettings
from services.runtime.settings import NatsSettings
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.watched import nobody_failed, watched

ROOT = Path(__file__).parents[3]
USERS = ("capture", "enricher", "exporter", "reader")
WAIT_SECONDS = 120
pytestmark = pytest.mark.timeout(300)  # for machines that are busy; nothing here is timed


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """The server of docker-compose.yml: each user may do what its service does and no more."""
    config = (ROOT / "deploy" / "compose" / "nats.conf").read_text()
    config = config.replace('"0.0.0.0:4222"', '"127.0.0.1:@PORT@"').replace('"/data"', f'"{tmp_path / "store"}"')
    config = re.sub(r"^http:.*\n", "", config, flags=re.MULTILINE)
    environ = os.environ | {f"{user.upper()}_PASSWORD": f"{user}-password" for user in USERS}
    with NatsServer(tmp_path / "nats", config=config, environ=environ) as running:
        yield running


def settings_of(user: str, url: str) -> dict[str, str]:
    """How a service comes to the bus."""
    names = {"URL": url, "USER": user, "PASSWORD": f"{user}-password", "INBOX_PREFIX": f"_INBOX_{user}"}
    return {f"WIRESPAN_NATS_{name}": value for name, value in names.items()}


def test_services_with_no_more_rights_than_they_need_start_without_a_warning(tmp_path: Path, server: NatsServer) -> None:
    """From packets to spans, with each service's own user: no warning of theirs, and the server had nothing to refuse."""
    spans = tmp_path / "spans.jsonl"
    own = {
        "enricher": {"WIRESPAN_ENRICHER_KUBE_SNAPSHOT": str(ROOT / "tests" / "data" / "cluster.json")},
        "exporter": {"WIRESPAN_EXPORTER_OUTPUT_FILE": str(spans)},
        "capture": {
            "WIRESPAN_CAPTURE_NODE": "replay",
            "WIRESPAN_CAPTURE_REPLAY_FILES": str(ROOT / "tests" / "data" / "cluster.pcapng"),
        },
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WIRESPAN_", "OTEL_", "KUBE"))}
    with ExitStack() as stack:
        for service, environ in own.items():
            log = stack.enter_context((tmp_path / f"{service}.log").open("w"))
            command = [sys.executable, "-m", f"services.{service}"]
            process = subprocess.Popen(command, env=clean | settings_of(service, server.url) | environ, stderr=log)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            stack.enter_context(watched(process, tmp_path / f"{service}.log"))
            if service == "enricher":  # the one that makes the streams
                until(lambda: "enricher.started" in (tmp_path / "enricher.log").read_text())
        until(lambda: spans.exists() and spans.stat().st_size > 0)
    for service in own:
        lines = [json.loads(line) for line in (tmp_path / f"{service}.log").read_text().splitlines()]
        assert [line for line in lines if line["level"] not in ("debug", "info")] == []
    assert [line for line in server.log if "Violation" in line] == []


def until(condition) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        nobody_failed()
        time.sleep(0.05)


async def test_capture_alone_makes_its_stream_without_a_warning(tmp_path: Path) -> None:
    """With a user who may do anything, and nobody who has made the streams before: nothing of it is trouble."""
    with NatsServer(tmp_path / "nats") as server:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("WIRESPAN_", "OTEL_"))}
        clean |= {"WIRESPAN_NATS_URL": server.url}
        clean |= {"WIRESPAN_CAPTURE_REPLAY_FILES": str(ROOT / "tests" / "data" / "cluster.pcapng")}
        command = [sys.executable, "-m", "services.capture"]
        done = await asyncio.to_thread(subprocess.run, command, env=clean, stderr=subprocess.PIPE, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line for line in lines if line["level"] not in ("debug", "info")] == []
    assert lines[-1]["event"] == "replay.ended"


def test_the_doctor_finds_nothing_wrong_with_captures_user(server: NatsServer) -> None:
    """It may publish and nothing else; that it may not ask for streams is as it should be."""
    settings = NatsSettings(url=server.url, user="capture", password="capture-password", inbox_prefix="_INBOX_capture")
    finding = check_nats(BusSettings(nats=settings), named=True)
    assert finding.status is Status.OK
    assert not finding.fix
    assert "may not ask" in finding.found
    assert [line for line in server.log if "Violation" in line] == []
