"""In a guest, what `import bcc` finds: the part of bcc that Wirespan uses, over programs that were compiled outside.

It makes the maps and loads the instructions that real bcc made of the same source and flags on another machine, as libbpf does
it inside bcc: with RLIMIT_MEMLOCK raised where a map is refused, and the verifier's words on descriptor 2 where a program is.
The kernel sees what it would see of bcc. What the verifier walked of each program, or why it refused it, is appended to
/run/verifier: the loader does without some programs, and does not say why.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import hashlib
import json
import os
import platform
import re
import resource
import struct
from pathlib import Path
from typing import Any

__version__ = "0.0 (stand-in)"

PROGRAMS = Path("/programs")
VERIFIER = Path("/run/verifier")
_NUMBERS = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _PROG_LOAD, _BTF_LOAD = 0, 5, 18
_SK_STORAGE = 24
_BTF_INT, _BTF_ARRAY = 1 << 24, 3 << 24
_SIZES = ("kind", "key_bytes", "value_bytes", "max_entries", "flags")
_LOG_STATS, _LOG_ALL = 4, 1
_LOAD_64_BITS = 0x18
_LOADED_AT = "-DFIRST_NS="
_PLACEHOLDER = 0x1D0C0FFEE0DDF00D
_libc = ctypes.CDLL(None, use_errno=True)


def known_outside(flag: str) -> str:
    """A flag as it is known outside: the time of loading is not, so a number that is nothing else stands for it there."""
    return f"{_LOADED_AT}{_PLACEHOLDER}ULL" if flag.startswith(_LOADED_AT) else flag


def program_key(text: str, flags: list[str]) -> str:
    """What a compiled program is named by: its source, wherever it lies, and the defines that it was compiled with."""
    text = re.sub("^#line .*$", "", text, flags=re.MULTILINE)
    defines = sorted(known_outside(flag) for flag in flags if flag.startswith("-D"))
    return hashlib.sha256("\0".join([text, *defines]).encode()).hexdigest()[:32]


def _bpf(command: int, attribute: bytes) -> int:
    buffer = ctypes.create_string_buffer(attribute, 128)
    result = _libc.syscall(_NUMBERS[platform.machine()], command, buffer, 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _storage_types(value_bytes: int) -> tuple[int, int, int]:
    """The BTF that socket storage needs: its key's type, an int, and its value's, as many bytes as it has."""
    names = b"\0key\0byte\0"
    types = struct.pack("=IIII", 1, _BTF_INT, 4, 32)
    types += struct.pack("=IIII", 5, _BTF_INT, 1, 8)
    types += struct.pack("=IIIIII", 0, _BTF_ARRAY, 0, 2, 1, value_bytes)
    raw = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names
    content = ctypes.create_string_buffer(raw, len(raw))
    return _bpf(_BTF_LOAD, struct.pack("=QQIII", ctypes.addressof(content), 0, len(raw), 0, 0)), 1, 3


def _make_map(name: str, sizes: dict[str, int]) -> int:
    types = _storage_types(sizes["value_bytes"]) if sizes["kind"] == _SK_STORAGE else (0, 0, 0)
    attribute = struct.pack("=IIIIIII16sIIII", *(sizes[each] for each in _SIZES), 0, 0, name[:15].encode(), 0, *types)
    try:
        return _bpf(_MAP_CREATE, attribute)
    except PermissionError:
        # Before Linux 5.11 maps count as locked memory. Where the limit may not be raised, the map is refused again.
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return _bpf(_MAP_CREATE, attribute)


class BccError(Exception):
    """What bcc says with a bare Exception."""


class _Descriptor:
    """A map or a function, as bcc's objects name theirs."""

    def __init__(self, descriptor: int) -> None:
        self.map_fd = self.fd = descriptor


class BPF:
    """A compiled source, its maps made."""

    CGROUP_SKB, CGROUP_SOCK = 8, 9

    def __init__(self, text: str, cflags: list[str] | None = None) -> None:
        compiled = PROGRAMS / f"{program_key(text, cflags or [])}.json"
        if not compiled.exists():
            raise BccError(f"not compiled outside: a source with the flags {cflags}")
        times = [int(flag.removeprefix(_LOADED_AT).rstrip("UL")) for flag in cflags or [] if flag.startswith(_LOADED_AT)]
        self._loaded_at = times[0] if times else None
        content: dict[str, Any] = json.loads(compiled.read_text())
        self._programs = content["programs"]
        self._maps: dict[str, _Descriptor] = {}
        for name, sizes in content["maps"].items():
            try:
                self._maps[name] = _Descriptor(_make_map(name, sizes))
            except OSError as error:
                os.write(2, f"could not open bpf map: {name}, error: {error.strerror}\n".encode())
                raise BccError("Failed to compile BPF module") from None

    def __getitem__(self, name: str) -> _Descriptor:
        return self._maps[name]

    def load_func(self, name: str, kind: int, attach_type: int = -1) -> _Descriptor:
        """Load a function; the verifier's words go to descriptor 2 where it does not load."""
        if name not in self._programs:
            raise BccError(f"Unknown program {name}")
        instructions = bytearray(base64.b64decode(self._programs[name]["instructions"]))
        for at, wanted in self._programs[name]["places"]:
            struct.pack_into("=i", instructions, at * 8 + 4, self._maps[wanted].map_fd)
        if self._loaded_at is not None:
            _put_time(instructions, self._loaded_at)
        kinds = (kind, attach_type)
        try:
            descriptor, said = _load(name, kinds, bytes(instructions), _LOG_STATS)
        except _RefusalError as refusal:
            said = refusal.said
            if refusal.errno == errno.EPERM:
                said = "bpf: Failed to load program: Operation not permitted\n"
            elif refusal.errno != errno.ENOMEM:
                said = f"{_path_to_refusal(name, kinds, bytes(instructions))}{said}"
            os.write(2, said.encode())
            _note(name, refused=f"{refusal.strerror}\n{said}")
            raise BccError(f"Failed to load BPF program {name}: {refusal.strerror}") from None
        walked = re.search(r"processed (\d+) insns", said)
        _note(name, walked=int(walked[1]) if walked else 0)
        return _Descriptor(descriptor)


def _note(program: str, **found: Any) -> None:
    with VERIFIER.open("a") as told:
        told.write(json.dumps({"program": program, **found}) + "\n")


def _put_time(instructions: bytearray, loaded_at: int) -> None:
    """Put a time where its placeholder is; compilers make `>=` of one a `>` of the number before."""
    for at in range(0, len(instructions) - 8, 8):
        if instructions[at] == _LOAD_64_BITS:
            low, high = struct.unpack_from("=I", instructions, at + 4)[0], struct.unpack_from("=I", instructions, at + 12)[0]
            apart = (high << 32 | low) - _PLACEHOLDER
            if abs(apart) <= 1:
                put = loaded_at + apart
                struct.pack_into("=I", instructions, at + 4, put & 0xFFFFFFFF)
                struct.pack_into("=I", instructions, at + 12, put >> 32)


class _RefusalError(OSError):
    """A refused program, with what the verifier said."""

    said = ""


def _path_to_refusal(name: str, kinds: tuple[int, int], instructions: bytes) -> str:
    """The end of the verifier's way to what it refuses; nothing where the way is too long to be told."""
    try:
        _load(name, kinds, instructions, _LOG_ALL)
    except _RefusalError as refusal:
        return refusal.said[-4000:] if refusal.errno != errno.ENOSPC else ""
    return ""


def _load(name: str, kinds: tuple[int, int], instructions: bytes, level: int) -> tuple[int, str]:
    kind, attach_type = kinds[0], max(kinds[1], 0)
    log_bytes = 1 << 16 if level == _LOG_STATS else 1 << 26
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(log_bytes)
    attribute = struct.pack(
        "=IIQQIIQII16sII",
        kind, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(licence), level, log_bytes,
        ctypes.addressof(log), 0, 0, name[:15].encode(), 0, attach_type,
    )  # fmt: skip
    try:
        return _bpf(_PROG_LOAD, attribute), log.value.decode(errors="replace")
    except OSError as error:
        refusal = _RefusalError(error.errno, error.strerror)
        refusal.said = log.value.decode(errors="replace")
        raise refusal from None
