"""How well an exchange fits into a span: learned from those of the same application and peer that are certain.

A client's exchange ends a moment before its span does, and begins a moment after, or where it had to wait for a connection
some time after. How long these moments are is a matter of the application, its runtime and the machine's load, so it is
learned, with a floor of what is always possible: a pause of the runtime may put any time between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

_BINS_AN_OCTAVE: Final = 4
_OCTAVES: Final = 22
_LEAST_NS: Final = 16_384
"""Less than that, either way, is one bin: what clocks read differently, and what a few system calls take."""
_HALF: Final = _BINS_AN_OCTAVE * _OCTAVES
_BINS: Final = 2 * _HALF + 1
_POSITIVE_S: Final = _LEAST_NS / 1e9 * 2 ** (np.arange(_HALF + 1) / _BINS_AN_OCTAVE)
_EDGES_S: Final = np.concatenate([-_POSITIVE_S[::-1], _POSITIVE_S])
_WIDTHS_S: Final = np.diff(_EDGES_S)
_SMOOTHING: Final = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
_FLOOR: Final = 0.01
"""What of all times has any length, however few of the learned ones have."""
_USUAL: Final = 8.0
"""As many times count what is usual before anything is learned: a moment between 30 us and 2 ms."""
_USUAL_S: Final = (30e-6, 2e-3)
_BACKWARD: Final = 0.02
"""An exchange that begins before its span, or ends after it: one clock is read by both, but not at one moment."""
_LEAST_OVERTAKEN: Final = 1e-4
_MEMORY: Final = 20_000.0
"""Times that are remembered; more make earlier ones count less."""


def _bins(times: Times) -> npt.NDArray[np.int64]:
    octaves = np.log2(np.maximum(np.abs(times), _LEAST_NS / 2) / _LEAST_NS)
    steps = np.clip(np.floor(octaves * _BINS_AN_OCTAVE).astype(np.int64) + 1, 0, _HALF)
    found: npt.NDArray[np.int64] = _HALF + np.where(times < 0, -steps, steps)
    return found


class Learned:
    """The distribution of a time."""

    def __init__(self, counts: Numbers | None = None, usual: tuple[float, float] = (0.0, 1e9), backward: float = 0.5) -> None:
        """`usual`: where it lies as long as nothing is known, in seconds; `backward`: how likely it is less than nothing."""
        self._counts = np.zeros(_BINS) if counts is None else counts
        within = (_EDGES_S[1:] >= usual[0]) & (_EDGES_S[1:] <= usual[1])
        self._any = np.where(_EDGES_S[:-1] < _EDGES_S[_HALF], backward, 1 - backward)
        self._any /= self._any.sum()
        self._usual = _USUAL * (0.8 * within / within.sum() + 0.2 * self._any)
        self._log: Numbers | None = None

    def copy(self) -> Learned:
        """Return one that learns by itself."""
        twin = Learned(self._counts.copy())
        twin._usual, twin._any = self._usual, self._any
        return twin

    def learn(self, times: Times) -> None:
        """Take these into account."""
        total = self._counts.sum() + len(times)
        if total > _MEMORY:
            self._counts *= max(_MEMORY - len(times), 0) / max(total - len(times), 1)
        self._counts += np.bincount(_bins(times), minlength=_BINS)
        self._log = None

    def log_density(self, times: Times) -> Numbers:
        """Return the logarithm of the density at each, per second."""
        if self._log is None:
            smooth = np.convolve(self._counts, _SMOOTHING / _SMOOTHING.sum(), "same")
            mass = smooth + self._usual + _FLOOR * smooth.sum() * self._any
            self._log = np.log(mass / mass.sum() / _WIDTHS_S)
        found: Numbers = self._log[_bins(times)]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Spans and exchanges, pair by pair."""

    leads: Times
    """From the span's begin to the exchange's."""
    lags: Times
    """From the exchange's end to the span's."""
    lengths: Times
    """Of the span."""
    passing_on: Times
    """From the span's end to the next exchange of the connection."""
    idle: Times
    """From the exchange's end to that."""
    has_next: npt.NDArray[np.bool_]
    """Whether there is one."""
    goes_on: npt.NDArray[np.bool_]
    """Whether that lies within the span too."""
    may_go_on: npt.NDArray[np.bool_]
    """Whether it does in any span's."""


class Habits:
    """What is known of the spans and exchanges of one application and peer."""

    def __init__(self) -> None:
        self.lead = Learned(backward=_BACKWARD)
        """From a span's begin to its exchange's."""
        self.lag = Learned(usual=_USUAL_S, backward=_BACKWARD)
        """From an exchange's end to its span's."""
        self.length = Learned()
        """Of a span."""
        self.passing_on = Learned()
        """From a span's end to its connection's next exchange."""
        self.idle = Learned()
        """From an exchange's end to its connection's next."""
        self.overtaken = _LEAST_OVERTAKEN
        """Share of spans that end after the next exchange of the connection that they had given back."""
        self.unasked: Numbers = np.array([0.1, 0.5])
        """Share of exchanges that are no span's last; the second of those that a span may have gone on after."""
        self.without = 0.01
        """Share of spans that have no exchange."""

    def copy(self) -> Habits:
        """Return some that learn by themselves."""
        twin = Habits()
        twin.lead, twin.lag, twin.length = self.lead.copy(), self.lag.copy(), self.length.copy()
        twin.passing_on, twin.idle = self.passing_on.copy(), self.idle.copy()
        twin.overtaken, twin.unasked, twin.without = self.overtaken, self.unasked, self.without
        return twin

    def take(self, other: Habits) -> None:
        """Know what the other knows."""
        self.lead, self.lag, self.length = other.lead, other.lag, other.length
        self.passing_on, self.idle = other.passing_on, other.idle
        self.overtaken, self.unasked, self.without = other.overtaken, other.unasked, other.without

    def costs(self, pairs: Pairs, rate: float) -> Numbers:
        """Return what each pair costs, below 0 where it explains both better than that they have nothing to do with each other.

        `rate`: how many spans begin in a second.
        """
        together = self.lead.log_density(pairs.leads) + self.lag.log_density(pairs.lags)
        apart = self.length.log_density(pairs.lengths) + np.log(rate)
        # Whoever has a connection gives it back: the next exchange waits for that, or for nothing at all.
        passed_on = self.passing_on.log_density(pairs.passing_on) - self.idle.log_density(pairs.idle)
        passed_on = np.where(pairs.has_next, passed_on, 0.0)
        # Or it had it still, and that was no other's: then the span has a later exchange.
        together += np.where(pairs.goes_on, np.log(self.overtaken), passed_on)
        unasked = self.unasked[pairs.may_go_on.astype(np.int64)]
        chances = np.log(unasked * self.without) - np.log((1 - unasked) * (1 - self.without))
        costs: Numbers = apart - together + chances
        return costs

    def learn(self, pairs: Pairs, unasked: Numbers, without: float) -> None:
        """Take pairs into account, and which share of exchanges and of spans had no partner."""
        self.lead.learn(pairs.leads)
        self.lag.learn(pairs.lags)
        passed_on = pairs.has_next & ~pairs.goes_on
        self.passing_on.learn(pairs.passing_on[passed_on])
        self.idle.learn(pairs.idle[passed_on])
        if len(pairs.leads):
            self.overtaken = max(float(pairs.goes_on.mean()) / 2 + self.overtaken / 2, _LEAST_OVERTAKEN)
        self.unasked = np.clip(unasked, 0.005, 0.99)
        self.without = float(np.clip(without, 0.002, 0.5))


def as_times(values: Any) -> Times:
    """Return them as signed numbers: differences of times may be negative."""
    return np.asarray(values).astype(np.int64)
