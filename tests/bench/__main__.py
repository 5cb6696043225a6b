"""All benchmarks in one run, and what they say into docs/performance.md.

    python -m tests.bench [--quick] [--only NAME,NAME] [--into docs/performance.md]

A benchmark that does not end in its time is ended and said to be so; once the time of the whole run is over, the rest is not
begun. Those that need root, tools or the kernel say so and are left out.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.harness import ROOT, machine, say

WHOLE_SECONDS, QUICK_SECONDS = 15 * 60, 2 * 60
_BEGIN, _END = "<!-- made by `make bench` -->", "<!-- until here -->"


@dataclass(frozen=True)
class Bench:
    """One benchmark, as it is run."""

    name: str
    whole: Sequence[str] = ()
    quick: Sequence[str] | None = None
    """Arguments of a quick run; None: it is not part of one."""
    seconds: int = 60
    """That it may take."""
    root: bool = False


BENCHES = (
    Bench("exporter.bench_encoder", (), ()),
    Bench("enricher.bench_verdicts", (), ()),
    Bench("bench_meeting", (), ()),
    Bench("enricher.bench_join", (), ("1000", "10000"), 90),
    Bench("bench_replay", ("--packets", "300000"), ("--packets", "50000"), 90),
    Bench("bench_application", ("--rounds", "3", "--seconds", "3", "--within", "240"), seconds=270, root=True),
    Bench("bench_socket_tap", ("--rounds", "3", "--flows", "10000"), seconds=120, root=True),
    Bench("exporter.bench_export", seconds=120),
    Bench("exporter.bench_export_latency", ("--seconds", "5"), seconds=90),
    Bench("bench_bus", seconds=120),
    Bench("load.bench_partitions", seconds=120),
    Bench("bench_intake", ("2",), seconds=90),
    Bench("enricher.bench_index", ("20000",), seconds=90),
    Bench("bench_handshakes"),
)
"""Those that are part of a run, the ones first that say most. The others take minutes, or a quiet machine to themselves."""


def run(bench: Bench, arguments: Sequence[str], seconds: float) -> str:
    """Return what it prints, with how it ended where that is not well."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.bench.{bench.name}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        return f"{said}(ended after {seconds:.0f} s)\n"
    if process.returncode:
        return f"{said}(failed: {(errors.strip().splitlines() or ['no word'])[-1]})\n"
    return said


def results(chosen: Sequence[Bench], *, quick: bool) -> Iterator[tuple[str, str]]:
    """Run them one after the other; yield each command with what it said."""
    over = time.monotonic() + (QUICK_SECONDS if quick else WHOLE_SECONDS)
    for bench in chosen:
        arguments = (bench.quick or ()) if quick else bench.whole
        command = " ".join([f"python -m tests.bench.{bench.name}", *arguments])
        left = over - time.monotonic()
        if bench.root and os.geteuid() != 0:
            yield command, "(needs root)\n"
        elif left < 1:
            yield command, "(not begun: the time of the run was over)\n"
        else:
            yield command, run(bench, arguments, min(bench.seconds, left))


def written(document: str, section: str) -> str:
    """The document with the section of the last run replaced, or added at its end."""
    block = f"{_BEGIN}\n{section}{_END}\n"
    if _BEGIN in document:
        return re.sub(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}\n", lambda _: block, document, flags=re.DOTALL)
    return f"{document.rstrip()}\n\n{block}"


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description="all benchmarks in one run")
    parser.add_argument("--quick", action="store_true", help="those that need no kernel and no bus, in two minutes")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--into", type=Path, help="document that gets the figures")
    arguments = parser.parse_args()
    names = {name.removeprefix("bench_") for name in arguments.only.split(",") if name}
    chosen = [one for one in BENCHES if one.quick is not None or not arguments.quick]
    chosen = [one for one in chosen if not names or one.name.rpartition("bench_")[2] in names]
    kind = "quick run" if arguments.quick else "run"
    lines = [f"## The last {kind} of all", "", *(f"- {line}" for line in machine()), ""]
    began = time.monotonic()
    say("\n".join(lines))
    for command, said in results(chosen, quick=arguments.quick):
        part = f"`{command}`\n\n```text\n{said.strip()}\n```\n"
        say(part)
        lines.append(part)
    lines.append(f"In all {time.monotonic() - began:.0f} s.\n")
    if arguments.into is not None:
        arguments.into.write_text(written(arguments.into.read_text(), "\n".join(lines)))


if __name__ == "__main__":
    main()
