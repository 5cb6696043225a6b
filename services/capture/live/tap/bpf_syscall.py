"""bpf(2) for what capture needs of it: link programs, read and write maps. No bcc, no libbpf: capture stays small.

Attribute layouts are `union bpf_attr` of the kernel's UAPI (include/uapi/linux/bpf.h). All calls raise OSError with the
kernel's errno.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.runtime.host.bpf_call import ATTRIBUTE_BYTES, SYSCALL_NUMBER, call, call_in_place, libc

MAP_CREATE: Final = 0
MAP_LOOKUP_ELEM: Final = 1
MAP_UPDATE_ELEM: Final = 2
MAP_DELETE_ELEM: Final = 3
MAP_LOOKUP_BATCH: Final = 24
MAP_DELETE_BATCH: Final = 27
LINK_CREATE: Final = 28

ANY: Final = 0
NOEXIST: Final = 1
"""Flags of `update`."""

CGROUP_INET_INGRESS: Final = 0
CGROUP_INET_EGRESS: Final = 1
CGROUP_INET_SOCK_CREATE: Final = 2
CGROUP_UDP4_SENDMSG: Final = 14
CGROUP_UDP6_SENDMSG: Final = 15
CGROUP_INET_SOCK_RELEASE: Final = 34


def _address(buffer: Any) -> int:
    return ctypes.addressof(buffer)


def link_create(program_fd: int, target_fd: int, attach_type: int) -> int:
    """Attach a program to a cgroup (kernel >= 5.7) and return the link's descriptor; closing it, or dying, detaches."""
    return call(LINK_CREATE, struct.pack("=IIII", program_fd, target_fd, attach_type, 0))


def lookup(map_fd: int, key: bytes, value_size: int) -> bytes | None:
    """Return a map entry's value, or None where the map has no such key."""
    key_buffer, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_size)
    try:
        call(MAP_LOOKUP_ELEM, struct.pack("=IIQQQ", map_fd, 0, _address(key_buffer), _address(value), 0))
    except FileNotFoundError:
        return None
    return value.raw


def counts(map_fd: int, entries: int, cpus: int, numbers: int = 1) -> npt.NDArray[np.uint64]:
    """Return the first so many entries of a per-CPU array, each `numbers` of 8 bytes (columns), summed up over the CPUs."""
    values = np.zeros((entries, cpus, numbers), np.uint64)
    key = ctypes.c_uint32()
    request = ctypes.create_string_buffer(struct.pack("=IIQQQ", map_fd, 0, _address(key), 0, 0), ATTRIBUTE_BYTES)
    value_at = ctypes.c_uint64.from_buffer(request, 16)
    for entry in range(entries):
        key.value, value_at.value = entry, values[entry].ctypes.data
        call_in_place(MAP_LOOKUP_ELEM, request)
    total: npt.NDArray[np.uint64] = values.sum(axis=1)
    return total


def update(map_fd: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    """Write a map entry. A queue or stack has no key: `key` is empty there and the value is pushed."""
    key_buffer, value_buffer = (
        ctypes.create_string_buffer(key, max(len(key), 1)),
        ctypes.create_string_buffer(value, len(value)),
    )
    address = _address(key_buffer) if key else 0
    call(MAP_UPDATE_ELEM, struct.pack("=IIQQQ", map_fd, 0, address, _address(value_buffer), flags))


def delete(map_fd: int, key: bytes) -> bool:
    """Remove a map entry; False where there was none."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        call(MAP_DELETE_ELEM, struct.pack("=IIQQQ", map_fd, 0, _address(key_buffer), 0, 0))
    except FileNotFoundError:
        return False
    return True


def push_all(map_fd: int, values: npt.NDArray[np.uint64]) -> None:
    """Push 8-byte values onto a queue or stack, in order. Raises OSError (E2BIG where it is full)."""
    number = SYSCALL_NUMBER[platform.machine()]
    values = np.ascontiguousarray(values)
    request = ctypes.create_string_buffer(struct.pack("=IIQQQ", map_fd, 0, 0, 0, ANY), ATTRIBUTE_BYTES)
    first = values.ctypes.data
    value_at = ctypes.c_uint64.from_buffer(request, 16)
    syscall = libc.syscall
    for address in range(first, first + values.nbytes, 8):
        value_at.value = address
        if syscall(number, MAP_UPDATE_ELEM, request, ATTRIBUTE_BYTES) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def delete_all(map_fd: int, keys: npt.NDArray[Any]) -> int:
    """Remove the entries of these keys, rows of the map's key size, with BPF_MAP_DELETE_BATCH (kernel >= 5.6).

    Keys that are not there are passed over. Returns how many were removed.
    """
    keys = np.ascontiguousarray(keys)
    number = SYSCALL_NUMBER[platform.machine()]
    position = removed = 0
    while position < len(keys):
        address = keys.ctypes.data + position * keys.itemsize
        request = ctypes.create_string_buffer(
            struct.pack("=QQQQIIQQ", 0, 0, address, 0, len(keys) - position, map_fd, 0, 0), ATTRIBUTE_BYTES
        )
        result = libc.syscall(number, MAP_DELETE_BATCH, request, ATTRIBUTE_BYTES)
        (done,) = struct.unpack_from("=I", request.raw, 32)
        removed += done
        if result >= 0:
            break
        if ctypes.get_errno() != errno.ENOENT:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        position += done + 1
    return removed


def read_hash(map_fd: int, key_dtype: npt.DTypeLike, value_dtype: npt.DTypeLike, max_entries: int) -> tuple[Any, Any]:
    """Read a whole hash map with BPF_MAP_LOOKUP_BATCH (kernel >= 5.6); returns its keys and values as arrays of one length."""
    keys, values = np.zeros(max_entries, key_dtype), np.zeros(max_entries, value_dtype)
    cursor = ctypes.create_string_buffer(4)
    number = SYSCALL_NUMBER[platform.machine()]
    read, position = 0, 0
    while read < max_entries:
        addresses = keys[read:].ctypes.data, values[read:].ctypes.data
        attribute = struct.pack("=QQQQIIQQ", position, _address(cursor), *addresses, max_entries - read, map_fd, 0, 0)
        request = ctypes.create_string_buffer(attribute, ATTRIBUTE_BYTES)
        result = libc.syscall(number, MAP_LOOKUP_BATCH, request, ATTRIBUTE_BYTES)
        read += struct.unpack_from("=I", request.raw, 32)[0]
        if result < 0:
            if ctypes.get_errno() == errno.ENOENT:
                break
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        position = _address(cursor)
    return keys[:read], values[:read]


class ProgramBarrier:
    """Waits for programs: after `wait`, none runs that had begun before.

    A change of a map of maps returns only then (the kernel promises it since 5.0): what membarrier(2) does not on machines with
    one CPU or with isolated ones.
    """

    def __init__(self) -> None:
        self._inner = _create_map(_ARRAY)
        try:
            self._outer = _create_map(_ARRAY_OF_MAPS, inner=self._inner)
        except OSError:
            os.close(self._inner)
            raise

    def wait(self) -> None:
        """Return when every program that runs now is done: milliseconds."""
        update(self._outer, bytes(4), struct.pack("=I", self._inner))

    def close(self) -> None:
        """Let go of the maps."""
        os.close(self._outer)
        os.close(self._inner)


_ARRAY: Final = 2
_ARRAY_OF_MAPS: Final = 12


def _create_map(kind: int, inner: int = 0) -> int:
    """Create a map of one entry with 4-byte key and value."""
    return call(MAP_CREATE, struct.pack("=IIIIII", kind, 4, 4, 1, 0, inner))
