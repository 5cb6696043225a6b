"""What keeps capture from seeing anything is said when it starts, and by the doctor in the same words."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path

import pytest

from services.capture.live.owners.cgroups import find_root
from services.runtime.host import bpf_call
from services.runtime.host.cgroup2 import mounts_of
from tests.support.node.live_capture import reason_to_skip

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

PROG_LOAD, PROG_ATTACH, PROG_DETACH = 5, 8, 9
INGRESS, SOCK_CREATE = (0, 8), (2, 9)
"""Hooks, with the type of their programs."""
CANNOT_BE_TAPPED = 4
pytestmark = pytest.mark.timeout(300)  # compiling takes its time on a busy machine


@contextmanager
def group(above: Path | None = None) -> Iterator[Path]:
    """A control group of the test's own."""
    path = (above or find_root()) / f"wirespan-test-start-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


@contextmanager
def exclusive_program(path: Path, hook: tuple[int, int] = INGRESS) -> Iterator[None]:
    """A program that lets everything pass and is attached alone."""
    attached, kind = hook
    instructions = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0))
    license_ = ctypes.create_string_buffer(b"GPL")
    addresses = ctypes.addressof(instructions), ctypes.addressof(license_)
    program = bpf_call.call(PROG_LOAD, struct.pack("=IIQQ", kind, 2, *addresses))
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    target = struct.pack("=IIII", directory, program, attached, 0)
    bpf_call.call(PROG_ATTACH, target)
    try:
        yield
    finally:
        bpf_call.call(PROG_DETACH, target)
        os.close(program)
        os.close(directory)


def capture(*prefix: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Capture's start, which fails; there is no bus."""
    return run(*prefix, sys.executable, "-m", "services.capture", **environ)


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command with settings of ours alone."""
    return subprocess.run(command, env=settings(**environ), capture_output=True, text=True, check=False)


def settings(**environ: str) -> dict[str, str]:
    """The environment with settings of ours alone."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WIRESPAN_", "OTEL_"))}
    return clean | {"WIRESPAN_NATS_URL": "nats://127.0.0.1:9", **environ}


def doctors_word(*prefix: str, **environ: str) -> dict[str, str]:
    """What `wirespan doctor` says of control groups."""
    said = run(*prefix, sys.executable, "-m", "services.cli", "doctor", "--json", **environ).stdout
    return next(line for line in map(json.loads, said.splitlines()) if line["name"] == "cgroup2")


def test_a_program_that_holds_the_hook_alone() -> None:
    """Its id and what to do are said, and the status is the one that was promised; no traceback."""
    with group() as path, exclusive_program(path):
        named = {"WIRESPAN_CAPTURE_CGROUP_ROOT": str(path)}
        done, word = capture(**named), doctors_word(**named)
    assert done.returncode == CANNOT_BE_TAPPED
    assert "holds the hook ingress" in done.stderr
    assert "bpftool" in done.stderr
    assert "Traceback" not in done.stderr
    assert word["status"] == "fail"
    assert word["found"] in done.stderr


def test_a_program_above_that_holds_the_hook_alone(nats_server) -> None:
    """It cannot be asked for from below: the kernel's refusal is said, with the same status."""
    with group() as above, group(above) as path, exclusive_program(above):
        done = capture(WIRESPAN_CAPTURE_CGROUP_ROOT=str(path), WIRESPAN_NATS_URL=nats_server.url)
    assert done.returncode == CANNOT_BE_TAPPED
    assert "attach failed: tap_" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_that_holds_the_hook_of_new_sockets_alone(nats_server) -> None:
    """Capture sees all the same, and says what it does without, once."""
    with group() as path, exclusive_program(path, SOCK_CREATE):
        named = settings(WIRESPAN_CAPTURE_CGROUP_ROOT=str(path), WIRESPAN_NATS_URL=nats_server.url)
        command = [sys.executable, "-m", "services.capture"]
        with subprocess.Popen(command, env=named, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = list(takewhile(lambda line: "capture.started" not in line, process.stderr))
            process.terminate()
            process.stderr.read()
    assert process.returncode == 0
    (line,) = [line for line in said if "sockets.makers_unseen" in line]
    assert "tap_create: Operation not permitted" in line
    assert "hook sock_create" in line


def test_a_cgroup_namespace_of_its_own() -> None:
    """As `docker run` gives it: capture ends and says why, in the doctor's words."""
    with ExitStack() as stack:
        path = stack.enter_context(group())
        inside = (
            f"echo 0 > {path}/cgroup.procs; exec unshare --cgroup --mount --propagation private sh -ec "
            f'\'umount -l {find_root()}; mount -t cgroup2 none {find_root()}; exec "$@"\' -- "$@"'
        )
        within = ("sh", "-ec", inside, "--")
        done, word = capture(*within), doctors_word(*within)
    assert done.returncode == CANNOT_BE_TAPPED
    assert "a container's own part of the tree" in done.stderr
    assert "Traceback" not in done.stderr
    assert word["status"] == "fail"
    assert word["found"] in done.stderr


@pytest.mark.skipif(not list(mounts_of("cgroup")), reason="no control groups of version 1 here")
def test_a_hierarchy_of_version_1_is_no_tree() -> None:
    """It has the same files; attaching to it would end in an error of the kernel's."""
    version_1 = next(mounts_of("cgroup")).path
    named = {"WIRESPAN_CAPTURE_CGROUP_ROOT": str(version_1)}
    done, word = capture(**named), doctors_word(**named)
    assert done.returncode == CANNOT_BE_TAPPED
    assert f"no cgroup2 file system at {version_1} or below it" in done.stderr
    assert word["status"] == "fail"
    assert word["found"] in done.stderr
