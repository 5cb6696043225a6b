"""A Docker engine for the end-to-end tests: the one that runs here, or one of our own for as long as the tests last.

Our own keeps everything in one folder that is removed with it, its images and layers too unless it is told where to keep them,
and what it changes in the network (its bridge, the packet filter, forwarding) is as before when it has ended. Starting it takes
root, dockerd and its packet filter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

START_SECONDS: Final = 60
STOP_SECONDS: Final = 60
_FORWARDING: Final = (Path("/proc/sys/net/ipv4/ip_forward"), Path("/proc/sys/net/ipv6/conf/all/forwarding"))
_CGROUPS: Final = Path("/sys/fs/cgroup")
_BRIDGE: Final = "docker0"


class EngineUnavailableError(Exception):
    """No engine runs and none can be started; the message is the reason, in one line."""


@contextlib.contextmanager
def docker_engine(*, data: Path | None = None) -> Iterator[Mapping[str, str]]:
    """Yield the environment in which `docker` finds an engine. Raises EngineUnavailableError.

    One of our own has its images and layers in `data` and leaves them there; only one at a time can.
    """
    for command in ("docker", "docker-compose"):
        if shutil.which(command) is None:
            raise EngineUnavailableError(f"there is no {command}")
    # The distribution's command first: of several it is the one of the engine's own version.
    environment = {
        **os.environ,
        "PATH": f"/usr/bin:{os.environ['PATH']}",
        "DOCKER_BUILDKIT": "0",
        "COMPOSE_DOCKER_CLI_BUILD": "0",
    }
    if answers(environment):
        yield environment
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise EngineUnavailableError("no Docker engine answers, and to start one takes root and dockerd")
    with _own_engine(environment, data) as own:
        yield own


def answers(environment: Mapping[str, str]) -> bool:
    """Whether an engine answers."""
    command = ("docker", "version", "--format", "{{.Server.Version}}")
    return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60).returncode == 0


@contextlib.contextmanager
def _own_engine(environment: Mapping[str, str], data: Path | None) -> Iterator[Mapping[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="wirespan-docker-", dir="/var/tmp"))
    own = {**environment, "DOCKER_HOST": f"unix://{folder}/docker.sock"}
    command = ["dockerd", f"--data-root={data or folder / 'data'}", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    command += [f"--host={own['DOCKER_HOST']}"]
    try:
        with _network_as_before(), _cgroups_as_before(), (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            try:
                _wait(process, own, folder / "log")
                yield own
            finally:
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    finally:
        if data is not None:
            _unmount(data)
        _remove(folder)


def _wait(process: subprocess.Popen[bytes], environment: Mapping[str, str], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(environment):
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise EngineUnavailableError(f"dockerd does not start here: {lines[-1] if lines else 'it says nothing'}")
        time.sleep(0.2)


@contextlib.contextmanager
def _network_as_before() -> Iterator[None]:
    forwarding = {path: path.read_text() for path in _FORWARDING if path.exists()}
    bridge = Path("/sys/class/net", _BRIDGE).exists()
    rules = {tool: _output(f"{tool}-save") for tool in ("iptables", "ip6tables") if shutil.which(f"{tool}-save")}
    try:
        yield
    finally:
        for tool, before in rules.items():
            if before and _output(f"{tool}-save") != before:
                subprocess.run([f"{tool}-restore"], input=before, text=True, check=False)
        for path, before in forwarding.items():
            path.write_text(before)
        if not bridge and Path("/sys/class/net", _BRIDGE).exists():
            subprocess.run(["ip", "link", "delete", _BRIDGE], check=False)


@contextlib.contextmanager
def _cgroups_as_before() -> Iterator[None]:
    """The engine leaves the empty parents of its containers' control groups."""
    before = set(_CGROUPS.glob("**/docker"))
    yield
    for parent in set(_CGROUPS.glob("**/docker")) - before:
        for folder in sorted((path for path in parent.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            parent.rmdir()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _remove(folder: Path) -> None:
    _unmount(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _unmount(folder: Path) -> None:
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        mounted = line.split()[1]
        if mounted.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mounted], check=False)
