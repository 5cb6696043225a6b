"""What became of questions."""

from __future__ import annotations

import enum
from collections import Counter


class Reason(enum.StrEnum):
    """Why a question has, or has not, exchanges for an answer."""

    MATCHED = "matched"
    BY_CONTEXT = "by_context"
    """Its exchange said itself whose it is, and is told for that."""
    AMBIGUOUS = "ambiguous"
    """Exchanges lie within the span, and which are its own cannot be told."""
    NO_EXCHANGE = "no_exchange"
    CONNECTION = "connection"
    """What its connection did in its time is told, since several requests share that."""
    MULTIPLEXED = "multiplexed"
    """A connection to this peer may have several requests under way at once, so that turns of it are nobody's exchange;
    nor is it known to be the only one that the span can have used."""
    TOO_OLD = "too_old"
    """The span began before what is remembered."""
    NOT_HERE = "not_here"
    """Nobody of this node is meant."""
    MALFORMED = "malformed"
    CLOCK_APART = "clock_apart"
    """The span was told by another clock than this node's."""
    NO_ROOM = "no_room"
    """Too many waited."""


class Counts:
    """How many questions each became; cumulative."""

    def __init__(self) -> None:
        self._counts: Counter[Reason] = Counter()

    def add(self, reason: Reason, number: int) -> None:
        """Count some."""
        self._counts[reason] += number

    def by_name(self) -> dict[str, int]:
        """Return them as a batch's counters have them."""
        return {f"asked_{reason.value}": self._counts[reason] for reason in Reason}
