"""Writes what one interface sees into a pcapng file: every packet once, cut to the snap length, nothing about the machine."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.node.namespaces import Namespace

_ETH_P_ALL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_STATISTICS: Final = 6
_PACKET_MR_PROMISC: Final = 1
_SO_TIMESTAMPNS: Final = 35
_SO_RCVBUFFORCE: Final = 33
_LINKTYPE_ETHERNET: Final = 1


class Recorder:
    """Records an interface from entry to exit. A bridge shows a forwarded frame once, on its way in.

    Capture libraries write the machine's kernel, processor and program versions into the file; hence a writer of our own.
    """

    def __init__(self, namespace: Namespace, interface: str, snap_length: int) -> None:
        self.packets: list[tuple[int, int, bytes]] = []
        """(Unix nanoseconds, length on the wire, first bytes) in the order seen."""
        self._snap_length = snap_length
        self._interface = interface
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        with namespace.entered():
            self._socket.bind((interface, _ETH_P_ALL))
            index = socket.if_nametoindex(interface)
        membership = struct.pack("iHH8s", index, _PACKET_MR_PROMISC, 0, b"")
        self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 * 1024 * 1024)
        self._socket.settimeout(0.1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, name="recorder")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._socket.close()
        if dropped and error is None:
            raise RuntimeError(f"{dropped} packets were not recorded: the machine is too busy, run it again")

    def write(self, path: Path, first_unix_ns: int) -> None:
        """Write the file, all times moved so that its first packet was seen at `first_unix_ns`."""
        shift = first_unix_ns - min(seen for seen, _, _ in self.packets)
        name = self._interface.encode()
        interface = (
            struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, self._snap_length) + _option(2, name) + _option(9, b"\x09") + _option(0)
        )
        blocks = [_block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)), _block(1, interface)]
        for seen, length, data in self.packets:
            high, low = divmod(seen + shift, 1 << 32)
            header = struct.pack("<IIIII", 0, high, low, len(data), length)
            blocks.append(_block(6, header + _padded(data)))
        path.write_bytes(b"".join(blocks))

    def _read(self) -> None:
        while True:
            try:
                data, control, _, _ = self._socket.recvmsg(65536, 64)
            except TimeoutError:
                if self._stopping.is_set():
                    return
                continue
            seconds, nanoseconds = struct.unpack("qq", control[0][2])
            self.packets.append((seconds * 1_000_000_000 + nanoseconds, len(data), data[: self._snap_length]))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length
