"""What a cluster is made of beside the packages of the distribution: the programs of Kubernetes, in one binary, and CoreDNS.

`python -m tests.support.cluster.binaries` builds what is missing into the cache of tests.support.tools.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from tests.support.tools import KUBERNETES, TOOLS, Tool, built, kubernetes, main, run

VERSION: Final = KUBERNETES
_COREDNS: Final = "v1.14.3"
_SOURCES: Final = Path(__file__).parent / "go"


def _coredns(folder: Path) -> None:
    sources = folder.parent / "sources"
    sources.mkdir()
    (sources / "go.mod").write_text("module wirespan.dev/coredns\ngo 1.25.0\n")
    shutil.copy(_SOURCES / "coredns.go", sources)
    run("go", "get", f"github.com/coredns/coredns@{_COREDNS}", folder=sources, GOFLAGS="-mod=mod")
    command = ("nice", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", folder / "coredns", ".")
    run(*command, folder=sources, GOFLAGS="-mod=mod -buildvcs=false", CGO_ENABLED="0")


_PROGRAMS: Final = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet")
_DIGEST: Final = hashlib.sha256((_SOURCES / "coredns.go").read_bytes()).hexdigest()[:6]
BINARIES: Final = {
    made.name: made
    for made in (
        TOOLS["helm"],
        TOOLS["etcd"],
        kubernetes("kubernetes", VERSION, "1.24", *_PROGRAMS, source=_SOURCES / "kubernetes.go"),
        Tool("coredns", f"{_COREDNS.removeprefix('v')}-{_DIGEST}", _coredns),
    )
}


def binary(name: str) -> Path:
    """The executable, built now if it is not in the cache. Raises ToolUnavailableError."""
    return built(BINARIES[name])


if __name__ == "__main__":
    sys.exit(main(BINARIES.values()))
