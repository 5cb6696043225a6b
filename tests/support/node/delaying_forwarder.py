"""A long way between two networks: a TUN interface that gives back every packet it is given, some time later.

The router routes into it what is to take the long way; what comes out is routed on as if it had come from afar. Whole packets,
none lost, in order unless some are held back, and the ends none the wiser: a proxy would end one connection and begin another.

    with slow_way(router, "slow0", 0.06):
        router.ip("route", "add", "default", "dev", "slow0", "table", "100")

Run as a process of its own, in the router's namespace, so that tests that are busy do not lengthen the way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.node.namespaces import Namespace

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_LARGEST_PACKET: Final = 65535


@dataclass(frozen=True, slots=True)
class Holding:
    """Every so many-th of the large packets is held back, and overtaken by those behind it."""

    every: int = 0
    """0: none is."""
    seconds: float = 0.0


_LARGE: Final = 1000


def forward(interface: str, delay_seconds: float, holding: Holding) -> None:
    """Make the interface, print `ready`, and give packets back until killed."""
    os.nice(-15)  # on a busy machine a late packet is one that its sender sends again
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), _IFF_TUN | _IFF_NO_PI))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    waiting: list[tuple[float, int, bytes]] = []
    number = large = 0
    while True:
        timeout = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        if select.select([tun], [], [], timeout)[0]:
            # Read first, then looked at the clock: never less than the delay.
            packet = os.read(tun, _LARGEST_PACKET)
            due = time.monotonic() + delay_seconds
            number += 1
            large += len(packet) >= _LARGE
            if holding.every and len(packet) >= _LARGE and large % holding.every == 0:
                due += holding.seconds
            heappush(waiting, (due, number, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            os.write(tun, heappop(waiting)[2])


@contextlib.contextmanager
def slow_way(router: Namespace, interface: str, delay_seconds: float, holding: Holding | None = None) -> Iterator[None]:
    """The interface is there and up, and delays what is routed into it."""
    held = holding or Holding()
    command = [sys.executable, str(Path(__file__)), interface, str(delay_seconds), str(held.every), str(held.seconds)]
    with router.spawn(command, stdout=subprocess.PIPE) as forwarder:
        try:
            assert forwarder.stdout is not None
            assert forwarder.stdout.readline() == b"ready\n"
            router.set_sysctl(f"ipv4/conf/{interface}/rp_filter", 0)
            router.ip("link", "set", interface, "up")
            yield
        finally:
            forwarder.kill()


if __name__ == "__main__":
    forward(sys.argv[1], float(sys.argv[2]), Holding(int(sys.argv[3]), float(sys.argv[4])))
