"""Names that are looked up, simulated: A and AAAA at once over UDP, each lookup from a socket of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.capture.meeting.matching import windows
from tests.support.meeting.pool import Talk


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolving:
    """How names are looked up. Times in milliseconds."""

    callers: int = 5
    service_ms: float = 0.5
    """Median of what the resolver takes for a question; log-normal, with a sigma of `spread`."""
    spread: float = 0.7
    pause_ms: float = 10.0
    """Mean of what a caller does between two lookups."""
    moment_ms: float = 0.03
    """Median of what lies between a span's begin and its first question, and its last answer and its end; sigma 0.7."""
    sampled: float = 1.0
    """Share of the lookups that have a span which is asked for."""


def look_up(how: Resolving, calls: int, seed: int) -> Talk:
    """Have the callers look up, each again and again; a lookup is over when both its questions are answered."""
    draw = np.random.default_rng(seed)
    each = -(-calls // how.callers)
    size = (how.callers, each)
    moments = how.moment_ms * draw.lognormal(0, 0.7, (*size, 3))
    answered = how.service_ms * draw.lognormal(0, how.spread, (*size, 2))
    asked = np.stack([moments[..., 0], moments[..., 0] + moments[..., 1]], axis=2)
    took = (asked + answered).max(axis=2) + moments[..., 2]
    pauses = draw.exponential(how.pause_ms, size)
    begun = np.cumsum(pauses + took, axis=1) - took
    times = np.stack([begun[..., None] + asked, begun[..., None] + asked + answered], axis=3).reshape(-1, 2, 2)
    begun, ended = begun.reshape(-1), (begun + took).reshape(-1)
    sampled = draw.random(len(begun)) < how.sampled
    span_of = np.where(sampled, np.cumsum(sampled) - 1, -1)
    last = 2 * np.arange(len(begun)) + times[:, :, 1].argmax(axis=1)
    epoch, exchanges = 1_700_000_000_000_000_000, times.reshape(-1, 2)
    noise = draw.uniform(-2e4, 2e4, (2, len(begun)))
    s_begin, s_end = (np.stack([begun, ended]) * 1e6 + noise).astype(np.int64)[:, sampled] + epoch
    x_begin, x_end = (exchanges * 1e6).astype(np.int64).T + epoch
    return Talk(
        windows(s_begin, s_end),
        windows(x_begin, x_end),
        np.repeat(np.arange(len(begun)), 2),
        last[sampled],
        np.repeat(span_of, 2),
        int(1e6 * (ended.max() - begun.min())),
    )
