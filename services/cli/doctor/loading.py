"""Checks of `wirespan doctor`: whether bcc is there, and whether the kernel takes a program."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import bpf
from services.cli.doctor.finding import Finding, Status, fail, first_line, ok, skipped, warn
from services.cli.doctor.privileges import check_capabilities

SYSTEM_PYTHON: Final = Path("/usr/bin/python3")
"""The interpreter that the distribution's bcc belongs to."""

_CHILD: Final = Path(__file__).with_name("load_child.py")
_VERSION_SECONDS: Final = 8.0
_LOAD_SECONDS: Final = 10.0
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


def check_bcc(python: Path = SYSTEM_PYTHON) -> Finding:
    """Check that the system's Python has bcc, in a child: importing it takes 70 MB."""
    try:
        answer = _ask_child(python, "version", _VERSION_SECONDS)
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


def check_load(python: Path = SYSTEM_PYTHON, headers: Path = bpf.SOURCE_DIRECTORY, process: Path = Path("/proc")) -> Finding:
    """Compile and load programs as the socket tap's loader does, attached to nothing."""
    if not (headers / "include" / "linux" / "kconfig.h").exists():
        return fail(f"{headers} has no header tree", "install wirespan again: its package is incomplete")
    try:
        answer = _ask_child(python, "load", _LOAD_SECONDS, headers)
    except _ChildError as error:
        return fail(str(error), "see `bcc`, and whether the machine is overloaded")
    match answer.get("error"):
        case None:
            return _loaded(answer)
        case "load" | "features" as step:
            wanted = "a program of two instructions" if step == "load" else "a program that uses what the socket tap uses"
            return fail(f"{wanted} does not load: {answer.get('detail')}", _load_fix(process))
        case _:
            return skipped("needs bcc")


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


def _loaded(answer: dict[str, Any]) -> Finding:
    length = answer.get("jited_bytes")
    took = (
        f"two instructions compiled and loaded in {float(answer['seconds']):.2f} s; socket storage and a mapped array load too"
    )
    if length == 0:
        return warn(f"{took}; but interpreted: each packet costs several times as much", "sysctl -w net.core.bpf_jit_enable=1")
    return ok(f"{took}{', as machine code' if length else ''}")


def _load_fix(process: Path) -> str:
    if check_capabilities(process).status is Status.FAIL:
        return "see `capabilities`"
    level = first_line(process / "sys" / "kernel" / "unprivileged_bpf_disabled")
    return (
        "the capabilities are there, so see `kernel`, `memlock` and `lockdown`; a container's seccomp profile or a security "
        f"module may refuse bpf(2) (kernel.unprivileged_bpf_disabled={level} plays no part)"
    )


def _ask_child(python: Path, purpose: str, timeout_seconds: float, headers: Path = bpf.SOURCE_DIRECTORY) -> dict[str, Any]:
    """Return the child's answer. Raises _ChildError where it gives none in time."""
    try:
        done = subprocess.run(  # noqa: S603 - the system's interpreter, our own script
            [python, "-I", _CHILD, purpose],
            env={**os.environ, "BCC_KERNEL_SOURCE": str(headers)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        raise _ChildError(f"{python} did not finish within {timeout_seconds:g} s") from None
    except OSError as error:
        raise _ChildError(f"{python} does not start: {error.strerror}") from None
    printed = done.stderr.decode(errors="replace")
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise _ChildError(f"{python} ended with {done.returncode}: {_telling_line(printed)}") from None
    if "error" in answer:
        # bcc's exceptions say little: what the compiler and the kernel said is on standard error.
        answer["detail"] = "; ".join(filter(None, [_telling_line(printed), str(answer.get("detail", ""))]))
    return answer


def _telling_line(printed: str) -> str:
    """Return the line of the compiler's or the verifier's text that says most; empty where there is none."""
    lines = [line.strip() for line in printed.splitlines() if line.strip() and not _UNTOLD.match(line.strip())]
    return next((line for line in lines if _TELLING.search(line)), lines[-1] if lines else "")
