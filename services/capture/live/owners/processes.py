"""Which program holds a socket, or held it: asked of the kernel once for each record until it is known.

Of a socket that is closed the tap knows which task did that, if its process had made the socket under the same name. If that
still runs and is the same program, its executable is the answer. If it is gone, it is the name that the main thread of its
process had: what that was started as, or calls itself.

For one that is open, by the flow's addresses, sock_diag(7) gives the socket's inode, and the processes of the socket's own
control group are looked through for who has that open. Nothing is guessed: a socket that is gone by then, one that programs of
several names hold, or one whose search would take too long has no name. What a server accepted and closed is found by its
listener. Only sockets of this process's network namespace are seen, and only processes of its PID namespace: where those are
not the host's, nobody has a name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Self

from services.runtime.host.identity import plain_text

_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_REQUEST: Final = 1
_HEADER: Final = struct.Struct("=IHHII")
_QUESTION: Final = struct.Struct("=BBBxI2s2s16s16sIII")
_INODE_AT: Final = _HEADER.size + 4 + 48 + 16
"""Of an answer: behind the header, four bytes of state, the addresses and four numbers."""
_NO_COOKIE: Final = 0xFFFF_FFFF
_ALL_STATES: Final = 0xFFFF_FFFF
_LISTEN: Final = 10
_TCP: Final = 6
_UDP: Final = 17
_MAPPED: Final = bytes(10) + b"\xff\xff"
_ANSWER_SECONDS: Final = 0.1
_MOST_ASKED: Final = 2000
"""Sockets asked about for a batch of records."""
_MOST_LINKS: Final = 10_000
"""Open files looked at for a batch of records."""
_REMEMBERED: Final = 1 << 16
_FIRST_PID_NAMESPACE: Final = "pid:[4026531836]"
"""The kernel's number of it is a constant (PROC_PID_INIT_INO)."""
_FLAGS, _BEGAN = 6, 19
"""Of /proc/PID/stat (proc(5)), behind the name."""
_KERNEL_THREAD: Final = 0x0020_0000
_NS: Final = 1_000_000_000


class Flow(NamedTuple):
    """A flow as its socket has it. Addresses are IPv6, or IPv4 mapped."""

    id: int
    transport: int
    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    is_server: bool
    cgroup: int


class Closer(NamedTuple):
    """The task that closed a flow's socket."""

    process: int
    thread: int
    name: str
    """The thread's."""
    closed_ns: int
    """On CLOCK_MONOTONIC."""


class Processes:
    """Names of programs, by flow. `path_of` gives the directory of a control group's id, where there is one."""

    def __init__(self, path_of: Callable[[], Mapping[int, str]]) -> None:
        self._paths_of = path_of
        self.closers_of: Callable[[Iterable[int]], Mapping[int, Closer]] = lambda _flows: {}
        """Who closed the sockets of flows, where that is known."""
        self._sees_all = _sees_all_processes()
        self._names: OrderedDict[int, str] = OrderedDict()
        self._diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG)
        self._diag.settimeout(_ANSWER_SECONDS)
        self._questions = 0
        self.given_up = 0
        """Sockets that were not asked about, or not found, because it would have taken too long."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._diag.close()

    def names(self, flows: Iterable[Flow]) -> dict[int, str]:
        """Return the names of those flows' programs that are known, by the flow's id."""
        asked: list[Flow] = []
        known: dict[int, str] = {}
        for flow in flows:
            name = self._names.get(flow.id)
            if name is not None:
                known[flow.id] = name
            elif flow.transport in {_TCP, _UDP}:
                asked.append(flow)
        if self._sees_all and asked:
            closers = self.closers_of(flow.id for flow in asked)
            closed_by = {flow: name for flow, closer in closers.items() if (name := _program(closer))}
            self._remember(closed_by)
            known |= closed_by
            asked = [flow for flow in asked if flow.id not in closed_by]
        self.given_up += max(len(asked) - _MOST_ASKED, 0)
        wanted: dict[int, dict[int, list[int]]] = {}
        for flow in asked[:_MOST_ASKED]:
            if inode := self._inode(flow):
                wanted.setdefault(flow.cgroup, {}).setdefault(inode, []).append(flow.id)
        if wanted:
            known |= self._found(wanted)
        return known

    def _found(self, wanted: Mapping[int, Mapping[int, list[int]]]) -> dict[int, str]:
        """Look for the holders of sockets, by control group and inode; return the names by flow."""
        paths, links = self._paths_of(), _MOST_LINKS
        found: dict[int, str] = {}
        for cgroup, inodes in wanted.items():
            holders: dict[int, set[str]] = {}
            for inode, program in _open_sockets(paths.get(cgroup, ""), inodes.keys()):
                links -= 1
                if links < 0:
                    break
                if program:
                    holders.setdefault(inode, set()).add(program)
            if links < 0:  # who else holds them is not known
                self.given_up += sum(map(len, inodes.values()))
                break
            for inode, programs in holders.items():
                if len(programs) == 1:
                    found |= dict.fromkeys(inodes[inode], *programs)
        self._remember(found)
        return found

    def _remember(self, names: Mapping[int, str]) -> None:
        self._names.update(names)
        while len(self._names) > _REMEMBERED:
            self._names.popitem(last=False)

    def _inode(self, flow: Flow) -> int:
        """Return the inode of the flow's socket, else of the listener that it came from; 0 where there is none."""
        inode, _ = self._asked(flow)
        if not inode and flow.is_server and flow.transport == _TCP:
            # What the server has closed stands in the way of the listener for a minute.
            anybody = bytes(len(flow.remote_address)) if not flow.remote_address.startswith(_MAPPED) else _MAPPED + bytes(4)
            inode, state = self._asked(flow._replace(remote_address=anybody, remote_port=0))
            return inode if state == _LISTEN else 0
        return inode

    def _asked(self, flow: Flow) -> tuple[int, int]:
        """Return inode and state of the socket of these addresses, zeros where there is none."""
        local, remote = _end(flow.local_address, flow.local_port), _end(flow.remote_address, flow.remote_port)
        family = socket.AF_INET if local[0].startswith(_MAPPED) and remote[0].startswith(_MAPPED) else socket.AF_INET6
        if family == socket.AF_INET:
            local, remote = (local[0][12:], local[1]), (remote[0][12:], remote[1])
        # Of UDP the kernel takes the ends the other way round.
        (source, source_port), (destination, destination_port) = (remote, local) if flow.transport == _UDP else (local, remote)
        question = _QUESTION.pack(
            *(family, flow.transport, 0, _ALL_STATES, source_port, destination_port, source, destination, 0),
            *(_NO_COOKIE, _NO_COOKIE),
        )
        try:
            self._questions = (self._questions + 1) % 2**32
            head = _HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUEST, self._questions, 0)
            self._diag.send(head + question)
            while _HEADER.unpack_from(answer := self._diag.recv(4096))[3] != self._questions:
                pass  # the answer to one that was not waited for any more
        except OSError:
            return 0, 0
        if _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
            return 0, 0  # no such socket
        state = answer[_HEADER.size + 1]
        if state == _LISTEN and not flow.is_server:
            return 0, 0
        return int.from_bytes(answer[_INODE_AT : _INODE_AT + 4], "little"), state


def _end(address: bytes, port: int) -> tuple[bytes, bytes]:
    return address, port.to_bytes(2, "big")


def _open_sockets(cgroup: str, inodes: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Yield each open file of a control group's processes: of the sockets that are wanted the inode and the program's name."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    for process in _processes(cgroup):
        program = ""
        with contextlib.suppress(OSError), os.scandir(f"/proc/{process}/fd") as descriptors:
            for descriptor in descriptors:
                inode = links.get(_target(descriptor.path))
                if inode is not None and not program:
                    program = plain_text(Path(_target(f"/proc/{process}/exe").removesuffix(" (deleted)")).name)
                yield inode or 0, program if inode is not None else ""


def _sees_all_processes() -> bool:
    """Whether numbers of processes are here what they are to the kernel."""
    return _target("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE


def _program(closer: Closer) -> str:
    """Return the program of a task that closed a socket; empty where it cannot be known."""
    as_it_was = plain_text(closer.name) if closer.process and closer.thread == closer.process else ""
    try:
        status = Path(f"/proc/{closer.process}/stat").read_text(encoding="utf-8", errors="replace")
        thread = Path(f"/proc/{closer.process}/task/{closer.thread}/comm").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return as_it_was  # gone
    # Behind the name, which may hold anything, from the third field on.
    fields = status.rpartition(")")[2].split()
    began_ns = int(fields[_BEGAN]) * (_NS // os.sysconf("SC_CLK_TCK"))
    suspended_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    if began_ns > closer.closed_ns + suspended_ns:
        return as_it_was  # another process has its number
    if int(fields[_FLAGS]) & _KERNEL_THREAD:
        return ""
    if thread.removesuffix("\n") != closer.name:
        return as_it_was  # it is another program since
    executable = _target(f"/proc/{closer.process}/exe").removesuffix(" (deleted)")
    return plain_text(Path(executable).name) or as_it_was


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115 - thousands of times, and a Path takes as long again
    except OSError:
        return ""


def _processes(cgroup: str) -> list[str]:
    """Return the ids of a control group's processes, as far as this PID namespace has them."""
    try:
        return [line for line in Path(cgroup, "cgroup.procs").read_text(encoding="ascii").split() if line != "0"]
    except OSError:
        return []
