"""Process 1 of a guest: brings it up, then does what it is told over its channel, one JSON line each way, until that closes.

    {"scene": "loads", "arguments": {...}}  ->  {"result": ...} or {"error": <traceback>}

A scene is a function of tests/support/vm/inside/scenes.py. When the outside lets go, the guest powers off.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from pathlib import Path

_MOUNTS = (
    ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"), ("bpf", "/sys/fs/bpf"),
)  # fmt: skip
_POWER_OFF = 0x4321FEDC
"""LINUX_REBOOT_CMD_POWER_OFF."""
_libc = ctypes.CDLL(None, use_errno=True)


def mount_all() -> None:
    """Mount what a machine has."""
    for kind, place in _MOUNTS:
        Path(place).mkdir(parents=True, exist_ok=True)
        if _libc.mount(kind.encode(), place.encode(), kind.encode(), 0, None):
            _say(f"no {kind}: {os.strerror(ctypes.get_errno())}")


def load_modules() -> None:
    """Load the kernel's modules in the order of their names, which begin with a number."""
    for module in sorted(Path("/modules").iterdir()):
        content = module.read_bytes()
        if _libc.syscall({"x86_64": 175, "aarch64": 105}[os.uname().machine], content, len(content), b""):
            _say(f"{module.name}: {os.strerror(ctypes.get_errno())}")


def serve() -> None:
    """Answer until the outside closes the channel."""
    with Path("/dev/vport0p1").open("r+b", buffering=0) as channel:
        from tests.support.vm.inside import scenes

        requests = os.fdopen(os.dup(channel.fileno()), "rb")
        channel.write(b'{"ready": true}\n')
        while line := requests.readline():
            request = json.loads(line)
            try:
                answer = {"result": getattr(scenes, request["scene"])(**request["arguments"])}
            except Exception:  # noqa: BLE001 - whatever it is, it is told outside
                answer = {"error": traceback.format_exc()}
            remaining = memoryview(json.dumps(answer).encode() + b"\n")
            while remaining:
                remaining = remaining[channel.write(remaining) :]


def main() -> None:
    """Run the guest from beginning to end."""
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", OPENBLAS_NUM_THREADS="1")
    try:
        mount_all()
        load_modules()
        serve()
    except BaseException:  # noqa: BLE001 - the console is all there is to tell it
        traceback.print_exc()
        sys.stderr.flush()
    os.sync()
    _libc.reboot(_POWER_OFF)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
