"""A real OpenTelemetry Collector that writes every span it is given into a file, and a reader of such files."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

START_SECONDS: Final = 30
Spans: TypeAlias = dict[tuple[str, str], ResourceSpans]
"""By trace id and span id, in hexadecimal: the span, alone, with its resource and scope."""


class Collector:
    """A Collector with the given receivers (a map as in its configuration) and one file exporter, `self.output`.

    `more` is configuration that is added: connectors, exporters, and `pipelines` that have to do with them.
    Entering returns once it says that it is ready; `stop` ends it the orderly way, after which the file is complete.
    """

    def __init__(self, executable: Path, folder: Path, receivers: dict[str, Any], more: dict[str, Any] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / "collected.jsonl"
        self.endpoint = ""
        """Where it listens, where whoever made it says so."""
        self.metrics = folder / "metrics.jsonl"
        """Where the metrics go that it is given, where `more` has them written."""
        self.log: list[str] = []
        self._config = folder / "collector.json"  # JSON is YAML
        self._executable = executable
        self._ready = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        added = more or {}
        connectors: dict[str, Any] = added.get("connectors", {})
        traces = {"receivers": list(receivers), "exporters": ["file", *connectors]}
        config = {
            "receivers": receivers,
            "connectors": connectors,
            "exporters": {"file": {"path": str(self.output)}, **added.get("exporters", {})},
            "service": {
                "pipelines": {"traces": traces, **added.get("pipelines", {})},
                "telemetry": {"metrics": {"level": "none"}},
            },
        }
        self._config.write_text(json.dumps(config))

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        command: list[str | Path] = [self._executable, "--config", self._config]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()
        self._ready.wait(START_SECONDS)
        if self._process.poll() is not None or not self._ready.is_set():
            self.stop()
            raise RuntimeError("the Collector did not start:\n" + "\n".join(self.log[-20:]))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; what it has taken is in the file afterwards."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process = None

    def wait_for_output(self, spans: int) -> None:
        """Return once the file has so many spans; a reader of files does not say when it has read them."""
        deadline = time.monotonic() + START_SECONDS
        while not self.output.exists() or self.output.read_bytes().count(b'"spanId"') < spans:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {spans} spans in {self.output}")
            time.sleep(0.05)

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line.rstrip())
            if "Everything is ready" in line:
                self._ready.set()
        self._ready.set()


def read_spans(path: Path) -> Spans:
    """Read a file of OTLP/JSON lines: every span by its ids. The same span twice must be the same in everything."""
    spans: Spans = {}
    for line in path.read_text().splitlines():
        for resource_spans in json.loads(line, object_hook=_ids_to_base64)["resourceSpans"]:
            for found in _each_alone(json_format.ParseDict(resource_spans, ResourceSpans())):
                span = found.scope_spans[0].spans[0]
                key = (span.trace_id.hex(), span.span_id.hex())
                assert spans.setdefault(key, found) == found
    return spans


def attribute(span: Span, name: str) -> Any:
    """An attribute's value; None where the span has none of that name."""
    for found in span.attributes:
        if found.key == name:
            return getattr(found.value, found.value.WhichOneof("value") or "string_value")
    return None


def _each_alone(resource_spans: ResourceSpans) -> list[ResourceSpans]:
    found = []
    for scope_spans in resource_spans.scope_spans:
        for span in scope_spans.spans:
            if span.status == Status():
                span.ClearField("status")  # the Collector writes the unset status out, as an empty one
            span.attributes.sort(key=lambda attribute: attribute.key)  # their order means nothing in OTLP
            alone = ResourceSpans(resource=resource_spans.resource, schema_url=resource_spans.schema_url)
            alone.scope_spans.add(scope=scope_spans.scope, schema_url=scope_spans.schema_url).spans.append(span)
            found.append(alone)
    return found


def _ids_to_base64(tree: dict[str, Any]) -> dict[str, Any]:
    """OTLP/JSON writes ids in hexadecimal where protobuf's own JSON has base64."""
    for name in ("traceId", "spanId", "parentSpanId"):
        if name in tree:
            tree[name] = base64.b64encode(bytes.fromhex(tree[name])).decode()
    return tree
