"""What applications lose to Wirespan: throughput at saturation, latency at a steady rate, their own processor time.

    python -m tests.bench.bench_application [--rounds 5] [--seconds 5] [--within 600] [--only Redis,gRPC]

Needs root. Each round has every application with nothing beside it, with capture alone, and with all of `wirespan up` on the
same machine; figures are medians, ratios the medians of each round's. One asks at half the rate that it is answered at when it
sleeps but for a moment before each question; a latency counts from when the question was due, so that what waits behind a slow
answer is in it. On a machine where other things run the ratios say little: the spread is printed.

It takes some rounds x 3 x applications x (2 x seconds + 2), and says so when it begins; a round that would not end within the
time is not begun.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.bench.application.loads import LOADS, Load, lacking
from tests.bench.application.surroundings import SURROUNDINGS
from tests.bench.harness import processor_seconds, ratio, say, table

_RATE_SECONDS = 0.5
"""In which it is found how fast one is answered."""
_BESIDE_SECONDS = 20
"""Of each round, to start and end what is beside the applications."""
_AROUND_SECONDS = 2
"""Of each measurement, for what is not measured."""

_MOST_BEHIND = 3
"""Times the seconds of a steady part that it may take, where answers do not keep up: that it is behind is known by then."""


@dataclass(frozen=True)
class Measured:
    """One application in one round."""

    throughput: float
    processor_us: float
    """Of the application, for each thing it did."""
    p50_us: float
    p99_us: float


def half_rate(load: Load) -> float:
    """Half of the questions a second that one is answered who sleeps before each, and so wakes up for it, as later."""
    if load.ask is None:
        return 0.0
    began, asked = time.perf_counter(), 0
    while time.perf_counter() < began + _RATE_SECONDS:
        time.sleep(1e-6)
        load.ask()
        asked += 1
    return asked / _RATE_SECONDS / 2


def steadily(load: Load, rate: float, seconds: float) -> list[float]:
    """Microseconds from when each question was due to its answer."""
    if load.ask is None:
        return [0.0, 0.0]
    begun, waits = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        if time.perf_counter() > begun + _MOST_BEHIND * seconds:
            break
        while (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        load.ask()
        waits.append((time.perf_counter() - due) * 1e6)
    return waits


def measure(load: Load, rate: float, seconds: float) -> Measured:
    """Measure once."""
    used, began = sum(map(processor_seconds, load.pids)), time.monotonic()
    throughput = load.saturate(seconds)
    used, took = sum(map(processor_seconds, load.pids)) - used, time.monotonic() - began
    waits = statistics.quantiles(steadily(load, rate, seconds), n=100)
    return Measured(throughput, used / (throughput * took) * 1e6, waits[49], waits[98])


def show(name: str, found: dict[str, list[Measured]], unit: str) -> None:
    """Print the figures of one application."""
    baseline = found["nothing"]
    rows = []
    for beside, values in found.items():
        cells = [beside]
        for field in ("throughput", "p50_us", "p99_us", "processor_us"):
            ours, theirs = [getattr(one, field) for one in values], [getattr(one, field) for one in baseline]
            middle, spread = statistics.median(ours), (max(ours) - min(ours)) / 2
            if not any(theirs):
                cells.append("-")  # nobody asks it one question at a time
                continue
            cells.append(f"{middle:,.4g} ±{spread:,.2g}" + ("" if values is baseline else f" ({ratio(ours, theirs):.2f}x)"))
        rows.append(cells)
    say(f"\n{name}, {len(baseline)} rounds\n")
    say(table(("beside it", unit, "p50 us", "p99 us", "processor us each"), rows))


def measure_all(
    chosen: Mapping[str, Callable[[], AbstractContextManager[Load]]], rounds: int, seconds: float, within: float
) -> dict[str, tuple[float, str, dict[str, list[Measured]]]]:
    """Return the rate that each application was asked at, the unit of what it does, and its figures by what was beside it."""
    found: dict[str, dict[str, list[Measured]]] = {name: {beside: [] for beside in SURROUNDINGS} for name in chosen}
    units, rates = dict.fromkeys(chosen, ""), dict.fromkeys(chosen, 0.0)
    longest = _BESIDE_SECONDS + len(SURROUNDINGS) * len(chosen) * (2 * seconds + _AROUND_SECONDS)
    sys.stderr.write(f"{rounds} rounds of some {longest:.0f} s each, within {within:.0f} s\n")
    began = time.monotonic()
    for number in range(rounds):
        round_began = time.monotonic()
        if number and round_began + longest > began + within:
            say(f"{rounds - number} of {rounds} rounds were not begun: --within {within:.0f}")
            break
        order = list(SURROUNDINGS)
        for beside in order[number % 3 :] + order[: number % 3]:
            with SURROUNDINGS[beside]():
                for name, start in chosen.items():
                    with start() as load:
                        units[name] = load.unit
                        rates[name] = rates[name] or half_rate(load)
                        found[name][beside].append(measure(load, rates[name], seconds))
        longest = time.monotonic() - round_began
        sys.stderr.write(f"round {number + 1} took {longest:.0f} s\n")
    return {name: (rates[name], units[name], found[name]) for name in chosen}


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description="what applications lose to Wirespan")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--within", type=float, default=600, help="seconds that all rounds may take")
    parser.add_argument("--only", default="", help="beginnings of names, separated by commas")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    wanted = tuple(arguments.only.split(","))
    chosen = {}
    for name, (start, programs) in LOADS.items():
        if not name.startswith(wanted):
            continue
        if missing := lacking(programs):
            say(f"{name}: left out, without {' and '.join(missing)}")
        else:
            chosen[name] = start
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before its end"))  # with all that it started
    for name, (rate, unit, values) in measure_all(chosen, arguments.rounds, arguments.seconds, arguments.within).items():
        show(name, values, unit)
        if rate:
            say(f"\nasked {rate:,.0f} times a second")


if __name__ == "__main__":
    main()
