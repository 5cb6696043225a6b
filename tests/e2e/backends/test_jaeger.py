"""A real Jaeger takes what Wirespan sends, and gives it back to who asks."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.backends.collector import attribute, read_spans
from tests.e2e.backends.jaeger import asked, running_jaeger
from tests.e2e.conftest import ROOT, WIRESPAN, Replay

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]  # the first to ask for a tool may build it


def test_jaeger_gives_back_the_traces_of_a_workload(jaeger: Path, replay: Replay, tmp_path: Path) -> None:
    """Every workload is a service of Jaeger's; a trace that it is asked for is the connection, with all that was recorded."""
    replay("--output", tmp_path / "spans.jsonl")
    written = read_spans(tmp_path / "spans.jsonl")
    with running_jaeger(jaeger, tmp_path) as (otlp, query):
        replay("--otlp-endpoint", otlp)
        services = set(asked(query, "/api/v3/services")["services"])
        slow = [key for key, found in written.items() if attribute(found.scope_spans[0].spans[0], "source.port") == 40002]
        traces = {trace_id: asked(query, f"/api/v3/traces/{trace_id}") for trace_id, _ in slow}
    assert services == {
        pair.value.string_value
        for found in written.values()
        for pair in found.resource.attributes
        if pair.key == "service.name"
    }
    assert {"frontend", "cart", "ingress-nginx-controller", "prometheus"} <= services
    assert slow
    for trace_id, span_id in slow:
        spans = spans_of(traces[trace_id])
        span = written[trace_id, span_id].scope_spans[0].spans[0]
        given = spans[span_id]
        assert (given["name"], given["kind"]) == ("tcp redis", span.kind)
        assert int(given["startTimeUnixNano"]) == span.start_time_unix_nano
        assert int(given["endTimeUnixNano"]) == span.end_time_unix_nano
        assert {pair["key"] for pair in given["attributes"]} == {pair.key for pair in span.attributes}
        values = {pair["key"]: pair["value"] for pair in given["attributes"]}
        assert int(values["flow.response.time_max"]["intValue"]) == attribute(span, "flow.response.time_max") > 250_000_000
        assert values["destination.service.name"] == {"stringValue": "redis"}


def test_explain_reads_a_trace_out_of_jaeger(jaeger: Path, replay: Replay, tmp_path: Path) -> None:
    """What `wirespan explain` says of a trace is the same, be it in a file or in Jaeger: a connection's, an application's."""
    spans = tmp_path / "spans.jsonl"
    replay("--output", spans)
    written = read_spans(spans)
    names = {trace_id: found.scope_spans[0].spans[0].name for (trace_id, _), found in written.items()}
    some = [next(each for each, name in names.items() if name == wanted) for wanted in ("tcp redis", "server wait")]
    with running_jaeger(jaeger, tmp_path) as (otlp, query):
        replay("--otlp-endpoint", otlp)
        for trace_id in some:
            of_jaeger, of_file = explained("--backend", query, trace_id), explained(spans, trace_id)
            for one in of_file:
                assert one["queries"].pop("tap", "--input-file").count("--input-file") == 1, "`tap` does not read backends"
            assert of_jaeger == of_file
            assert all(one["verdict"] and one["story"] for one in of_jaeger)


def explained(*arguments: str | Path) -> list[Any]:
    """What `wirespan explain` says."""
    command = [*WIRESPAN, "explain", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def spans_of(answer: Any) -> dict[str, Any]:
    """The spans of a trace, by their ids."""
    groups = answer["result"]["resourceSpans"]
    return {span["spanId"]: span for group in groups for scope in group["scopeSpans"] for span in scope["spans"]}
