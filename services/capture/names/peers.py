"""Who is at an address, by the names that were looked up on this node before somebody connected to it.

A lookup belongs to whoever asked: the pod, by its control group, or in a capture file the address. Who connects gets the name
that it looked up last itself. Where it did not (a resolver asked on its behalf, or the address was handed on), the name counts
that all others looked up; where they differ, nobody knows, and there is none.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from services.capture.names.dns_message import DnsMessage
from services.capture.names.pieces import Piece

MOST_ADDRESSES: Final = 16_384
"""Of which names are kept; beyond it the address that was longest not looked up is forgotten, and counted."""
MOST_LOOKUPS: Final = 16
"""Of one address: the latest."""
GRACE_NS: Final = 300_000_000_000
"""How long after its time to live an address is still held for the name's: applications keep what they resolved."""

_SECOND: Final = 1_000_000_000
_LONGEST_SECONDS: Final = 86_400
_RECEIVED: Final = 1
_NOERROR: Final = 0


class Lookup(NamedTuple):
    """Somebody looked a name up, or did so again and again, and the address was in the answer."""

    owner: int
    name: str
    at_ns: int
    until_ns: int


class PeerNames:
    """Names by address. Not for two threads at once."""

    def __init__(self) -> None:
        self._lookups: dict[bytes, tuple[Lookup, ...]] = {}
        self.forgotten = 0
        """Addresses that were given up because too many were known."""

    def __len__(self) -> int:
        return len(self._lookups)

    def learn(self, piece: Piece, message: DnsMessage) -> None:
        """Take over the addresses of an answer, at the end that asked."""
        if piece.direction != _RECEIVED or message.code != _NOERROR or message.name in {None, "."}:
            return
        for address, time_to_live in message.addresses:
            until_ns = piece.time_ns + min(time_to_live, _LONGEST_SECONDS) * _SECOND + GRACE_NS
            lookup = Lookup(piece.owner, message.name or "", piece.time_ns, until_ns)
            known = list(self._lookups.pop(address, ()))
            last = next((place for place in reversed(range(len(known))) if known[place].owner == lookup.owner), None)
            if last is not None and known[last].name == lookup.name and known[last].until_ns >= lookup.at_ns:
                # Looked up again: whoever connected in between has the name too.
                lookup = lookup._replace(at_ns=known.pop(last).at_ns)
            self._lookups[address] = (*known[1 - MOST_LOOKUPS :], lookup)
        while len(self._lookups) > MOST_ADDRESSES:
            del self._lookups[next(iter(self._lookups))]
            self.forgotten += 1

    def name(self, owner: int, address: bytes, begun_ns: int) -> str | None:
        """Return the name of an address for `owner`, who began to talk to it then; None where nobody knows."""
        known = [one for one in self._lookups.get(address, ()) if one.at_ns <= begun_ns <= one.until_ns]
        own = [one for one in known if one.owner == owner and owner]
        if own:
            return max(own, key=_when).name
        names = {one.name for one in known}
        return names.pop() if len(names) == 1 else None


def _when(lookup: Lookup) -> int:
    return lookup.at_ns
