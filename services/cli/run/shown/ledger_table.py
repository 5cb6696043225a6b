"""The ledger of a run as a table: every packet, record and span accounted for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from services.cli.run.ledger import CaptureProgress, Ledger
from services.cli.views import units

_PACKETS: Final = "_packets"
_IN_FLOWS: Final = "flow_packets"
_WITHOUT_ROLE: Final = "connections_of_unknown_role"
_ASKED: Final = "asked_"
_MET: Final = "matched"
_COPIES: Final = "copy_packets"


def ledger_table(ledger: Ledger, destination: str, *, live: bool = False) -> Table:
    """Return the table, of a capture file or of `live` sockets. Figures that cannot be known yet are said to be so."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim", overflow="fold")
    for name, number, note in ledger_rows(ledger, destination, live=live):
        table.add_row(name, number, note)
    return table


def ledger_rows(ledger: Ledger, destination: str, *, live: bool = False) -> Iterator[tuple[str, str | Text, str]]:
    """Yield its rows: what is counted, how many, and a note."""
    progress = ledger.progress
    yield ("packets seen" if live else "packets read", units.count(progress.packets), units.byte_count(progress.bytes))
    copies = progress.counters.get(_COPIES, 0)
    if copies:
        yield ("  copies", units.count(copies), "seen before, at another point of their way")
    apart = packets_in_no_flow(progress)
    yield ("  in no flow", units.count(sum(apart.values())), ", ".join(f"{n} {name}" for name, n in apart.items()))
    yield ("flows", units.count(progress.flows), "")
    without_role = progress.counters.get(_WITHOUT_ROLE, 0)
    if without_role:
        yield ("  of unknown role", units.count(without_role), "TCP joined later: nobody could tell which end asks")
    yield ("records", units.count(progress.records), units.counted(progress.batches, "batch", "batches"))
    if progress.exchanges:
        yield ("  exchanges", units.count(progress.exchanges), "requests in application traces, with their phases")
    asked = {name.removeprefix(_ASKED): number for name, number in progress.counters.items() if name.startswith(_ASKED)}
    if any(asked.values()):
        others = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in asked.items() if number and name != _MET)
        yield ("  asked for", units.count(asked.get(_MET, 0)), f"of {sum(asked.values())} application spans; {others or 'all'}")
    yield ("spans", units.count(progress.expected_spans), "")
    accepted = "unknown" if ledger.accepted is None else units.count(ledger.accepted)
    yield ("spans accepted", Text(accepted, style="green" if ledger.complete else "yellow"), f"by {destination}")
    yield ("spans refused", _bad(ledger.refused), "")
    yield ("dead", _bad(ledger.dead), f"and {ledger.uncounted} uncounted messages" if ledger.uncounted else "")
    if ledger.batches_under_way:
        under_way = units.counted(ledger.batches_under_way, "batch", "batches")
        yield ("not delivered", Text(under_way, style="bold red"), "stored on the bus, not acknowledged by the backend")


def packets_in_no_flow(progress: CaptureProgress) -> dict[str, int]:
    """Return the packets that capture put into no flow, by what they are, the most frequent first."""
    apart = {
        name.removesuffix(_PACKETS).replace("_", " "): number
        for name, number in progress.counters.items()
        if name.endswith(_PACKETS) and name not in {_IN_FLOWS, _COPIES} and number
    }
    return dict(sorted(apart.items(), key=lambda item: -item[1]))


def _bad(number: int) -> Text:
    return Text(units.count(number), style="bold red" if number else "green")
