"""A guest: one of Debian's kernels under QEMU, with the product inside, for as long as a `with` block.

No disk, no network, no shared folder: everything is in the initramfs, and one virtio channel carries calls in and answers out.
The guest's clock counts its instructions (QEMU's `icount`), so nothing in it times out because emulation is slow, and what it
waits for while it has nothing to do takes no time. It ends with the block, and by itself where whoever started it is gone.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import bpf
from services.runtime.host.programs import building
from tests.support.vm import cpio
from tests.support.vm.kernels import KernelFiles
from tests.support.vm.userland import PYTHON, compiled, userland

_ROOT: Final = Path(__file__).parents[3]
_SOURCES: Final = ("bpf", "proto", "services", "tests/support")
_EMULATORS: Final = {
    "amd64": ("qemu-system-x86_64", "-machine", "q35", "-cpu", "max"),
    "arm64": ("qemu-system-aarch64", "-machine", "virt,gic-version=3", "-cpu", "cortex-a72"),
}
_CONSOLES: Final = {"amd64": "ttyS0", "arm64": "ttyAMA0"}
_BOOT_SECONDS: Final = 300
_CALL_SECONDS: Final = 600
"""Bounds for a guest that hangs, on a machine that is busy."""


def emulator(architecture: str) -> str:
    """The program that guests of an architecture run in."""
    return _EMULATORS[architecture][0]


class GuestError(Exception):
    """The guest did not come up, went away, or a scene failed in it; the message says what is known."""


class Guest:
    """A machine with the kernel of `files`."""

    def __init__(self, files: KernelFiles) -> None:
        self._files = files
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wirespan-guest-")))
            (self._folder / "initrd").write_bytes(_initramfs(self._files))
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(self._folder / "channel"))
                listener.listen()
                self._start()
                self._channel = self._connected(listener)
            self._stack.callback(self._channel.close)
            self._answers = self._stack.enter_context(self._channel.makefile("rb"))
            self._channel.settimeout(_BOOT_SECONDS)
            self._answer()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def call(self, scene: str, **arguments: Any) -> Any:
        """Run a function of inside/scenes.py in the guest and return what it returned. Raises GuestError."""
        self._channel.settimeout(_CALL_SECONDS)
        self._channel.sendall(json.dumps({"scene": scene, "arguments": arguments}).encode() + b"\n")
        answer = self._answer()
        if "error" in answer:
            raise GuestError(f"{scene} on Linux {self._files.release}:\n{answer['error']}")
        return answer["result"]

    def _start(self) -> None:
        said = self._stack.enter_context((self._folder / "emulator").open("wb"))
        self._machine = self._stack.enter_context(subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stderr=said))
        self._stack.callback(self._machine.kill)

    def _connected(self, listener: socket.socket) -> socket.socket:
        """Wait for the emulator, which connects as soon as it runs."""
        listener.settimeout(1)
        while True:
            try:
                return listener.accept()[0]
            except TimeoutError:
                if self._machine.poll() is not None:
                    said = (self._folder / "emulator").read_text(errors="replace")
                    raise GuestError(f"{self._command()[0]} ended with {self._machine.returncode}: {said}") from None

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._answers.readline()
        except TimeoutError:
            raise GuestError(f"Linux {self._files.release} does not answer; its console:\n{self._console()}") from None
        if not line:
            raise GuestError(f"Linux {self._files.release} is gone; its console:\n{self._console()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _console(self) -> str:
        return (self._folder / "console").read_text(errors="replace")[-4000:]

    def _command(self) -> list[str]:
        architecture = self._files.kernel.architecture
        arguments = (
            f"console={_CONSOLES[architecture]} quiet panic=-1 mitigations=off init_on_alloc=0 nokaslr random.trust_cpu=on "
            "rdinit=/init"
        )
        return [
            *_EMULATORS[architecture], "-accel", "tcg,tb-size=256", "-icount", "shift=0,sleep=off", "-m", "1G",
            "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-kernel", str(self._files.image), "-initrd", str(self._folder / "initrd"), "-append", arguments,
            "-serial", f"file:{self._folder / 'console'}",
            "-chardev", f"socket,id=channel,path={self._folder / 'channel'}",
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=channel",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip


def _initramfs(files: KernelFiles) -> bytes:
    """Userland, the project as it stands, the kernel's modules and the tap's programs, as archives one after another."""
    added = cpio.Archive()
    for name, major, minor in (("console", 5, 1), ("null", 1, 3), ("urandom", 1, 9)):
        added.device(f"dev/{name}", major, minor)
    for folder in ("proc", "sys", "run/netns", "tmp", "root"):
        added.folder(folder)
    for number, (name, content) in enumerate(files.modules()):
        added.file(f"modules/{number:02}-{name}.ko", content)
    sources = {
        str(path.relative_to(_ROOT)): path.read_bytes()
        for folder in _SOURCES
        for path in sorted((_ROOT / folder).rglob("*"))
        if path.suffix in {".py", ".c", ".h"} or (path == bpf.REPLAY_LIBRARY and files.kernel.architecture == "amd64")
    }
    site = "usr/lib/python3/dist-packages"
    sources[str(bpf.PROGRAMS.relative_to(_ROOT))] = building.path().read_bytes()
    for name, content in sources.items():
        added.file(f"{site}/{name}", content)
    for name, content in compiled({name: text for name, text in sources.items() if name.endswith(".py")}).items():
        added.file(f"{site}/{name}", content)
    script = f"#!/usr/bin/{PYTHON} -I\nfrom tests.support.vm.inside.init import main\n\nmain()\n"
    added.file("init", script.encode(), 0o755)
    return userland(files.kernel.architecture).archive.read_bytes() + added.content()
