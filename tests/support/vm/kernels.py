"""Debian's kernels, as its archive has them now: an image to boot, and the modules a guest needs.

`python -m tests.support.vm.kernels` gets what is not in the cache and prints a line for each. The kernels are those that Debian
builds for virtual machines ("cloud"): the same sources and BPF settings as the others, a third of the size, sooner up.
"""

from __future__ import annotations

import lzma
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.vm.cache import cached
from tests.support.vm.debian import Archive, ArchiveUnavailableError

MODULES: Final = ("virtio_pci", "virtio_console", "veth", "bridge", "ip_vs", "ip_vs_rr")
"""What a guest needs beyond what is built in: its channel to the outside, the links of pods, and IPVS."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of a Debian suite."""

    name: str
    suite: str
    architecture: str


KERNELS: Final = {
    kernel.name: kernel
    for kernel in (
        Kernel("5.10-amd64", "bullseye-security", "amd64"),
        Kernel("6.1-amd64", "bookworm", "amd64"),
        Kernel("6.12-amd64", "trixie", "amd64"),
        Kernel("newest-amd64", "sid", "amd64"),
        Kernel("6.1-arm64", "bookworm", "arm64"),
    )
}
"""By name. The first is the oldest that Wirespan is for."""


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """A kernel in the cache."""

    kernel: Kernel
    folder: Path

    @property
    def release(self) -> str:
        """As `uname -r` says it."""
        return self._modules.name

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor."""
        major, minor = self.release.split(".")[:2]
        return int(major), int(minor)

    @property
    def image(self) -> Path:
        """What QEMU boots."""
        places = (f"boot/vmlinuz-{self.release}", f"usr/lib/modules/{self.release}/vmlinuz")
        return next(self.folder / place for place in places if (self.folder / place).exists())

    @property
    def tick_ns(self) -> int:
        """The length of the kernel's tick, by its configuration."""
        places = (f"boot/config-{self.release}", f"usr/lib/modules/{self.release}/config")
        config = next(self.folder / place for place in places if (self.folder / place).exists())
        found = re.search(r"^CONFIG_HZ=(\d+)$", config.read_text(), re.MULTILINE)
        assert found, config
        return 1_000_000_000 // int(found[1])

    def modules(self) -> list[tuple[str, bytes]]:
        """Name and content of what MODULES are and need, in the order to load them; without what is built in."""
        built_in = {_module_name(Path(line)) for line in (self._modules / "modules.builtin").read_text().split()}
        files = {_module_name(path): path for path in self._modules.rglob("*.ko*")}
        found: dict[str, bytes] = {}

        def add(name: str) -> None:
            if name in found or name in built_in:
                return
            content = _uncompressed(files[name])
            for needed in _needed(content):
                add(needed)
            found[name] = content

        for name in MODULES:
            add(name)
        return list(found.items())

    @property
    def _modules(self) -> Path:
        (folder,) = [each for place in ("lib/modules", "usr/lib/modules") for each in self.folder.glob(f"{place}/*")]
        return folder


def kernel_files(kernel: Kernel) -> KernelFiles:
    """Return a kernel's files, from the cache or the archive. Raises ArchiveUnavailableError."""

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as apt:
            archive = Archive(kernel.suite, kernel.architecture, Path(apt))
            archive.update()
            meta = archive.depends(f"linux-image-cloud-{kernel.architecture}")
            (image,) = [package for package in meta if package.startswith("linux-image-")]
            release = image.removeprefix("linux-image-")
            # Image, modules and the rest are one package, or several of the same release.
            parts = [package for package in archive.depends(image) if re.fullmatch(rf"linux-\w+-{re.escape(release)}", package)]
            archive.unpack([image, *parts], folder)

    return KernelFiles(kernel, cached(f"kernel-{kernel.name}", build))


def _module_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _uncompressed(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    return path.read_bytes()


def _needed(module: bytes) -> list[str]:
    """The modules that a module says it depends on, in its section .modinfo."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def main() -> int:
    """Get every kernel and every architecture's userland. Returns the exit status, which is 0: what is missing is skipped."""
    from tests.support.vm.userland import userland

    for kernel in KERNELS.values():
        try:
            files = kernel_files(kernel)
            userland(kernel.architecture)
            state = f"Linux {files.release}"
        except ArchiveUnavailableError as error:
            state = f"not to be had: {error}"
        sys.stdout.write(f"{kernel.name}: {state}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
