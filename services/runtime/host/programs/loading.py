"""Makes the maps of compiled programs and loads them, by bpf(2) alone."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import resource
import struct
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.runtime.host import bpf_call
from services.runtime.host.programs.errors import ProgramsError
from services.runtime.host.programs.file import CompiledMap, CompiledProgram, CompiledPrograms
from services.runtime.host.programs.telling import Constants, told

MEMORY_CGROUP_ACCOUNTING: Final = (5, 11)
_MAP_CREATE, _PROG_LOAD, _OBJ_GET_INFO_BY_FD, _BTF_LOAD = 0, 5, 15, 18
_CAPABILITY_BITS: Final = {"NET_ADMIN": 12, "SYS_ADMIN": 21, "PERFMON": 38, "BPF": 39}
_CAPABILITIES: Final = "needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (or CAP_SYS_ADMIN, where the container runtime is older)"
_LOCKED_MEMORY: Final = (
    "Linux before 5.11 counts maps as locked memory: ulimit -l unlimited, LimitMEMLOCK=infinity, or CAP_SYS_RESOURCE"
)
_LOG_STATS, _LOG_ALL = 4, 1
_LOG_BYTES, _LONG_LOG_BYTES = 1 << 16, 1 << 24
_TOLD: Final = 4000
_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class ProgramDescription:
    """A loaded program's size."""

    instructions: int
    """After the verifier's rewriting."""
    jited_bytes: int
    verified_instructions: int
    """What the verifier went through."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Programs and maps by name, as descriptors; `close` closes them. `refused`: what the verifier said of those it refused."""

    programs: Mapping[str, int]
    maps: Mapping[str, int]
    program_descriptions: Mapping[str, ProgramDescription]
    map_descriptions: Mapping[str, CompiledMap]
    refused: Mapping[str, str]

    def close(self) -> None:
        """Close every descriptor; attached programs live as long as their links."""
        for descriptor in (*self.programs.values(), *self.maps.values()):
            os.close(descriptor)


def kernel_version() -> tuple[int, ...]:
    """Return major and minor of the kernel's release."""
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def load(
    compiled: CompiledPrograms, constants: Constants, *, required: Collection[str], optional: Collection[str] = ()
) -> Loaded:
    """Make all maps, and load these programs; of the optional ones, those that the kernel takes. Raises ProgramsError."""
    with ExitStack() as stack:
        types = _load_types(compiled.types)
        if types:
            stack.callback(os.close, types)
        descriptions = {
            name: _sized(each, constants.max_entries.get(name, each.max_entries)) for name, each in compiled.maps.items()
        }
        made = stack.enter_context(ExitStack())
        maps = {}
        for name, each in descriptions.items():
            maps[name] = _make_map(name, each, types)
            made.callback(os.close, maps[name])
        programs, found, refused = {}, {}, {}
        names = (*required, *optional)
        # The kernel verifies side by side, and Python waits for it without its lock.
        with ThreadPoolExecutor(_AT_ONCE) as verifying:
            answers = verifying.map(lambda name: _try(name, compiled.programs[name], constants, maps, types), names)
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, _RefusalError):
                refused[name] = answer
            else:
                programs[name] = answer[0]
                made.callback(os.close, answer[0])
                found[name] = _describe(*answer)
        for name, refusal in refused.items():
            if name in required or refusal.errno == errno.EPERM:
                raise refusal.in_words(name)
        made.pop_all()
    return Loaded(programs, maps, found, descriptions, {name: refusal.said for name, refusal in refused.items()})


def has_capabilities() -> bool:
    """Return whether this process has what loading needs. The kernel's own answer is as often EINVAL as EPERM."""
    status = Path("/proc/self/status").read_text()
    effective = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    held = {name for name, bit in _CAPABILITY_BITS.items() if effective >> bit & 1}
    return "SYS_ADMIN" in held or held >= {"BPF", "PERFMON", "NET_ADMIN"}


def _refusal(code: int | None, detail: str) -> ProgramsError | None:
    """Return what the kernel's refusal of a map or a program comes from; None where it was no matter of permission."""
    if not has_capabilities():
        return ProgramsError("not_permitted", detail, _CAPABILITIES)
    if code != errno.EPERM:
        return None
    limited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY
    if limited and kernel_version() < MEMORY_CGROUP_ACCOUNTING:
        return ProgramsError("locked_memory_limit", detail, _LOCKED_MEMORY)
    return ProgramsError("not_permitted", detail, _CAPABILITIES)


def _sized(each: CompiledMap, max_entries: int) -> CompiledMap:
    return CompiledMap(each.kind, each.key_bytes, each.value_bytes, max_entries, each.flags, each.types)


def _load_types(types: bytes) -> int:
    """Return the descriptor of the types of maps and programs. 0 where the kernel takes none: it may do without."""
    content = ctypes.create_string_buffer(types, len(types))
    try:
        return bpf_call.call(_BTF_LOAD, struct.pack("=QQII", ctypes.addressof(content), 0, len(types), 0))
    except OSError:
        return 0


def _make_map(name: str, each: CompiledMap, types: int) -> int:
    typed = (types, *each.types) if types and any(each.types) else (0, 0, 0)
    sizes = (each.kind, each.key_bytes, each.value_bytes, each.max_entries, each.flags)
    try:
        return bpf_call.call(_MAP_CREATE, struct.pack("=IIIIIII16sIIII", *sizes, 0, 0, name[:15].encode(), 0, *typed))
    except OSError as error:
        detail = f"map {name}: {error.strerror}"
        size = ProgramsError("map_refused", detail, "it may be too large for this machine's memory, or the kernel too old")
        raise _refusal(error.errno, detail) or size from None


class _RefusalError(OSError):
    """A refused program, with what the verifier said."""

    said = ""

    def in_words(self, name: str) -> ProgramsError:
        detail = f"{name}: {self.strerror}\n{self.said}".strip()
        verifier = ProgramsError("load_failed", detail, "the message is the kernel's verifier's; it needs Linux 5.10")
        return _refusal(self.errno, detail) or verifier


def _try(
    name: str, program: CompiledProgram, constants: Constants, maps: Mapping[str, int], types: int
) -> tuple[int, int] | _RefusalError:
    try:
        return _load_program(name, program, constants, maps, types)
    except _RefusalError as refusal:
        return refusal


def _load_program(
    name: str, program: CompiledProgram, constants: Constants, maps: Mapping[str, int], types: int
) -> tuple[int, int]:
    """Return the program's descriptor and how many instructions the verifier walked. Raises _RefusalError."""
    code, lines = told(program, constants, maps)
    try:
        descriptor, said = _ask(name, program, (code, lines), types, (_LOG_STATS, _LOG_BYTES))
    except _RefusalError as refusal:
        if refusal.errno not in {errno.EPERM, errno.ENOMEM}:
            try:
                descriptor, _ = _ask(name, program, (code, lines), types, (_LOG_ALL, _LONG_LOG_BYTES))
            except _RefusalError as again:
                if again.errno == refusal.errno:
                    refusal.said = again.said
            else:
                os.close(descriptor)
        raise refusal from None
    walked = re.search(r"processed (\d+) insns", said)
    return descriptor, int(walked[1]) if walked else 0


def _ask(
    name: str, program: CompiledProgram, told_now: tuple[bytes, bytes], types: int, log: tuple[int, int]
) -> tuple[int, str]:
    (code, lines), (level, log_bytes) = told_now, log
    buffers = [
        ctypes.create_string_buffer(content, max(len(content), 1)) for content in (code, b"GPL\0", program.functions, lines)
    ]
    addresses = [ctypes.addressof(buffer) for buffer in buffers]
    said = ctypes.create_string_buffer(log_bytes)
    attribute = struct.pack(
        "=IIQQIIQII16sIIIIQIIQII",
        program.kind, len(code) // 8, addresses[0], addresses[1], level, log_bytes, ctypes.addressof(said), 0, 0,
        name[:15].encode(), 0, program.attach_type,
        *((types, program.record_bytes[0], addresses[2], len(program.functions) // program.record_bytes[0],
           program.record_bytes[1], addresses[3], len(lines) // program.record_bytes[1])
          if types and all(program.record_bytes) else (0,) * 7), 0,
    )  # fmt: skip
    try:
        return bpf_call.call(_PROG_LOAD, attribute), said.value.decode(errors="replace")
    except OSError as error:
        refusal = _RefusalError(error.errno, error.strerror)
        refusal.said = said.value.decode(errors="replace")[-_TOLD:]
        raise refusal from None


def _describe(descriptor: int, walked: int) -> ProgramDescription:
    info = ctypes.create_string_buffer(232)
    bpf_call.call(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info)))
    _, _, jited_bytes, translated_bytes = struct.unpack_from("=II8xII", info.raw)
    return ProgramDescription(translated_bytes // 8, jited_bytes, walked)
