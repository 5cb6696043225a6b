"""The images that a cluster's pods run: the project's own, built from this checkout, and those beside them, as containerd has
them once it has taken them in.

They are built by Docker as anybody builds them, on the base that a registry gives or on its look-alike. What containerd made of
them is kept in the cache of tests.support.tools under a digest of all that they are made of, and with it the layers of an
engine that was started for them, so that a change of the services costs the last layers only. Nodes get it as hard links.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import yaml

from tests.support.cluster.binaries import BINARIES, binary
from tests.support.containers.docker_engine import EngineUnavailableError, docker_engine
from tests.support.tools import ToolUnavailableError, cache_folder

ROOT: Final = Path(__file__).parents[3]
BUILD_SECONDS: Final = 1500
START_SECONDS: Final = 60
PAUSE: Final = "wirespan.dev/pause:1"
COREDNS: Final = "wirespan.dev/coredns:1"
_BASE: Final = "debian:bookworm-slim"
_TARGETS: Final = {
    "capture": "wirespan-capture",
    "enricher": "wirespan-enricher",
    "exporter": "wirespan-exporter",
    "cli": "wirespan",
}
_SOURCES: Final = ("requirements.lock", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "bpf", "proto", "services")
_OURS: Final = (*_SOURCES, "deploy/shell", "tests/data/cluster.json", "tests/data/cluster.pcapng")
_STAND_INS: Final = ROOT / "deploy" / "development" / "stand-in-images.sh"
_CHART: Final = ROOT / "deploy" / "helm" / "wirespan"
_KEPT: Final = 2
"""Stores that stay in the cache; each is some gigabytes."""
_CHANGED: Final = ("*.db",)
"""What containerd writes into in place; layers and images are added and removed, never changed."""
_MADE: Final = {
    # A sandbox's first process does nothing, and dies with it.
    PAUSE: f'FROM {_BASE}\nENTRYPOINT ["sleep", "infinity"]\n',
    COREDNS: f'FROM {_BASE}\nCOPY coredns /coredns\nENTRYPOINT ["/coredns"]\n',
}


class ImagesUnavailableError(Exception):
    """The images cannot be had on this machine now; the message is the reason, in one line."""


def tag() -> str:
    """The tag that the chart asks for where nobody names another."""
    version: str = yaml.safe_load((_CHART / "Chart.yaml").read_text())["appVersion"]
    return version


@contextlib.contextmanager
def node_folder() -> Iterator[Path]:
    """Yield a folder for a node, gone afterwards, in which `containerd` is the root of a containerd that has all images.

    They are built now if they are not in the cache. Raises ImagesUnavailableError.
    """
    folder = cache_folder() / "cluster-images"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / f"store-{_digest()}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.exists():
            _build(folder, wanted)
        wanted.touch()
        for old in sorted(folder.glob("store-*"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            shutil.rmtree(old)
        for left in folder.glob("node-*"):
            if not Path("/proc", left.name.split("-")[1]).exists():
                shutil.rmtree(left)  # of a run that was killed
        own = Path(tempfile.mkdtemp(prefix=f"node-{os.getpid()}-", dir=folder))
        subprocess.run(["cp", "--archive", "--link", wanted, own / "containerd"], check=True)
    try:
        for pattern in _CHANGED:
            for path in own.rglob(pattern):
                shutil.copy2(path, f"{path}.own")
                Path(f"{path}.own").rename(path)
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _digest() -> str:
    """Of everything that the images are made of, but Debian's packages, which are those of the day."""
    digest = hashlib.sha256()
    digest.update(f"{BINARIES['coredns'].version} {_nats()} {_MADE}".encode())
    for path in sorted(path for name in (*_OURS, "deploy/docker") for path in (ROOT / name, *(ROOT / name).rglob("*"))):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".so", ".pyc"}:
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _nats() -> str:
    image = yaml.safe_load((_CHART / "values.yaml").read_text())["nats"]["image"]
    return f"{image['repository']}:{image['tag']}"


def _layers(folder: Path) -> Path:
    """Where an engine of our own keeps its layers; begun anew when what most of them are made of has changed."""
    made_of = b"".join((ROOT / name).read_bytes() for name in ("requirements.lock", "deploy/docker/Dockerfile"))
    layers = folder / f"layers-{hashlib.sha256(made_of).hexdigest()[:12]}"
    for old in set(folder.glob("layers-*")) - {layers}:
        shutil.rmtree(old)
    return layers


def _build(folder: Path, wanted: Path) -> None:
    try:
        coredns = binary("coredns")
        with docker_engine(data=_layers(folder)) as environment:
            for image in (_BASE, _nats()):
                if not _is_there(image, environment):
                    _run(environment, _STAND_INS, _nats())
                    break
            for target, name in _TARGETS.items():
                options = ("--file", "deploy/docker/Dockerfile", "--target", target, "--tag", f"{name}:{tag()}")
                _run(environment, "docker", "build", "--quiet", *options, ".")
            for image, text in _MADE.items():
                with tempfile.TemporaryDirectory() as context:
                    shutil.copy(coredns, context)
                    Path(context, "Dockerfile").write_text(text)
                    _run(environment, "docker", "build", "--quiet", "--tag", image, context)
            names = [*(f"{name}:{tag()}" for name in _TARGETS.values()), _nats(), *_MADE]
            with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as new:
                root = Path(new, "root")
                _take_in(environment, names, root, Path(new))
                root.rename(wanted)
    except (EngineUnavailableError, ToolUnavailableError) as error:
        raise ImagesUnavailableError(str(error)) from None


def _take_in(environment: Mapping[str, str], names: list[str], root: Path, scratch: Path) -> None:
    """Let a containerd with this root take in what `docker save` gives."""
    config, address = scratch / "containerd.toml", str(scratch / "containerd.sock")
    config.write_text(f"""
version = 2
root = "{root}"
state = "{scratch}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{address}"
[ttrpc]
  address = "{address}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{scratch}/opt"
""")
    control = ("ctr", "--address", address, "-n", "k8s.io")
    apart = ("unshare", "--mount", "--propagation", "private")  # it mounts layers to unpack others on them
    with (scratch / "containerd.log").open("wb") as log:
        containerd = subprocess.Popen([*apart, "containerd", "--config", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run([*control, "version"], capture_output=True, check=False).returncode:
            if containerd.poll() is not None or time.monotonic() > deadline:
                raise ImagesUnavailableError(f"containerd does not start: {(scratch / 'containerd.log').read_text()[-300:]}")
            time.sleep(0.1)
        archive = scratch / "images.tar"
        _run(environment, "docker", "save", "--output", archive, *names)
        _run(environment, *control, "images", "import", archive)
    finally:
        containerd.terminate()
        containerd.wait()


def _is_there(image: str, environment: Mapping[str, str]) -> bool:
    commands = (("docker", "image", "inspect", image), ("docker", "pull", image))
    return any(
        subprocess.run(each, env=environment, capture_output=True, check=False, timeout=300).returncode == 0
        for each in commands
    )


def _run(environment: Mapping[str, str], *command: str | Path) -> None:
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS
    )
    if done.returncode:
        said = " ".join(f"{done.stdout} {done.stderr}".split())[-400:]
        raise ImagesUnavailableError(f"{' '.join(map(str, command[:3]))} ended with {done.returncode}: {said}")
