"""Capture files read from end to end: when flows and exchanges are looked at, on the packets' clock."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from proto.columns import Reason
from services.capture.errors import CaptureError
from services.capture.replay.source import ReplaySource, Stop

if TYPE_CHECKING:
    from services.capture.flows.exchange_table import ExchangeEmission, ExchangeTable
    from services.capture.flows.table import Emission, FlowTable
    from services.capture.replay.meeting import ReplayMeeting

_LEAST_TOGETHER: Final = 512
"""What a batch costs whatever is in it, here and at all who read it, is what some hundred records cost."""
_MOST_TOGETHER_NS: Final = 10_000_000_000


def replay(
    source: ReplaySource,
    table: FlowTable,
    tick_seconds: int = 1,
    exchanges: ExchangeTable | None = None,
    meeting: ReplayMeeting | None = None,
    *,
    at_once: bool = False,
) -> Iterator[Emission | ExchangeEmission]:
    """Yield the records of all files, at whole ticks of the capture's clock and at the end; the same files, the same records.

    Settle each emission (FlowTable.accept or refuse) before asking for the next; those of exchanges, of which there are none
    without `exchanges`, need not be. Before a packet is taken, what was idle up to its tick has ended: after a gap, it begins
    another flow. Files whose clock goes on are one capture in pieces; where a file's clock lies before that of the one before
    it, the flows of the earlier files end there.

    Last records of flows that are over are yielded when there are some, or it is a while ago; with `at_once`, at their tick.
    """
    tick_ns = tick_seconds * 1_000_000_000
    now_ns = 0
    due = _Due(table, exchanges, meeting, at_once=at_once)
    while source.open_next_file():
        ahead = source.advance(0)
        if ahead.next_unix_ns is not None and ahead.next_unix_ns + tick_ns < now_ns:
            yield from due.drain(now_ns, Reason.SHUTDOWN)
            now_ns = 0
        while ahead.stop not in {Stop.END_OF_FILE, Stop.CUT}:
            if ahead.stop is Stop.TABLE_FULL:
                now_ns = max(now_ns, source.clock_unix_ns)
                yield from due.drain(now_ns)
                if source.used_slots == source.capacity:
                    raise CaptureError("the flow table is full of records that were not settled")
            elif ahead.stop is Stop.EXCHANGES:
                yield from due.drain(now_ns)
            elif ahead.next_unix_ns is not None and ahead.next_unix_ns // tick_ns * tick_ns > now_ns:
                now_ns = ahead.next_unix_ns // tick_ns * tick_ns
                yield from due.look(now_ns)
            ahead = source.advance(max(now_ns // tick_ns * tick_ns + tick_ns - 1, source.clock_unix_ns))
        now_ns = max(now_ns, source.clock_unix_ns)
    yield from due.drain(now_ns, Reason.SHUTDOWN)


class _Due:
    """What is due of flows and exchanges."""

    def __init__(
        self, table: FlowTable, exchanges: ExchangeTable | None, meeting: ReplayMeeting | None, *, at_once: bool
    ) -> None:
        self._table = table
        self._exchanges = exchanges
        self._meeting = meeting
        self._most_ns = 0 if at_once else _MOST_TOGETHER_NS
        self._drained_ns = 0

    def look(self, now_ns: int) -> Iterator[Emission | ExchangeEmission]:
        """Yield what is due, but for a few last records that others are to join."""
        is_recent = 0 <= now_ns - self._drained_ns < self._most_ns
        yield from self.drain(now_ns, least=_LEAST_TOGETHER if is_recent else 0)

    def drain(self, now_ns: int, final: Reason | None = None, least: int = 0) -> Iterator[Emission | ExchangeEmission]:
        """Yield what is due; with `final`, everything."""
        if self._exchanges is not None:
            meet = partial(self._meeting.meet, now_ns, final=final is not None) if self._meeting is not None else None
            yield from self._exchanges.drain(now_ns, final=final is not None, meet=meet)
        for emission in self._table.drain(now_ns, final, least=least):
            self._drained_ns = now_ns
            yield emission
