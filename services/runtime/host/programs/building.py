"""Where compiled programs come from: the package, which brings them; else they are compiled here, once for a source.

Compiling takes the system's bcc and 190 MB for ten seconds, in a child; the user's cache keeps what it made, the latest few.
Of those who would compile at the same time one does, and the others wait for it; a file has its name when it is whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import bpf
from bpf.tap.compiling.compile import source_id as source_id_of
from services.runtime.host.programs.errors import ProgramsError
from services.runtime.host.programs.file import CompiledPrograms

SYSTEM_PYTHON: Final = Path("/usr/bin/python3")
"""The interpreter that the distribution's python3-bpfcc belongs to."""
SOURCE: Final = bpf.SOURCE_DIRECTORY / "tap" / "socket_tap.c"

_COMPILE: Final = bpf.SOURCE_DIRECTORY / "tap" / "compiling" / "compile.py"
_RECORDER: Final = _COMPILE.with_name("record.c")
_CACHE_FOLDER: Final = "wirespan"
_MOST_KEPT: Final = 8
"""Of sources as there were: somebody who works on them goes back and forth, and has several checkouts. 0.6 MB each."""
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Found:
    """Compiled programs, and what they are to whoever asks: `package`, `cache` or `compiled`."""

    programs: CompiledPrograms
    origin: str


@cache
def source_id() -> str:
    """Name everything that the programs are compiled from."""
    return source_id_of(bpf.SOURCE_DIRECTORY)


def built() -> Found | None:
    """Return the package's programs, or those that this machine has compiled before; None where there are neither."""
    programs = _read(bpf.PROGRAMS)
    if programs:
        return Found(programs, "package")
    programs = _read_kept()
    return Found(programs, "cache") if programs else None


def path(python: Path = SYSTEM_PYTHON) -> Path:
    """Return the file of what is built, which is built now where it is not. Raises ProgramsError."""
    return bpf.PROGRAMS if find(python).origin == "package" else _kept()


def find(python: Path = SYSTEM_PYTHON, *, timeout_seconds: float = 300.0) -> Found:
    """Return what is built; where nothing is, it is compiled now. Raises ProgramsError."""
    return built() or compile_here(python, timeout_seconds=timeout_seconds)


def compile_here(python: Path = SYSTEM_PYTHON, *, timeout_seconds: float = 300.0) -> Found:
    """Return what this machine compiled the source to; it does so now where it has not. Raises ProgramsError."""
    kept = _kept()
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.fdopen(os.open(kept.with_name("tap.lock"), _LOCK_FLAGS, 0o600), "r+")
    except OSError:
        with tempfile.TemporaryDirectory(prefix="wirespan-") as passing:
            return Found(_compiled(Path(passing) / "tap.bpf", python, timeout_seconds), "compiled")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        programs = _read_kept()
        if programs:
            return Found(programs, "cache")
        compiled = Found(_compiled(kept, python, timeout_seconds), "compiled")
        _forget_the_oldest(kept.parent)
        return compiled


def cache_folder() -> Path:
    """Return where what was compiled is kept; for somebody without a home, a folder that nobody can make."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / _CACHE_FOLDER
    try:
        return Path.home() / ".cache" / _CACHE_FOLDER
    except RuntimeError:
        return Path("/nonexistent", _CACHE_FOLDER)


def compile_source(
    source: Path,
    target: Path,
    python: Path = SYSTEM_PYTHON,
    *,
    below: Path = bpf.SOURCE_DIRECTORY,
    timeout_seconds: float = 300.0,
) -> None:
    """Compile a source into the file `target`; `below` has its headers. Needs no privilege. Raises ProgramsError."""
    with tempfile.TemporaryDirectory(prefix="wirespan-") as passing, tempfile.TemporaryFile() as record:
        library = _recorder(Path(passing))
        command = [str(python), "-I", str(_COMPILE), str(source), str(below), str(target)]
        told = {"LD_PRELOAD": str(library), "BPF_RECORD": str(record.fileno())}
        try:
            done = subprocess.run(  # noqa: S603 - the settings' interpreter, our own script
                command, env=os.environ | told, pass_fds=[record.fileno()], stdin=subprocess.DEVNULL, capture_output=True,
                check=False, timeout=timeout_seconds,
            )  # fmt: skip
        except OSError as error:
            raise ProgramsError("no_system_python", str(error), "apt-get install python3 python3-bpfcc") from error
        except subprocess.TimeoutExpired as error:
            text = f"no answer for {timeout_seconds:g} s"
            raise ProgramsError("compiler_timed_out", text, "the machine may be overloaded") from error
    if done.returncode:
        try:
            message = json.loads(done.stdout)
        except ValueError:
            printed = f"exit status {done.returncode}: {done.stderr.decode(errors='replace')}"
            raise ProgramsError("compiler_died", printed, "see the detail") from None
        raise ProgramsError(message["error"], message["detail"], message["advice"])


def _kept() -> Path:
    return cache_folder() / f"tap-{source_id()[:32]}.bpf"


def _forget_the_oldest(folder: Path) -> None:
    files = sorted(folder.glob("tap-*.bpf"), key=lambda file: file.stat().st_mtime)
    for file in files[:-_MOST_KEPT]:
        file.unlink(missing_ok=True)


def _compiled(target: Path, python: Path, timeout_seconds: float) -> CompiledPrograms:
    compile_source(SOURCE, target, python, timeout_seconds=timeout_seconds)
    return CompiledPrograms.read(target)


def _read(path: Path) -> CompiledPrograms | None:
    """Return what this source was compiled to; None where the file is not there, or of another source."""
    try:
        programs = CompiledPrograms.read(path)
    except (OSError, ValueError):
        return None
    return programs if programs.id == source_id() else None


def _read_kept() -> CompiledPrograms | None:
    """The same of the cache: what somebody else put there, or could have, is not given to the kernel."""
    try:
        with os.fdopen(os.open(_kept(), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in {0, os.geteuid()} or status.st_mode & _OTHERS_WRITE:
                return None
            programs = CompiledPrograms.parse(file.read())
    except (OSError, ValueError):
        return None
    return programs if programs.id == source_id() else None


def _recorder(folder: Path) -> Path:
    """Return the library of record.c: the package's, else it is compiled into `folder`. Raises ProgramsError."""
    if bpf.RECORDER_LIBRARY.exists() and bpf.RECORDER_LIBRARY.stat().st_mtime >= _RECORDER.stat().st_mtime:
        return bpf.RECORDER_LIBRARY
    library = folder / "record.so"
    command = [*shlex.split(os.environ.get("CC", "cc")), "-shared", "-fPIC", "-O2", "-o", str(library), str(_RECORDER)]
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - the builder's compiler
    except (OSError, subprocess.CalledProcessError) as error:
        raise ProgramsError("no_recorder", str(error), "install gcc and libc6-dev, or wirespan again") from error
    return library
