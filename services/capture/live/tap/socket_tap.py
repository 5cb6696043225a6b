"""The node's live flows: bpf/tap/socket_tap.c attached, its slots as numpy sees them.

The programs fill slots; this side says which flows end and gives slots back. The kernel detaches the programs when this process
ends, however it ends, because their links are descriptors of this process.

The slots are mapped a window at a time, so that they are hardly any of this process's memory. The kernel allocates, and a
memory limit counts, all of them from the beginning: 512 bytes a slot, and about 120 more for its key.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from services.capture.errors import CaptureError
from services.capture.flows.datagrams import DatagramRules
from services.capture.flows.layout import Slots, State
from services.capture.live.owners.cgroups import find_root
from services.capture.live.tap import bpf_syscall
from services.capture.live.tap.closers import TapClosers
from services.capture.live.tap.exchanges import PROGRAMS, TapExchanges
from services.capture.live.tap.loader import (
    CREATE_PROGRAM,
    HANDSHAKE_PROGRAMS,
    QUESTION_PROGRAMS,
    LoadedTap,
    Switch,
    TapConstants,
    TapLoadError,
    connect_calls,
    load_tap,
    write_bits,
)
from services.capture.live.tap.pieces import TapPieces
from services.capture.live.tap.slot_layout import FLOW_KEY, SLOT, SLOT_COUNTS, SLOT_OF_FLOW, TapCounter, keys_of
from services.capture.live.tap.slot_windows import SlotWindows
from services.capture.live.tap.turns import TapTurns
from services.capture.live_options import DEFAULT_CAPACITY, TapRules
from services.capture.names.pieces import PieceKind

_FIRST_GENERATION: Final = 1
_GENERATION_SHIFT: Final = np.uint64(32)
"""Below it a reference, which is a flow's id, has the slot (SLOT_OF_FLOW)."""
_CREATOR_BYTES: Final = 24
_CREATOR_PROCESS: Final = slice(16, 20)
"""`struct creator` of bpf/tap/socket.h."""
_OWN_SOCKET: Final = b"\xff" * 8
"""OWN_SOCKET, likewise."""
_ALLOWED, _DENIED = 1, 2
_CLOCK_MONOTONIC_COARSE: Final = 6
"""Linux's number; the time module does not have it."""

Indexes = npt.NDArray[np.uint32]


class SocketTap(AbstractContextManager["SocketTap"]):
    """Every packet of every socket of the node, as a FlowHost. Times in the slots are CLOCK_MONOTONIC nanoseconds.

    Loads and attaches when entered. Raises TapLoadError where the programs cannot be loaded or attached, NoCgroup2Error where
    there is nothing to attach to, ValueError for rules that are no networks or ports. Not for two threads at once.
    """

    def __init__(
        self,
        *,
        capacity: int = DEFAULT_CAPACITY,
        cgroup_root: Path | None = None,
        rules: TapRules | None = None,
        trace_context: bool = False,
        datagrams: DatagramRules | None = None,
        pieces: Sequence[PieceKind] = (),
        meeting: bool = False,
        closers: bool = False,
        leave_out_own: bool = False,
    ) -> None:
        """`leave_out_own`: keep no flow, at either end, of the TCP connections that this process makes."""
        self.capacity: int = capacity
        """Number of slots."""
        self._leave_out_own = leave_out_own
        self._cgroup_root = cgroup_root
        self._rules = rules or TapRules()
        self._trace_context = trace_context
        self._datagrams = datagrams or DatagramRules()
        self._kinds = tuple(pieces)
        self._meeting = meeting
        self._with_closers = closers
        self.exchanges: TapExchanges | None = None
        """Exchanges of application traces; None where they are not asked for or this kernel does not take their program."""
        self.pieces: TapPieces | None = None
        """Pieces of payload; None where none are asked for."""
        self.turns: TapTurns | None = None
        """The exchanges of all connections; None where they are not asked for."""
        self.closers: TapClosers | None = None
        """Who closed sockets; None where nobody asks."""
        self.makers_unseen = ""
        """Why the program that sees who makes sockets could not be attached: own connections that are made later are told then,
        and names are missing.
        """
        self._stack = ExitStack()
        self._links: list[int] = []
        self._released = 0
        self._returned = 0
        self._lowest = capacity
        self._retired = np.zeros(capacity, np.bool_)

    def __enter__(self) -> Self:
        with self._stack:
            self._loaded = load_tap(self.constants(tick_ns()))
            self._stack.callback(self._loaded.close)
            self._check_layout()
            self._barrier = bpf_syscall.ProgramBarrier()
            self._stack.callback(self._barrier.close)
            self._maps = self._loaded.maps
            counts = mmap.mmap(self._maps["slot_counts"], mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
            self._counts: npt.NDArray[Any] = np.frombuffer(counts, SLOT_COUNTS, 1)
            self._windows = SlotWindows(self._maps["slots"], self.capacity)
            self._stack.callback(self._windows.close)
            self._write_rules()
            self._push(np.arange(self.capacity, dtype=np.uint32)[::-1], np.uint64(_FIRST_GENERATION))
            connect_calls(self._loaded, QUESTION_PROGRAMS)
            if self._loaded.programs.keys() >= set(chain(*HANDSHAKE_PROGRAMS.values())):
                connect_calls(self._loaded, HANDSHAKE_PROGRAMS)
            if self._trace_context and self._loaded.programs.keys() >= set(chain(*PROGRAMS.values())):
                self.exchanges = TapExchanges(self._loaded, self.rows, _possible_cpus())
                self._stack.callback(self.exchanges.close)
            if self._kinds:
                self.pieces = TapPieces(self._loaded, _possible_cpus())
                self._stack.callback(self.pieces.close)
            if self._meeting:
                self.turns = TapTurns(self._loaded, self.capacity, _possible_cpus())
                self._stack.callback(self.turns.close)
            if self._with_closers:
                self.closers = TapClosers(self._loaded, self.capacity)
                self._stack.callback(self.closers.close)
            # Last: a connection whose handshake is seen is taken to have been looked at from its first payload on.
            self._attach()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach and let go of everything; slots and counters are not to be read any more. May be called again."""
        self.detach()
        self._stack.close()

    def detach(self) -> None:
        """Take the programs off and wait until the last one is done: slots and counters stay as they are from here on."""
        links, self._links = self._links, []
        for link in links:
            os.close(link)
        if links:
            self._barrier.wait()

    def constants(self, tick_length_ns: int) -> TapConstants:
        """Return what bpf/tap/socket_tap.c is told now, on a kernel whose tick has this length."""
        rules = self._rules
        asked = {
            Switch.EXCLUDE_LOOPBACK: not rules.loopback,
            Switch.ALLOW_NETWORKS: rules.allow_networks,
            Switch.DENY_NETWORKS: rules.deny_networks,
            Switch.ALLOW_PORTS: rules.allow_ports,
            Switch.DENY_PORTS: rules.deny_ports,
            Switch.TRANSPORTS: rules.transports,
            Switch.TRACE_CONTEXT: self._trace_context,
            Switch.MEETING: self._meeting,
            Switch.PIECES_DNS: {PieceKind.DNS, PieceKind.DNS_TCP} & {*self._kinds},
            Switch.PIECES_TLS: PieceKind.TLS in self._kinds,
            Switch.PIECES_QUIC: PieceKind.QUIC in self._kinds,
            Switch.CLOSERS: self._with_closers,
            Switch.OWN: self._leave_out_own,
        }
        first_ns = time.monotonic_ns() + self._datagrams.rest_ns
        switches = frozenset(switch for switch, is_on in asked.items() if is_on)
        return TapConstants(self.capacity, switches, tick_length_ns, first_ns)

    @property
    def loaded(self) -> LoadedTap:
        """Programs and maps."""
        return self._loaded

    @property
    def high_slot(self) -> int:
        """No slot from this index on was ever used."""
        self._look_at_stack()
        return self.capacity - self._lowest

    @property
    def used_slots(self) -> int:
        """Slots that are not free."""
        counts = self._counts[0]
        return max(int(counts["asked"]) - int(counts["refused"]) - int(counts["returned"]) - self._released, 0)

    def windows(self) -> Iterator[tuple[int, Slots]]:
        """Yield the windows of slots of which any is in use. What is yielded is mapped for as long as it is held."""
        return self._windows.each(self.high_slot)

    def rows(self, slots: Indexes) -> Slots:
        """Return a copy of these slots."""
        return self._windows.copy(slots)

    def slots_of(self, flow_ids: npt.NDArray[np.uint64]) -> Slots:
        """Return a copy of the slot of each of these flows; zeroed where it has another flow by now."""
        found = self.rows((flow_ids & np.uint64(SLOT_OF_FLOW)).astype(np.uint32))
        found[found["id"] != flow_ids] = np.zeros((), SLOT)
        return found

    def mark_taken(self, slots: Indexes) -> None:
        """Add one to `taken` of each of these slots."""
        for _, rows, at in self._windows.parts(slots):
            rows["taken"][at] += np.uint32(1)

    def retire(self, slots: Indexes) -> None:
        """Let no packet reach these slots any more; returns when no program is at them, after 5 to 20 ms."""
        slots = slots[~self._retired[slots]]
        if not len(slots):
            return
        raced = [np.empty(0, FLOW_KEY)]
        for _, rows, at in self._windows.parts(slots):
            state = rows["state"][at]
            live, renewed = at[state == State.LIVE], state == State.RETIRED
            self._delete_stale_keys(rows[at[renewed]])
            bpf_syscall.delete_all(self._maps["flows_by_key"], keys_of(rows[live]))
            raced.append(keys_of(rows[live[rows["state"][live] != State.LIVE]]))
            rows["state"][live] = State.RETIRED
        self._retired[slots] = True
        self._barrier.wait()
        self._restore_keys(np.concatenate(raced))

    def release(self, slots: Indexes) -> None:
        """Zero these slots, which are retired, and give them to other flows."""
        if not len(slots):
            return
        self._look_at_stack()
        slots = np.sort(slots)[::-1]
        # Zero is no flow's id, and the next generation is no reference's before it is pushed.
        generations = self._windows.clear(slots) >> _GENERATION_SHIFT
        self._retired[slots] = False
        self._push(slots, generations + np.uint64(1))
        self._released += len(slots)

    @property
    def counters(self) -> dict[str, int]:
        """Packets and bytes that are in no flow, by what they are: `<TapCounter>_packets` and `_bytes`."""
        found: dict[str, int] = {}
        counts = bpf_syscall.counts(self._maps["tap_counters"], len(TapCounter), _possible_cpus(), numbers=2)
        for counter, (packets, size) in zip(TapCounter, counts.tolist(), strict=True):
            found[f"{counter.name.lower()}_packets"] = packets
            found[f"{counter.name.lower()}_bytes"] = size
        found |= self.exchanges.counters if self.exchanges else {}
        return found | (self.pieces.counters if self.pieces else {})

    def _attach(self) -> None:
        root = os.open(find_root(given=self._cgroup_root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for program, kind in (
                ("tap_create", bpf_syscall.CGROUP_INET_SOCK_CREATE),
                ("tap_ingress", bpf_syscall.CGROUP_INET_INGRESS),
                ("tap_egress", bpf_syscall.CGROUP_INET_EGRESS),
                ("tap_release", bpf_syscall.CGROUP_INET_SOCK_RELEASE),
                ("tap_sendmsg4", bpf_syscall.CGROUP_UDP4_SENDMSG),
                ("tap_sendmsg6", bpf_syscall.CGROUP_UDP6_SENDMSG),
            ):
                if program == "tap_ingress" and self._leave_out_own:
                    self._tell_own_process()
                    self._mark_own_sockets()
                if program not in self._loaded.programs:
                    continue  # it is not asked for, or this kernel does not take it
                try:
                    self._links.append(bpf_syscall.link_create(self._loaded.programs[program], root, kind))
                except OSError as error:
                    if program != CREATE_PROGRAM:
                        raise
                    self.makers_unseen = f"{program}: {error.strerror}"
        except OSError as error:
            self.detach()
            advice = "wirespan doctor says more; a program at this group or above it may hold the hook for itself"
            raise TapLoadError("attach_failed", f"{program}: {error.strerror}", advice) from error
        finally:
            os.close(root)

    def _tell_own_process(self) -> None:
        """Let the programs know whose sockets are capture's: this process by the number that the kernel has for it.

        A process namespace has another, so a socket is made and asked for its creator.
        """
        with socket.socket() as made:
            key = made.fileno().to_bytes(4, "little")
            creator = bpf_syscall.lookup(self._maps["creator_of_socket"], key, _CREATOR_BYTES)
        if creator is not None:
            bpf_syscall.update(self._maps["own_process"], bytes(4), creator[_CREATOR_PROCESS])

    def _mark_own_sockets(self) -> None:
        """Mark the connections that this process has already made, and tell their other ends, which may speak first.

        The other end of one to a Service's address has another, and is told until capture's end speaks, which it is made to do
        once the programs are attached.
        """
        for descriptor in own_connections():
            with contextlib.suppress(OSError):  # closed meanwhile, or not yet connected
                bpf_syscall.update(self._maps["slot_of_socket"], descriptor.to_bytes(4, "little"), _OWN_SOCKET)
                bpf_syscall.update(self._maps["own_connections"], _key_of_other_end(descriptor), b"\1")

    def _check_layout(self) -> None:
        """Raises CaptureError where the program's structures are not those of slot_layout."""
        maps = self._loaded.map_descriptions
        sizes = (maps["slots"].value_bytes, maps["slot_counts"].value_bytes, maps["flows_by_key"].key_bytes)
        if sizes != (SLOT.itemsize, SLOT_COUNTS.itemsize, FLOW_KEY.itemsize):
            raise CaptureError(f"the socket tap's structures have sizes {sizes}; the installation mixes versions")

    def _look_at_stack(self) -> None:
        """Learn how far slots were used. They come off the stack from low to high, so its least depth tells.

        It only falls between two releases, but for slots that a program gives back at once: those are taken for used.
        """
        counts = self._counts[0]
        returned = int(counts["returned"])
        depth = self.capacity + self._released - int(counts["asked"]) + int(counts["refused"]) + self._returned
        self._returned = returned
        self._lowest = max(min(self._lowest, depth), 0)

    def _push(self, slots: Indexes, generations: Any) -> None:
        bpf_syscall.push_all(self._maps["free_slots"], generations << _GENERATION_SHIFT | slots.astype(np.uint64))

    def _delete_stale_keys(self, renewed: Slots) -> None:
        """Delete the keys of slots that a program retired, unless they mean the connection that took their place already."""
        for key, reference in zip(keys_of(renewed), renewed["id"], strict=True):
            content = bpf_syscall.lookup(self._maps["flows_by_key"], key.tobytes(), reference.nbytes)
            if content == reference.tobytes():
                bpf_syscall.delete(self._maps["flows_by_key"], key.tobytes())

    def _restore_keys(self, raced: npt.NDArray[Any]) -> None:
        """Publish again what took these flows' place while their keys were being deleted: the deleted key may be its."""
        if not len(raced):
            return
        for _, rows in self.windows():
            live = np.flatnonzero(rows["state"] == State.LIVE)
            keys = keys_of(rows[live])
            for key in raced:
                for at in live[keys == key]:
                    reference = int(rows["id"][at])
                    with contextlib.suppress(FileExistsError):
                        bpf_syscall.update(
                            self._maps["flows_by_key"], key.tobytes(), reference.to_bytes(8, "little"), bpf_syscall.NOEXIST
                        )
            del rows

    def _write_rules(self) -> None:
        """Fill the maps that the rules are in."""
        write_bits(self._loaded, "kept_transports", self._rules.transports)
        write_bits(self._loaded, "dns_ports", self._datagrams.dns_ports)
        for name, networks in (
            ("allowed_networks", self._rules.allow_networks),
            ("denied_networks", self._rules.deny_networks),
        ):
            for network in networks:
                bpf_syscall.update(self._maps[name], _network(network), b"\1")
        ports: dict[int, int] = {}
        for bit, listed in ((_ALLOWED, self._rules.allow_ports), (_DENIED, self._rules.deny_ports)):
            for port in listed:
                ports[port] = ports.get(port, 0) | bit
        for port, rule in ports.items():
            bpf_syscall.update(self._maps["port_rules"], port.to_bytes(4, "little"), bytes([rule]))


def tick_ns() -> int:
    """Return the length of the kernel's tick, which is what its coarse clock resolves."""
    return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)


def _mapped(address: str) -> bytes:
    """An address as the programs write it: IPv6, or IPv4 mapped into it."""
    parsed = ip_address(address)
    return parsed.packed if isinstance(parsed, IPv6Address) else bytes(10) + b"\xff\xff" + parsed.packed


def _key_of_other_end(descriptor: int) -> bytes:
    """The flow at the other end of a TCP connection of this process. Raises OSError where it is not connected."""
    key = np.zeros((), FLOW_KEY)
    with socket.socket(fileno=os.dup(descriptor)) as own:
        for end, name in (("local", own.getpeername()), ("remote", own.getsockname())):
            key[f"{end}_address"] = _mapped(name[0].partition("%")[0])
            key[f"{end}_port"] = name[1]
    key["transport"] = socket.IPPROTO_TCP
    return key.tobytes()


def own_connections() -> list[int]:
    """Return the descriptors of the TCP connections that this process has made: what it accepts is others'."""
    connected: dict[int, int] = {}
    listening: set[int] = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if not str(descriptor.readlink()).startswith("socket:"):
                continue
            number = int(descriptor.name)
            with socket.socket(fileno=os.dup(number)) as own:
                if own.family not in {socket.AF_INET, socket.AF_INET6} or own.type != socket.SOCK_STREAM:
                    continue
                port = own.getsockname()[1]
                if own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listening.add(port)
                else:
                    connected[number] = port
    return [number for number, port in connected.items() if port not in listening]


def _network(text: str) -> bytes:
    """A key of the programs' prefix tries. Raises ValueError."""
    network: IPv4Network | IPv6Network = ip_network(text, strict=False)
    bits = network.prefixlen + (0 if isinstance(network, IPv6Network) else 96)
    return bits.to_bytes(4, "little") + _mapped(str(network.network_address))


@cache
def _possible_cpus() -> int:
    """How many CPUs the kernel has room for, which per-CPU maps have values for."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().rpartition("-")[2].rpartition(",")[2]
    return int(last) + 1
