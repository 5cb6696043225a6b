"""Capture files read from end to end: when flows and exchanges are looked at, on the packets' clock."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from proto.columns import Reason
from services.capture.errors import CaptureError
from services.capture.replay.source import ReplaySource, Stop

if TYPE_CHECKING:
    from services.capture.flows.exchange_table import ExchangeEmission, ExchangeTable
    from services.capture.flows.table import Emission, FlowTable
    from services.capture.replay.meeting import ReplayMeeting


def replay(
    source: ReplaySource,
    table: FlowTable,
    tick_seconds: int = 1,
    exchanges: ExchangeTable | None = None,
    meeting: ReplayMeeting | None = None,
) -> Iterator[Emission | ExchangeEmission]:
    """Yield the records of all files, at whole ticks of the capture's clock and at the end; the same files, the same records.

    Settle each emission (FlowTable.accept or refuse) before asking for the next; those of exchanges, of which there are none
    without `exchanges`, need not be. Before a packet is taken, what was idle up to its tick has ended: after a gap, it begins
    another flow. Files whose clock goes on are one capture in pieces; where a file's clock lies before that of the one before
    it, the flows of the earlier files end there.
    """
    tick_ns = tick_seconds * 1_000_000_000
    now_ns = 0

    def drain(final: Reason | None = None) -> Iterator[Emission | ExchangeEmission]:
        if exchanges is not None:
            meet = partial(meeting.meet, now_ns, final=final is not None) if meeting is not None else None
            yield from exchanges.drain(now_ns, final=final is not None, meet=meet)
        yield from table.drain(now_ns, final)

    while source.open_next_file():
        ahead = source.advance(0)
        if ahead.next_unix_ns is not None and ahead.next_unix_ns + tick_ns < now_ns:
            yield from drain(Reason.SHUTDOWN)
            now_ns = 0
        while ahead.stop not in {Stop.END_OF_FILE, Stop.CUT}:
            if ahead.stop is Stop.TABLE_FULL:
                now_ns = max(now_ns, source.clock_unix_ns)
                yield from drain()
                if source.used_slots == source.capacity:
                    raise CaptureError("the flow table is full of records that were not settled")
            elif ahead.stop is Stop.EXCHANGES:
                yield from drain()
            elif ahead.next_unix_ns is not None and ahead.next_unix_ns // tick_ns * tick_ns > now_ns:
                now_ns = ahead.next_unix_ns // tick_ns * tick_ns
                yield from drain()
            ahead = source.advance(max(now_ns // tick_ns * tick_ns + tick_ns - 1, source.clock_unix_ns))
        now_ns = max(now_ns, source.clock_unix_ns)
    yield from drain(Reason.SHUTDOWN)
