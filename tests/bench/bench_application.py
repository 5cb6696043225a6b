"""What applications lose to Wirespan: throughput at saturation, latency at a steady rate, their own processor time.

    python -m tests.bench.bench_application [--rounds 5] [--seconds 5] [--rate 200] [--only Redis,gRPC]

Needs root. Each round has every application with nothing beside it, with capture alone, and with all of `wirespan up` on the
same machine; figures are medians, ratios the medians of each round's. A latency counts from when the question was due, so that
what waits behind a slow answer is in it. On a machine where other things run the ratios say little: the spread is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass

from tests.bench.application.loads import LOADS, Load, lacking
from tests.bench.application.surroundings import SURROUNDINGS
from tests.bench.harness import processor_seconds, ratio, say, table


@dataclass(frozen=True)
class Measured:
    """One application in one round."""

    throughput: float
    processor_us: float
    """Of the application, for each thing it did."""
    p50_us: float
    p99_us: float


def steadily(load: Load, rate: float, seconds: float) -> list[float]:
    """Microseconds from when each question was due to its answer."""
    if load.ask is None:
        return [0.0, 0.0]
    begun, waits = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        due = begun + number / rate
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
            cells.append(f"{middle:,.4g} ±{spread:,.2g}" + ("" if values is baseline else f" ({ratio(ours, theirs):.2f}x)"))
        rows.append(cells)
    say(f"\n{name}, {len(baseline)} rounds\n")
    say(table(("beside it", unit, "p50 us", "p99 us", "processor us each"), rows))


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description="what applications lose to Wirespan")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float, default=200, help="questions a second of the steady part: below saturation")
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
    found: dict[str, dict[str, list[Measured]]] = {name: {beside: [] for beside in SURROUNDINGS} for name in chosen}
    units = dict.fromkeys(chosen, "")
    for number in range(arguments.rounds):
        order = list(SURROUNDINGS)
        for beside in order[number % 3 :] + order[: number % 3]:
            with SURROUNDINGS[beside]():
                for name, start in chosen.items():
                    with start() as load:
                        units[name] = load.unit
                        found[name][beside].append(measure(load, arguments.rate, arguments.seconds))
    for name, values in found.items():
        show(name, values, units[name])


if __name__ == "__main__":
    main()
