"""bpf(2), the bare system call."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Any, Final

SYSCALL_NUMBER: Final = {"x86_64": 321, "aarch64": 280}
ATTRIBUTE_BYTES: Final = 128

libc: Any = ctypes.CDLL(None, use_errno=True)


def call_in_place(command: int, buffer: Any) -> int:
    """Make the system call with a buffer of ATTRIBUTE_BYTES, which the kernel may write to. Raises OSError."""
    number = SYSCALL_NUMBER.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) is not known here for {platform.machine()}")
    result: int = libc.syscall(number, command, buffer, ATTRIBUTE_BYTES)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def call(command: int, attribute: bytes) -> int:
    """Make the system call; return its result. `attribute` is padded with zeros: fields of newer kernels, left out."""
    return call_in_place(command, ctypes.create_string_buffer(attribute, ATTRIBUTE_BYTES))
