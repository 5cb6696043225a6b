"""What traffic that is neither DNS nor TLS pays for names: ns per packet by what WIRESPAN_CAPTURE_NAMES says.

    python -m tests.bench.bench_names [--rounds N] [--settings off,dns,tls,all]

Needs root. One tap is loaded for each setting, and all of them take many short turns, in an order that is another every round.
What is printed is the kernel's own measure of the tap's programs (kernel.bpf_stats_enabled): the least of the rounds, because
whatever else the machine does only adds; its ratio to that of the first setting; and the median of each round's ratio.
`again` is one more tap like the first: what is between those two is what the measure cannot tell.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics as median_of
import sys
from contextlib import ExitStack
from typing import get_args

from services.capture.live.owners.cgroups import find_root
from services.capture.live.tap import bpf_syscall
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from services.capture.names.pieces import KINDS, Names
from tests.bench import bench_socket_tap as loads
from tests.support.node import bpf_info

PACKETS = 500
LOADS = ("TCP 64 B, request/response", "TCP 64 B, one way", "TCP bulk", "UDP 64 B, connected", "UDP 64 B, unconnected (hash)")
PROGRAMS = ("tap_ingress", "tap_egress")


def measured(tap: SocketTap, root: int, label: str) -> float:
    """Run a load once under a tap; return ns per packet, what the tap calls included."""
    programs = [tap.loaded.programs[name] for name in PROGRAMS]
    links = [bpf_syscall.link_create(program, root, kind) for kind, program in enumerate(programs)]
    before = [bpf_info.program_statistics(program) for program in programs]
    loads.LOADS[label]()
    after = [bpf_info.program_statistics(program) for program in programs]
    for link in links:
        os.close(link)
    ran = sum(later.run_time_ns - earlier.run_time_ns for earlier, later in zip(before, after, strict=True))
    return ran / sum(later.run_count - earlier.run_count for earlier, later in zip(before, after, strict=True))


def measure(taps: dict[str, SocketTap], rounds: int) -> None:
    """Print the table."""
    root = os.open(find_root(), os.O_RDONLY)
    first, *others = taps
    for title, names in (("ns per packet", list(taps)), ("", others), ("", others)):
        sys.stdout.write(f"{title:30}" * bool(title) + "".join(f"{name:>9}" for name in names))
    _say(
        f"\n{'':30}{'least':^{9 * len(taps)}}{'ratio of these':^{9 * len(others)}}{'median of ratios':^{9 * len(others)}}",
    )
    for label in LOADS:
        found: dict[str, list[float]] = {name: [] for name in taps}
        for _ in range(rounds):
            for name in random.sample(list(taps), len(taps)):
                found[name].append(measured(taps[name], root, label))
        least = {name: min(each) for name, each in found.items()}
        ratios = [least[name] / least[first] - 1 for name in others]
        ratios += [
            median_of.median(one / base for one, base in zip(found[name], found[first], strict=True)) - 1 for name in others
        ]
        _say(
            f"{label:30}" + "".join(f"{ns:9.1f}" for ns in least.values()) + "".join(f"{each:+9.1%}" for each in ratios),
        )
    os.close(root)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Print what each setting costs."""
    parser = argparse.ArgumentParser(description="cost of names to what has none")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--settings", default=",".join(get_args(Names)))
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    loads.PACKETS, loads.BULK_MEGABYTES = PACKETS, 4
    settings: dict[str, Names] = {name: name for name in arguments.settings.split(",")}
    first = next(iter(settings))
    settings = {first: settings[first], "again": settings[first], **settings}
    with ExitStack() as stack:
        taps = {}
        for label, names in settings.items():
            made = SocketTap(capacity=65_536, rules=TapRules(loopback=True), trace_context=True, pieces=KINDS[names])
            taps[label] = stack.enter_context(made)
            taps[label].detach()
        stack.enter_context(loads.statistics())
        measure(taps, arguments.rounds)


if __name__ == "__main__":
    main()
