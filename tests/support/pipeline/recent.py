"""The copies to look back at, once they are there."""

from __future__ import annotations

import asyncio

from proto.subjects import RECENT_STREAM
from services.runtime.nats.bus import Bus, StoredMessage


async def recent_copies(bus: Bus, count: int = 1) -> list[StoredMessage]:
    """Return what FLOWS_RECENT holds, as soon as that is so many: the server copies after it has acknowledged."""
    while True:
        copies = [copy async for copy in bus.peek(RECENT_STREAM)]
        if len(copies) >= count:
            return copies
        await asyncio.sleep(0.02)
