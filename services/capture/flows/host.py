"""What the flow table asks of whoever fills the slots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from services.capture.flows.layout import Slots

Indexes = npt.NDArray[np.uint32]
"""Of slots."""


class FlowHost(Protocol):
    """Who fills the slots."""

    @property
    def capacity(self) -> int:
        """Number of slots."""

    @property
    def high_slot(self) -> int:
        """No slot from this index on was ever used."""

    @property
    def used_slots(self) -> int:
        """Slots that are not free."""

    def windows(self) -> Iterator[tuple[int, Slots]]:
        """Yield what is in use of the slots up to `high_slot` in order, piece by piece: the first one's index, and the slots.

        Hold none of them when asking for the next.
        """

    def rows(self, slots: Indexes) -> Slots:
        """Return a copy of these slots."""

    def mark_taken(self, slots: Indexes) -> None:
        """Add one to `taken` of each of these slots."""

    def retire(self, slots: Indexes) -> None:
        """Let no packet reach these slots any more."""

    def release(self, slots: Indexes) -> None:
        """Zero these slots and give them to other flows."""
