"""What a run found of a kernel: a fragment of docs/platforms.md, and what its verifier walked, for docs/performance.md.

`python -m tests.support.vm.told` prints the second as a table: of each kernel, and of the two directions the greater number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.support import platforms
from tests.support.vm.cache import cache_folder
from tests.support.vm.kernels import KERNELS, KernelFiles

_INGRESS = "tap_ingress"
"""The program that every packet runs through; those that it calls have the name of their look behind it."""


class Told:
    """Promises that were held on a kernel, and counts of instructions; `write` leaves them for the documents."""

    def __init__(self, files: KernelFiles) -> None:
        self._files = files
        self._held: dict[str, bool] = {}
        self.walked: dict[str, dict[str, int]] = {}
        """Instructions that the verifier walked, by set of flags and program."""

    def note(self, promise: str, *, passed: bool) -> None:
        """Note a test's docstring: its first paragraph, held if every test with it passed."""
        first = " ".join(promise.partition("\n\n")[0].split())
        self._held[first] = self._held.get(first, True) and passed

    def write(self) -> None:
        """Leave both in the user's cache; a later run's take their place."""
        kernel = self._files.kernel
        failed = [promise for promise, held in self._held.items() if not held]
        platforms.record(
            "kernel",
            kernel.name.replace("-", " "),
            version=f"Debian {kernel.suite.removesuffix('-security')}",
            kernel=self._files.release,
            arch={"amd64": "x86_64", "arm64": "aarch64"}[kernel.architecture],
            checks=[promise for promise, held in self._held.items() if held],
            result=f"not held: {' '.join(failed)}" if failed else platforms.PASSED,
        )
        counts = {"release": self._files.release, "walked": self.walked}
        _counts(kernel.name).write_text(json.dumps(counts, indent=2) + "\n")


def table() -> str:
    """What the last runs' verifiers walked, in Markdown."""
    found = {name: json.loads(_counts(name).read_text()) for name in KERNELS if _counts(name).exists()}
    rows = [(name, flags, walked) for name, each in found.items() for flags, walked in sorted(each["walked"].items())]
    looks = dict.fromkeys(
        program.removeprefix(_INGRESS) for *_, walked in rows for program in walked if program.startswith(_INGRESS)
    )
    columns = ["kernel", "flags", "every packet", *(look.removeprefix("_") for look in looks if look)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, flags, walked in rows:
        cells = [max(walked.get(f"tap_{way}{look}", 0) for way in ("ingress", "egress")) for look in looks]
        lines.append(f"| {name} | {flags} | {' | '.join(f'{cell:,}' if cell else '' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _counts(kernel: str) -> Path:
    return cache_folder() / f"verifier-{kernel}.json"


if __name__ == "__main__":
    sys.stdout.write(table())
