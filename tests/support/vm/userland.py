"""What is the same in every guest of an architecture: Python, iproute2, and the wheels of requirements.lock that capture uses.

Debian bookworm's packages, unpacked, and compiled to bytecode: a guest compiles nothing, it is forty times slower than outside.
"""

from __future__ import annotations

import base64
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.vm import cpio
from tests.support.vm.cache import cached
from tests.support.vm.debian import Archive, ArchiveUnavailableError

PYTHON: Final = "python3.11"
_LOCK: Final = Path(__file__).parents[3] / "requirements.lock"
_PACKAGES: Final = (
    "libc6", "libgcc-s1", "libstdc++6", "libexpat1", "zlib1g", "libffi8", "libssl3", "libbz2-1.0", "liblzma5",
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib",
    "iproute2", "libbpf1", "libbsd0", "libmd0", "libcap2", "libelf1", "libmnl0", "libselinux1", "libpcre2-8-0", "libtirpc3",
)  # fmt: skip
_WHEELS: Final = (
    "numpy",
    "msgspec",
    "msgpack",
    "structlog",
    "typing-extensions",
    "rich",
    "pygments",
    "markdown-it-py",
    "mdurl",
)
_SITE: Final = "usr/lib/python3/dist-packages"
_UNUSED: Final = (
    "usr/share", "usr/lib/*/gconv", "usr/lib/*/perl*", "usr/lib/*/audit", "lib/*/libthread_db*", "usr/lib/tc", "etc",
    "usr/lib/python3.11/lib2to3", "usr/lib/python3.11/pydoc_data", "usr/lib/python3.11/test", "usr/lib/python3.11/distutils",
    f"{_SITE}/numpy/**/tests", f"{_SITE}/numpy/f2py", f"{_SITE}/numpy/_core/include", f"{_SITE}/numpy/**/*.pyi", f"{_SITE}/bin",
    f"{_SITE}/numpy/**/*.a",
)  # fmt: skip
_COMPILE: Final = """
import base64, importlib.util, json, sys
from importlib._bootstrap_external import _code_to_hash_pyc
found = {}
for name, text in json.load(sys.stdin).items():
    source = base64.b64decode(text)
    try:
        code = compile(source, "/" + name, "exec", dont_inherit=True)
    except SyntaxError:
        continue
    pyc = _code_to_hash_pyc(code, importlib.util.source_hash(source), checked=False)
    found[importlib.util.cache_from_source(name)] = base64.b64encode(pyc).decode()
json.dump(found, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Userland:
    """A guest's files in the cache."""

    folder: Path

    @property
    def root(self) -> Path:
        """As a tree, which can be entered on this machine where the architecture is its own."""
        return self.folder / "root"

    @property
    def archive(self) -> Path:
        """As an initramfs."""
        return self.folder / "userland.cpio"


def userland(architecture: str) -> Userland:
    """Return an architecture's userland, from the cache or made. Raises ArchiveUnavailableError."""

    def build(folder: Path) -> None:
        root = folder / "root"
        root.mkdir()
        with tempfile.TemporaryDirectory() as apt:
            archive = Archive("bookworm", architecture, Path(apt))
            archive.update()
            archive.unpack(list(_PACKAGES), root)
        _install_wheels(root / _SITE, architecture)
        for pattern in _UNUSED:
            for path in list(root.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (root / "usr/bin/python3").symlink_to(PYTHON)
        sources = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.py")}
        inside = root if architecture == _own_architecture() else userland(_own_architecture()).root
        for name, content in _compiled(sources, inside).items():
            path = root / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        files = cpio.Archive()
        files.tree(root)
        (folder / "userland.cpio").write_bytes(files.content())

    return Userland(cached(f"userland-{architecture}", build))


def compiled(sources: dict[str, bytes]) -> dict[str, bytes]:
    """Return the bytecode of sources, for the guests' Python: path of each `.pyc`, relative as the source's is."""
    return _compiled(sources, userland(_own_architecture()).root)


def _compiled(sources: dict[str, bytes], root: Path) -> dict[str, bytes]:
    given = json.dumps({name: base64.b64encode(content).decode() for name, content in sources.items()})
    done = subprocess.run(
        ["chroot", root, f"/usr/bin/{PYTHON}", "-ISc", _COMPILE], input=given.encode(), capture_output=True, check=True
    )
    return {name: base64.b64decode(content) for name, content in json.loads(done.stdout).items()}


def _install_wheels(into: Path, architecture: str) -> None:
    """Install the wheels of the lock, which has the hashes of those for every platform."""
    wanted = {name.replace("-", "_") for name in _WHEELS}
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", _LOCK.read_text())
    chosen = [block for block in blocks if re.split(r"[=\[ ]", block, maxsplit=1)[0].replace("-", "_") in wanted]
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[architecture]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("\n".join(chosen))
        requirements.flush()
        done = subprocess.run(
            [
                Path(sys.executable).with_name("uv"), "pip", "install", "-q", "--target", into, "--python-version",
                PYTHON.removeprefix("python"), "--python-platform", f"{machine}-manylinux_2_28", "--no-deps",
                "--only-binary", ":all:", "--require-hashes", "-r", requirements.name,
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise ArchiveUnavailableError(f"wheels for {machine}: {' '.join(done.stderr.split())[-300:]}")


def _own_architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
