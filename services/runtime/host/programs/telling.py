"""Puts what is only known when programs are loaded into their instructions (bpf/tap/constants.h).

A switch becomes a jump that is always or never taken; what is then reached by nothing is taken out, since the kernel refuses a
program that holds such. So what a program is not asked for costs it nothing, as if it had been compiled without.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.runtime.host.programs.file import CompiledProgram

Instructions = npt.NDArray[Any]

_INSTRUCTION: Final = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("value", "<u4")])
_JUMP, _JUMP_IF_EQUAL, _CALL, _EXIT, _LOAD_64_BITS = 0x05, 0x15, 0x85, 0x95, 0x18
_CLASS, _JUMPS = 0x07, (0x05, 0x06)
_FRAME: Final = 10
_SWITCH_MARK, _VALUE_MARK = 0x5753_0000, 0x5756_4C55


@dataclass(frozen=True, slots=True)
class Constants:
    """What programs are told: the switches that are on, values by number, and sizes of maps that are not as compiled.

    A switch that is not named is off, a value that is not named is 0.
    """

    switches: Collection[int] = ()
    values: Mapping[int, int] = field(default_factory=dict)
    max_entries: Mapping[str, int] = field(default_factory=dict)


def told(program: CompiledProgram, constants: Constants, maps: Mapping[str, int]) -> tuple[bytes, bytes]:
    """Return the program's instructions for these maps' descriptors, and the lines they were compiled from."""
    code = np.frombuffer(program.instructions, _INSTRUCTION).copy()
    for at, wanted in program.maps:
        code["value"][at] = maps[wanted]
    _put(code, constants)
    kept = _reached(code)
    place = np.cumsum(kept) - 1
    _lead(code, place)
    lines = np.frombuffer(program.lines, "<u4").reshape(-1, program.record_bytes[1] // 4)
    lines = lines[kept[lines[:, 0]]]
    lines[:, 0] = place[lines[:, 0]]
    return code[kept].tobytes(), lines.tobytes()


def _put(code: Instructions, constants: Constants) -> None:
    """Put switches and values in the place of their marks."""
    value = code["value"]
    marked = (code["code"] == _JUMP_IF_EQUAL) & (code["registers"] == _FRAME) & (value & 0xFFFF_0000 == _SWITCH_MARK)
    for at in np.flatnonzero(marked):
        # What is marked jumps where the switch is off. A jump to the next instruction is none: the kernel takes it out.
        off = int(value[at]) & 0xFFFF not in constants.switches
        code[at] = (_JUMP, 0, code["offset"][at] if off else 0, 0)
    upper = np.append(value[1:], np.uint32(0))
    for at in np.flatnonzero((code["code"] == _LOAD_64_BITS) & (code["registers"] >> 4 == 0) & (upper == _VALUE_MARK)):
        number = constants.values.get(int(value[at]), 0)
        value[at], value[at + 1] = number & 0xFFFF_FFFF, number >> 32


def _reached(code: Instructions) -> npt.NDArray[np.bool_]:
    """Return which instructions anything leads to."""
    codes, offsets = code["code"].tolist(), code["offset"].tolist()
    seen = bytearray(len(codes))
    branches = [0]
    while branches:
        at = branches.pop()
        while not seen[at]:
            seen[at] = 1
            kind = codes[at]
            if kind == _LOAD_64_BITS:
                seen[at + 1] = 1
                at += 2
            elif kind == _EXIT:
                break
            elif kind == _JUMP:
                at += 1 + offsets[at]
            else:
                if kind & _CLASS in _JUMPS and kind != _CALL:
                    branches.append(at + 1 + offsets[at])
                at += 1
    return np.frombuffer(seen, np.bool_)


def _lead(code: Instructions, place: npt.NDArray[np.intp]) -> None:
    """Have jumps lead where their targets come to be."""
    kind = code["code"]
    ats = np.flatnonzero(np.isin(kind & _CLASS, _JUMPS) & (kind != _CALL) & (kind != _EXIT) & ~_second_halves(kind))
    targets = ats + 1 + code["offset"][ats]
    code["offset"][ats] = place[targets] - place[ats] - 1


def _second_halves(kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return which are no instructions: what a load of 64 bits has behind it."""
    return np.append(False, kind[:-1] == _LOAD_64_BITS)
