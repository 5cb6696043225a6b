"""Ports for servers that have to be told theirs. None of them is one that the kernel gives to clients: such a port is free when
it is looked for, and the local end of somebody's connection when the server wants it.
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Final

_LOWEST: Final = 10_000
_HIGHEST: Final = 65_535
_CLIENTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WORKER: Final = {"PYTEST_XDIST_WORKER": "gw0", "PYTEST_XDIST_WORKER_COUNT": "1"}
"""Which of how many: what one has been given and does not listen on yet is free for any other."""

_given: set[int] = set()


def free_port() -> int:
    """Return a port that nothing listens on, be it of TCP or UDP: another one each time, and of each of pytest's workers."""
    first, last = map(int, _CLIENTS.read_text().split()) if _CLIENTS.exists() else (32_768, 60_999)
    candidates = [*range(_LOWEST, first), *range(last + 1, _HIGHEST + 1)] or list(range(_LOWEST, _HIGHEST + 1))
    worker, workers = (os.environ.get(name, default) for name, default in _WORKER.items())
    candidates = candidates[int(worker.removeprefix("gw")) :: int(workers)]
    while True:
        port = random.SystemRandom().choice(candidates)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return False
    return True


def free_ports(count: int) -> list[int]:
    """Return several."""
    return [free_port() for _ in range(count)]
