"""Other people's programs that the end-to-end tests run against: built once from pinned versions, kept in a cache folder.

`python -m tests.support.tools` builds what is missing and prints one line for each. A tool that cannot be had here (no Go, a
module that the registry does not give out, a build that fails) is left out with its reason, and its tests are skipped with it.
The folder is `WIRESPAN_TOOLS_CACHE`, or `~/.cache/wirespan-tools`. A tool is there when its folder is: folders are renamed
into place when complete, so a build that was interrupted is begun again. A failure is remembered within the process only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BUILD_SECONDS: Final = 1500
_ROOT: Final = Path(__file__).parents[2]
_COLLECTOR: Final = "0.165.0"
_COLLECTOR_STABLE: Final = "1.71.0"
"""The Collector's modules of stable API, of the same release."""
KUBERNETES: Final = "v1.34.1"
_OLDER_KUBERNETES: Final = "v1.32.13"
"""The older of the two that the chart is shown to."""
_ETCD: Final = "v3.6.4"
"""As Kubernetes of that version has it."""
_CONTRIB: Final = "github.com/open-telemetry/opentelemetry-collector-contrib"
_failures: dict[str, str] = {}


class ToolUnavailableError(Exception):
    """The tool cannot be had on this machine now; the message is the reason, in one line."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of a pinned version. `build(folder)` leaves its executable in `folder` under the tool's name."""

    name: str
    version: str
    build: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        """Where it is kept once built."""
        return cache_folder() / f"{self.name}-{self.version}"


def cache_folder() -> Path:
    """The folder that the tools are kept in; it need not exist."""
    configured = os.environ.get("WIRESPAN_TOOLS_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "wirespan-tools"


def tool(name: str) -> Path:
    """Return the executable of a tool of the end-to-end tests. Raises ToolUnavailableError."""
    return built(TOOLS[name])


def built(wanted: Tool) -> Path:
    """Return the executable of a tool, built now if it is not in the cache. Raises ToolUnavailableError."""
    if wanted.name in _failures:
        raise ToolUnavailableError(_failures[wanted.name])
    if not wanted.folder.exists():
        with _locked(wanted):
            if not wanted.folder.exists():
                _build(wanted)
    return wanted.folder / wanted.name


def build_seconds(wanted: Tool) -> float:
    """How long the build of a tool in the cache took."""
    seconds: float = json.loads((wanted.folder / "built.json").read_text())["seconds"]
    return seconds


@contextmanager
def _locked(wanted: Tool) -> Iterator[None]:
    """One process builds a tool, others that want it wait."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with Path(f"{wanted.folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(wanted: Tool) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=f".{wanted.name}-") as scratch:
        folder = Path(scratch, "built")
        folder.mkdir()
        try:
            wanted.build(folder)
        except ToolUnavailableError as error:
            _failures[wanted.name] = str(error)
            raise
        marker = {"tool": wanted.name, "version": wanted.version, "seconds": round(time.monotonic() - began, 1)}
        (folder / "built.json").write_text(json.dumps(marker) + "\n")
        folder.rename(wanted.folder)


def run(*command: str | Path, folder: Path | None = None, **environment: str) -> str:
    """Run a command and return what it printed. Raises ToolUnavailableError."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS,
        )
    except FileNotFoundError:
        raise ToolUnavailableError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise ToolUnavailableError(f"{Path(command[0]).name} took longer than {BUILD_SECONDS} s") from None
    if done.returncode:
        raise ToolUnavailableError(_reason(f"{done.stdout}\n{done.stderr}") or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def _reason(output: str) -> str:
    """What a failed build said, without what it said while all was well, on one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "go: downloading" not in line and "\tINFO\t" not in line]
    return " ".join(" ".join(telling[-3:]).split())[-400:]


def _go_install(name: str, package: str, *options: str) -> Callable[[Path], None]:
    """A command out of a Go module."""

    def build(folder: Path) -> None:
        run("go", "install", "-trimpath", *options, package, GOBIN=str(folder), GOFLAGS="-buildvcs=false")
        if not (folder / name).exists():
            raise ToolUnavailableError(f"{package} did not build {name}")

    return build


def _go_build(name: str, module: str, package: str, *options: str) -> Callable[[Path], None]:
    """A command of a Go module that says what replaces some of its dependencies, for which `go install` refuses it."""

    def build(folder: Path) -> None:
        found = run("go", "mod", "download", "-json", module, folder=folder)
        sources = folder.parent / "sources"
        shutil.copytree(json.loads(found)["Dir"], sources)
        for path in (sources, *sources.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)  # the module cache is read-only
        flags = ("-trimpath", "-mod=mod", *options)
        environment = {"GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
        run("nice", "go", "build", *flags, "-o", folder / name, package, folder=sources, **environment)

    return build


def _collector(name: str, **components: tuple[str, ...]) -> Tool:
    """A distribution of the OpenTelemetry Collector with these components, by its own builder."""

    def build(folder: Path) -> None:
        # First, for a reason that can be understood: the builder's own message is about what follows from a missing module.
        for module in (module for modules in components.values() for module in modules):
            run("go", "mod", "download", module.replace(" ", "@"), folder=folder)
        sources = folder.parent / "sources"
        manifest = {
            "dist": {"name": name, "output_path": str(sources), "version": _COLLECTOR},
            **{kind: [{"gomod": module} for module in modules] for kind, modules in components.items()},
        }
        config = folder.parent / "builder.json"  # JSON is YAML
        config.write_text(json.dumps(manifest))
        # -e: `go mod tidy` shall not fail over a module that only the tests of a component import.
        run(tool("builder"), "--config", config, GOFLAGS="-e -buildvcs=false")
        shutil.move(sources / name, folder / name)

    digest = hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest()
    return Tool(name, f"{_COLLECTOR}-{digest[:6]}", build)


def _own_go(name: str, sources: Path, package: str = ".") -> Tool:
    """A program of ours in Go."""

    def build(folder: Path) -> None:
        run("go", "build", "-trimpath", "-o", folder / name, package, folder=sources, GOFLAGS="-buildvcs=false")

    return Tool(name, _source_version(sources), build)


def _own_node(name: str, sources: Path) -> Tool:
    """A script of ours for Node.js, with the packages that its lock file names."""

    def build(folder: Path) -> None:
        shutil.copytree(sources, folder, dirs_exist_ok=True)
        run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", folder=folder)

    return Tool(name, _source_version(sources), build)


def kubernetes(name: str, version: str, go: str, *programs: str, source: Path | None = None) -> Tool:
    """Programs of Kubernetes, built in a module of their own, with the behaviour of the Go that they were released with: the
    one program, or `source`, a main package of ours that is all of them.

    The zip of k8s.io/kubernetes is without the modules that its `go.mod` finds beside it (`staging/`), but each of them is
    published too, as v0.x.y of Kubernetes v1.x.y.
    """

    def build(folder: Path) -> None:
        downloaded = json.loads(run("go", "mod", "download", "-json", f"k8s.io/kubernetes@{version}"))
        staging = re.findall(r"^\s*(k8s\.io/\S+) => \./staging/", Path(downloaded["GoMod"]).read_text(), re.MULTILINE)
        published = version.replace("v1.", "v0.", 1)
        sources = folder.parent / "sources"
        sources.mkdir()
        (sources / "go.mod").write_text(
            "\n".join(
                (
                    "module wirespan.dev/kubernetes",
                    f"go {go}.0",
                    f"godebug default=go{go}",
                    f"require k8s.io/kubernetes {version}",
                    *(f"replace {module} => {module} {published}" for module in staging),
                )
            )
            + "\n"
        )
        flags = f"-s -w -X k8s.io/component-base/version.gitVersion={version}"
        packages = [f"k8s.io/kubernetes/cmd/{program}" for program in programs]
        run("go", "get", *(f"{package}@{version}" for package in packages), folder=sources, GOFLAGS="-mod=mod")
        if source is not None:
            shutil.copy(source, sources)
        what = packages[0] if source is None else "."
        command = ("nice", "go", "build", "-trimpath", "-ldflags", flags, "-o", folder / name, what)
        run(*command, folder=sources, GOFLAGS="-mod=mod -buildvcs=false")

    digest = "" if source is None else f"-{hashlib.sha256(source.read_bytes()).hexdigest()[:6]}"
    return Tool(name, version.removeprefix("v") + digest, build)


def _etcd(folder: Path) -> None:
    """What the API server keeps its objects in: the distribution's may be too old for watches that begin with a list."""
    sources = folder.parent / "sources"
    sources.mkdir()
    (sources / "go.mod").write_text("module wirespan.dev/etcd\ngo 1.24.0\n")
    package = "go.etcd.io/etcd/server/v3/etcdmain"
    (sources / "main.go").write_text(f'package main\nimport ("os"; "{package}")\nfunc main() {{ etcdmain.Main(os.Args) }}\n')
    run("go", "get", f"go.etcd.io/etcd/server/v3@{_ETCD}", folder=sources, GOFLAGS="-mod=mod")
    command = ("nice", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", folder / "etcd", ".")
    run(*command, folder=sources, GOFLAGS="-mod=mod -buildvcs=false")


_OPENSEARCH: Final = _ROOT / "tests" / "support" / "opensearch"


def _opensearch(folder: Path) -> None:
    """OpenSearch is published as jars too: those of one node, and what starts it."""
    sources = folder.parent / "sources"
    shutil.copytree(_OPENSEARCH, sources)
    run("mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'jars'}", folder=sources)
    run("javac", "-cp", f"{folder / 'jars'}/*", "-d", folder / "classes", "OneNode.java", folder=sources)
    program = folder / "opensearch"
    # A folder's name within the script is its own: the folder is renamed once it is complete.
    command = 'exec java -Xms512m -Xmx512m -cp "$here/classes:$here/jars/*" OneNode "$@"'
    program.write_text(f'#!/bin/sh\nhere=$(cd "$(dirname "$0")" && pwd)\n{command}\n')
    program.chmod(0o755)


def _source_version(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in {"", ".go", ".mod", ".sum", ".json", ".java", ".xml"} and path.is_file()
    ):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


_HELM_FLAGS: Final = " ".join(
    f"-X helm.sh/helm/v3/pkg/{package}.k8sVersion{part}={number}"
    for package in ("chartutil", "lint/rules")
    for part, number in zip(("Major", "Minor"), KUBERNETES.removeprefix("v").split(".")[:2], strict=True)
)
_JAEGER: Final = "v1.76.0"
_PROMETHEUS: Final = "v0.316.0"
"""Its module's version of release 3.16."""
_OTLP: Final = f"go.opentelemetry.io/collector/receiver/otlpreceiver v{_COLLECTOR}"
_FILE: Final = f"{_CONTRIB}/exporter/fileexporter v{_COLLECTOR}"
_DEBUG: Final = f"go.opentelemetry.io/collector/exporter/debugexporter v{_COLLECTOR}"
_OTLP_OUT: Final = f"go.opentelemetry.io/collector/exporter/otlpexporter v{_COLLECTOR}"
_OTLP_HTTP_OUT: Final = f"go.opentelemetry.io/collector/exporter/otlphttpexporter v{_COLLECTOR}"
_SPAN_METRICS: Final = f"{_CONTRIB}/connector/spanmetricsconnector v{_COLLECTOR}"
_REMOTE_WRITE: Final = f"{_CONTRIB}/exporter/prometheusremotewriteexporter v{_COLLECTOR}"
_JSON_FILE: Final = f"{_CONTRIB}/receiver/otlpjsonfilereceiver v{_COLLECTOR}"
_PROVIDERS: Final = tuple(
    f"go.opentelemetry.io/collector/confmap/provider/{name}provider v{_COLLECTOR_STABLE}" for name in ("env", "file")
)

TOOLS: Final = {
    made.name: made
    for made in (
        _own_go("flowdump", _ROOT / "proto" / "go", "./cmd/flowdump"),
        _own_go("power_cut", _ROOT / "tests" / "support" / "power_cut"),
        _own_go("tls_stacks", _ROOT / "tests" / "support" / "tls_stacks"),
        _own_go("h2c", _ROOT / "tests" / "support" / "h2c"),
        _own_go("dashboard_check", _ROOT / "tests" / "support" / "dashboard_check"),
        _own_node("traceql_check", _ROOT / "tests" / "support" / "traceql_check"),
        Tool("opensearch", _source_version(_OPENSEARCH), _opensearch),
        Tool("etcd", _ETCD.removeprefix("v"), _etcd),
        kubernetes("kube-apiserver", KUBERNETES, "1.24", "kube-apiserver"),
        kubernetes("kube-apiserver-older", _OLDER_KUBERNETES, "1.23", "kube-apiserver"),
        # Without being told it takes clusters that it does not ask for ancient ones.
        Tool("helm", "3.22.0", _go_install("helm", "helm.sh/helm/v3/cmd/helm@v3.22.0", f"-ldflags={_HELM_FLAGS}")),
        Tool("actionlint", "1.7.12", _go_install("actionlint", "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12")),
        Tool("crane", "0.20.6", _go_install("crane", "github.com/google/go-containerregistry/cmd/crane@v0.20.6")),
        Tool("nats", "0.5.1", _go_install("nats", "github.com/nats-io/natscli/nats@v0.5.1")),
        Tool("builder", _COLLECTOR, _go_install("builder", f"go.opentelemetry.io/collector/cmd/builder@v{_COLLECTOR}")),
        Tool(
            "jaeger",
            _JAEGER,
            _go_build("jaeger", f"github.com/jaegertracing/jaeger@{_JAEGER}", "./cmd/jaeger", "-ldflags=-s -w"),
        ),
        Tool(
            "prometheus",
            _PROMETHEUS,
            # Without its many ways to discover targets, of which a file of them is not one.
            _go_build(
                "prometheus",
                f"github.com/prometheus/prometheus@{_PROMETHEUS}",
                "./cmd/prometheus",
                "-tags=netgo,remove_all_sd",
                "-ldflags=-s -w",
            ),
        ),
        _collector("otelcol", receivers=(_OTLP,), exporters=(_FILE, _DEBUG), providers=_PROVIDERS),
        _collector("otelcol-copy", receivers=(_OTLP,), exporters=(_OTLP_OUT, _OTLP_HTTP_OUT, _FILE), providers=_PROVIDERS),
        _collector("otelcol-json", receivers=(_JSON_FILE,), exporters=(_FILE,), providers=_PROVIDERS),
        _collector(
            "otelcol-metrics",
            receivers=(_OTLP,),
            connectors=(_SPAN_METRICS,),
            exporters=(_REMOTE_WRITE, _FILE),
            providers=_PROVIDERS,
        ),
    )
}
"""The tools by name, those that others are built with first."""


def main(tools: Iterable[Tool] = TOOLS.values()) -> int:
    """Build what is missing and say what is there; 0 also where a tool cannot be had, for its tests are skipped."""
    for wanted in tools:
        cached = wanted.folder.exists()
        try:
            built(wanted)
        except ToolUnavailableError as error:
            state = f"not available: {error}"
        else:
            state = f"{'in the cache, built' if cached else 'built'} in {build_seconds(wanted):.0f} s"
        sys.stdout.write(f"{wanted.name} {wanted.version}: {state}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
