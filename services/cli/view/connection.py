"""One connection as both its ends saw it, and the requests of one trace: what `explain` says, on an axis of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from proto.exchange_phases import Phase, phases
from proto.flow_batch import FlowBatch
from proto.verdicts.names import Verdict
from services.cli.explain.connections import Connection, Record, Seen
from services.cli.explain.explanation import Explanation, explain
from services.cli.explain.question import worst
from services.cli.tap.filters import FlowFilter
from services.cli.view.flows import level
from services.cli.view.kept import Kept, Piece
from services.cli.views import units
from services.cli.views.flow_line import flow_line
from services.cli.views.flow_view import FlowView

_Named: TypeAlias = Callable[[str], bool]

MOST_TRACES: Final = 200
_OF_WORST: Final = ("flow", "source", "destination", "verdict", "sentence", "wrong")
_MOST_JUDGED: Final = 200
"""Connections that are looked at to find the worst: the latest."""
_MOST_REQUESTS: Final = 400
"""Of one connection, the latest: a channel of gRPC has any number."""
_MOST_BARS: Final = 400
"""Of one lane: more are not told apart by eye."""


def connection(kept: Kept, flow_id: int) -> dict[str, Any] | None:
    """Return what is known of the connection that a flow is of; None where nothing of it is kept."""
    same = [view for piece in kept.pieces for view in _of_flow(piece, flow_id)]
    names, flows = {view.connection for view in same}, {view.flow for view in same}

    def is_of_it(view: FlowView) -> bool:
        return view.connection in names or view.flow in flows

    records = kept.of(lambda view: view.of_flow and is_of_it(view))
    requests, left_out = _latest(kept.of(lambda view: not view.of_flow and is_of_it(view)))
    found = Seen([*records, *requests]).connections(lambda _: True)
    told = [one for one in found if any(record.row["flow_id"] == flow_id for record in (*one.client, *one.server))]
    if not told:
        return None
    chosen = next((one for one in told if one.told.view.of_flow), told[0])
    others = [one for one in found if not one.told.view.of_flow]
    return _told(explain(chosen, kept.place)) | _axis(chosen, others) | {"left_out": left_out}


def _anybody(_name: str) -> bool:
    return True


def worst_of(
    kept: Kept, which: FlowFilter, is_source: _Named = _anybody, is_destination: _Named = _anybody
) -> dict[str, Any] | None:
    """Return the verdict on the worst connection of those that are wanted, as `explain` has it; None where none has trouble."""
    found = (view for piece in kept.pieces for _, _, view in piece.wanted(which) if view.of_flow)
    troubled = [
        view
        for view in found  # each socket knows its own end's name best, so that one record's names need not be both
        if (view.verdict_measure or view.failed) and (is_source(view.source.name) or is_destination(view.destination.name))
    ]
    troubled.sort(key=lambda view: view.source.is_known + view.destination.is_known)
    names = {view.connection for view in troubled[-_MOST_JUDGED:]}
    connections = Seen(kept.of(lambda view: view.of_flow and view.connection in names)).connections(lambda _: True)
    between = [one for one in connections if is_source(one.source.name) and is_destination(one.destination.name)]
    chosen, more = worst(between)
    if chosen is None:
        return None
    told = _told(explain(chosen))
    return {key: told[key] for key in _OF_WORST} | {"more": more}


def trace(kept: Kept, trace_id: str) -> dict[str, Any] | None:
    """Return the requests of an application's trace, in their order; None where none is kept."""
    batches = kept.of(lambda view: view.exchange is not None and view.exchange.trace_id == trace_id)
    found = sorted(Seen(batches).connections(lambda _: True), key=_begin)
    if not found:
        return None
    begin = min(bar[1] for one in found for record in (*one.client, *one.server) for bar in _phases(record))
    end = max(int(record.row["end_unix_ns"]) for one in found for record in (*one.client, *one.server))
    open_calls: list[Connection] = []
    rows = []
    for one in found:
        open_calls = [call for call in open_calls if _within(one, call)]
        rows.append(_told(explain(one, kept.place)) | {"depth": len(open_calls), "lanes": _lanes(one, [one], begin)})
        open_calls.append(one)
    return {"trace": trace_id, "begin": units.moment(begin), "lasted_ns": end - begin, "requests": rows}


def traces(kept: Kept) -> list[dict[str, Any]]:
    """Return the traces of which requests are kept, the slowest first."""
    found: dict[str, list[FlowView]] = {}
    for piece in kept.pieces:
        for view in piece.views:
            if view.exchange is not None:
                found.setdefault(view.exchange.trace_id, []).append(view)
    slowest = sorted(found.items(), key=lambda each: -max(map(_lasted_ns, each[1])))[:MOST_TRACES]
    rows = []
    for trace_id, views in slowest:
        longest = max(views, key=_lasted_ns)
        rows.append(
            {
                "trace": trace_id,
                "requests": len(views),
                "longest": units.duration(_lasted_ns(longest)),
                "what": f"{longest.source} -> {longest.destination}",
                "at": units.moment(min(view.end_unix_ns for view in views)),
                "level": max(map(level, views)),
                "verdict": next((view.verdict for view in views if view.verdict_measure), "ok"),
            }
        )
    return rows


def _of_flow(piece: Piece, flow_id: int) -> Iterator[FlowView]:
    for at in (piece.batch.column("flow_id") == flow_id).nonzero()[0].tolist():
        yield piece.views[at]


def _latest(some: Sequence[FlowBatch]) -> tuple[list[FlowBatch], int]:
    """Return the batches with only their latest records, and how many are left out."""
    latest: list[FlowBatch] = []
    room = _MOST_REQUESTS
    for batch in reversed(some):
        latest.insert(0, batch.take(slice(max(batch.count - room, 0), None)))
        room -= latest[0].count
    return [batch for batch in latest if batch.count], sum(batch.count for batch in some) - (_MOST_REQUESTS - room)


def _lasted_ns(view: FlowView) -> int:
    exchange = view.exchange
    return exchange.request_ns + (exchange.wait_ns or 0) + (exchange.response_ns or 0) if exchange else 0


def _begin(one: Connection) -> int:
    return int(one.told.row["start_unix_ns"])


def _within(one: Connection, call: Connection) -> bool:
    """Whether a request was made while another was under way, by whom that one had asked."""
    inner, outer = one.told.row, call.told.row
    inside = outer["start_unix_ns"] <= inner["start_unix_ns"] and inner["end_unix_ns"] <= outer["end_unix_ns"]
    return bool(inside and one.source.name == call.destination.name)


def _told(each: Explanation) -> dict[str, Any]:
    wrong = each.verdict not in {Verdict.OK, Verdict.UNKNOWN}
    words = each.as_json() | {"head": each.head, "wrong": wrong, "next": each.next}
    for step in words["story"]:
        step["after"] = "" if step["after_ns"] is None else f"+{units.duration(step['after_ns'])}"
    return words | {"flow": f"{each.connection.told.row['flow_id']:#x}"}


def _axis(chosen: Connection, others: Sequence[Connection]) -> dict[str, Any]:
    records = [*chosen.client, *chosen.server]
    records += [record for one in others for record in (*one.client, *one.server)]
    begin = min(int(record.row["start_unix_ns"]) for record in records)
    begin = min([begin, *(int(record.row["flow_start_unix_ns"]) for record in records if record.row["flow_start_unix_ns"])])
    end = max(int(record.row["end_unix_ns"]) for record in records)
    lanes = _lanes(chosen, [chosen, *others], begin)
    return {"begin": units.moment(begin), "lasted_ns": max(end - begin, 1), "lanes": lanes}


def _lanes(chosen: Connection, some: Sequence[Connection], begin: int) -> list[dict[str, Any]]:
    """One for each end that has told; a capture file's records stand at neither."""
    ends = (
        ("capture" if chosen.told.view.captured else "client", str(chosen.source), [one.client for one in some]),
        ("server", str(chosen.destination), [one.server for one in some]),
    )
    lanes = []
    for end, name, told in ends:
        bars = [bar for records in told for record in records for bar in _bars(record)]
        if bars:
            bars.sort(key=lambda bar: bar[1])
            shown = [
                {"kind": kind, "begin_ns": max(first - begin, 0), "end_ns": max(last - begin, 0), "text": text}
                for kind, first, last, text in bars[:_MOST_BARS]
            ]
            lanes.append({"end": end, "name": name, "bars": shown, "left_out": max(len(bars) - _MOST_BARS, 0)})
    return lanes


def _bars(record: Record) -> Iterator[tuple[str, int, int, str]]:
    """Whatever lasted: its kind, from when to when, and in words."""
    if record.view.exchange is not None:
        yield from _phases(record)
        return
    row, view = record.row, record.view
    begin, end = int(row["start_unix_ns"]), int(row["end_unix_ns"])
    if view.question:
        yield "dns lookup", begin, end, str(flow_line(view))
        return
    syn, acknowledged = int(row["syn_unix_ns"]), int(row["handshake_ack_unix_ns"])
    connected = syn and acknowledged >= syn
    yield "record", begin, end, str(flow_line(view))
    if view.first and connected:
        yield "connect", syn, acknowledged, f"connected in {units.duration(acknowledged - syn)}"
    elif view.first and view.transport == "tcp" and view.outcome in {"timeout", "refused"}:
        yield "connect", begin, end, f"{view.outcome}, after {units.counted(view.syn_repeats + 1, 'SYN')}"
    took = int(row.get("tls_handshake_time_ns") or 0)
    if took and view.first and connected:
        yield "tls handshake", acknowledged, acknowledged + took, f"TLS in {units.duration(took)}"
    again = view.retransmits + (view.syn_repeats if view.first else 0)
    if again:
        yield "sent again", begin, end, f"{units.counted(again, 'segment')} sent again in this stretch of time"
    closed = record.of_client("zero_windows") + record.of_server("zero_windows")
    if closed:
        yield "stalled", begin, end, f"a window was closed {units.counted(closed, 'time')}: who should have read did not"


def _phases(record: Record) -> Iterator[tuple[str, int, int, str]]:
    found = phases(record.batch)
    for phase in Phase:
        if found.present[0, phase]:
            first, last = int(found.begin[0, phase]), int(found.end[0, phase])
            kind = phase.name.lower().replace("_", " ")
            yield kind, first, last, f"{kind}: {units.duration(last - first)}"
    if record.view.retransmits:
        first, last = int(record.row["start_unix_ns"]), int(record.row["end_unix_ns"])
        yield "sent again", first, last, f"{units.counted(record.view.retransmits, 'segment')} sent again"
