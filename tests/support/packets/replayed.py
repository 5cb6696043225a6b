"""Runs captures through the replay source and the flow table, and gives their records as plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from proto.columns import EXCHANGE, FILE, NAMES, NO_INDEX, RAW, SET_UP, TLS, End, ExchangeEnd, Outcome, Reason, Role, Tunnel
from services.capture.flows.exchange_table import ExchangeEmission, ExchangeTable
from services.capture.flows.table import FlowTable
from services.capture.flows.timing import FlowTableSettings
from services.capture.names.reader import NameReader, NamesTold
from services.capture.replay.layout import file_columns
from services.capture.replay.replaying import replay
from services.capture.replay.source import ReplaySource
from tests.support.packets.pcap import write

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from services.capture.flows.datagrams import DatagramRules
    from services.capture.flows.table import Emission
    from tests.support.packets.pcap import Frame

_ENUMS = {
    "reason": Reason, "role": Role, "outcome": Outcome, "closed_by": End, "tunnel": Tunnel, "exchange_end": ExchangeEnd,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Replayed:
    """Every record of some captures, column -> value each, and the counters at the end."""

    records: list[dict[str, Any]]
    counters: dict[str, int]
    exchanges: list[dict[str, Any]] = field(default_factory=list)
    """Where trace contexts are looked for."""
    questions: list[dict[str, Any]] = field(default_factory=list)
    """DNS questions that have records of their own."""

    @property
    def only(self) -> dict[str, Any]:
        """The record, where there is one."""
        (record,) = self.records
        return record

    def total(self, what: str) -> int:
        """Sum of `tx_<what>` and `rx_<what>` over all records."""
        return sum(record[f"tx_{what}"] + record[f"rx_{what}"] for record in self.records)


def rows(
    emission: Emission | ExchangeEmission, source: ReplaySource | None = None, told: NamesTold | None = None
) -> list[dict[str, Any]]:
    """The records of an emission that is not settled yet; with its source, what only a file knows as well. Names are text."""
    columns = emission.columns | (file_columns(source.outers[emission.slots]) if source else {})
    columns = told.records.behind(columns | told.columns) if told else columns
    known = [column.name for column in RAW + NAMES + TLS + FILE + EXCHANGE + SET_UP]
    lists = {name: columns[name].tolist() for name in known if name in columns}
    for column in NAMES + TLS:
        if told and column.default == NO_INDEX and column.name in lists:
            lists[column.name] = [told.names[at] if at != NO_INDEX else None for at in lists[column.name]]
    return [
        {name: _ENUMS.get(name, lambda value: value)(values[row]) for name, values in lists.items()}
        for row in range(len(columns["flow_id"]))
    ]


def replay_files(
    files: Iterable[Path],
    *,
    capacity: int = 1024,
    settings: FlowTableSettings | None = None,
    trace_context: bool = False,
    datagrams: DatagramRules | None = None,
    names: NameReader | None = None,
) -> Replayed:
    """Replay files and accept every record; the totals of records and counters must agree."""
    records: list[dict[str, Any]] = []
    exchanges: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    with ReplaySource(list(files), capacity, trace_context=trace_context, datagrams=datagrams, names=names) as source:
        table = FlowTable(source, settings)

        def known(ids: Any) -> Any:
            return source.slots_of(ids), np.zeros(len(ids), np.int64)

        for emission in replay(source, table, exchanges=ExchangeTable(source, settings) if trace_context else None):
            if isinstance(emission, ExchangeEmission):
                exchanges += rows(emission, told=names.tell_exchanges(emission.columns, known) if names else None)
                continue
            told = rows(emission, source, names.tell(emission) if names else None)
            records += told[: len(emission)]
            questions += told[len(emission) :]
            table.accept(emission)
        counters = source.counters
        assert source.used_slots == 0
        assert source.file_bytes_read == source.file_bytes_total
        assert not len(source.open_exchanges())
    replayed = Replayed(records, counters, exchanges, questions)
    check_totals(replayed)
    return replayed


def check_totals(replayed: Replayed) -> None:
    """Every packet and byte of the files is in a record, or in a counter that says what it was."""
    counters = replayed.counters
    assert counters["packets"] == sum(value for name, value in counters.items() if name.endswith("_packets"))
    assert counters["bytes"] == sum(value for name, value in counters.items() if name.endswith("_bytes"))
    assert counters["flow_packets"] == replayed.total("packets")
    assert counters["flow_bytes"] == replayed.total("bytes")


def replay_frames(folder: Path, frames: Iterable[Frame], **how: Any) -> Replayed:
    """Replay frames as one Ethernet capture."""
    return replay_files([write(folder / "frames.pcap", frames)], **how)
