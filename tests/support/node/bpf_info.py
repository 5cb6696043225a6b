"""bpf(2) for what only tests and benchmarks ask the kernel: its figures of a program, and the keys of hash maps."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.capture.live.tap import bpf_syscall

VERIFIER_BOUND = 500_000
"""Instructions that the verifier may walk in a program of ours: half of what kernels since 5.2 allow anybody with CAP_BPF
(BPF_COMPLEXITY_LIMIT_INSNS, 1,000,000). How many it walks is up to each kernel (docs/performance.md), so the other half is for
kernels that are not tested. A tighter bound would hold features back, which no kernel asks for."""

_MAP_GET_NEXT_KEY = 4
_PROG_GET_FD_BY_ID = 13
_OBJ_GET_INFO_BY_FD = 15


@dataclass(frozen=True, slots=True)
class ProgramStatistics:
    """What the kernel counts of a program while kernel.bpf_stats_enabled is 1."""

    run_time_ns: int
    run_count: int
    verified_instructions: int
    """Instructions the verifier went through (kernel >= 5.16, else 0)."""


def program_id(program_fd: int) -> int:
    """Return the number that the kernel knows the program by, as bpftool shows it."""
    info = ctypes.create_string_buffer(8)
    bpf_syscall.call(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program_fd, len(info), ctypes.addressof(info)))
    return int.from_bytes(info.raw[4:], sys.byteorder)


def program_exists(program: int) -> bool:
    """Whether the kernel has a program of this number. Raises OSError where it may not be asked."""
    try:
        os.close(bpf_syscall.call(_PROG_GET_FD_BY_ID, struct.pack("=I", program)))
    except FileNotFoundError:
        return False
    return True


def program_statistics(program_fd: int) -> ProgramStatistics:
    """Read `struct bpf_prog_info` of a program."""
    info = ctypes.create_string_buffer(232)
    bpf_syscall.call(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program_fd, len(info), ctypes.addressof(info)))
    run_time_ns, run_count = struct.unpack_from("=QQ", info.raw, 192)
    (verified,) = struct.unpack_from("=I", info.raw, 216)
    return ProgramStatistics(run_time_ns, run_count, verified)


def keys_of_map(map_fd: int, key_dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return every key of a hash map, which nobody may change meanwhile."""
    size = np.dtype(key_dtype).itemsize
    found: list[bytes] = []
    following = ctypes.create_string_buffer(size)
    while True:
        last = ctypes.create_string_buffer(found[-1], size) if found else None
        address = ctypes.addressof(last) if last else 0
        try:
            bpf_syscall.call(_MAP_GET_NEXT_KEY, struct.pack("=IIQQQ", map_fd, 0, address, ctypes.addressof(following), 0))
        except FileNotFoundError:
            return np.frombuffer(b"".join(found), key_dtype)
        found.append(following.raw)
