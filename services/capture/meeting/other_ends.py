"""What servers' spans say of their clients': from which address and port they were asked.

A client's span seldom knows its own port, but its server's does, and names it as its parent: so two spans that could be swapped
can be no more.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from proto.asked.batch import AskedBatch
from proto.columns import Role

Rows: TypeAlias = npt.NDArray[Any]

_MOST: Final = 200_000


class _End(NamedTuple):
    """Of a connection; None: servers contradict each other, as where a request was tried again."""

    place: tuple[bytes, int] | None
    known_ns: int


class OtherEnds:
    """Ends of connections by the ids of clients' spans, for a while."""

    def __init__(self, keep_ns: int) -> None:
        self._keep_ns = keep_ns
        self._ends: OrderedDict[bytes, _End] = OrderedDict()

    def learn(self, batch: AskedBatch, now_ns: int) -> None:
        """Take rows of the kind OTHER_END."""
        names = ("trace_id", "span_id", "peer_address", "peer_port")
        for trace_id, span_id, *place in zip(*(batch.columns[name].tolist() for name in names), strict=True):
            span = trace_id + span_id
            said = (place[0], place[1])
            known = self._ends.pop(span, None)
            self._ends[span] = _End(said if known is None or known.place == said else None, now_ns)
        while self._ends and (len(self._ends) > _MOST or next(iter(self._ends.values())).known_ns < now_ns - self._keep_ns):
            self._ends.popitem(last=False)

    def applied(self, questions: Rows, connections: Rows) -> Rows:
        """Return questions of clients with `own_port` as their servers have it, where one of the connections has that end.

        Where none has, somebody stands between who asks by connections of his own.
        """
        if not self._ends:
            return questions
        clients = connections[connections["role"] == Role.CLIENT]
        there = set(zip(clients["local_address"].tolist(), clients["local_port"].tolist(), strict=True))
        found = questions.copy()
        for row in np.flatnonzero(~questions["server"] & (questions["local_port"] == 0)).tolist():
            end = self._ends.get(questions["trace_id"][row].tobytes() + questions["span_id"][row].tobytes())
            if end is not None and end.place in there:
                found["own_port"][row] = end.place[1]
        return found
