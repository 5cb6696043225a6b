"""Connections out of records: each with what its ends have told of it, and of each end the record that says the most."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from proto.flow_batch import FlowBatch
from proto.rows import rows
from proto.verdicts.names import Verdict, VerdictMeasure
from proto.verdicts.pairs import together
from proto.verdicts.rules import judged
from services.cli.views.flow_view import FlowView, Peer, flow_view

_SEVERITY: Final = (
    Verdict.REFUSED,
    Verdict.UNREACHABLE,
    Verdict.ACCEPT_QUEUE,
    Verdict.RESET_BY_SERVER,
    Verdict.RESET_BY_CLIENT,
    Verdict.MTU,
    Verdict.ZERO_WINDOW,
    Verdict.PATH_LOSS,
    Verdict.NAME_RESOLUTION,
    Verdict.PATH_OR_SERVER,
    Verdict.SERVER_SLOW,
    Verdict.PATH_SLOW,
    Verdict.CLIENT_SLOW,
    Verdict.UNKNOWN,
    Verdict.OK,
)
"""What says the most of a connection, of several things that its records say."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: as a row, as people look at it, and as a batch of its own."""

    row: Mapping[str, Any]
    view: FlowView
    batch: FlowBatch

    @property
    def verdict(self) -> Verdict:
        """What was wrong, as far as this end can tell."""
        return Verdict(int(self.batch.column("verdict")[0]))

    @property
    def measure(self) -> VerdictMeasure:
        """What decided it."""
        return VerdictMeasure(int(self.batch.column("verdict_measure")[0]))

    @property
    def weight(self) -> tuple[int, int, int]:
        """The least of an end's records says the most."""
        view = self.view
        wait = view.exchange.wait_ns or 0 if view.exchange else max(view.response_max_ns, view.connect_ns or 0)
        return _SEVERITY.index(self.verdict), -wait, -int(view.over)

    def of_client(self, name: str) -> int:
        """`tx_<name>` or `rx_<name>`, whichever the client sent."""
        return int(self.row.get(f"{'tx' if self.view.local_is_source else 'rx'}_{name}", 0))

    def of_server(self, name: str) -> int:
        """`tx_<name>` or `rx_<name>`, whichever the server sent."""
        return int(self.row.get(f"{'rx' if self.view.local_is_source else 'tx'}_{name}", 0))


@dataclass(slots=True)
class Connection:
    """One connection, or one request of it that belongs to an application's trace."""

    client: list[Record] = field(default_factory=list)
    """As the client's socket tells it; a capture file's records, which stand at neither end, are here too."""
    server: list[Record] = field(default_factory=list)

    @property
    def of_client(self) -> Record | None:
        """The client's record that says the most."""
        return min(self.client, key=lambda record: record.weight, default=None)

    @property
    def of_server(self) -> Record | None:
        """The server's record that says the most; of the same time as the client's, where there is one of that."""
        client = self.of_client
        same = [record for record in self.server if client and _meet(record, client)]
        return min(same or self.server, key=lambda record: record.weight, default=None)

    @property
    def told(self) -> Record:
        """The record by which it is told: the client's, who has waited."""
        record = self.of_client or self.of_server
        assert record is not None  # noqa: S101 - a connection is made of a record
        return record

    @property
    def source(self) -> Peer:
        """Who began, by the name that its own socket has."""
        return (self.of_client or self.told).view.source

    @property
    def destination(self) -> Peer:
        """Who was asked, likewise."""
        return (self.of_server or self.told).view.destination

    @property
    def known(self) -> int:
        """How many of its ends are somebody."""
        return self.source.is_known + self.destination.is_known

    def decided(self) -> tuple[Verdict, VerdictMeasure]:
        """What both ends say together, or the one that there is."""
        client, server = self.of_client, self.of_server
        if client is None or server is None or client.view.captured:
            return self.told.verdict, self.told.measure
        verdict, measure = together(client.batch, server.batch)
        return Verdict(int(verdict[0])), VerdictMeasure(int(measure[0]))

    def teller(self, verdict: Verdict, measure: VerdictMeasure) -> Record | None:
        """Return whose own verdict that is; None where only both together can say it."""
        ends = (self.of_server, self.of_client)
        return next((end for end in ends if end and (end.verdict, end.measure) == (verdict, measure)), None)


class Seen:
    """All that was seen, in columns; connections are taken out of it as they are asked for."""

    def __init__(self, some: Iterable[FlowBatch]) -> None:
        self._batches = [batch if "verdict" in batch.columns else judged(batch) for batch in some]

    def connections(self, wanted: Callable[[Record], bool], *, most: int | None = None) -> list[Connection]:
        """Return the connections with a record that is wanted, with all their records, in the order in which they were told."""
        found: dict[Hashable, Connection] = {}
        for record in self._each():
            if wanted(record) and (most is None or len(found) < most):
                found.setdefault(_identity(record), Connection())
        for record in self._each():
            connection = found.get(_identity(record))
            if connection is not None:
                at_server = record.view.directed and not record.view.local_is_source and not record.view.captured
                (connection.server if at_server else connection.client).append(record)
        return list(found.values())

    def _each(self) -> Iterator[Record]:
        for batch in self._batches:
            for at, row in enumerate(rows(batch)):
                yield Record(row, flow_view(row), batch.take(slice(at, at + 1)))


def _identity(record: Record) -> Hashable:
    view, row = record.view, record.row
    if view.exchange is not None:
        return view.exchange.trace_id, row.get("parent_span_id"), view.connection
    if view.question:
        return "question", view.connection, row.get("dns_first_name"), row["start_unix_ns"] // 1_000_000_000
    return view.connection


def _meet(one: Record, other: Record) -> bool:
    """Whether they are of overlapping times."""
    latest_start = max(one.row["start_unix_ns"], other.row["start_unix_ns"])
    return bool(latest_start <= min(one.row["end_unix_ns"], other.row["end_unix_ns"]))
