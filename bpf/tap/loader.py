"""Compiles and loads the socket tap; run by the system's Python, which has bcc, and gone within a second.

    /usr/bin/python3 -I loader.py <socket fd> <source.c> <include directory> [-D...]

Sends one datagram over the socket: a line of JSON and, with SCM_RIGHTS, the descriptors it names, in its order. Or, where
something fails, `{"error": <what>, "detail": <text>, "advice": <what to do>}` without descriptors, and exits with 1. Whoever
reads it needs neither bcc nor LLVM, which take 120 MB. Only the standard library and bcc are imported here.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import platform
import re
import resource
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

CGROUP_SKB, CGROUP_SOCK, CGROUP_SOCK_ADDR = 8, 9, 18
QUESTION_PROGRAMS = ("tap_ingress_question", "tap_egress_question")
HANDSHAKE_PROGRAMS = ("tap_ingress_handshake", "tap_egress_handshake")
EXCHANGE_LOOKS = ("request", "line", "headers", "response", "frames")
EXCHANGE_PROGRAMS = tuple(f"tap_{way}_{look}" for way in ("ingress", "egress") for look in EXCHANGE_LOOKS)
REQUIRED_PROGRAMS = ("tap_ingress", "tap_egress", *QUESTION_PROGRAMS, "tap_nothing")
PROGRAMS = {
    **dict.fromkeys(REQUIRED_PROGRAMS, (CGROUP_SKB, -1)),
    "tap_release": (CGROUP_SOCK, 34),
    "tap_sendmsg4": (CGROUP_SOCK_ADDR, 14),
    "tap_sendmsg6": (CGROUP_SOCK_ADDR, 15),
    **dict.fromkeys((*HANDSHAKE_PROGRAMS, *EXCHANGE_PROGRAMS), (CGROUP_SKB, -1)),
}
"""Type and expected attach type of each, as linux/bpf.h numbers them."""
MAPS = (
    "slots",
    "slot_counts",
    "flows_by_key",
    "tap_counters",
    "excluded_endpoints",
    "free_slots",
    "ingress_questions",
    "egress_questions",
    "allowed_networks",
    "denied_networks",
    "port_rules",
    "open_exchanges",
    "ended_exchanges",
    "request_counters",
    "ingress_calls",
    "egress_calls",
    "http2_frames",
    "pieces",
    "pieces_lost",
    "ingress_handshakes",
    "egress_handshakes",
    "turns",
    "ended_turns",
    "turns_lost",
)
OPTIONAL_MAPS = MAPS[MAPS.index("allowed_networks") :]
OBJ_GET_INFO_BY_FD = 15
SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
CAPABILITY_BITS = {"NET_ADMIN": 12, "SYS_ADMIN": 21, "PERFMON": 38, "BPF": 39}
CAPABILITIES = "needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (or CAP_SYS_ADMIN, where the container runtime is older)"


MEMORY_CGROUP_ACCOUNTING = COARSE_CLOCK = (5, 11)
LOCKED_MEMORY = (
    "Linux before 5.11 counts maps as locked memory: ulimit -l unlimited, LimitMEMLOCK=infinity, or CAP_SYS_RESOURCE"
)


class LoadError(Exception):
    """What failed, the text that says more, and what to do."""

    def __init__(self, error: str, detail: str, advice: str) -> None:
        super().__init__(error)
        self.message = {"error": error, "detail": detail, "advice": advice}


def import_bcc(headers: str) -> Any:
    """Return the module; it reads where headers lie when it first compiles. Raises LoadError."""
    os.environ["BCC_KERNEL_SOURCE"] = headers
    try:
        import bcc  # noqa: PLC0415 - what it is missing for is told in words
    except ImportError as error:
        raise LoadError("bcc_missing", str(error), "apt-get install python3-bpfcc") from None
    except OSError as error:
        raise LoadError("bcc_broken", str(error), "apt-get install --reinstall python3-bpfcc libbpfcc") from None
    if not hasattr(bcc, "BPF"):
        raise LoadError("bcc_missing", f"{bcc.__file__} is another package of that name", "apt-get install python3-bpfcc")
    return bcc


def kernel_version() -> tuple[int, ...]:
    """Return major and minor of the kernel's release."""
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def has_capabilities() -> bool:
    """Return whether this process has what loading needs. The kernel's own answer is as often EINVAL as EPERM."""
    status = Path("/proc/self/status").read_text()
    effective = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    held = {name for name, bit in CAPABILITY_BITS.items() if effective >> bit & 1}
    return "SYS_ADMIN" in held or held >= {"BPF", "PERFMON", "NET_ADMIN"}


def refusal(detail: str) -> LoadError | None:
    """Return what the kernel's refusal of a map or a program comes from; None where it was no matter of permission."""
    if not has_capabilities():
        return LoadError("not_permitted", detail, CAPABILITIES)
    if "not permitted" not in detail:
        return None
    limited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY
    if limited and kernel_version() < MEMORY_CGROUP_ACCOUNTING:
        return LoadError("locked_memory_limit", detail, LOCKED_MEMORY)
    return LoadError("not_permitted", detail, CAPABILITIES)


class CapturedStderr:
    """What the compiler and the verifier print goes to descriptor 2: this collects it."""

    def __enter__(self) -> CapturedStderr:  # noqa: PYI034 - Self is newer than some system Pythons
        self.file = tempfile.TemporaryFile()
        self.saved = os.dup(2)
        os.dup2(self.file.fileno(), 2)
        return self

    def __exit__(self, *_: object) -> None:
        os.dup2(self.saved, 2)
        os.close(self.saved)

    def text(self) -> str:
        """Return the end of what was printed: the verifier says last what it does not like."""
        size = self.file.seek(0, os.SEEK_END)
        self.file.seek(max(0, size - 4000))
        return self.file.read().decode(errors="replace").strip()


def with_includes(source: Path) -> str:
    """Return the text of `source` and of what it includes by quotes, as one: bcc rewrites the calls on maps only there."""
    lines = [f'#line 1 "{source}"']
    for number, line in enumerate(source.read_text().splitlines(), start=1):
        name = re.fullmatch(r'#include "(.+)"', line)
        if name:
            lines += [with_includes((source.parent / name[1]).resolve()), f'#line {number + 1} "{source}"']
        else:
            lines.append(line)
    return "\n".join(lines)


def compile_source(bcc: Any, source: str, flags: list[str]) -> Any:
    """Return the compiled module, its maps made. Raises LoadError."""
    with CapturedStderr() as printed:
        try:
            return bcc.BPF(text=with_includes(Path(source)), cflags=flags)
        except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower
            detail = printed.text() or str(error)
    compiler = LoadError("compile_failed", detail, "the message is the compiler's; a map may also be too large for memory")
    raise refusal(detail) or compiler


def load_programs(module: Any) -> dict[str, int]:
    """Return name -> descriptor. Raises LoadError."""
    programs = {}
    for name, (kind, attach_type) in PROGRAMS.items():
        with CapturedStderr() as printed:
            try:
                programs[name] = module.load_func(name, kind, attach_type=attach_type).fd
            except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower
                if name not in REQUIRED_PROGRAMS:
                    continue
                detail = f"{error}\n{printed.text()}"
                verifier = LoadError("load_failed", detail, "the message is the kernel's verifier's; it needs Linux 5.10")
                raise refusal(detail) or verifier from None
    return programs


def information(descriptor: int, size: int) -> bytes:
    """Return the bytes of a program's or map's `struct bpf_*_info`."""
    libc = ctypes.CDLL(None, use_errno=True)
    info = ctypes.create_string_buffer(size)
    attribute = ctypes.create_string_buffer(struct.pack("=IIQ", descriptor, size, ctypes.addressof(info)), 128)
    if libc.syscall(SYSCALL_NUMBERS[platform.machine()], OBJ_GET_INFO_BY_FD, attribute, 128) < 0:
        raise OSError(ctypes.get_errno(), "BPF_OBJ_GET_INFO_BY_FD")
    return info.raw


def describe_map(descriptor: int) -> dict[str, int]:
    """Return a map's sizes, from `struct bpf_map_info`."""
    _, _, key_bytes, value_bytes, entries = struct.unpack_from("=IIIII", information(descriptor, 88))
    return {"key_bytes": key_bytes, "value_bytes": value_bytes, "max_entries": entries}


def describe_program(descriptor: int) -> dict[str, int]:
    """Return a program's length and what the verifier went through, from `struct bpf_prog_info`; 0 where it does not tell."""
    info = information(descriptor, 232)
    _, _, jited_bytes, translated_bytes = struct.unpack_from("=II8xII", info)
    (verified,) = struct.unpack_from("=I", info, 216)
    return {"instructions": translated_bytes // 8, "jited_bytes": jited_bytes, "verified_instructions": verified}


def load(source: str, headers: str, flags: list[str]) -> tuple[dict[str, Any], list[int], Any]:
    """Return the message and its descriptors. Raises LoadError."""
    bcc = import_bcc(headers)
    if kernel_version() < COARSE_CLOCK:
        flags = [*flags, "-DNO_COARSE_CLOCK"]
    module = compile_source(bcc, source, flags)
    programs = load_programs(module)
    maps = {}
    for name in MAPS:
        try:
            maps[name] = module[name].map_fd
        except KeyError:
            if name not in OPTIONAL_MAPS:
                raise
    message = {
        "bcc": bcc.__version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "programs": {name: describe_program(descriptor) for name, descriptor in programs.items()},
        "maps": {name: describe_map(descriptor) for name, descriptor in maps.items()},
    }
    return message, [*programs.values(), *maps.values()], module


def main(arguments: list[str]) -> int:
    """Load what the arguments say and send it. Returns the exit status."""
    channel = socket.socket(fileno=int(arguments[0]))
    try:
        message, descriptors, _keep = load(arguments[1], arguments[2], arguments[3:])
    except LoadError as error:
        channel.send(json.dumps(error.message).encode())
        return 1
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    channel.sendmsg([json.dumps(message).encode()], rights)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
