"""A client with a pool of connections to one peer, simulated: which exchange is which span's is known."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from services.capture.meeting.matching import Windows, windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How the client is used. Times in milliseconds."""

    callers: int = 50
    connections: int = 20
    service_ms: float = 20.0
    """Median of what the server takes; log-normal, with a sigma of `spread`."""
    spread: float = 0.5
    lead_ms: float = 0.15
    """Median from when a caller has its connection to the request's first byte, sigma 0.5."""
    lag_ms: float = 0.2
    """Median from the response's last byte to the span's end, sigma 0.5."""
    think_ms: float = 0.0
    """Mean of what a caller does between two calls."""
    stalls_a_second: float = 2.0
    """Pauses of the runtime, in which no span ends; each takes 2 to 15 ms."""
    sampled: float = 1.0
    """Share of the calls that have a span which is asked for."""
    without: float = 0.0
    """Share of spans that have no exchange: refused, or answered from a cache."""
    lost: float = 0.0
    """Share of exchanges that were not seen."""
    fifo: bool = True
    """Whether who waits longest has the next connection."""
    series: float = 0.0
    """Share of the calls that have two or three exchanges in a row on their connection."""


@dataclass(frozen=True, slots=True)
class Talk:
    """What came of it: of each span the index of its last exchange, -1 where it has none."""

    spans: Windows
    exchanges: Windows
    connection: np.ndarray
    truth: np.ndarray
    owner: np.ndarray
    """Of each exchange its span; -1: of a call that was not sampled."""
    window_ns: int


def simulate(pool: Pool, calls: int, seed: int) -> Talk:  # noqa: PLR0915 - one loop of events
    """Have the callers call, each again and again."""
    draw = np.random.default_rng(seed)
    ready = [(float(draw.exponential(pool.service_ms)), caller) for caller in range(pool.callers)]
    heapq.heapify(ready)
    free = list(range(pool.connections))
    busy: list[tuple[float, int]] = []
    waiting: list[tuple[float, int]] = []
    spans, exchanges, connection, truth, owner = [], [], [], [], []
    stall_until, next_stall = 0.0, float(draw.exponential(1e3 / max(pool.stalls_a_second, 1e-9)))
    made = 0
    while made < calls:
        # What comes next: a caller that wants a connection, or a connection that becomes free.
        if ready and (not busy or ready[0][0] <= busy[0][0]):
            now, caller = heapq.heappop(ready)
            waiting.append((now, caller))
        else:
            now, given_back = heapq.heappop(busy)
            free.append(given_back)
        while next_stall < now:
            stall_until = next_stall + float(draw.uniform(2, 15))
            next_stall += float(draw.exponential(1e3 / max(pool.stalls_a_second, 1e-9)))
        while free and waiting:
            begun, caller = waiting.pop(0 if pool.fifo else int(draw.integers(len(waiting))))
            which = free.pop(int(draw.integers(len(free))))
            sampled = draw.random() < pool.sampled
            at = now
            if sampled and draw.random() < pool.without:
                end = at  # the connection goes back unused, and the caller has waited for a while longer
                spans.append((begun, at + float(draw.uniform(0, 2 * pool.service_ms))))
                truth.append(-1)
            else:
                count = int(draw.integers(2, 4)) if draw.random() < pool.series else 1
                kept = -1
                for _ in range(count):
                    asked = max(at, stall_until) + pool.lead_ms * float(draw.lognormal(0, 0.5))
                    answered = asked + pool.service_ms / count * float(draw.lognormal(0, pool.spread))
                    at = answered + pool.lag_ms * float(draw.lognormal(0, 0.5)) / 2
                    kept = -1
                    if draw.random() >= pool.lost:
                        kept = len(exchanges)
                        exchanges.append((asked, answered))
                        connection.append(which)
                        owner.append(len(spans) if sampled else -1)
                while next_stall < answered:
                    stall_until = next_stall + float(draw.uniform(2, 15))
                    next_stall += float(draw.exponential(1e3 / max(pool.stalls_a_second, 1e-9)))
                end = max(answered, stall_until if stall_until > answered else 0) + pool.lag_ms * float(draw.lognormal(0, 0.5))
                if sampled:
                    spans.append((begun, end))
                    truth.append(kept)
            made += 1
            heapq.heappush(busy, (end, which))
            heapq.heappush(ready, (end + float(draw.exponential(pool.think_ms)) + 0.02, caller))
    epoch = 1_700_000_000_000_000_000
    times = [np.array(each, np.float64).reshape(-1, 2) * 1e6 for each in (spans, exchanges)]
    noise = draw.uniform(-2e4, 2e4, times[0].shape)
    (s_begin, s_end), (x_begin, x_end) = ((t.astype(np.int64) + epoch).T for t in (times[0] + noise, times[1]))
    return Talk(
        windows(s_begin, s_end),
        windows(x_begin, x_end),
        np.array(connection, np.int64),
        np.array(truth, np.int64),
        np.array(owner, np.int64),
        int(times[0].max() - times[0].min()),
    )
