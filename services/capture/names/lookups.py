"""Lookups of the last moments: which answer it was that a connection had waited for.

Unlike whose name an address is (peers.py), this is asked for once, for the first exchange of a connection of an application's
trace, and seconds after the connection began. So lookups are kept one by one, as many as there is room for.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from services.capture.names.dns_message import DnsMessage
from services.capture.names.pieces import Piece, PieceKind
from services.capture.names.question_records import Told

MOST_LOOKUPS: Final = 16_384
"""Of all addresses; beyond it the oldest is forgotten, whether or not it was ever asked for."""
WAITING_NS: Final = 1_000_000_000
"""A connection that begins later did not wait for the lookup."""

_RECEIVED: Final = 1
_NOERROR: Final = 0


class Lookup(NamedTuple):
    """An answer that held an address."""

    told: Told
    flow_id: int
    """Of the question's flow; 0 over TCP, where messages of many lookups share one."""


class Lookups:
    """Lookups by who asked and the address. Not for two threads at once."""

    def __init__(self) -> None:
        self._lookups: dict[tuple[int, bytes], deque[Lookup]] = {}
        self._order: deque[tuple[int, bytes]] = deque()

    def learn(self, piece: Piece, message: DnsMessage, told: Told) -> None:
        """Take over an answer, at the end that asked."""
        if piece.direction != _RECEIVED or message.code != _NOERROR or message.name is None:
            return
        lookup = Lookup(told, piece.flow_id if piece.kind == PieceKind.DNS else 0)
        for address in {address for address, _ in message.addresses}:
            key = piece.owner, address
            self._lookups.setdefault(key, deque()).append(lookup)
            self._order.append(key)
        while len(self._order) > MOST_LOOKUPS:
            oldest = self._order.popleft()
            self._lookups[oldest].popleft()
            if not self._lookups[oldest]:
                del self._lookups[oldest]

    def before(self, owner: int, address: bytes, begun_ns: int) -> Lookup | None:
        """Return the last lookup that ended before a connection to the address began, at most WAITING_NS before.

        That is within the answer's time to live too: it is told in whole seconds, and one of 0 is for what asked (RFC 1035
        3.2.1).
        """
        known = reversed(self._lookups.get((owner, address), ()))
        last = next((lookup for lookup in known if lookup.told.ended_ns <= begun_ns), None)
        return last if last is not None and begun_ns - last.told.ended_ns <= WAITING_NS else None
