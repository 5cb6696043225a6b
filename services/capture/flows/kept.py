"""What the flow table keeps of each slot's flow beside its watermark: what its last record was, and what the next one needs."""

from __future__ import annotations

import numpy as np

from services.capture.flows.host import Indexes


class Kept:
    """By slot, zero at first."""

    def __init__(self, capacity: int) -> None:
        # Zeroed pages, which take memory once they are written to: so nothing is, where it would not change.
        self.records = np.zeros(capacity, np.uint32)
        """How many were stored."""
        self.last_record_ns = np.zeros(capacity, np.int64)
        self.reported = np.zeros(capacity, np.uint16)
        """What the last one said that another would be emitted for."""
        self.carried_start_ns = np.zeros(capacity, np.uint64)
        self.carried_max_ns = np.zeros(capacity, np.uint64)
        """Of a refused record: when its interval began, and its longest response time."""
        self.final_reason = np.zeros(capacity, np.uint8)
        self.pending = np.zeros(capacity, np.bool_)
        """Its emission is not settled."""
        self.left = np.zeros(capacity, np.bool_)
        """To who told it so far."""

    def forget(self, slots: Indexes) -> Indexes:
        """Set these to zero again; return those whose flows were told of, here or elsewhere."""
        self.drop_carried(slots)
        told: Indexes = slots[(self.records[slots] != 0) | self.left[slots]]
        for each in (self.records, self.last_record_ns, self.reported, self.left):
            each[told] = 0
        self.final_reason[slots] = 0
        self.pending[slots] = False
        return told

    def drop_carried(self, slots: Indexes) -> None:
        """What was refused of these is in a record now, or never will be."""
        carried = slots[(self.carried_start_ns[slots] != 0) | (self.carried_max_ns[slots] != 0)]
        self.carried_start_ns[carried] = 0
        self.carried_max_ns[carried] = 0
