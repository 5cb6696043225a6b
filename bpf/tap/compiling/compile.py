"""Compiles programs by bcc into a file that bpf(2) alone can load; run by the system's Python, which has bcc.

    LD_PRELOAD=<record.c's library> BPF_RECORD=<fd> /usr/bin/python3 -I compile.py <source.c> <bpf/> <file>

What bcc would ask of the kernel is written down by record.c to the descriptor and put into the file. Nothing in it is this
machine's: no path, no time, and of the kernel only what the headers in bpf/include say. Its first line is JSON; instructions
and types are in the rest, one after another, and the JSON has where each begins and how long it is.

Prints nothing; or, where something fails, `{"error": <what>, "detail": <text>, "advice": <what to do>}`, and exits with 1. Only
the standard library and bcc are imported here.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

CGROUP_SKB, CGROUP_SOCK, CGROUP_SOCK_ADDR = 8, 9, 18
KINDS = {
    "tap_create": (CGROUP_SOCK, 2), "tap_release": (CGROUP_SOCK, 34),
    "tap_sendmsg4": (CGROUP_SOCK_ADDR, 14), "tap_sendmsg6": (CGROUP_SOCK_ADDR, 15),
}  # fmt: skip
"""Type and expected attach type of a program, as linux/bpf.h numbers them; of all others:"""
OTHER_KIND = (CGROUP_SKB, -1)
MAP_CREATE, PROG_LOAD, BTF_LOAD = 0, 5, 18
RECORD = struct.Struct("=II4I")
INSTRUCTION_BYTES = 8
LOAD_64_BITS, OF_MAP = 0x18, 1


FLAGS = ["-Werror=macro-redefined"]
"""All is one text, in which a name that two headers use means what the last one says."""
SOURCES = ("tap", "engine", "include")


def source_id(folder: Path) -> str:
    """Name everything that programs are compiled from, this file too; `folder` is bpf/, wherever it is."""
    digest = hashlib.sha256()
    for below in SOURCES:
        for path in sorted((folder / below).rglob("*")):
            if path.suffix in {".c", ".h"} or path.name == Path(__file__).name:
                digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


class CompileError(Exception):
    """What failed, the text that says more, and what to do."""

    def __init__(self, error: str, detail: str, advice: str) -> None:
        super().__init__(error)
        self.message = {"error": error, "detail": detail, "advice": advice}


def import_bcc(headers: str) -> Any:
    """Return the module; it reads where headers lie when it first compiles. Raises CompileError."""
    # bcc would read the machine's architecture; for that of all machines its programs are the same.
    os.environ.update(BCC_KERNEL_SOURCE=headers, ARCH="x86")
    try:
        import bcc  # noqa: PLC0415 - what it is missing for is told in words
    except ImportError as error:
        raise CompileError("bcc_missing", str(error), "apt-get install python3-bpfcc") from None
    except OSError as error:
        raise CompileError("bcc_broken", str(error), "apt-get install --reinstall python3-bpfcc libbpfcc") from None
    if not hasattr(bcc, "BPF"):
        raise CompileError("bcc_missing", f"{bcc.__file__} is another package of that name", "apt-get install python3-bpfcc")
    return bcc


class CapturedStderr:
    """What the compiler prints goes to descriptor 2: this collects it."""

    def __enter__(self) -> CapturedStderr:  # noqa: PYI034 - Self is newer than some system Pythons
        self.file = tempfile.TemporaryFile()
        self.saved = os.dup(2)
        os.dup2(self.file.fileno(), 2)
        return self

    def __exit__(self, *_: object) -> None:
        os.dup2(self.saved, 2)
        os.close(self.saved)

    def text(self) -> str:
        """Return the end of what was printed."""
        size = self.file.seek(0, os.SEEK_END)
        self.file.seek(max(0, size - 4000))
        return self.file.read().decode(errors="replace").strip()


def with_includes(source: Path, below: Path) -> str:
    """Return the text of `source` and of what it includes by quotes, as one: bcc rewrites the calls on maps only there.

    Files are named as if `below` were /bpf, wherever it is: the names are kept in the programs' line numbers.
    """
    name = f"/bpf/{os.path.relpath(source, below)}"
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate(source.read_text().splitlines(), start=1):
        included = re.fullmatch(r'#include "(.+)"', line)
        if included:
            lines += [with_includes((source.parent / included[1]).resolve(), below), f'#line {number + 1} "{name}"']
        else:
            lines.append(line)
    return "\n".join(lines)


def compile_source(bcc: Any, text: str) -> tuple[dict[int, str], list[str]]:
    """Have it compiled and written down; return the names of maps by descriptor, and of programs. Raises CompileError."""
    with CapturedStderr() as printed:
        try:
            module = bcc.BPF(text=text, cflags=FLAGS)
        except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower
            failed: Exception | None = error
        else:
            failed = None
    if failed is not None:
        raise CompileError("compile_failed", printed.text() or str(failed), "the message is the compiler's")
    for told in (bcc.lib.bpf_table_name, bcc.lib.bpf_function_name):
        told.restype = ctypes.c_char_p
    tables, functions = range(bcc.lib.bpf_num_tables(module.module)), range(bcc.lib.bpf_num_functions(module.module))
    maps = {bcc.lib.bpf_table_fd_id(module.module, at): bcc.lib.bpf_table_name(module.module, at).decode() for at in tables}
    programs = [bcc.lib.bpf_function_name(module.module, at).decode() for at in functions]
    for name in programs:
        kind, attach_type = KINDS.get(name, OTHER_KIND)
        module.load_func(name, kind, attach_type=attach_type)
    return maps, programs


def records(content: bytes) -> list[tuple[int, int, bytes, list[bytes]]]:
    """Return what was written down: command, descriptor, attribute, and what that points at."""
    found = []
    at = 0
    while at < len(content):
        command, descriptor, *lengths = RECORD.unpack_from(content, at)
        at += RECORD.size
        parts = []
        for length in lengths:
            parts.append(content[at : at + length])
            at += length
        found.append((command, descriptor, parts[0], parts[1:]))
    return found


def without_descriptors(instructions: bytes, maps: dict[int, str]) -> tuple[bytes, list[list[Any]]]:
    """Return the instructions without descriptors of maps, and which are where."""
    rest = bytearray(instructions)
    places = []
    at = 0
    while at < len(rest):
        code, registers, _, value = struct.unpack_from("=BBhi", rest, at)
        if code == LOAD_64_BITS:
            if registers >> 4 == OF_MAP:
                places.append([at // INSTRUCTION_BYTES, maps[value]])
                struct.pack_into("=i", rest, at + 4, 0)
            at += INSTRUCTION_BYTES
        at += INSTRUCTION_BYTES
    return bytes(rest), places


def built(identity: str, compiler: str, content: bytes, maps: dict[int, str], programs: list[str]) -> bytes:
    """Return the file's content, of what was written down."""
    blobs = bytearray()

    def placed(blob: bytes) -> list[int]:
        blobs.extend(blob)
        return [len(blobs) - len(blob), len(blob)]

    types, told_maps, told_programs = [0, 0], {}, {}
    names = iter(programs)
    for command, descriptor, attribute, parts in records(content):
        if command == BTF_LOAD and parts[0]:
            types = placed(parts[0])
        elif command == MAP_CREATE and descriptor in maps:
            kind, key_bytes, value_bytes, entries, flags = struct.unpack_from("=5I", attribute)
            told_maps[maps[descriptor]] = {
                "kind": kind, "key_bytes": key_bytes, "value_bytes": value_bytes, "max_entries": entries, "flags": flags,
                "types": list(struct.unpack_from("=II", attribute, 52)),
            }  # fmt: skip
        elif command == PROG_LOAD and struct.unpack_from("=I", attribute, 72)[0]:
            kind, _ = struct.unpack_from("=II", attribute)
            instructions, places = without_descriptors(parts[0], maps)
            told_programs[next(names)] = {
                "kind": kind, "attach_type": struct.unpack_from("=I", attribute, 68)[0], "maps": places,
                "instructions": placed(instructions), "functions": placed(parts[1]), "lines": placed(parts[2]),
                "record_bytes": [struct.unpack_from("=I", attribute, at)[0] for at in (76, 92)],
            }  # fmt: skip
    head = {"id": identity, "compiler": compiler, "types": types, "maps": told_maps, "programs": told_programs}
    return json.dumps(head, sort_keys=True, separators=(",", ":")).encode() + b"\n" + bytes(blobs)


def main(source: str, headers: str, target: str) -> int:
    """Compile what the arguments say. Returns the exit status."""
    try:
        bcc = import_bcc(headers)
        maps, programs = compile_source(bcc, with_includes(Path(source).resolve(), Path(headers).resolve()))
    except CompileError as error:
        sys.stdout.write(json.dumps(error.message))
        sys.stdout.flush()
        os._exit(1)
    with os.fdopen(int(os.environ["BPF_RECORD"]), "rb") as written:
        written.seek(0)
        content = built(source_id(Path(headers)), f"bcc {bcc.__version__}", written.read(), maps, programs)
    descriptor, fresh = tempfile.mkstemp(dir=Path(target).parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644)  # a package's is for everybody
    Path(fresh).replace(target)
    os._exit(0)  # bcc would close descriptors that nobody has


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
