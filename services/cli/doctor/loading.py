"""Checks of `wirespan doctor`: whether bcc is there, and whether the kernel takes a program."""

from __future__ import annotations

import ctypes
import json
import re
import struct
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import bpf
from services.cli.doctor.finding import Finding, Status, fail, first_line, ok, warn
from services.cli.doctor.privileges import check_capabilities
from services.runtime.host.programs import building, loading
from services.runtime.host.programs.building import SYSTEM_PYTHON, Found
from services.runtime.host.programs.errors import ProgramsError
from services.runtime.host.programs.file import CompiledProgram, CompiledPrograms
from services.runtime.host.programs.loading import ProgramDescription
from services.runtime.host.programs.telling import Constants

_CHILD: Final = Path(__file__).with_name("bcc_child.py")
_VERSION_SECONDS: Final = 8.0
_FEW, _RING_BUFFER, _RING_BYTES = 64, 27, 64 * 1024
_SMALL_PROGRAMS: Final = ("tap_nothing", "tap_release", "tap_sendmsg4", "tap_sendmsg6")
"""They use maps of every kind and sockets' storage, and the verifier is done with them at once."""
_RETURN_ONE: Final = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0)
_SMALLEST: Final = CompiledPrograms("", "", b"", {}, {"smallest": CompiledProgram(8, 0, _RETURN_ONE, (), b"", b"", (8, 16))})
_INSTALLERS: Final = {
    "debian": "apt-get install python3-bpfcc",
    "ubuntu": "apt-get install python3-bpfcc",
    "fedora": "dnf install python3-bcc",
    "rhel": "dnf install python3-bcc",
    "centos": "dnf install python3-bcc",
    "suse": "zypper install python3-bcc",
    "opensuse": "zypper install python3-bcc",
    "arch": "pacman -S python-bcc",
    "alpine": "apk add py3-bcc",
}
_UNTOLD: Final = re.compile(r"^(processed \d+ insns|verification time|stack depth|max_states|bpf: Failed to load|\d+: \()")
_TELLING: Final = re.compile(r"not permitted|denied|error:|invalid|unknown func|prohibited|too (large|many)", re.IGNORECASE)


class _ChildError(Exception):
    """The child gave no answer; the message says why."""


def bcc_installer(os_release: Path = Path("/etc/os-release")) -> str:
    """Return the command that installs bcc on this distribution."""
    try:
        text = os_release.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = " ".join(re.findall(r'^(?:ID|ID_LIKE)="?([^"\n]*)"?', text, re.MULTILINE)).split()
    known = next((_INSTALLERS[name.partition("-")[0]] for name in names if name.partition("-")[0] in _INSTALLERS), None)
    return known or "install your distribution's bcc for Python (python3-bpfcc or python3-bcc)"


def check_bcc(python: Path = SYSTEM_PYTHON, found: Found | None = None) -> Finding:
    """Check whether the system's Python has bcc, in a child: importing it takes 70 MB. It is needed where nothing is built."""
    here = _bcc_here(python)
    found = found or building.built()
    if found is None:
        return here
    brought = "the package brings" if found.origin == "package" else "this machine has compiled"
    has = f"as the fallback there is {here.found}" if here.status is Status.OK else "there is no fallback"
    return ok(f"not needed: {brought} the programs ({found.programs.compiler}); {has}")


def _bcc_here(python: Path) -> Finding:
    try:
        answer = _ask_child(python)
    except _ChildError as error:
        return fail(str(error), bcc_installer())
    match answer.get("error"):
        case None:
            return ok(f"{answer.get('version')} in {python} ({answer.get('python')})")
        case "foreign":
            return fail(
                f"{answer.get('detail')} is another package of that name: PyPI's bcc has nothing to do with BPF",
                f"{python} -m pip uninstall bcc, then {bcc_installer()}",
            )
        case "broken":
            return fail(f"{python} cannot import it: {answer.get('detail')}", f"{bcc_installer()}, or install it again")
        case _:
            return fail(f"{python} has none: {answer.get('detail')}", f"{bcc_installer()} (PyPI's bcc is something else)")


def check_load(found: Found | None = None, process: Path = Path("/proc")) -> Finding:
    """Load programs as capture does, attached to nothing: of what is built the small ones, else one of two instructions."""
    found = found or building.built()
    programs = found.programs if found else _SMALLEST
    names = _SMALL_PROGRAMS if found else tuple(_SMALLEST.programs)
    most = {
        name: _RING_BYTES if each.kind == _RING_BUFFER else min(each.max_entries, _FEW) for name, each in programs.maps.items()
    }
    began = time.monotonic()
    try:
        loaded = loading.load(programs, Constants(max_entries=most), required=names)
    except ProgramsError as error:
        return refused(error, process)
    loaded.close()
    described = loaded.program_descriptions[names[0]]
    return loads(described, found.origin if found else None, time.monotonic() - began)


def check_replay_library(library: Path = bpf.REPLAY_LIBRARY) -> Finding:
    """Check that capture files can be read; live capture does without."""
    if not library.exists():
        return warn(
            "not built: capture files cannot be replayed; live capture does without",
            "install gcc and libc6-dev (glibc-devel), then wirespan again",
        )
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return warn(f"does not load: {error}", "install wirespan again, on this machine")
    return ok(f"{library} loads")


def loads(described: ProgramDescription, origin: str | None, seconds: float) -> Finding:
    """Return what there is to say of programs that load."""
    what = {
        "package": "the package's programs and maps load",
        "cache": "the programs that this machine has compiled, and their maps, load",
        None: "two instructions load; capture compiles its programs when it first starts",
    }[origin]
    took = f"{what}, in {seconds:.2f} s"
    if not described.jited_bytes:
        return warn(f"{took}; but interpreted: each packet costs several times as much", "sysctl -w net.core.bpf_jit_enable=1")
    return ok(f"{took}, as machine code")


def refused(error: ProgramsError, process: Path) -> Finding:
    """Return what there is to say of programs that do not."""
    return fail(f"{error.reason.replace('_', ' ')}: {_telling_line(error.detail)}", _load_fix(process))


def _load_fix(process: Path) -> str:
    if check_capabilities(process).status is Status.FAIL:
        return "see `capabilities`"
    level = first_line(process / "sys" / "kernel" / "unprivileged_bpf_disabled")
    return (
        "the capabilities are there, so see `kernel`, `memlock` and `lockdown`; a container's seccomp profile or a security "
        f"module may refuse bpf(2) (kernel.unprivileged_bpf_disabled={level} plays no part)"
    )


def _ask_child(python: Path) -> dict[str, Any]:
    """Return the child's answer. Raises _ChildError where it gives none in time."""
    try:
        done = subprocess.run(  # noqa: S603 - the system's interpreter, our own script
            [python, "-I", _CHILD], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_VERSION_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise _ChildError(f"{python} did not finish within {_VERSION_SECONDS:g} s") from None
    except OSError as error:
        raise _ChildError(f"{python} does not start: {error.strerror}") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        printed = done.stderr.decode(errors="replace")
        raise _ChildError(f"{python} ended with {done.returncode}: {_telling_line(printed)}") from None
    return answer


def _telling_line(printed: str) -> str:
    """Return the line of the compiler's or the verifier's text that says most; empty where there is none."""
    lines = [line.strip() for line in printed.splitlines() if line.strip() and not _UNTOLD.match(line.strip())]
    return next((line for line in lines if _TELLING.search(line)), lines[-1] if lines else "")
