"""Whose peer may be whose: what questions say of the other end, beside the connections there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from services.capture.meeting.assignment import Indexes
from services.capture.meeting.ring import Rows, is_datagrams

if TYPE_CHECKING:
    from services.capture.meeting.questions import Rows as Asked

ANY_ADDRESS: Final = bytes(16)
"""Of a peer that a question says nothing of."""


class Peers:
    """Whose peer may be whose: of questions and of connections."""

    def __init__(self, asked: Asked, of_span: Indexes, facts: Rows) -> None:
        ends: Mapping[tuple[bytes, int, int], int]
        keys = list(zip(*(asked[name].tolist() for name in ("peer_address", "peer_port", "local_port")), strict=True))
        ends = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        self._of_facts = np.zeros((len(facts), len(ends)), np.bool_)
        # A pod looks names up all the time: a span that says nothing of its peer is no more likely to have asked for one.
        may_be_anybody = ~is_datagrams(facts["transport"])
        for (address, port, local_port), place in ends.items():
            fits = np.zeros(len(facts), np.bool_)
            for end in ("remote", "backend"):
                ports = facts[f"{end}_port"]
                may_be = facts[f"{end}_address"] == np.void(address) if address != ANY_ADDRESS else may_be_anybody | (port != 0)
                fits |= may_be & (ports == (port or ports))
            self._of_facts[:, place] = fits & (facts["local_port"] == (local_port or facts["local_port"]))
        self._of_spans = np.zeros((int(of_span.max()) + 1, len(ends)), np.bool_)
        self._of_spans[of_span, [ends[key] for key in keys]] = True
        anybody = [address == ANY_ADDRESS and not port for address, port, _ in ends]
        self.are_anybody: npt.NDArray[np.bool_] = np.asarray((self._of_spans & anybody).any(axis=1))
        """Spans that say nothing of their peer."""
        self.any_of: npt.NDArray[np.bool_] = np.asarray(self._of_facts.any(axis=1))

    def may_be(self, spans: Indexes, connections: Indexes) -> npt.NDArray[np.bool_]:
        """Whether, pair by pair, a connection's peer may be a span's."""
        if self._of_facts.shape[1] == 1:
            return np.ones(len(spans), np.bool_)
        found: npt.NDArray[np.bool_] = np.asarray((self._of_spans[spans] & self._of_facts[connections]).any(axis=1))
        return found

    def of(self, spans: Indexes, connections: Indexes) -> npt.NDArray[np.bool_]:
        """Whether a connection's peer (column) may be a span's (row)."""
        found: npt.NDArray[np.bool_] = np.asarray(
            self._of_spans[spans].astype(np.float32) @ self._of_facts[connections].T.astype(np.float32) > 0
        )
        return found


def numbered(asked: Asked) -> tuple[Indexes, Indexes]:
    """Return the first row of each question, and of each row the question's place among these."""
    _, first, of_row = np.unique(asked["number"], return_index=True, return_inverse=True)
    return first, of_row


def with_any_peer(asked: Asked) -> npt.NDArray[np.bool_]:
    """Which rows are of questions whose peer may be any."""
    unknown = asked["number"][asked["peer_address"] == np.void(ANY_ADDRESS)]
    found: npt.NDArray[np.bool_] = np.isin(asked["number"], unknown)
    return found


def by_peer(asked: Asked) -> Iterable[Asked]:
    """Yield questions by what their peers may have in common: addresses of one question are the same peer's.

    Those whose peer may be any come last: then it is known whose some exchanges are.
    """
    parent: dict[bytes, bytes] = {}

    def root(address: bytes) -> bytes:
        while (above := parent.setdefault(address, address)) != address:
            parent[address] = address = parent[above]
        return address

    anybodys = with_any_peer(asked)
    asked, unknown = asked[~anybodys], asked[anybodys]
    addresses, numbers = asked["peer_address"].tolist(), asked["number"].tolist()
    for row in range(1, len(addresses)):
        if numbers[row] == numbers[row - 1]:
            parent[root(addresses[row])] = root(addresses[row - 1])
    groups: dict[bytes, list[int]] = {}
    for row, address in enumerate(addresses):
        groups.setdefault(root(address), []).append(row)
    for rows in groups.values():
        yield asked[rows]
    if len(unknown):
        yield unknown
