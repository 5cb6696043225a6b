"""The socket tap is compiled once for everybody: to the same bytes wherever it is, and told what differs when it is loaded."""

from __future__ import annotations

import enum
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import bpf
from services.capture.live.tap.loader import (
    CREATE_PROGRAM,
    EXCHANGE_PROGRAMS,
    HANDSHAKE_PROGRAMS,
    OTHER_PROGRAMS,
    REQUIRED_PROGRAMS,
    Switch,
    Value,
)
from services.runtime.host.programs import building
from services.runtime.host.programs.building import SYSTEM_PYTHON
from services.runtime.host.programs.file import CompiledProgram
from services.runtime.host.programs.telling import Constants, told

SWITCH_MARK, VALUE_MARK = 0x5753_0000, 0x5756_4C55
RETURN = struct.pack("<BBhi", 0x95, 0, 0, 0)

needs_bcc = pytest.mark.skipif(
    subprocess.run([SYSTEM_PYTHON, "-Ic", "from bcc import BPF"], check=False, capture_output=True).returncode != 0,
    reason="the system's Python has no bcc (apt-get install python3-bpfcc)",
)


def instruction(code: int, registers: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """One instruction of BPF."""
    return struct.pack("<BBhi", code, registers, offset, value)


def program(*instructions: bytes, maps: tuple[tuple[int, str], ...] = ()) -> CompiledProgram:
    """A compiled program, each of whose instructions is of a line of its own."""
    code = b"".join(instructions)
    lines = b"".join(struct.pack("<IIII", at, 1, 1, at << 10) for at in range(len(code) // 8))
    return CompiledProgram(8, 0, code, maps, b"", lines, (8, 16))


@pytest.mark.parametrize(("mirror", "name"), [(Switch, "tap_switch"), (Value, "tap_value")])
def test_what_it_is_told_has_the_same_numbers_in_c(mirror: type[enum.IntEnum], name: str) -> None:
    """`enum tap_switch` and `enum tap_value` are mirrored, in their order."""
    text = (bpf.SOURCE_DIRECTORY / "tap" / "constants.h").read_text()
    found = re.search(rf"enum {name} \{{(.*?)\}};", text, re.DOTALL)
    assert found
    assert re.findall(r"^ *TAP_(\w+),", found[1], re.MULTILINE) == [each.name for each in mirror]
    assert [each.value for each in mirror] == list(range(len(mirror)))


@needs_bcc
def test_it_is_compiled_to_the_same_bytes_anywhere(tmp_path: Path) -> None:
    """From a copy of the sources elsewhere, at another time, for nobody in particular: byte for byte, with no path of here."""
    elsewhere = tmp_path / "another" / "place"
    for folder in ("tap", "engine", "include"):
        shutil.copytree(bpf.SOURCE_DIRECTORY / folder, elsewhere / folder)
    again = tmp_path / "again.bpf"
    building.compile_source(elsewhere / "tap" / "socket_tap.c", again, below=elsewhere)
    assert again.read_bytes() == building.path().read_bytes()
    assert str(tmp_path).encode() not in again.read_bytes()


def test_of_many_who_need_it_one_compiles(tmp_path: Path) -> None:
    """Processes that find nothing compiled, all at once: one compiles, the others wait and have that. The oldest goes."""
    cached = tmp_path / "cache" / "wirespan"
    cached.mkdir(parents=True)
    for age in range(1, 9):
        (cached / f"tap-{age}.bpf").touch()
        os.utime(cached / f"tap-{age}.bpf", (age, age))
    python = tmp_path / "python"
    compiled = tmp_path / "compiled"
    head = json.dumps({"id": building.source_id(), "compiler": "none", "types": [0, 0], "maps": {}, "programs": {}})
    # In the compiler's place: its last argument is the file that it makes.
    python.write_text(f"#!/bin/sh\necho one >> {compiled}\nfor file; do :; done\necho '{head}' > $file\n")
    python.chmod(0o755)
    script = (
        f"from pathlib import Path\nfrom services.runtime.host.programs import building\n"
        f"print(building.compile_here(Path({str(python)!r})).programs.compiler)\n"
    )
    command, environ = [sys.executable, "-c", script], os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    asking = [subprocess.Popen(command, cwd=bpf.SOURCE_DIRECTORY.parent, env=environ, stdout=subprocess.PIPE) for _ in range(4)]
    assert [each.communicate()[0] for each in asking] == [b"none\n"] * 4
    assert compiled.read_text() == "one\n"
    left = {file.name for file in cached.glob("*.bpf")}
    assert left == {*(f"tap-{age}.bpf" for age in range(2, 9)), f"tap-{building.source_id()[:32]}.bpf"}


def test_what_others_could_have_put_there_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the cache a file is taken that its owner alone writes, and no link."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bpf, "PROGRAMS", tmp_path / "none")
    head = json.dumps({"id": building.source_id(), "compiler": "none", "types": [0, 0], "maps": {}, "programs": {}})
    kept = tmp_path / "wirespan" / f"tap-{building.source_id()[:32]}.bpf"
    kept.parent.mkdir()
    kept.write_text(f"{head}\n")
    kept.chmod(0o644)
    found = building.built()
    assert found is not None
    assert found.origin == "cache"
    kept.chmod(0o666)
    assert building.built() is None
    kept.chmod(0o644)
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    assert building.built() is None


@needs_bcc
def test_it_holds_every_program_that_is_loaded() -> None:
    """Those that a tap cannot do without, and those that a kernel may refuse."""
    handshakes = {name for names in HANDSHAKE_PROGRAMS.values() for name in names}
    assert building.find().programs.programs.keys() == {
        *REQUIRED_PROGRAMS, *OTHER_PROGRAMS, CREATE_PROGRAM, *EXCHANGE_PROGRAMS, *handshakes,
    }  # fmt: skip


@pytest.mark.parametrize(("switches", "kept"), [((), [0, 1, 4, 5, 6, 7]), ((3,), [0, 1, 2, 3, 5, 6, 7])])
def test_what_a_switch_leaves_out_is_taken_out(switches: tuple[int, ...], kept: list[int]) -> None:
    """Jumps lead where they led, lines stay with their instructions, and numbers of 64 bits stay whole."""
    compiled = program(
        instruction(0x15, 1, 4, 0),  # another comparison, of a register, over all of it
        instruction(0x15, 10, 2, SWITCH_MARK | 3),
        instruction(0xB7, 0, 0, 1),
        RETURN,
        instruction(0xB7, 0, 0, 2),
        instruction(0x18, 2, 0, 0x05),
        instruction(0x05, 0, 0, 0),  # the number's second half, which looks like a jump
        RETURN,
    )
    code, lines = told(compiled, Constants(switches), {})
    expected = [bytearray(compiled.instructions[at * 8 : at * 8 + 8]) for at in kept]
    expected[0][2] = 4 - (8 - len(kept))
    expected[1] = bytearray(instruction(0x05, 0, 0, 0))
    assert code == b"".join(expected)
    assert [struct.unpack_from("<I", lines, at + 12)[0] >> 10 for at in range(0, len(lines), 16)] == kept
    assert [struct.unpack_from("<I", lines, at)[0] for at in range(0, len(lines), 16)] == list(range(len(kept)))


def test_values_and_maps_are_put_in() -> None:
    """A value in the place of its mark, a descriptor where its map belongs; numbers that are neither stay as they are."""
    compiled = program(
        instruction(0x18, 1, 0, 1), instruction(0, 0, 0, VALUE_MARK),
        instruction(0x18, 2, 0, 1), instruction(0, 0, 0, 7),
        instruction(0x18, 0x11, 0, 0), instruction(0),
        RETURN, maps=((4, "slots"),),
    )  # fmt: skip
    code, _ = told(compiled, Constants(values={1: 0x1122_3344_5566_7788}), {"slots": 9})
    assert struct.unpack_from("<I", code, 4)[0] == 0x5566_7788
    assert struct.unpack_from("<I", code, 12)[0] == 0x1122_3344
    assert struct.unpack_from("<I", code, 28)[0] == 7
    assert struct.unpack_from("<I", code, 36)[0] == 9
