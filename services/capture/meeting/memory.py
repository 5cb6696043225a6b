"""All that capture remembers: the exchanges of connections, and apart from them those of UDP.

Nearly each of the latter has a flow of its own, so that a node's resolver would soon have overwritten what is known of
connections that live for hours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from services.capture.flows.layout import Slots
from services.capture.meeting.ring import EXCHANGE_ROW, FACTS, MOST_CONNECTIONS, Indexes, Ring, Rows
from services.capture.meeting.turns import TurnFlag, Turns

_DATAGRAMS_SHARE: Final = 1 / 8
_FACTS_OF_ONE: Final = FACTS.itemsize / (FACTS.itemsize + EXCHANGE_ROW.itemsize)


class Memory:
    """As a `Ring`. Not for two threads at once."""

    def __init__(self, size_bytes: int, may_multiplex: Callable[[int], bool]) -> None:
        """`may_multiplex` as `Ring` has it."""
        of_datagrams = int(size_bytes * _DATAGRAMS_SHARE)
        self._connections = Ring(size_bytes - of_datagrams, may_multiplex)
        self._datagrams = Ring(of_datagrams, may_multiplex, facts_share=_FACTS_OF_ONE)
        self._rings = (self._connections, self._datagrams)

    def __len__(self) -> int:
        return sum(map(len, self._rings))

    @property
    def unknown(self) -> int:
        """Exchanges whose flow was gone before anything was known of it."""
        return sum(ring.unknown for ring in self._rings)

    @property
    def unknown_of_connections(self) -> int:
        """The same without UDP's."""
        return self._connections.unknown

    def add(self, turns: Turns, slots: Callable[[npt.NDArray[np.uint32]], Slots]) -> None:
        """As `Ring.add`."""
        of_datagrams = turns["flags"] & np.uint8(TurnFlag.DATAGRAM) != 0
        self._connections.add(turns[~of_datagrams], slots)
        self._datagrams.add(turns[of_datagrams], slots)

    def begin(self, turns: Turns, slots: Callable[[npt.NDArray[np.uint32]], Slots]) -> None:
        """As `Ring.begin`: TLS is of connections."""
        self._connections.begin(turns, slots)

    def take_shared(self) -> npt.NDArray[np.uint64]:
        """As `Ring.take_shared`; flows of UDP have no slices."""
        return self._connections.take_shared()

    def note_overlapped(self, connections: Indexes) -> None:
        """As `Ring.note_overlapped`; a flow of UDP is not shared, whatever its spans do."""
        self._connections.note_overlapped(connections[connections < MOST_CONNECTIONS])

    def count_parts(self, connections: Indexes) -> npt.NDArray[np.uint32]:
        """As `Ring.count_parts`; none is of UDP."""
        return self._connections.count_parts(connections)

    def connections(self) -> tuple[Indexes, Rows]:
        """As `Ring.connections`; flows of UDP are behind connections."""
        (numbers, facts), (flow_numbers, flow_facts) = (ring.connections() for ring in self._rings)
        return np.concatenate([numbers, flow_numbers + MOST_CONNECTIONS]), np.concatenate([facts, flow_facts])

    def rows(self) -> Rows:
        """As `Ring.rows`, likewise."""
        of_connections, of_datagrams = (ring.rows() for ring in self._rings)
        of_datagrams["connection"] += MOST_CONNECTIONS
        return np.concatenate([of_connections, of_datagrams])

    def tell(self, flow_ids: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint32]) -> None:
        """As `Ring.tell`."""
        for ring in self._rings:
            ring.tell(flow_ids, numbers)

    @property
    def oldest_ns(self) -> int:
        """When the oldest exchange of a connection began that is remembered; 0: none was forgotten."""
        return self._connections.oldest_ns

    def seconds(self, now_ns: int) -> float:
        """Return how far back exchanges of connections are remembered."""
        return self._connections.seconds(now_ns)

    def datagram_seconds(self, now_ns: int) -> float:
        """Return the same of UDP."""
        return self._datagrams.seconds(now_ns)
