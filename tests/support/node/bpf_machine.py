"""A program for BPF run one instruction after the other, as far as the socket tap's common path needs it: counts, not times."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

SLOTS: Final = 1
"""The number of the map of slots."""

CONTEXT, SOCKET, PACKET, SLOT_AT, STORED, STACK, OTHER, MAPS = (number << 24 for number in range(1, 9))
U64: Final = 2**64 - 1
SIZES: Final = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}


def signed(value: int, bits: int) -> int:
    """A number of so many bits as one with a sign."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


OPERATIONS: Final[dict[int, Callable[[int, int, int], int]]] = {
    0x00: lambda a, b, _: a + b, 0x10: lambda a, b, _: a - b, 0x20: lambda a, b, _: a * b,
    0x30: lambda a, b, _: a // b if b else 0, 0x40: lambda a, b, _: a | b, 0x50: lambda a, b, _: a & b,
    0x60: lambda a, b, bits: a << (b & bits - 1), 0x70: lambda a, b, bits: a >> (b & bits - 1),
    0x80: lambda a, _, __: -a, 0x90: lambda a, b, _: a % b if b else a, 0xA0: lambda a, b, _: a ^ b,
    0xB0: lambda _, b, __: b, 0xC0: lambda a, b, bits: signed(a, bits) >> (b & bits - 1),
}  # fmt: skip
JUMPS: Final[dict[int, Callable[[int, int, int], bool]]] = {
    0x10: lambda a, b, _: a == b, 0x20: lambda a, b, _: a > b, 0x30: lambda a, b, _: a >= b, 0x40: lambda a, b, _: bool(a & b),
    0x50: lambda a, b, _: a != b, 0x60: lambda a, b, n: signed(a, n) > signed(b, n),
    0x70: lambda a, b, n: signed(a, n) >= signed(b, n), 0xA0: lambda a, b, _: a < b, 0xB0: lambda a, b, _: a <= b,
    0xC0: lambda a, b, n: signed(a, n) < signed(b, n), 0xD0: lambda a, b, n: signed(a, n) <= signed(b, n),
}  # fmt: skip


class Machine:
    """Runs a program over packets of one socket whose storage leads to `slot`, and counts. Maps are all zero but for it.

    Of `maps`, by which `telling.told` put numbers into the program, that of the slots is `SLOTS`.
    """

    def __init__(self, code: bytes, slot: bytes) -> None:
        self.code = list(struct.iter_unpack("<BBhi", code))
        self.memory = {base: bytearray(4096) for base in (CONTEXT, SOCKET, PACKET, SLOT_AT, STORED, STACK, OTHER)}
        self.memory[SLOT_AT][: len(slot)] = slot
        struct.pack_into("<Q", self.memory[STORED], 0, 1 << 32)
        self.now_ns = 10**12

    def _place(self, address: int) -> tuple[bytearray, int]:
        return self.memory[address & ~0xFFFFFF], address & 0xFFFFFF

    def load(self, address: int, size: int) -> int:
        """Read memory."""
        memory, at = self._place(address)
        return int.from_bytes(memory[at : at + size], "little")

    def store(self, address: int, size: int, value: int) -> None:
        """Write memory."""
        memory, at = self._place(address)
        memory[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def call(self, helper: int, registers: list[int]) -> int:
        """What the kernel's functions do for the program: no more than the common path asks for."""
        _, first, second, third, fourth, *_ = registers
        if helper in {5, 125, 160}:  # the clocks
            self.now_ns += 1000
            return self.now_ns
        if helper == 1:  # a look-up in a map: of slots, or of something that is all zero
            return SLOT_AT if first == MAPS + SLOTS else OTHER
        if helper == 26:  # bpf_skb_load_bytes
            for number in range(fourth):
                self.store(third + number, 1, self.load(PACKET + second + number, 1))
            return 0
        known = {95: first, 96: OTHER, 107: STORED, 8: 0}  # a full socket, TCP's of it, its storage, the processor's number
        if helper not in known:
            raise NotImplementedError(f"helper {helper}")
        return known[helper]

    def run(self, packet: bytes, transport: int) -> int:  # noqa: C901, PLR0912, PLR0915 - an instruction set, in one place
        """Return how many instructions a packet takes."""
        self.memory[PACKET][: len(packet)] = packet
        context = self.memory[CONTEXT]
        struct.pack_into("<I", context, 0, len(packet))
        struct.pack_into("<II", context, 76, PACKET, PACKET + len(packet))
        self.now_ns += 1000
        struct.pack_into("<Q", context, 152, self.now_ns)  # when it departs
        struct.pack_into("<Q", context, 168, SOCKET)
        struct.pack_into("<IIII", self.memory[SOCKET], 4, 2, 1, transport, 0)
        struct.pack_into(">H", self.memory[SOCKET], 48, 5000)
        registers, at, steps = [0] * 11, 0, 0
        registers[1], registers[10] = CONTEXT, STACK + 2048
        returns: list[tuple[int, list[int]]] = []
        while True:
            code, pair, offset, value = self.code[at]
            to, source, kind, operation = pair & 15, pair >> 4, code & 7, code & 0xF0
            at += 1
            steps += 1
            if kind in {4, 7}:  # arithmetic
                bits = 64 if kind == 7 else 32
                if operation == 0xD0:
                    size = value // 8
                    swapped = registers[to] & (1 << value) - 1
                    registers[to] = int.from_bytes(swapped.to_bytes(size, "little"), "big") if code & 8 else swapped
                    continue
                right = registers[source] if code & 8 else value
                mask = (1 << bits) - 1
                registers[to] = OPERATIONS[operation](registers[to] & mask, right & mask, bits) & mask
            elif code == 0x18:
                upper = self.code[at][3]
                at += 1
                registers[to] = MAPS + value if source else (value & 0xFFFFFFFF) | (upper & 0xFFFFFFFF) << 32
            elif kind == 1:
                registers[to] = self.load(registers[source] + offset & U64, SIZES[code & 0x18])
            elif code & 0xE7 == 0xC3:  # an atomic addition
                place = registers[to] + offset & U64
                size = SIZES[code & 0x18]
                self.store(place, size, self.load(place, size) + registers[source])
            elif kind in {2, 3}:
                self.store(registers[to] + offset & U64, SIZES[code & 0x18], registers[source] if kind == 3 else value)
            elif code == 0x85:
                if source == 1:
                    returns.append((at, registers[6:]))
                    at += value
                    registers[10] += 512
                else:
                    registers[0] = self.call(value, registers)
            elif code == 0x95:
                if not returns:
                    return steps
                at, registers[6:] = returns.pop()
            elif code == 0x05:
                at += offset
                steps -= 1
            else:
                bits = 64 if kind == 5 else 32
                mask = (1 << bits) - 1
                right = registers[source] if code & 8 else value
                at += offset if JUMPS[operation](registers[to] & mask, right & mask, bits) else 0
