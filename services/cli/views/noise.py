"""What a kernel says to its neighbours by itself: on a live screen one row, for it comes all the time and tells of nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.cli.views.conversations import Conversation, Key

_NOISE: Final = frozenset(
    {
        "igmp",
        *(f"icmpv6 {of} {what}" for of in ("router", "neighbour") for what in ("solicitation", "advertisement")),
        *(f"icmpv6 listener {what}" for what in ("query", "report", "done")),
    }
)
NOISE: Final[Key] = ("kernels", "neighbour discovery, multicast listeners", 0, "icmpv6, igmp")
"""What stands for all of it."""


def is_noise(each: Conversation) -> bool:
    """Whether it is that."""
    return each.transport in _NOISE


def folded(conversations: Sequence[Conversation]) -> list[Conversation]:
    """Return them in their order with all of the noise as one, at the end: nobody has to look at it first."""
    noise = Conversation(*NOISE)
    kept = []
    for each in conversations:
        if is_noise(each):
            noise.add(each)
        else:
            kept.append(each)
    return [*kept, noise] if noise.flows else kept
