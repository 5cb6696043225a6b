"""A program that is called with packets, held up before it runs: so what another processor does meanwhile comes in between."""

from __future__ import annotations

import mmap
import struct
from typing import Final, Self

from services.capture.live.tap import bpf_syscall
from services.runtime.host.programs import loading
from services.runtime.host.programs.file import CompiledMap, CompiledProgram, CompiledPrograms
from services.runtime.host.programs.telling import Constants

_ARRAY, _PROG_ARRAY, _MMAPABLE = 2, 3, 1 << 10
_CGROUP_SKB = 8
_CAME, _GO_ON, _WENT_ON = range(3)
"""Words that are shared with the program."""
_STEPS, _ROUNDS = 500, 200
"""A step takes some 25 ns: it goes on by itself after a few milliseconds, and looks after each round whether it is to."""
_CODE: Final = (
    (0xBF, 0x16, 0, 0),  # r6 = r1
    (0x18, 0x28, 0, 0),  # r8 = &words[0]
    (0x00, 0, 0, 0),
    (0x79, 0x80, 8 * _CAME, 0),  # r0 = r8[CAME]
    (0x55, 0x00, 11, 0),  # if r0 != 0: call
    (0x7A, 0x08, 8 * _CAME, 1),  # r8[CAME] = 1
    (0xB7, 0x09, 0, 0),  # r9 = 0
    (0x79, 0x80, 8 * _GO_ON, 0),  # round: r0 = r8[GO_ON]
    (0x55, 0x00, 6, 0),  # if r0 != 0: over
    (0xB7, 0x07, 0, 0),  # r7 = 0
    (0x85, 0, 0, 5),  # step: bpf_ktime_get_ns()
    (0x07, 0x07, 0, 1),  # r7 += 1
    (0xA5, 0x07, -3, _STEPS),  # if r7 < STEPS: step
    (0x07, 0x09, 0, 1),  # r9 += 1
    (0xA5, 0x09, -8, _ROUNDS),  # if r9 < ROUNDS: round
    (0x7A, 0x08, 8 * _WENT_ON, 1),  # over: r8[WENT_ON] = 1
    (0xBF, 0x61, 0, 0),  # call: r1 = r6
    (0x18, 0x12, 0, 0),  # r2 = &held
    (0x00, 0, 0, 0),
    (0xB7, 0x03, 0, 0),  # r3 = 0
    (0x85, 0, 0, 12),  # bpf_tail_call(r1, r2, r3)
    (0xB7, 0x00, 0, 1),  # return 1
    (0x95, 0, 0, 0),
)


class HeldProgram:
    """Stands in for a program where that is called, and calls it when it is told to or has waited for long."""

    def __init__(self, calls: int, place: int, program: int) -> None:
        """`program` is at this place of the map `calls`."""
        self._calls, self._place, self._program = calls, place.to_bytes(4, "little"), program.to_bytes(4, "little")
        maps = {
            "words": CompiledMap(_ARRAY, 4, mmap.PAGESIZE, 1, _MMAPABLE, (0, 0)),
            "held": CompiledMap(_PROG_ARRAY, 4, 4, 1, 0, (0, 0)),
        }
        code = b"".join(struct.pack("<BBhi", *each) for each in _CODE)
        waits = CompiledProgram(_CGROUP_SKB, 0, code, ((1, "words"), (17, "held")), b"", b"", (8, 16))
        self._loaded = loading.load(CompiledPrograms("", "", b"", maps, {"waits": waits}), Constants(), required=["waits"])
        self._words = memoryview(mmap.mmap(self._loaded.maps["words"], mmap.PAGESIZE)).cast("Q")
        bpf_syscall.update(self._loaded.maps["held"], bytes(4), self._program)

    def __enter__(self) -> Self:
        bpf_syscall.update(self._calls, self._place, self._loaded.programs["waits"].to_bytes(4, "little"))
        return self

    def __exit__(self, *_: object) -> None:
        bpf_syscall.update(self._calls, self._place, self._program)
        self._loaded.close()

    def hold(self) -> None:
        """The next packet that comes waits."""
        self._words[_CAME] = self._words[_WENT_ON] = self._words[_GO_ON] = 0

    def go_on(self) -> bool:
        """It waits no longer. Returns whether it did until now."""
        waited = bool(self._words[_CAME]) and not self._words[_WENT_ON]
        self._words[_GO_ON] = 1
        return waited

    @property
    def has_come(self) -> bool:
        """Whether it has come."""
        return bool(self._words[_CAME])
