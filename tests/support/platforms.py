"""What was run where: a fragment by each run on real ground, gathered into docs/platforms.json, which docs/platforms.md tells.

A run calls `record`; `make platforms` gathers what the runs on this machine have left, `make docs` writes the document.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).parents[2]
COMMITTED: Final = _ROOT / "docs" / "platforms.json"
PASSED: Final = "passed"
_KEYS: Final = ("kind", "name", "version", "kernel", "arch", "checks", "result")
_TITLES: Final = {
    "cluster": (
        "Kubernetes",
        "`make test-cluster`: control plane and nodes on one machine, the chart's pods from its own images in containerd.",
    ),
    "kernel": ("Kernels", "`make test-kernels`: the kernel itself, booted in a virtual machine."),
}
_HEAD: Final = """# Platforms

What Wirespan was run on as a whole, made from the runs themselves (`make platforms`). Everything else that the tests hold is
held on whatever machine they run on.
"""


def fragments() -> Path:
    """The folder that runs leave their fragments in: `WIRESPAN_PLATFORMS`, or one in the user's cache."""
    configured = os.environ.get("WIRESPAN_PLATFORMS")
    return Path(configured) if configured else Path.home() / ".cache" / "wirespan-platforms"


def record(kind: str, name: str, *, version: str, kernel: str, arch: str, checks: Sequence[str], result: str = PASSED) -> Path:
    """Write what a run was of, and what it held. A later run of the same kind and name takes its place.

    Args:
        kind: `cluster` or `kernel`.
        name: what of that kind it was: `two nodes`, `6.1 arm64`.
        version: of Kubernetes, or the kernel's package.
        kernel: as `uname -r` says it.
        arch: as `uname -m` says it.
        checks: what was held, a sentence each.
        result: `passed`, or what was not.
    """
    values = (kind, name, version, kernel, arch, list(checks), result)
    fragments().mkdir(parents=True, exist_ok=True)
    path = fragments() / f"{kind}-{name.replace(' ', '-').replace('/', '-')}.json"
    path.write_text(json.dumps(dict(zip(_KEYS, values, strict=True)), indent=2) + "\n")
    return path


def gather() -> None:
    """Take the fragments into the committed file; what passed elsewhere before stays until the same passes here."""
    known = {(each["kind"], each["name"]): each for each in committed()}
    for path in sorted(fragments().glob("*.json")):
        found = json.loads(path.read_text())
        if found["result"] == PASSED:
            known[found["kind"], found["name"]] = {key: found[key] for key in _KEYS}
        else:
            sys.stdout.write(f"{path.name} is left out: {found['result']}\n")
    COMMITTED.write_text(json.dumps([known[key] for key in sorted(known)], indent=2) + "\n")


def committed() -> list[dict[str, Any]]:
    """The runs that docs/platforms.md tells of."""
    runs: list[dict[str, Any]] = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else []
    return runs


def markdown() -> str:
    """docs/platforms.md."""
    parts = [_HEAD]
    for kind, (title, meaning) in _TITLES.items():
        runs = [each for each in committed() if each["kind"] == kind]
        if not runs:
            continue
        lines = [
            f"## {title}\n",
            f"{meaning}\n",
            "| what | version | kernel | architecture | checks |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {each['name']} | {each['version']} | {each['kernel']} | {each['arch']} | {len(each['checks'])} |"
            for each in runs
        ]
        for checks, names in _by_checks(runs).items():
            lines += [f"\nHeld on {', '.join(names)}:\n", *(f"- {check}" for check in checks)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _by_checks(runs: list[dict[str, Any]]) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for each in runs:
        found.setdefault(tuple(each["checks"]), []).append(each["name"])
    return found


if __name__ == "__main__":
    gather()
