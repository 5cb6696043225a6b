"""Build hook: compiles the C that Python calls into libraries in bpf/, for wheels and for editable installs; and for wheels the
programs that the kernel is given, where there is bcc.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARIES = {
    Path("bpf", "_replay.so"): Path("bpf", "replay", "replay.c"),
    Path("bpf", "_otlp.so"): Path("bpf", "otlp", "scan.c"),
    Path("bpf", "_record.so"): Path("bpf", "tap", "compiling", "record.c"),
}
"""Libraries and their sources."""
PROGRAMS = Path("bpf", "_tap.bpf")
SYSTEM_PYTHON = "/usr/bin/python3"
"""The interpreter that the distribution's bcc belongs to."""
FLAGS = ("-std=gnu11", "-O2", "-g", "-fPIC", "-shared", "-fvisibility=default", "-Wall", "-Wextra", "-Werror=implicit")


class LibrariesBuildHook(BuildHookInterface):
    """Puts the libraries into the package and tags the wheel for this platform.

    Raises RuntimeError, in words, where they cannot be compiled.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the libraries, and for a package the programs. `version` is hatchling's: "standard" or "editable"."""
        root = Path(self.root)
        for library, source in LIBRARIES.items():
            compile_library(root / source, root / library)
            build_data["artifacts"].append(str(library))
        if version == "standard":
            without = compile_programs(root)
            build_data["artifacts"].extend([] if without else [str(PROGRAMS)])
            if without:
                sys.stderr.write(f"{_without_programs(without)}\n")
        build_data["pure_python"] = False
        # Loaded by ctypes, it serves every CPython; only the platform matters. Who compiles for another one (CC) names it.
        platform = os.environ.get("WIRESPAN_WHEEL_PLATFORM") or sysconfig.get_platform()
        build_data["tag"] = "py3-none-" + re.sub(r"[-.]", "_", platform)


def compile_library(source: Path, library: Path) -> None:
    """Compile with $CC, or cc, and $CFLAGS; a library that is mapped right now is replaced, not written over."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    fresh = library.with_suffix(f".{os.getpid()}.so")
    command = [*compiler, *FLAGS, *shlex.split(os.environ.get("CFLAGS", "")), "-o", str(fresh), str(source)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the builder's compiler
    except OSError as error:
        raise RuntimeError(_advice(f"the C compiler {compiler[0]!r} did not start ({error.strerror})")) from None
    if result.returncode != 0:
        fresh.unlink(missing_ok=True)
        faults = [line for line in result.stderr.splitlines() if "error" in line or "cannot find" in line]
        raise RuntimeError("\n".join([_advice(f"{shlex.join(command)} failed"), *faults[:5]]))
    fresh.replace(library)


def compile_programs(root: Path) -> str:
    """Compile the kernel's programs by the system's bcc; return why that cannot be, or nothing.

    They are the same for every machine: $WIRESPAN_PROGRAMS names a file that was compiled before, for whoever compiles for
    another platform and so cannot use the library by which it is done.
    """
    programs = root / PROGRAMS
    if given := os.environ.get("WIRESPAN_PROGRAMS"):
        shutil.copyfile(given, programs)
        return ""
    programs.unlink(missing_ok=True)
    folder = root / "bpf"
    source = folder / "tap" / "socket_tap.c"
    command = [SYSTEM_PYTHON, "-I", source.parent / "compiling" / "compile.py", source, folder, programs]
    with tempfile.TemporaryFile() as record:
        told = {"LD_PRELOAD": str(folder / "_record.so"), "BPF_RECORD": str(record.fileno())}
        try:
            done = subprocess.run(  # noqa: S603 - the system's interpreter, our own script
                command, env=os.environ | told, pass_fds=[record.fileno()], capture_output=True, text=True, check=False
            )
        except OSError as error:
            return f"{SYSTEM_PYTHON}: {error.strerror}"
    return "" if programs.exists() else (done.stdout or done.stderr).strip() or f"it ended with {done.returncode}"


def _without_programs(why: str) -> str:
    return (
        "wirespan: THIS PACKAGE HAS NO COMPILED KERNEL PROGRAMS: capture compiles them where it runs, which needs bcc there. "
        f"To have them in the package, build it where `apt install python3-bpfcc` has brought bcc ({why})"
    )


def _advice(what: str) -> str:
    return (
        f"wirespan compiles small C libraries to read captures and spans, and could not: {what}. It needs a C compiler and the "
        "C library's headers: `apt install gcc libc6-dev` on Debian and Ubuntu, `dnf install gcc glibc-devel kernel-headers` "
        "on Fedora and its kin; set CC to use another compiler."
    )
