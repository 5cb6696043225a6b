"""What a run found of a kernel, as a fragment of docs/platforms.md, and what its verifier walked, for docs/performance.md."""

from __future__ import annotations

import json
import os
from pathlib import Path

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

    def write(self) -> Path:
        """Write the fragment into the folder that runs leave theirs in; a later run's takes its place."""
        kernel = self._files.kernel
        machine = {"amd64": "x86_64", "arm64": "aarch64"}[kernel.architecture]
        version, _, architecture = kernel.name.partition("-")
        failed = [promise for promise, held in self._held.items() if not held]
        fragment = {
            "kind": "kernel",
            "name": f"{version} {architecture}",
            "version": f"Debian {kernel.suite.removesuffix('-security')}",
            "kernel": self._files.release,
            "arch": machine,
            "checks": [promise for promise, held in self._held.items() if held],
            "result": f"failed: {'; '.join(failed)}" if failed else "passed",
            "walked": self.walked,
        }
        configured = os.environ.get("WIRESPAN_PLATFORMS")
        folder = Path(configured) if configured else Path.home() / ".cache" / "wirespan-platforms"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"kernel-{version}-{architecture}.json"
        path.write_text(json.dumps(fragment, indent=2) + "\n")
        return path
