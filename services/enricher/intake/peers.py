"""The addresses behind the names that applications have for their peers."""

from __future__ import annotations

from typing import Final, NamedTuple

from services.enricher.index.index import Index
from services.enricher.intake.locals import Local
from services.enricher.intake.names import NamesSeen

_MOST_KNOWN: Final = 65_536
_LOOPBACKS: Final = (bytes(10) + b"\xff\xff\x7f\0\0\x01", bytes(15) + b"\x01")
NOWHERE: Final = bytes(16)


class Peer(NamedTuple):
    """Addresses of a peer, and by what they are known: a word of PEERS."""

    addresses: tuple[bytes, ...]
    known: str


UNKNOWN: Final = Peer((NOWHERE,), "unknown")


class Peers:
    """What names mean, remembered for as long as the index is the same."""

    def __init__(self, names: NamesSeen) -> None:
        self._names = names
        self._index: Index | None = None
        self._known: dict[tuple[str, str], Peer] = {}

    def find(self, name: str, local: Local, index: Index | None) -> Peer:
        """Return a peer by its name as somebody calls it; one that nobody knows may be anywhere.

        A cluster's names are its services'; what is none is what DNS has lately answered on that node.
        """
        name = name.rstrip(".").lower()
        if name == "localhost":
            return Peer(_LOOPBACKS, "literal")
        if index is not self._index or len(self._known) >= _MOST_KNOWN:
            self._index = index
            self._known.clear()
        if index is not None:
            key = (name, local.namespace)
            if key not in self._known:
                found = index.named(name, local.namespace)
                self._known[key] = Peer(found, "service") if found else UNKNOWN
            if self._known[key] is not UNKNOWN:
                return self._known[key]
        seen = self._names.addresses(local.node, name)
        return Peer(seen, "dns") if seen else UNKNOWN
