"""What is asked for: a flow, a trace, a pair, or whatever is worst."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from proto.verdicts.names import Verdict
from services.cli.errors import UsageError
from services.cli.explain.connections import Connection, Record
from services.cli.views.flow_view import Peer

_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_FLOW_ID: Final = re.compile(r"[0-9]{1,20}|0x[0-9a-f]{1,16}")
_PAIR: Final = re.compile(r"\s+(?:to|->)\s+")
_BOTH: Final = 2
_NO_TROUBLE: Final = frozenset({Verdict.OK, Verdict.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Question:
    """Which records may be of what is asked for, and which connections are, once all that was told of them is known."""

    of_record: Callable[[Record], bool]
    of_connection: Callable[[Connection], bool] = lambda _: True


def is_trace_id(asked: str) -> bool:
    """Whether it is one."""
    return bool(_TRACE_ID.fullmatch(asked.strip().lower()))


def question(asked: str) -> Question:
    """Return what is asked for; nothing is whatever has trouble. Raises UsageError for what cannot be asked."""
    asked = asked.strip()
    if not asked:
        return Question(lambda record: record.verdict not in _NO_TROUBLE)
    if is_trace_id(asked):
        return Question(lambda record: _is_of_trace(record, asked.lower()))
    if _FLOW_ID.fullmatch(asked.lower()):
        number = int(asked, 0)
        return Question(lambda record: bool(record.row["flow_id"] == number))
    ends = _PAIR.split(asked)
    if len(ends) > _BOTH or not all(ends):
        raise UsageError(f"{asked!r}: a pair is `FROM to DESTINATION[:PORT]`")
    source, destination = map(_end, (ends * _BOTH)[:_BOTH])
    both = all if len(ends) == _BOTH else any

    def of_record(record: Record) -> bool:
        # Each socket knows its own end's name best, so that one record's names need not be all.
        return source(record.view.source) or destination(record.view.destination)

    def of_connection(connection: Connection) -> bool:
        told = [*connection.client, *connection.server]
        return both(
            (
                any(source(record.view.source) for record in told),
                any(destination(record.view.destination) for record in told),
            )
        )

    return Question(of_record, of_connection)


def _is_of_trace(record: Record, trace_id: str) -> bool:
    """An application's trace holds exchanges; a connection's own has the flow's id in it."""
    exchange = record.view.exchange
    if exchange is not None:
        return exchange.trace_id == trace_id
    return bool(record.row["flow_id"] == int(trace_id[16:], 16))


def _end(text: str) -> Callable[[Peer], bool]:
    """A name, with its namespace or without, or an address; a port behind it where one is meant."""
    name, port = text.strip(), 0
    if match := re.fullmatch(r"(\[.*\]|[^:]*):([0-9]{1,5})", name):
        name, port = match[1].strip("[]"), int(match[2])

    def accepts(peer: Peer) -> bool:
        named = not name or peer.name == name or peer.name.rpartition("/")[2] == name
        return named and port in {0, peer.port}

    return accepts


def worst(some: Sequence[Connection]) -> tuple[Connection | None, int]:
    """Return the connection to explain first, and how many others between the same two have the same verdict.

    What happens between two that are known goes before what somebody does to an address where nobody may be; then, what happens
    to most connections is worse than what happens to one.
    """
    decided = [(connection, connection.decided()[0]) for connection in some]
    kinds = Counter(_kind(connection, verdict) for connection, verdict in decided if verdict not in _NO_TROUBLE)
    if not kinds:
        return min(some, key=lambda connection: connection.told.weight, default=None), 0
    known = {_kind(connection, verdict): connection.known for connection, verdict in decided}
    kind, number = max(kinds.items(), key=lambda each: (known[each[0]], each[1]))
    of_kind = [connection for connection, verdict in decided if _kind(connection, verdict) == kind]
    return min(of_kind, key=lambda connection: connection.told.weight), number - 1


def _kind(connection: Connection, verdict: Verdict) -> tuple[str, str, int, Verdict]:
    destination = connection.destination
    return connection.source.name, destination.name, destination.port, verdict
