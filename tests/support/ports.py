"""Ports for servers that have to be told theirs. None of them is one that the kernel gives to clients: such a port is free when
it is looked for, and the local end of somebody's connection when the server wants it.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

_LOWEST: Final = 10_000
_HIGHEST: Final = 65_535
_CLIENTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")

_given: set[int] = set()


def free_port() -> int:
    """Return a TCP port that nothing listens on, another one each time."""
    first, last = map(int, _CLIENTS.read_text().split()) if _CLIENTS.exists() else (32_768, 60_999)
    candidates = [*range(_LOWEST, first), *range(last + 1, _HIGHEST + 1)] or list(range(_LOWEST, _HIGHEST + 1))
    while True:
        port = random.SystemRandom().choice(candidates)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port


def free_ports(count: int) -> list[int]:
    """Return several."""
    return [free_port() for _ in range(count)]
