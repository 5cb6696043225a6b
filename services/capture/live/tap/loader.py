"""Loads the socket tap through a child process that has bcc (bpf/tap/loader.py); this process has neither bcc nor LLVM."""

from __future__ import annotations

import array
import contextlib
import json
import os
import resource
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import bpf
from services.capture.errors import CaptureError
from services.capture.live.tap import bpf_syscall

SYSTEM_PYTHON: Final = Path("/usr/bin/python3")
"""The interpreter that the distribution's python3-bpfcc belongs to."""

QUESTION_PROGRAMS: Final = {"ingress_questions": ("tap_ingress_question",), "egress_questions": ("tap_egress_question",)}
"""Which programs are called through which map, for flows whose questions have numbers."""

HANDSHAKE_PROGRAMS: Final = {
    "ingress_handshakes": ("tap_ingress_handshake",),
    "egress_handshakes": ("tap_egress_handshake",),
}
"""The same for handshakes of TLS."""

_MESSAGE_BYTES: Final = 64 * 1024
_MAX_DESCRIPTORS: Final = 64


class TapLoadError(CaptureError):
    """The socket tap cannot be loaded. `reason` is a word for programs, `advice` says what to do."""

    def __init__(self, reason: str, detail: str, advice: str) -> None:
        self.reason = reason
        self.detail = detail
        self.advice = advice
        last = detail.strip().splitlines()[-1] if detail.strip() else ""
        super().__init__(f"{reason.replace('_', ' ')}: {last} ({advice})" if last else f"{reason.replace('_', ' ')} ({advice})")


@dataclass(frozen=True, slots=True)
class ProgramDescription:
    """A loaded program's size."""

    instructions: int
    """After the verifier's rewriting."""
    jited_bytes: int
    verified_instructions: int
    """What the verifier went through; 0 on kernels before 5.16."""


@dataclass(frozen=True, slots=True)
class MapDescription:
    """A map's sizes."""

    key_bytes: int
    value_bytes: int
    max_entries: int


@dataclass(frozen=True, slots=True)
class LoadedTap:
    """Programs and maps by name, as descriptors that are this process's own; `close` closes them."""

    programs: Mapping[str, int]
    maps: Mapping[str, int]
    program_descriptions: Mapping[str, ProgramDescription]
    map_descriptions: Mapping[str, MapDescription]
    bcc_version: str
    kernel: str

    def close(self) -> None:
        """Close every descriptor; attached programs live as long as their links."""
        for descriptor in (*self.programs.values(), *self.maps.values()):
            os.close(descriptor)


def load_tap(
    defines: Sequence[str] = (), *, python: Path = SYSTEM_PYTHON, timeout_seconds: float = 300.0, source: Path | None = None
) -> LoadedTap:
    """Compile bpf/tap/socket_tap.c with `-D` for each of `defines` and load it. Blocks for seconds: the verifier takes them.

    Raises TapLoadError.
    """
    _raise_locked_memory_limit()
    directory = bpf.SOURCE_DIRECTORY
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = [str(python), "-I", str(directory / "tap" / "loader.py"), str(theirs.fileno())]
        command += [str(source or directory / "tap" / "socket_tap.c"), str(directory)]
        command += [f"-D{define}" for define in defines]
        try:
            child = subprocess.Popen(  # noqa: S603 - the settings' interpreter, our own script
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise TapLoadError("no_system_python", str(error), "apt-get install python3 python3-bpfcc") from error
        theirs.close()
        with child:
            message, descriptors = _receive(ours, child, timeout_seconds)
    if "error" in message:
        raise TapLoadError(message["error"], message["detail"], message["advice"])
    return _loaded(message, descriptors)


def connect_calls(loaded: LoadedTap, programs: Mapping[str, Sequence[str]]) -> None:
    """Have the programs that each map's name goes with be called through the map, by their place."""
    for calls, names in programs.items():
        for place, name in enumerate(names):
            bpf_syscall.update(loaded.maps[calls], place.to_bytes(4, "little"), loaded.programs[name].to_bytes(4, "little"))


def _raise_locked_memory_limit() -> None:
    """Let maps be as large as they are: kernels before 5.11 hold them for locked memory of the user, in every process's limit.

    So the limit is this process's too, which makes a small map of its own beside the child's large ones. Without
    CAP_SYS_RESOURCE it can be raised to the hard limit only; where that is too low, the loader says so.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for limit in (resource.RLIM_INFINITY, hard):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            return


def _receive(
    channel: socket.socket, child: subprocess.Popen[bytes], timeout_seconds: float
) -> tuple[dict[str, Any], list[int]]:
    """Return the child's message and the descriptors that came with it. Raises TapLoadError where there is none."""
    channel.settimeout(timeout_seconds)
    descriptors = array.array("i")
    try:
        space = socket.CMSG_SPACE(_MAX_DESCRIPTORS * descriptors.itemsize)
        data, ancillary, _, _ = channel.recvmsg(_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    except TimeoutError as error:
        raise TapLoadError(
            "loader_timed_out", f"no answer for {timeout_seconds:g} s", "the machine may be overloaded"
        ) from error
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
        child.kill()
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if not data:
        printed = child.stderr.read().decode(errors="replace") if child.stderr else ""
        raise TapLoadError("loader_died", f"exit status {child.returncode}: {printed}", "see the detail")
    message: dict[str, Any] = json.loads(data)
    return message, descriptors.tolist()


def _loaded(message: dict[str, Any], descriptors: Sequence[int]) -> LoadedTap:
    programs = {name: ProgramDescription(**each) for name, each in message["programs"].items()}
    maps = {name: MapDescription(**each) for name, each in message["maps"].items()}
    names = [*programs, *maps]
    if len(names) != len(descriptors):
        for descriptor in descriptors:
            os.close(descriptor)
        raise TapLoadError("descriptors_lost", f"{len(descriptors)} of {len(names)} came", "raise the limit of open files")
    by_name = dict(zip(names, descriptors, strict=True))
    return LoadedTap(
        {name: by_name[name] for name in programs},
        {name: by_name[name] for name in maps},
        programs,
        maps,
        message["bcc"],
        message["kernel"],
    )
