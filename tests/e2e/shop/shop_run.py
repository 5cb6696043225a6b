"""The shop with each of its faults once, one after the other, its spans and ours in one Jaeger; and what was done when."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from services.cli.doctor.checks import why_not_live
from services.cli.shop.places import databases
from tests.e2e.backends.jaeger import running_jaeger
from tests.e2e.conftest import ROOT, WIRESPAN
from tests.support.ports import free_port
from tests.support.tools import ToolUnavailableError, tool

FAULT_SECONDS: Final = 10.0
QUIET_SECONDS: Final = 4.0
"""After a fault: what is under way comes to its end."""
MS: Final = 1_000_000
SLOW_NS: Final = 350 * MS
"""The faults take 400 ms: an application's span that took so long was slow for sure."""
QUICK_NS: Final = 200 * MS
"""And one that took so little was not."""
SLOW_RESPONSE_SECONDS: Final = "0.25"
START_SECONDS: Final = 180.0
MOST: Final = 5000
"""Traces that Jaeger gives back at once."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span as Jaeger gives it back."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    start_ns: int
    duration_ns: int
    tags: dict[str, Any]


@dataclass(slots=True)
class ShopRun:
    """What was done when, and where to ask for what was seen."""

    jaeger: str
    opensearch: str | None
    records: Path
    """What passed on the bus, as `wirespan tap -o json` prints it."""
    windows: dict[str, tuple[int, int]] = field(default_factory=dict)
    """When each fault was made and taken back, Unix nanoseconds."""

    def within(self, fault: str, span: Span) -> bool:
        """Whether a span began while this fault was made, or lasted until it was. Jaeger cuts times to microseconds."""
        begin, end = self.windows[fault]
        return span.start_ns <= end and span.start_ns + span.duration_ns + 1000 >= begin

    def matching(self, service: str, operation: str = "", **tags: str) -> list[Span]:
        """The spans that one query of Jaeger's finds: of a service, with these tags (`__` stands for a dot)."""
        wanted = {name.replace("__", "."): value for name, value in tags.items()}
        return [
            span
            for span in self.traces(service, operation, wanted)
            if span.service == service
            and (not operation or span.name == operation)
            and all(str(span.tags.get(name)) == value for name, value in wanted.items())
        ]

    def traces(self, service: str, operation: str = "", tags: dict[str, str] | None = None) -> list[Span]:
        """All spans of the traces that a query of Jaeger's finds."""
        asked = {"service": service, "limit": str(MOST), "lookback": "custom", "tags": json.dumps(tags or {})}
        begin = min(window[0] for window in self.windows.values()) - 60 * 10**9
        asked |= {"start": str(begin // 1000), "end": str(time.time_ns() // 1000)}
        if operation:
            asked["operation"] = operation
        found = got(f"{self.jaeger}/api/traces?{urllib.parse.urlencode(asked)}")["data"] or []
        assert len(found) < MOST, "Jaeger left some out"
        return [_span(span, trace["processes"]) for trace in found for span in trace["spans"]]

    def requests(self) -> list[Span]:
        """The catalog's own spans of requests for products."""
        return self.matching("catalog", "GET /products/<int:number>")


def skip_where_it_cannot_run() -> None:
    """Skip the module, with the reason, where the shop cannot be captured or lacks a database."""
    missing = why_not_live()
    if missing is not None:
        pytest.skip(f"no live capture: {missing.found}", allow_module_level=True)
    if databases().missing():
        pytest.skip("; ".join(databases().missing()), allow_module_level=True)


@contextlib.contextmanager
def shop_in_jaeger(folder: Path, faults: tuple[str, ...], opensearch: str | None = None) -> Iterator[ShopRun]:
    """Run the shop with each of these faults once; yield what was done while its spans can be asked for."""
    try:
        jaeger = tool("jaeger")
    except ToolUnavailableError as error:
        pytest.skip(f"jaeger is not available: {error}")
    with running_jaeger(jaeger, folder, storage=_storage(opensearch)) as (otlp, query):
        run = ShopRun(query, opensearch, folder / "records.jsonl")
        make_faults(run, faults, otlp, folder, WIRESPAN_ENRICHER_SLOW_RESPONSE_SECONDS=SLOW_RESPONSE_SECONDS)
        yield run


def _span(span: dict[str, Any], processes: dict[str, Any]) -> Span:
    return Span(
        span["traceID"],
        span["spanID"],
        next((one["spanID"] for one in span["references"] if one["refType"] == "CHILD_OF"), ""),
        processes[span["processID"]]["serviceName"],
        span["operationName"],
        span["startTime"] * 1000,
        span["duration"] * 1000,
        {tag["key"]: tag["value"] for tag in span["tags"]},
    )


def got(url: str, body: dict[str, Any] | None = None) -> Any:
    """What a server answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


@contextlib.contextmanager
def running(command: list[str | Path], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for as long as the context lasts."""
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=ROOT, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return once the server answers."""
    until(process, log, lambda: _answered(url))


def _answered(url: str) -> bool:
    try:
        got(url)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


def until(process: subprocess.Popen[bytes], log: Path, condition: Any) -> None:
    """Return once the condition holds; the process is to live until then."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{log.name}:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)


@contextlib.contextmanager
def running_opensearch(program: Path, folder: Path) -> Iterator[str]:
    """Run one node of OpenSearch; yield its address."""
    port, log = free_port(), folder / "opensearch.log"
    with running([program, folder / "opensearch", str(port), str(free_port())], log) as process:
        url = f"http://127.0.0.1:{port}"
        answers(process, f"{url}/_cluster/health?wait_for_status=yellow&timeout=60s", log)
        yield url


def _storage(opensearch: str | None) -> dict[str, Any]:
    """Where Jaeger has its traces: in memory or in OpenSearch."""
    if opensearch is None:
        return {"memory": {"max_traces": 100_000}}
    index = {"shards": 1, "replicas": 0}
    return {
        "opensearch": {
            "server_urls": [opensearch],
            "max_span_age": "24h",
            "tags_as_fields": {"all": True},
            "indices": dict.fromkeys(("spans", "services", "dependencies", "sampling"), index),
        }
    }


def make_faults(run: ShopRun, faults: tuple[str, ...], otlp: str, folder: Path, **environment: str) -> None:
    """Run the shop beside its capture, make each fault for a while, and return when all spans are where they belong."""
    log = folder / "up.log"
    command: list[str | Path] = [*WIRESPAN, "up", "--demo", "shop", "--otlp-endpoint", otlp]
    with running(command, log, **environment) as process:
        until(process, log, lambda: b"to change that: echo FAULT > " in log.read_bytes())
        told = re.search(r"echo FAULT > (\S+)", log.read_text(errors="replace"))
        assert told is not None
        for fault in faults:
            _pause(process, QUIET_SECONDS)
            begin = time.time_ns()
            Path(told[1]).write_text(fault)
            _pause(process, FAULT_SECONDS)
            Path(told[1]).write_text("")
            run.windows[fault] = begin, time.time_ns()
        _pause(process, QUIET_SECONDS)
        bus = re.search(r"nats --server (\S+)", log.read_text(errors="replace"))
        assert bus is not None
        with run.records.open("wb") as kept:
            tap: list[str | Path] = [*WIRESPAN, "tap", "--nats-url", bus[1], "--since", "1h", "-o", "json"]
            subprocess.run(tap, stdout=kept, cwd=ROOT, check=True, timeout=300)
    assert process.returncode in {0, -15, 143}, log.read_text(errors="replace")[-3000:]


def _pause(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Let the shop run for so long: what it does in that time is what is tested."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        raise RuntimeError("the shop has ended")
