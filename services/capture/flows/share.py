"""Which flows are told here, where two captures see the same ones for a while: a node's and the one that takes its place.

Each packet is told by one of them. By which follows from when its flow began:

- a TCP connection whose handshake was seen is told by the one that comes, whole, if it began when that one was there already:
  that one will see its end as well, and knows all that the other does;
- everything else is told by the one that goes, for as long as it is there: what was open before, of which the one that comes
  knows no beginning, and datagrams, which say neither what they begin nor what they go on with. Afterwards the one that came
  tells what comes of it yet, as a flow of its own: without a handshake nobody can know that they are one.

Both see a packet within microseconds of each other, and the moment by which they judge is the same. A connection whose SYN is
seen at just that moment may be told by both; then it has the same ids in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.capture.flows.layout import KNOWN_ISN

if TYPE_CHECKING:
    import numpy.typing as npt

    from services.capture.flows.layout import Array, Slots

    Mask = npt.NDArray[np.bool_]

_TCP = 6
_NEVER = 1 << 63


@dataclass(frozen=True, slots=True)
class Share:
    """What of the flows is told here. Times are on the packets' clock."""

    since_ns: int = 0
    """Connections that begin from here on are told here, whoever else is there."""
    rest_since_ns: int = 0
    """From when on the rest is told here as well."""
    until_ns: int = _NEVER
    """Connections that begin from here on are told by the one that comes."""

    def untold(self, flows: Slots) -> Mask:
        """Return which flows somebody else tells, what they do now included."""
        begun = ((flows["tx_known"] | flows["rx_known"]) & KNOWN_ISN != 0) & (flows["transport"] == _TCP)
        return self._untold(begun, flows["first_ns"], self.rest_since_ns == _NEVER)

    def untold_requests(self, begun: Array, flow_first_ns: Array, request_ns: Array) -> Mask:
        """Return which requests somebody else tells. `begun`: the connection's handshake was seen."""
        return self._untold(begun, flow_first_ns, request_ns < np.uint64(self.rest_since_ns))

    def _untold(self, begun: Array, first_ns: Array, rest: Array | bool) -> Mask:  # noqa: FBT001
        theirs: Mask = begun & (first_ns >= np.uint64(self.until_ns))
        ours = begun & (first_ns >= np.uint64(self.since_ns))
        return theirs | (~ours & rest)

    @property
    def waits(self) -> bool:
        """Whether another one is still there that was there before."""
        return self.rest_since_ns == _NEVER


EVERYTHING = Share()


def behind(since_ns: int) -> Share:
    """Return the share of one that comes while another is there."""
    return Share(since_ns, _NEVER)
