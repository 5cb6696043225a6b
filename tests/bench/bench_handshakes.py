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
from tests.support.packets.talks import quic_talk
from tests.support.packets.talks.tls_talk import contexts, talk

HANDSHAKES = 10_000
ROUNDS = 5
END = b"\x17\x03\x03\x00\x45"


def pieces(flow: int, client: bytes, server: bytes) -> Iterator[Piece]:
    """Those of one handshake."""
    for direction, since, content in ((0, 0, client), (1, 0, server), (0, 100, END)):
        yield Piece(flow, 200, since, 0, len(content), len(content), PieceKind.TLS, direction, content)


def quic_pieces(flow: int, *datagrams: tuple[int, bytes]) -> Iterator[Piece]:
    """Those of one handshake of QUIC, by their direction."""
    for direction, content in datagrams:
        yield Piece(flow, 200, 0, 0, len(content), len(content), PieceKind.QUIC, direction, content)


def quic() -> None:
    """Print microseconds a handshake of QUIC, its client's hello in two datagrams."""
    client, server = quic_talk.hellos(protocols=("h3",), chosen=("h3",))
    parts = quic_talk.crypto(client, 100)
    datagrams = [(0, quic_talk.initial([part], number=number)) for number, part in enumerate(parts)]
    datagrams.append((1, quic_talk.initial(quic_talk.crypto(server), of_server=True)))
    handshakes = list(chain.from_iterable(quic_pieces(flow, *datagrams) for flow in range(HANDSHAKES // 10)))
    best = float("inf")
    for _ in range(ROUNDS):
        reader = NameReader()
        begin = time.process_time()
        reader.read(handshakes)
        best = min(best, time.process_time() - begin)
    sys.stdout.write(f"us a handshake of QUIC, three datagrams: {best / (HANDSHAKES // 10) * 1e6:.1f}\n")


def main() -> None:
    """Print microseconds a handshake and memory."""
    quic()
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
