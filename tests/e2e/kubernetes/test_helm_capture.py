"""Capture for real with what the chart's pod gives it: capabilities and no others, read-only file systems, a user of NATS."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proto.flow_batch import decode
from proto.subjects import RAW_STREAM
from services.capture.live.owners.cgroups import find_root
from services.runtime.nats.bus import Bus, connect
from tests.e2e.conftest import ROOT, WIRESPAN
from tests.support.kubernetes.helm_chart import Rendered, render
from tests.support.kubernetes.helm_nats import NODE, RenderedNats, running
from tests.support.node.live_capture import reason_to_skip
from tests.support.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it

PATIENCE_SECONDS = 60
CONFINE = """
set -e
mount --bind "$1" "$2/cgroup" && mount -o remount,bind,ro "$2/cgroup"
mount -t tmpfs tmpfs "$2/tmp"
mount -o remount,bind,ro /
capabilities=$3
shift 3
exec setpriv --no-new-privs --inh-caps=-all --bounding-set="$capabilities" "$@"
"""
"""Mounts as the pod has them: the cgroup2 tree and the root read-only, one place to write to; then its capabilities."""
PEERS = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
client.sendall(bytes(100))
accepted.recv(1000)
client.close()
accepted.close()
print(server.getsockname()[1])
"""


class Pod:
    """Runs commands as in the container of capture's pod."""

    def __init__(self, rendered: Rendered, bus: RenderedNats, folder: Path, port: int) -> None:
        (folder / "cgroup").mkdir(parents=True)
        (folder / "tmp").mkdir()
        (container,) = rendered.pod("capture")["containers"]
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        capabilities = ",".join(["-all", *(f"+{name.lower()}" for name in context["capabilities"]["add"])])
        script = ("unshare", "--mount", "--propagation", "private", "sh", "-c", CONFINE, "pod")
        self._command = [*script, str(find_root()), str(folder), capabilities]
        self.environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
        self.environ |= bus.environment("capture")
        self.environ |= {"WIRESPAN_CAPTURE_CGROUP_ROOT": str(folder / "cgroup"), "WIRESPAN_HEALTH_PORT": str(port)}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*self._command, *command],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    @contextmanager
    def started(self, log: Path, *command: str) -> Iterator[None]:
        """A command while the block runs; its log is shown where a test fails."""
        with log.open("wb") as output:
            process = subprocess.Popen([*self._command, *command], env=self.environ, stderr=output)
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)
            sys.stdout.write(log.read_text()[-3000:])


async def until(condition: Any) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.1)


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
@pytest.mark.parametrize("older_runtime", [False, True])
async def test_the_pod_can_do_its_work(helm_binary: Path, tmp_path: Path, older_runtime: bool) -> None:  # noqa: FBT001
    """With the pod's capabilities, file systems, user and environment capture gets ready and a connection's bytes arrive on
    the bus, under the node's name; `wirespan doctor` in the same pod finds nothing missing.
    """
    values = {"capture": {"sysAdmin": older_runtime, "settings": {"loopback": True}}, "toolbox": {"enabled": True}}
    rendered = render(helm_binary, values)
    (port,) = free_ports(1)
    with running(rendered, tmp_path) as bus:
        pod = Pod(rendered, bus, tmp_path / "pod", port)
        found = await asyncio.to_thread(pod.run, *WIRESPAN, "doctor")
        assert found.returncode == 0, found.stdout + found.stderr
        async with (
            connect(bus.settings("enricher"), name="enricher") as enricher,
            connect(bus.settings("toolbox"), name="toolbox") as reader,
        ):
            await enricher.ensure_streams()
            with pod.started(tmp_path / "capture.log", sys.executable, "-m", "services.capture"):
                await until(lambda: asyncio.to_thread(is_ready, port))
                done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", PEERS], capture_output=True, check=True)
                await until(lambda: arrived(reader, int(done.stdout)))


def is_ready(port: int) -> bool:
    """Whether /readyz says so."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def arrived(reader: Bus, port: int) -> bool:
    """Whether the stream holds 100 bytes to that port, from the node."""
    batches = [decode(message.data) async for message in reader.peek(RAW_STREAM)]
    return any(
        batch.node == NODE and ((batch.column("remote_port") == port) & (batch.column("tx_payload_bytes") == 100)).any()
        for batch in batches
    )
