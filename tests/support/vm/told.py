"""What a run found of a kernel: a fragment of docs/platforms.md, and what its verifier walked, for docs/performance.md."""

from __future__ import annotations

import json

from tests.support import platforms
from tests.support.vm.cache import cache_folder
from tests.support.vm.kernels import KernelFiles


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
        counts = cache_folder() / f"verifier-{kernel.name}.json"
        counts.write_text(json.dumps({"release": self._files.release, "walked": self.walked}, indent=2) + "\n")
