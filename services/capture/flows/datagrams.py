"""What a host is told of datagrams before it sees any: they say neither what protocol they are of nor who began."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DatagramRules:
    """How flows of datagrams are read, live and replayed."""

    dns_ports: tuple[int, ...] = (53,)
    """UDP of these ports is DNS."""
    rest_seconds: float = 60
    """As long as a flow of datagrams may rest. Once a host has looked on for so long, a datagram of no flow is the first of
    one; before, it may be any."""

    @property
    def rest_ns(self) -> int:
        """`rest_seconds` in ns."""
        return int(self.rest_seconds * 1e9)
