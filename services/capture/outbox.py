"""One batch's messages on their way to the bus, each in parts where the server takes less in one message than we send."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import structlog

from proto.flow_batch import decode, encode_parts
from proto.subjects import part_id
from services.runtime.nats.bus import Bus, MessageTooLargeError

logger = structlog.get_logger()

OVERSIZED_METRIC: Final = (
    "oversized",
    "Records that are stored nowhere: each alone is more than the bus takes in one message",
    "{record}",
)


class Outbox:
    """What is left to send of a batch. The same messages are cut into the same parts, under the same ids."""

    def __init__(self, bus: Bus, subject: str, messages: Iterable[tuple[str, bytes]]) -> None:
        self._bus = bus
        self._subject = subject
        self._left = deque(messages)
        self.begun = False
        """Whether some of it is stored."""
        self.oversized = 0
        """Records, each in a message of its own, that are larger than the server takes: they are stored nowhere."""

    async def send(self) -> None:
        """Have all that is left stored. Raises StreamFullError: called again, it goes on where it was."""
        while self._left:
            message_id, message = self._left[0]
            try:
                await self._bus.publish(self._subject, message, message_id=message_id)
            except MessageTooLargeError as error:
                self._left.popleft()
                self._left.extendleft(reversed(self._parts(message_id, message, error)))
            else:
                self._left.popleft()
                self.begun = True

    def _parts(self, message_id: str, message: bytes, error: MessageTooLargeError) -> list[tuple[str, bytes]]:
        batch = decode(message)
        if batch.count > 1:
            return [(part_id(message_id, part.first, part.end), part.message) for part in encode_parts(batch, error.limit)]
        self.oversized += batch.count
        logger.error("record.too_large", error=str(error), hint="raise `max_payload` of NATS, or of the stream `max_msg_size`")
        return []
