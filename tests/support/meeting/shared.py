"""A client whose callers share connections to one peer, several requests at once on each: simulated, so the truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.capture.meeting.assignment import NOBODY
from services.capture.meeting.matching import Windows
from services.capture.meeting.parts import MANY, only_connections, slices_of
from services.capture.meeting.ring import EXCHANGE_ROW, Rows

MS = 1_000_000
_START = 1_700_000_000_000_000_000
_SLICE_NS = 2 * MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """How the client is used. Times in milliseconds."""

    callers: int = 8
    connections: int = 1
    service_ms: float = 20.0
    """Median of what the server takes; log-normal, sigma 0.5."""
    think_ms: float = 0.0
    """Mean of what a caller does between two calls."""
    without: float = 0.0
    """Share of spans that had no request on any connection, such as those that gave up."""
    named: float = 0.0
    """Share of the spans whose server's span names their connection."""


@dataclass(frozen=True, slots=True)
class Told:
    """What came of the spans of a talk."""

    spans: int
    """That used a connection."""
    told: int
    wrong: int
    """Of those, told of a connection that the span did not use."""


def tell(shared: Shared, calls: int, seed: int) -> Told:
    """Have the callers call, round robin over the connections, and tell each span its connection's part."""
    draw = np.random.default_rng(seed)
    ready = draw.exponential(shared.service_ms, shared.callers)
    spans, used, words = [], [], [[] for _ in range(shared.connections)]
    for number in range(calls):
        caller = int(ready.argmin())
        begin = ready[caller]
        asked = begin + draw.lognormal(np.log(0.15), 0.5)
        answered = asked + draw.lognormal(np.log(shared.service_ms), 0.5)
        end = answered + draw.lognormal(np.log(0.2), 0.5)
        has_none = draw.random() < shared.without
        connection = NOBODY if has_none else number % shared.connections
        if not has_none:
            words[connection] += [(asked, 0, 300), (answered, 1, int(draw.integers(100, 9_000)))]
        spans.append((begin, end))
        used.append(connection)
        ready[caller] = end + draw.exponential(shared.think_ms) if shared.think_ms else end
    rows = np.concatenate([_sliced(sorted(said), place) for place, said in enumerate(words)])
    begins, ends = (_START + (np.array(each) * MS).astype(np.int64) for each in zip(*spans, strict=True))
    truth, window = np.array(used), Windows(begins, ends)
    places, slices = slices_of(rows, rows["connection"].astype(np.int64), window)
    is_named = (draw.random(calls) < shared.named) & (truth != NOBODY)
    may_be = ~is_named[:, None] | (places == truth[:, None])
    only = only_connections(window, slices, may_be)
    told = only >= 0
    told[told] = [
        slices[at].part(int(begins[span]), int(ends[span])) is not None
        for span, at in zip(np.flatnonzero(told).tolist(), only[told].tolist(), strict=True)
    ]
    wrong = told & (places[np.where(told, only, 0)] != truth)
    assert MANY not in only[told]
    return Told(int((truth != NOBODY).sum()), int(told.sum()), int(wrong.sum()))


def _sliced(said: list[tuple[float, int, int]], connection: int) -> Rows:
    """What was said on a connection, as capture remembers it: when, by whom (0: the client), and how many bytes."""
    rows: list[Rows] = []
    for at, by, size in said:
        now = _START + int(at * MS)
        if not rows or now > int(rows[-1]["request_first_ns"][0]) + _SLICE_NS:
            row = np.zeros(1, EXCHANGE_ROW)
            row["connection"], row["request_first_ns"], row["request_last_ns"] = connection, now, now
            rows.append(row)
        row = rows[-1]
        who = ("request", "response")[by]
        row[f"{who}_bytes"] += size
        row[f"{who}_last_ns"] = now
        if by and not row["response_first_ns"][0]:
            row["response_first_ns"] = now
    return np.concatenate(rows) if rows else np.zeros(0, EXCHANGE_ROW)
