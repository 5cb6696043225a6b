"""Who is at an address, by the names that were looked up on this node before somebody connected to it.

A lookup belongs to whoever asked: the pod, by its control group, or in a capture file the address. Who connects gets the name
that it looked up last itself. Where it did not (a resolver asked on its behalf, or the address was handed on), the name counts
that all others looked up; where they differ, nobody knows, and there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from proto.flow_batch import Array
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
_WORD: Final = 2**64 - 1


class Lookup(NamedTuple):
    """Somebody looked a name up, or did so again and again, and the address was in the answer."""

    owner: int
    name: str
    at_ns: int
    until_ns: int


class PeerNames:
    """Names by address. Not for two threads at once."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        """Of addresses, the one that was longest not looked up first."""
        self._lookups: list[tuple[Lookup, ...]] = []
        """By place."""
        # The same as columns: by number, then owner, from, until, hash of the name; by place. Zeroed pages, which take memory
        # once they are written to: most addresses have one lookup.
        self._columns = np.zeros((MOST_LOOKUPS, 4, MOST_ADDRESSES), np.uint64)
        self._most = 0
        """Lookups that any address had."""
        self.forgotten = 0
        """Addresses that were given up because too many were known."""

    def __len__(self) -> int:
        return len(self._places)

    def learn(self, piece: Piece, message: DnsMessage) -> None:
        """Take over the addresses of an answer, at the end that asked."""
        if piece.direction != _RECEIVED or message.code != _NOERROR or message.name in {None, "."}:
            return
        for address, time_to_live in message.addresses:
            until_ns = piece.time_ns + min(time_to_live, _LONGEST_SECONDS) * _SECOND + GRACE_NS
            lookup = Lookup(piece.owner, message.name or "", piece.time_ns, until_ns)
            place = self._place(address)
            known = list(self._lookups[place])
            last = next((place for place in reversed(range(len(known))) if known[place].owner == lookup.owner), None)
            if last is not None and known[last].name == lookup.name and known[last].until_ns >= lookup.at_ns:
                # Looked up again: whoever connected in between has the name too.
                lookup = lookup._replace(at_ns=known.pop(last).at_ns)
            self._keep(place, (*known[1 - MOST_LOOKUPS :], lookup))

    def _place(self, address: bytes) -> int:
        """Return the place of an address that is looked up; a new one may take that of the oldest."""
        place = self._places.pop(address, None)
        if place is None and len(self._places) == MOST_ADDRESSES:
            place = self._places.pop(next(iter(self._places)))
            self._keep(place, ())
            self.forgotten += 1
        elif place is None:
            place = len(self._lookups)
            self._lookups.append(())
        self._places[address] = place
        return place

    def _keep(self, place: int, lookups: tuple[Lookup, ...]) -> None:
        self._lookups[place] = lookups
        self._most = max(self._most, len(lookups))
        for number, lookup in enumerate(lookups):
            self._columns[number, :, place] = lookup.owner, lookup.at_ns, lookup.until_ns, hash(lookup.name) & _WORD
        self._columns[len(lookups) : self._most, :, place] = 0

    def names(self, owners: Array, addresses: Array, begun_ns: Array) -> Iterator[tuple[int, str]]:
        """Yield the names that are known of addresses, with their rows: for `owners`, who began to talk to them then."""
        found = np.array([self._places.get(address, -1) for address in addresses.tolist()], np.int64)
        rows = (found >= 0).nonzero()[0]
        if not len(rows):
            return
        places, own, begun = found[rows], owners[rows], begun_ns[rows]
        owner, since, until, name = self._columns[: self._most, :, places].swapaxes(0, 1)
        valid = (since <= begun) & (begun <= until)
        owned = valid & (owner == own) & (own != 0)
        has_owned = owned.any(axis=0)
        among = np.where(has_owned, owned, valid)
        latest = (among * (since + np.uint64(1))).argmax(axis=0)
        same = (~among | (name == np.take_along_axis(name, latest[None], axis=0))).all(axis=0)
        told = among.any(axis=0) & (has_owned | same)
        for row, place, number in zip(rows[told].tolist(), places[told].tolist(), latest[told].tolist(), strict=True):
            yield row, self._lookups[place][number].name
