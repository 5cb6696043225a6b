"""Senders whose clock is ahead: their spans end later than they arrive. Of one that is behind, only captures can know.

A span may wait for minutes before it is sent, but not be there before it has ended.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

import structlog

from services.enricher.intake.locals import Local

logger = structlog.get_logger()

AHEAD_NS: Final = 100_000_000
"""Hosts whose clocks are kept in step differ by less."""
RECENT_NS: Final = 60_000_000_000
_QUIET_NS: Final = 600_000_000_000
"""A sender is named once in so long."""
_MOST_SENDERS: Final = 1_024


class _Ahead(NamedTuple):
    ahead_ns: int
    seen_ns: int
    said_ns: int


class SendersClocks:
    """Those that were seen to be ahead lately."""

    def __init__(self) -> None:
        self._senders: OrderedDict[Local, _Ahead] = OrderedDict()

    def look(self, sender: Local, latest_end_ns: int, now_unix_ns: int) -> None:
        """Take the latest end of the spans that have just come from somebody."""
        ahead = latest_end_ns - now_unix_ns
        if ahead <= AHEAD_NS:
            return
        known = self._senders.pop(sender, None)
        said = known.said_ns if known is not None and now_unix_ns - known.said_ns < _QUIET_NS else 0
        self._senders[sender] = _Ahead(ahead, now_unix_ns, said or now_unix_ns)
        if len(self._senders) > _MOST_SENDERS:
            self._senders.popitem(last=False)
        if not said:
            logger.warning(
                "intake.clock_ahead", node=sender.node, sender=sender.local or "the node", ahead_seconds=ahead / 1e9,
                advice="its spans ended later than they came: look at how its clock is kept in step, and this machine's",
            )  # fmt: skip

    def largest_seconds(self, now_unix_ns: int) -> float:
        """How far the clock is ahead, at least, that is farthest of those that were seen within the last minute."""
        recent = (each.ahead_ns for each in list(self._senders.values()) if now_unix_ns - each.seen_ns < RECENT_NS)
        return max(recent, default=0) / 1e9
