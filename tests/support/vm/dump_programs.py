"""Compiles the C on standard input with the system's bcc; run by the system's Python, which has bcc.

    BCC_KERNEL_SOURCE=<our headers> /usr/bin/python3 -I dump_programs.py [-D...]

Prints one line of JSON: maps by name, with their sizes, and functions by name, with their instructions (base64) and the
places in them where a map's descriptor belongs. Only the standard library and bcc are imported here.
"""

from __future__ import annotations

import base64
import ctypes
import json
import platform
import struct
import sys
from typing import Any

OBJ_GET_INFO_BY_FD = 15
SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
LOAD_64_BITS = 0x18
PSEUDO_MAP_FD = 1
INSTRUCTION_BYTES = 8


def describe_map(descriptor: int) -> dict[str, int]:
    """Return what it takes to make the map again, from `struct bpf_map_info`."""
    info = ctypes.create_string_buffer(88)
    attribute = ctypes.create_string_buffer(struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info)), 128)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(SYSCALL_NUMBERS[platform.machine()], OBJ_GET_INFO_BY_FD, attribute, 128) < 0:
        raise OSError(ctypes.get_errno(), "BPF_OBJ_GET_INFO_BY_FD")
    kind, _, key_bytes, value_bytes, entries, flags = struct.unpack_from("=IIIIII", info.raw)
    return {"kind": kind, "key_bytes": key_bytes, "value_bytes": value_bytes, "max_entries": entries, "flags": flags}


def places_of_maps(instructions: bytes, names: dict[int, str]) -> list[tuple[int, str]]:
    """Return (index of the instruction, name of the map whose descriptor it loads)."""
    found = []
    at = 0
    while at < len(instructions):
        code, registers, _, value = struct.unpack_from("=BBhi", instructions, at)
        if code == LOAD_64_BITS:
            if registers >> 4 == PSEUDO_MAP_FD:
                found.append((at // INSTRUCTION_BYTES, names[value]))
            at += INSTRUCTION_BYTES
        at += INSTRUCTION_BYTES
    return found


def dump(bcc: Any, text: str, flags: list[str]) -> dict[str, Any]:
    """Return the compiled source."""
    module = bcc.BPF(text=text, cflags=flags)
    for told in (bcc.lib.bpf_table_name, bcc.lib.bpf_function_name):
        told.restype = ctypes.c_char_p
    maps = {
        bcc.lib.bpf_table_name(module.module, number).decode(): bcc.lib.bpf_table_fd_id(module.module, number)
        for number in range(bcc.lib.bpf_num_tables(module.module))
    }
    names = {descriptor: name for name, descriptor in maps.items()}
    programs = {}
    for number in range(bcc.lib.bpf_num_functions(module.module)):
        name = bcc.lib.bpf_function_name(module.module, number).decode()
        instructions = module.dump_func(name)
        places = places_of_maps(instructions, names)
        programs[name] = {"instructions": base64.b64encode(instructions).decode(), "places": places}
    return {"maps": {name: describe_map(descriptor) for name, descriptor in maps.items()}, "programs": programs}


if __name__ == "__main__":
    import bcc

    json.dump(dump(bcc, sys.stdin.read(), sys.argv[1:]), sys.stdout)
