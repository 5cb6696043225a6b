"""Loads the socket tap: what the package or this machine compiled it to, by bpf(2) alone, with what is configured put into it.

The fallback, where the kernel refuses what the package brings, is what this machine's bcc makes of the same source.
"""

from __future__ import annotations

import contextlib
import enum
import resource
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.capture.errors import CaptureError
from services.capture.live.tap import bpf_syscall
from services.runtime.host.programs import building, loading
from services.runtime.host.programs.building import SYSTEM_PYTHON, Found
from services.runtime.host.programs.errors import ProgramsError
from services.runtime.host.programs.loading import Loaded
from services.runtime.host.programs.telling import Constants

QUESTION_PROGRAMS: Final = {"ingress_questions": ("tap_ingress_question",), "egress_questions": ("tap_egress_question",)}
"""Which programs are called through which map, for flows whose questions have numbers."""

HANDSHAKE_PROGRAMS: Final = {
    "ingress_handshakes": ("tap_ingress_handshake",),
    "egress_handshakes": ("tap_egress_handshake",),
}
"""The same for handshakes of TLS."""

EXCHANGE_LOOKS: Final = ("request", "line", "headers", "cut", "response", "frames", "messages")
UNACCEPTED_PROGRAM: Final = "tap_ingress_unaccepted"
"""Frames of HTTP/2 that a listener is shown: of connections that have no socket yet."""
EXCHANGE_PROGRAMS: Final = (
    *(f"tap_{way}_{look}" for way in ("ingress", "egress") for look in EXCHANGE_LOOKS),
    UNACCEPTED_PROGRAM,
)
REQUIRED_PROGRAMS: Final = ("tap_ingress", "tap_egress", "tap_ingress_question", "tap_egress_question", "tap_nothing")
OTHER_PROGRAMS: Final = ("tap_release", "tap_sendmsg4", "tap_sendmsg6")
"""Which a kernel may refuse, as those of exchanges and handshakes."""
CREATE_PROGRAM: Final = "tap_create"
"""The same, where it is noted who closes sockets, or capture's own connections are left out."""

COARSE_CLOCK: Final = (5, 11)
"""Since this kernel there is bpf_ktime_get_coarse_ns."""
_KEY_ROOM: Final = 256
_LEAST_RING_BYTES: Final = 64 * 1024
"""A page, whatever pages the kernel has."""
_DNS_RING_BYTES: Final = 1 << 20
"""Some 5,000 messages of DNS between two looks."""


class Switch(enum.IntEnum):
    """`enum tap_switch` of bpf/tap/constants.h."""

    COARSE_CLOCK = 0
    EXCLUDE_LOOPBACK = 1
    ALLOW_NETWORKS = 2
    DENY_NETWORKS = 3
    ALLOW_PORTS = 4
    DENY_PORTS = 5
    TRANSPORTS = 6
    TRACE_CONTEXT = 7
    MEETING = 8
    PIECES_DNS = 9
    PIECES_TLS = 10
    PIECES_QUIC = 11
    CLOSERS = 12
    OWN = 13


class Value(enum.IntEnum):
    """`enum tap_value`."""

    TICK_NS = 0
    FIRST_NS = 1


@dataclass(frozen=True, slots=True)
class TapConstants:
    """What the socket tap is told when it is loaded."""

    slots: int
    switches: frozenset[Switch] = frozenset()
    tick_ns: int = 4_000_000
    first_ns: int = 2**64 - 1
    """From when on a datagram without a flow is the first of one."""

    def constants(self) -> Constants:
        """Return them for the loader: maps that nothing uses are as small as they can be."""
        switches = {*self.switches}
        if loading.kernel_version() >= COARSE_CLOCK:
            switches.add(Switch.COARSE_CLOCK)
        entries = {"slots": self.slots, "free_slots": self.slots, "flows_by_key": self.slots + _KEY_ROOM, "turns": self.slots}
        entries |= {"closers": self.slots if Switch.CLOSERS in switches else 1, "passing_frames": self.slots}
        if Switch.MEETING not in switches:
            entries |= {"turns": 1, "ended_turns": _LEAST_RING_BYTES}
        if Switch.TRACE_CONTEXT not in switches:
            entries |= {
                "ended_exchanges": _LEAST_RING_BYTES,
                "http2_frames": _LEAST_RING_BYTES,
                "http2_unaccepted": 1,
                "passing_frames": 1,
            }
        if Switch.OWN not in switches:
            entries |= {"own_connections": 1, "own_sent": 1}
        if not switches & {Switch.ALLOW_PORTS, Switch.DENY_PORTS}:
            entries |= {"port_rules": 1}
        if Switch.PIECES_TLS not in switches:
            entries |= {"open_handshakes": 1}
        if not switches & {Switch.PIECES_TLS, Switch.PIECES_QUIC}:
            entries |= {"pieces": _DNS_RING_BYTES if Switch.PIECES_DNS in switches else _LEAST_RING_BYTES}
        return Constants(switches, {Value.TICK_NS: self.tick_ns, Value.FIRST_NS: self.first_ns}, entries)

    def optional_programs(self) -> tuple[str, ...]:
        """Return the names of those that are loaded where the kernel takes them."""
        handshakes = tuple(name for names in HANDSHAKE_PROGRAMS.values() for name in names)
        return (
            *OTHER_PROGRAMS,
            *((CREATE_PROGRAM,) if self.switches & {Switch.CLOSERS, Switch.OWN} else ()),
            *(handshakes if Switch.PIECES_TLS in self.switches else ()),
            *(EXCHANGE_PROGRAMS if Switch.TRACE_CONTEXT in self.switches else ()),
        )


class TapLoadError(CaptureError):
    """The socket tap cannot be loaded. `reason` is a word for programs, `advice` says what to do."""

    def __init__(self, reason: str, detail: str, advice: str) -> None:
        self.reason = reason
        self.detail = detail
        self.advice = advice
        super().__init__(str(ProgramsError(reason, detail, advice)))


@dataclass(frozen=True, slots=True)
class LoadedTap(Loaded):
    """Programs and maps by name, as descriptors that are this process's own."""

    compiler: str = ""
    """Which compiler made them, and its version."""
    origin: str = ""
    """Whether the package brought them, this machine's cache had them, or they were compiled now (`building.Found`)."""
    refusal: str = ""
    """What the kernel said of those that the package brought, where these are in their place."""


def load_tap(constants: TapConstants, *, python: Path = SYSTEM_PYTHON, found: Found | None = None) -> LoadedTap:
    """Load bpf/tap/socket_tap.c. Blocks for a second or two, which the verifier takes; for more where it is compiled first.

    Raises TapLoadError.
    """
    raise_locked_memory_limit()
    try:
        found = found or building.find(python)
        try:
            return _load(found, constants)
        except ProgramsError as error:
            if error.reason != "load_failed" or found.origin != "package":
                raise
            return _load(_compiled_instead(error, python), constants, error.detail)
    except ProgramsError as error:
        raise TapLoadError(error.reason, error.detail, error.advice) from error


def connect_calls(loaded: LoadedTap, programs: Mapping[str, Sequence[str]]) -> None:
    """Have the programs that each map's name goes with be called through the map, by their place."""
    for calls, names in programs.items():
        for place, name in enumerate(names):
            bpf_syscall.update(loaded.maps[calls], place.to_bytes(4, "little"), loaded.programs[name].to_bytes(4, "little"))


def write_bits(loaded: LoadedTap, name: str, numbers: Collection[int]) -> None:
    """Set the bits of these numbers in a map of 64-bit words."""
    words: dict[int, int] = {}
    for number in numbers:
        words[number >> 6] = words.get(number >> 6, 0) | 1 << (number & 63)
    for place, word in words.items():
        bpf_syscall.update(loaded.maps[name], place.to_bytes(4, "little"), word.to_bytes(8, "little"))


def raise_locked_memory_limit() -> None:
    """Let maps be as large as they are: kernels before 5.11 hold them for locked memory of the user.

    Without CAP_SYS_RESOURCE it can be raised to the hard limit only; where that is too low, the loader says so.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for limit in (resource.RLIM_INFINITY, hard):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            return


def _load(found: Found, constants: TapConstants, refusal: str = "") -> LoadedTap:
    loaded = loading.load(
        found.programs, constants.constants(), required=REQUIRED_PROGRAMS, optional=constants.optional_programs()
    )
    return LoadedTap(
        loaded.programs, loaded.maps, loaded.program_descriptions, loaded.map_descriptions, loaded.refused,
        found.programs.compiler, found.origin, refusal,
    )  # fmt: skip


def _compiled_instead(error: ProgramsError, python: Path) -> Found:
    """Return what this machine compiles the source to. Raises the error that asked for it where it cannot."""
    try:
        return building.compile_here(python)
    except ProgramsError:
        raise error from None
