"""Names of peers that flows were seen to have: what DNS answered, as the captures tell it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import numpy as np

from proto.columns import NO_INDEX
from proto.flow_batch import FlowBatch
from proto.subjects import subject_token

MOST_NAMES: Final = 8192
_MOST_ADDRESSES: Final = 16
"""Of one name; those that were seen last. A name with more of them is a large service's, which has others by now."""


class NamesSeen:
    """Addresses by node and name, of the flows that this enricher has seen. The least recently seen names are forgotten."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[tuple[str, str], OrderedDict[bytes, None]] = OrderedDict()

    def learn(self, batch: FlowBatch) -> None:
        """Take the names of the remote ends of a batch's flows."""
        if "remote_name" not in batch.columns or not batch.names:
            return
        column = batch.column("remote_name")
        rows = np.flatnonzero(column != NO_INDEX)
        pairs = np.empty(len(rows), [("name", "<u4"), ("address", "V16")])
        pairs["name"], pairs["address"] = column[rows], batch.column("remote_address")[rows]
        node = subject_token(batch.node)
        for packed in set(pairs.view("V20").tolist()):
            name = batch.names[int.from_bytes(packed[:4], "little")].rstrip(".").lower()
            self._add((node, name), packed[4:])

    def addresses(self, node: str, name: str) -> tuple[bytes, ...]:
        """Return the addresses that a name was seen to have on a node."""
        return tuple(self._addresses.get((subject_token(node), name), ()))

    def _add(self, key: tuple[str, str], address: bytes) -> None:
        known = self._addresses.pop(key, None)
        known = OrderedDict[bytes, None]() if known is None else known
        self._addresses[key] = known
        known.pop(address, None)
        known[address] = None
        if len(known) > _MOST_ADDRESSES:
            known.popitem(last=False)
        if len(self._addresses) > MOST_NAMES:
            self._addresses.popitem(last=False)
