"""How many spans meet their exchange, and how many another's, against concurrency: a section of docs/accuracy.md.

    python -m tests.support.meeting.curve

prints it: simulated pools (pool.py), whose truth is known.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from services.capture.meeting.assignment import NOBODY, Indexes
from services.capture.meeting.likelihood import Habits
from services.capture.meeting.matching import match, windows
from tests.support.meeting.lookups import Resolving, look_up
from tests.support.meeting.pool import Pool, Talk, simulate
from tests.support.meeting.shared import Shared, tell

CALLS = 4_000
SEEDS = range(2)
CALLERS = (1, 5, 10, 20, 30, 50, 100)
SERVICE_MS = (20.0, 60.0, 150.0)
CALLERS_APART = (1, 5, 50)
LOOKUP_CALLERS = (1, 4, 8, 20, 50)
LOOKUP_MS = (0.3, 2.0, 20.0)
APART_MS = (-3_000, -300, -30, -3, 3, 30, 300, 3_000)


INTRODUCTION = """\
How many of an application's client spans meet their exchange where nothing on the wire says whose it is: callers that
call without a pause, over a pool of 20 keep-alive connections to one peer, simulated, so that the truth is known. A span
begins before its caller has a connection and ends 0.2 ms (median; log-normal, sigma 0.5) after the response's last byte;
the runtime stands still for 2 to 15 ms twice a second. Each cell is 8,000 calls, matched 4,000 at a time from nothing
learned. Percent of the spans that were told their exchange:"""
BOUND = """\
What bounds the rest is how often two responses end within the moment that a span takes to end: then each may be either's, and
neither is told."""
LOOKUPS = """\
Lookups over UDP: A and AAAA asked at once, from a socket for each, by callers that rest for 10 ms in between; a span ends
0.03 ms after the last answer. Percent of the spans that were told their last question, and of those that were told both:"""
APART = """\
Where the clock of the spans is not the node's, hardly any meets an exchange, since what is within it by chance does not fit as
their own do. Spans that were told another's, where nobody knows that the clock is apart (the server takes 60 ms):"""
SHARED = """\
Where several requests at once share connections (HTTP/2 in TLS) a span is told what its connection did, if it can have used no
other: callers that call one peer, who takes 20 ms, round robin over connections, simulated likewise. Percent of the spans that
were told, 4,000 calls each:"""
SHARED_LOADS = (
    ("1 at once", Shared(callers=1)),
    ("8 at once, each with a pause of 1 s (mean)", Shared(callers=8, think_ms=1_000)),
    ("8 at once", Shared(callers=8)),
    ("50 at once", Shared(callers=50)),
    ("50 at once, the server's spans name the connection of half of them", Shared(callers=50, named=0.5)),
    ("50 at once, it of each", Shared(callers=50, named=1)),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Of one pool."""

    spans: int
    told: int
    wrong: int
    microseconds: float
    """Processor time of a span."""

    @property
    def recall(self) -> str:
        """Share of the spans with an exchange that were told theirs."""
        return f"{100 * (self.told - self.wrong) / self.spans:.1f}"


def measure(pool: Pool, known: float = 0.0, apart_ms: int = 0) -> Result:
    """Match what the pool did, from nothing learned each time.

    Of a share of the spans their connection is `known`. Their clock is ahead by `apart_ms`.
    """
    spans = told = wrong = 0
    spent = 0.0
    for seed in SEEDS:
        talk = simulate(pool, CALLS, seed)
        begun = time.process_time()
        by_their_clock = windows(*(each + apart_ms * 1_000_000 for each in (talk.spans.begin, talk.spans.end)))
        met = match(by_their_clock, talk.exchanges, talk.connection, Habits(), _told_by_servers(talk, known, seed))
        spent += time.process_time() - begun
        is_told = met.exchange != NOBODY
        spans += int(np.count_nonzero(talk.truth != NOBODY))
        told += int(is_told.sum())
        wrong += int(np.count_nonzero(is_told & (met.exchange != talk.truth)))
    return Result(spans, told, wrong, 1e6 * spent / max(spans, 1))


def measure_lookups(how: Resolving) -> tuple[Result, int]:
    """As `measure`; and how many were told both questions. Of a wrong one any question is another's."""
    spans = told = wrong = both = 0
    spent = 0.0
    for seed in SEEDS:
        talk = look_up(how, CALLS, seed)
        begun = time.process_time()
        met = match(talk.spans, talk.exchanges, talk.connection, Habits())
        spent += time.process_time() - begun
        rows = {span: [int(met.exchange[span]), *met.earlier.get(span, ())] for span in np.flatnonzero(met.exchange != NOBODY)}
        spans += len(talk.spans)
        told += len(rows)
        both += sum(len(row) == 2 for row in rows.values())
        wrong += sum(bool((talk.owner[row] != span).any()) for span, row in rows.items())
    return Result(spans, told, wrong, 1e6 * spent / max(spans, 1)), both


def _told_by_servers(talk: Talk, known: float, seed: int) -> Callable[[Indexes, Indexes], npt.NDArray[np.bool_]]:
    """Which exchanges a span may have, where its server's span names its connection."""
    is_known = (np.random.default_rng(seed).random(len(talk.spans)) < known) & (talk.truth != NOBODY)
    connection = np.where(is_known, talk.connection[talk.truth], NOBODY)
    return lambda which, found: (connection[which] == NOBODY) | (connection[which] == talk.connection[found])


def section() -> Iterator[str]:
    """Yield the lines of the section."""
    yield "## Application spans and their exchanges"
    yield ""
    yield from INTRODUCTION.splitlines()
    yield ""
    yield "| concurrent callers | " + " | ".join(f"server takes {service:g} ms" for service in SERVICE_MS) + " |"
    yield "|---" * (len(SERVICE_MS) + 1) + "|"
    results = {
        (callers, service): measure(Pool(callers=callers, service_ms=service)) for callers in CALLERS for service in SERVICE_MS
    }
    for callers in CALLERS:
        yield f"| {callers} | " + " | ".join(results[callers, service].recall for service in SERVICE_MS) + " |"
    yield ""
    told, wrong = sum(each.told for each in results.values()), sum(each.wrong for each in results.values())
    yield f"Told another span's exchange: {wrong} of {told}, a precision of {100 * (1 - wrong / told):.3f} %."
    yield from BOUND.splitlines()
    yield ""
    yield "| 50 callers, the server takes 60 ms, and | told | wrong |"
    yield "|---|---|---|"
    for what, pool in (
        ("nothing else", Pool(service_ms=60)),
        ("connections go to whoever comes, not who waited longest", Pool(service_ms=60, fifo=False)),
        ("9 of 10 calls are sampled", Pool(service_ms=60, sampled=0.9)),
        ("1 of 10 calls is sampled", Pool(service_ms=60, sampled=0.1)),
        ("1 % of the spans gave up waiting, without an exchange", Pool(service_ms=60, without=0.01)),
        ("1 % of the exchanges were not seen", Pool(service_ms=60, lost=0.01)),
        ("no runtime pauses", Pool(service_ms=60, stalls_a_second=0.001)),
        ("spans end within 0.05 ms", Pool(service_ms=60, lag_ms=0.05)),
    ):
        found = measure(pool)
        yield f"| {what} | {found.recall} % | {found.wrong} of {found.told} |"
    yield ""
    yield "| 50 callers, the server takes 20 ms, and its spans name their client's connection | told | wrong |"
    yield "|---|---|---|"
    for share, what in ((0.0, "for no call"), (0.5, "for half of the calls"), (1.0, "for each call")):
        found = measure(Pool(service_ms=20), share)
        yield f"| {what} | {found.recall} % | {found.wrong} of {found.told} |"
    yield ""
    yield from LOOKUPS.splitlines()
    yield ""
    yield "| callers | " + " | ".join(f"resolver takes {service:g} ms" for service in LOOKUP_MS) + " |"
    yield "|---" * (len(LOOKUP_MS) + 1) + "|"
    lookups = {
        (callers, service): measure_lookups(Resolving(callers=callers, service_ms=service))
        for callers in LOOKUP_CALLERS
        for service in LOOKUP_MS
    }
    for callers in LOOKUP_CALLERS:
        cells = [(*lookups[callers, service],) for service in LOOKUP_MS]
        yield f"| {callers} | " + " | ".join(f"{each.recall}, {100 * both / each.told:.1f}" for each, both in cells) + " |"
    yield ""
    told, wrong = (sum(getattr(each, name) for each, _ in lookups.values()) for name in ("told", "wrong"))
    yield f"Told another lookup's question: {wrong} of {told}."
    yield ""
    yield from _shared()
    yield ""
    yield from APART.splitlines()
    yield ""
    yield (
        "| the clock of the spans is ahead by | " + " | ".join(f"{callers} at once: wrong" for callers in CALLERS_APART) + " |"
    )
    yield "|---" * (len(CALLERS_APART) + 1) + "|"
    for apart_ms in APART_MS:
        wrong_ones = [measure(Pool(callers=callers, service_ms=60), apart_ms=apart_ms).wrong for callers in CALLERS_APART]
        yield f"| {apart_ms} ms | " + " | ".join(f"{wrong} of {CALLS * len(SEEDS)}" for wrong in wrong_ones) + " |"
    yield ""


def _shared() -> Iterator[str]:
    yield from SHARED.splitlines()
    yield ""
    yield "| calls | over 1 connection | over 2 | over 4 |"
    yield "|---|---|---|---|"
    told = wrong = 0
    for what, shared in SHARED_LOADS:
        results = [tell(replace(shared, connections=connections), CALLS, 1) for connections in (1, 2, 4)]
        told += sum(each.told for each in results)
        wrong += sum(each.wrong for each in results)
        yield f"| {what} | " + " | ".join(f"{100 * (each.told - each.wrong) / each.spans:.1f}" for each in results) + " |"
    yield ""
    yield f"Told another connection's part: {wrong} of {told}."


if __name__ == "__main__":
    sys.stdout.write("\n".join(section()))
