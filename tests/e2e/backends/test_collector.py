"""A real OpenTelemetry Collector takes what Wirespan sends, and reads what it writes."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from tests.e2e.backends.collector import Collector, Spans, attribute, read_spans
from tests.e2e.conftest import Replay
from tests.support.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first to ask for a tool may build it


def test_spans_over_the_network_equal_those_in_the_file(otelcol: Path, replay: Replay, tmp_path: Path) -> None:
    """The Collector is given the same spans over gRPC and over HTTP as `--output` writes: ids, times, every attribute,
    resources. They carry the bytes of the connections and the names of workloads.
    """
    replay("--output", tmp_path / "spans.jsonl")
    written = read_spans(tmp_path / "spans.jsonl")
    assert collected(otelcol, replay, tmp_path / "grpc", "grpc") == written
    assert collected(otelcol, replay, tmp_path / "http", "http/protobuf") == written
    spans = [found.scope_spans[0].spans[0] for found in written.values()]
    upload = [span for span in spans if attribute(span, "source.port") == 40024]
    assert sum(attribute(span, "flow.bytes.delta") for span in upload) > 300 * 1024
    assert {attribute(span, "source.k8s.cronjob.name") for span in upload} == {"nightly-backup"}


def test_the_collector_reads_the_output_file_line_by_line(otelcol: Path, replay: Replay, tmp_path: Path) -> None:
    """Each line of `--output` is an OTLP/JSON request that the Collector takes as it is, and takes all of."""
    replay("--output", tmp_path / "spans.jsonl")
    port = free_port()
    with Collector(
        otelcol, tmp_path / "json", {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{port}"}}}}
    ) as collector:
        for line in (tmp_path / "spans.jsonl").read_bytes().splitlines():
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/traces", line, headers)
            with urllib.request.urlopen(request, timeout=30) as response:
                assert response.read() == b'{"partialSuccess":{}}'
    assert read_spans(collector.output) == read_spans(tmp_path / "spans.jsonl")


def test_the_otlpjsonfile_receiver_reads_the_output_file(otelcol_json: Path, replay: Replay, tmp_path: Path) -> None:
    """The Collector's own reader of such files finds every span of `--output`, each once."""
    replay("--output", tmp_path / "spans.jsonl")
    written = read_spans(tmp_path / "spans.jsonl")
    receiver = {"otlpjsonfile": {"include": [str(tmp_path / "spans.jsonl")], "start_at": "beginning", "poll_interval": "100ms"}}
    with Collector(otelcol_json, tmp_path / "file", receiver) as collector:
        collector.wait_for_output(len(written))
    assert read_spans(collector.output) == written


def collected(otelcol: Path, replay: Replay, folder: Path, protocol: str) -> Spans:
    """Replay into a Collector over one protocol and return what it has written."""
    kind, port = protocol.partition("/")[0], free_port()
    with Collector(otelcol, folder, {"otlp": {"protocols": {kind: {"endpoint": f"127.0.0.1:{port}"}}}}) as collector:
        replay("--otlp-endpoint", f"http://127.0.0.1:{port}", "--otlp-protocol", protocol)
    return read_spans(collector.output)
