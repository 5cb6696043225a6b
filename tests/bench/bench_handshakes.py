"""What reading TLS handshakes costs capture: `python -m tests.bench.bench_handshakes`.

Hellos of OpenSSL and the record that ends each handshake, as the engine hands them on, against the loop that makes them.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Iterator
from itertools import chain

from services.capture.names.pieces import Piece, PieceKind
from services.capture.names.reader import NameReader
from tests.support.packets.tls_talk import contexts, talk

HANDSHAKES = 10_000
ROUNDS = 5
END = b"\x17\x03\x03\x00\x45"


def pieces(flow: int, client: bytes, server: bytes) -> Iterator[Piece]:
    """Those of one handshake."""
    for direction, since, content in ((0, 0, client), (1, 0, server), (0, 100, END)):
        yield Piece(flow, 200, since, 0, len(content), len(content), PieceKind.TLS, direction, content)


def main() -> None:
    """Print microseconds a handshake and memory."""
    made, _, _ = talk(*contexts(protocols=("h2", "http/1.1")))
    client, server = (next(payload for _, sender, payload in made.sent if sender == end) for end in ("client", "server"))
    server = server[: 5 + int.from_bytes(server[3:5])]
    handshakes = list(chain.from_iterable(pieces(flow, client, server) for flow in range(HANDSHAKES)))
    best = {"nothing": float("inf"), "read": float("inf")}
    for _ in range(ROUNDS):
        for name, read in (("nothing", lambda found: [None for _ in found]), ("read", NameReader().read)):
            begin = time.process_time()
            read(handshakes)
            best[name] = min(best[name], time.process_time() - begin)
    us = {name: seconds / HANDSHAKES * 1e6 for name, seconds in best.items()}
    sys.stdout.write(f"us a handshake: {us['read']:.1f} ({us['read'] / us['nothing']:.0f}x an empty loop)\n")
    # Before: the columns of looked-up names are pages that are not there until they are written to.
    reader = NameReader()
    tracemalloc.start()
    reader.read(handshakes)
    sys.stdout.write(f"MiB for {HANDSHAKES} connections: {tracemalloc.get_traced_memory()[0] / 2**20:.1f}\n")


if __name__ == "__main__":
    main()
