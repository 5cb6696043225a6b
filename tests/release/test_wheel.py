"""What people install: a wheel, in an environment of its own, where no compiler is to be found, by a user without rights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bpf.tap.compiling.compile import source_id
from services.runtime.host.programs import building
from services.runtime.host.programs.file import CompiledPrograms

ROOT = Path(__file__).parents[2]
NOBODY = 65534
BUILD = (sys.executable, "-m", "hatchling", "build", "--directory")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of the unpacked sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([*BUILD, folder, "--target", "sdist"], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = folder.glob("wirespan-*.tar.gz")
    subprocess.run(["tar", "--extract", "--file", sdist, "--directory", folder], check=True)
    source = folder / sdist.name.removesuffix(".tar.gz")
    subprocess.run([*BUILD, folder, "--target", "wheel"], cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("wirespan-*.whl")
    return built


@pytest.fixture(scope="module")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and what it needs installed in `venv`."""
    folder = tmp_path_factory.mktemp("home")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder / "venv"], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", folder / "venv", "--constraints", ROOT / "requirements.lock", wheel]
    done = subprocess.run(install, capture_output=True, text=True, check=False, env={**os.environ, "CC": "false"})
    if "dns error" in done.stderr or "Could not connect" in done.stderr:
        pytest.skip("the packages that the wheel needs are neither in uv's cache nor to be fetched")
    assert done.returncode == 0, done.stderr
    return folder


def wirespan(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command without any right, with nothing but the environment's own programs to be found."""
    without_rights = [shutil.which("setpriv"), "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*without_rights, home / "venv" / "bin" / "wirespan", *arguments],
        cwd=home,
        env={"PATH": str(home / "venv" / "bin"), "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def spans(path: Path) -> list[dict]:
    """All spans of a file of OTLP/JSON lines."""
    return [
        span
        for line in path.read_text().splitlines()
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def test_a_wheel_brings_its_library_and_the_demo(wheel: Path) -> None:
    """No compiler is needed where it is installed: the library is inside, for this platform; so is what the demos run."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "bpf/_replay.so",
        "bpf/_otlp.so",
        "bpf/_record.so",
        "services/cli/run/demo/cluster.pcapng",
        "services/cli/run/demo/cluster.json",
    } <= names
    assert {f"services/cli/shop/sources/{name}" for name in ("requirements.txt", "frontend.py", "README.md")} <= names
    assert not any(name.startswith(("tests/", "deploy/")) for name in names)
    assert "linux_" in wheel.name


def test_a_wheel_brings_the_programs_for_the_kernel(wheel: Path, tmp_path: Path) -> None:
    """Where it was built with bcc they are inside, to the byte what this machine compiles: no compiler is needed there."""
    if subprocess.run(["/usr/bin/python3", "-Ic", "from bcc import BPF"], check=False, capture_output=True).returncode:
        pytest.skip("the system's Python has no bcc (apt-get install python3-bpfcc)")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.startswith("bpf/")])
    brought = tmp_path / "bpf" / "_tap.bpf"
    programs = CompiledPrograms.read(brought)
    assert brought.read_bytes() == building.path().read_bytes()
    assert programs.id == source_id(tmp_path / "bpf") == source_id(ROOT / "bpf")
    assert {"tap_ingress", "tap_egress"} <= programs.programs.keys()


def test_the_demo_runs_of_the_wheel(home: Path) -> None:
    """`wirespan up --demo` shows connections by the names of both ends, and its spans are in the file it names."""
    done = wirespan(home, "up", "--demo", "--duration", "4", "--output", "demo.jsonl")
    assert done.returncode == 0, done.stderr
    assert "replaying the bundled capture" in done.stderr
    for name in ("frontend", "cart", "redis"):
        assert name in done.stdout
    assert spans(home / "demo.jsonl")


def test_a_capture_is_replayed_of_the_wheel(home: Path) -> None:
    """`wirespan replay` reads a capture file with the names of its cluster, and every packet is accounted for."""
    data = ROOT / "tests" / "data"
    for name in ("cluster.pcapng", "cluster.json"):
        shutil.copy(data / name, home / name)
    done = wirespan(home, "replay", "cluster.pcapng", "--kube-snapshot", "cluster.json", "--output", "replay.jsonl")
    assert done.returncode == 0, done.stderr
    assert {span["name"] for span in spans(home / "replay.jsonl")} >= {"tcp redis", "tcp cart"}
