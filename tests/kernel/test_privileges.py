"""The capture service with no more than it needs: few capabilities, no kernel modules or headers on the machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from services.capture.progress import Progress
from tests.support.node.live_capture import reason_to_skip, wait_until
from tests.support.pipeline.nats_server import NatsServer

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

NET_ADMIN, SYS_ADMIN, PERFMON, BPF = 12, 21, 38, 39
"""Bits of linux/capability.h."""
HIDDEN = ("/lib/modules", "/usr/src", "/boot")


@contextmanager
def capture(nats: NatsServer, port: int, progress: Path, capabilities: tuple[int, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """wirespan-capture as root with these capabilities only, in a mount namespace where folders with kernel files are empty."""
    hide = " && ".join(f"if [ -d {folder} ]; then mount -t tmpfs none {folder}; fi" for folder in HIDDEN)
    keep = ",".join(["-all", *(f"+cap_{number}" for number in capabilities)])
    service = Path(sys.executable).parent / "wirespan-capture"
    program = f"{hide} && exec setpriv --bounding-set={keep} --inh-caps=-all {service}"
    environment = os.environ | {
        "WIRESPAN_NATS_URL": nats.url,
        "WIRESPAN_CAPTURE_LOOPBACK": "true",
        "WIRESPAN_CAPTURE_ALLOW_PORTS": str(port),
        "WIRESPAN_CAPTURE_PROGRESS_FILE": str(progress),
    }
    process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-ec", program], env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv and unshare (util-linux)")
@pytest.mark.parametrize("capabilities", [(BPF, PERFMON, NET_ADMIN), (SYS_ADMIN,)], ids=["three", "sys_admin"])
def test_capture_needs_few_capabilities_and_no_kernel_files(tmp_path: Path, capabilities) -> None:
    """It loads, attaches, sees a connection and publishes its flows."""
    with NatsServer(tmp_path / "nats") as nats, socket.create_server(("127.0.0.1", 0)) as server:
        progress = tmp_path / "progress.json"
        with capture(nats, server.getsockname()[1], progress, capabilities) as process:
            wait_until(lambda: progress.exists() or process.poll() is not None)
            assert process.poll() is None
            status = Path(f"/proc/{process.pid}/status").read_text()
            held = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
            assert held == sum(1 << number for number in capabilities)
            inside = [Path(f"/proc/{process.pid}/root{folder}") for folder in HIDDEN]
            assert not any(list(folder.iterdir()) for folder in inside if folder.is_dir())
            with socket.create_connection(server.getsockname()) as client:
                accepted, _ = server.accept()
                client.sendall(b"x")
                accepted.recv(1)
                accepted.close()
            wait_until(lambda: msgspec.json.decode(progress.read_bytes(), type=Progress).flows == 2)
            process.terminate()
            assert process.wait(30) == 0
