"""OpenSearch for real: the shop's traces, joined in one query, and the flows of a capture as Data Prepper would write them."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from deploy.opensearch.source import field
from tests.e2e.shop.shop_run import (
    QUICK_NS,
    SLOW_NS,
    ShopRun,
    got,
    running_opensearch,
    shop_in_jaeger,
    skip_where_it_cannot_run,
)
from tests.support.tools import ToolUnavailableError, tool

ROOT: Final = Path(__file__).parents[3]
INDEX: Final = "otel-v1-apm-span-2026.11.29"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

skip_where_it_cannot_run()


@pytest.fixture(scope="module")
def opensearch(tmp_path_factory) -> Iterator[str]:
    """Where one node of OpenSearch listens."""
    try:
        program = tool("opensearch")
    except ToolUnavailableError as error:
        pytest.skip(f"opensearch is not available: {error}")
    with running_opensearch(program, tmp_path_factory.mktemp("opensearch")) as url:
        yield url


@pytest.fixture(scope="module")
def run(opensearch: str, tmp_path_factory) -> Iterator[ShopRun]:
    """The shop with the two faults that look alike at the catalog, in a Jaeger that keeps its traces in OpenSearch."""
    faults = ("slow-database", "exhausted-pool")
    with shop_in_jaeger(tmp_path_factory.mktemp("shop"), faults, opensearch) as run:
        got(f"{opensearch}/_refresh", {})
        yield run


@pytest.fixture(scope="module")
def spans(opensearch: str, tmp_path_factory) -> list[dict]:
    """The spans of the bundled capture, which are in OpenSearch under our template, every one sent twice."""
    path = tmp_path_factory.mktemp("spans") / "spans.jsonl"
    capture, cluster = (ROOT / "tests" / "data" / name for name in ("cluster.pcapng", "cluster.json"))
    wirespan("replay", capture, "--kube-snapshot", cluster, "--output", path)
    put(f"{opensearch}/_index_template/wirespan", (ROOT / "deploy" / "opensearch" / "index-template.json").read_bytes())
    requests = [json.loads(line) for line in path.read_text().splitlines()]
    found = list(documents(requests))
    for _ in range(2):
        answer = put(f"{opensearch}/_bulk?refresh=true", bulk(found), "application/x-ndjson", "POST")
        assert not answer["errors"], answer
    return found


def test_what_is_sent_twice_is_there_once(opensearch: str, spans: list[dict]) -> None:
    """With the span's ids for the document's, as docs/export.md has it."""
    assert got(f"{opensearch}/{INDEX}/_count", None)["count"] == len(spans) > 0


def test_saved_queries_find_what_their_spans_say(opensearch: str, spans: list[dict]) -> None:
    """Each is understood; those by verdict find the spans with it, and numbers are compared as numbers."""
    lines = (ROOT / "deploy" / "opensearch" / "saved-queries.ndjson").read_text().splitlines()
    hits = {}
    for saved in map(json.loads, lines):
        query = saved["attributes"]["query"]["query"]
        body = {"size": 10_000, "query": {"query_string": {"query": query}}}
        found = got(f"{opensearch}/{INDEX}/_search", body)["hits"]["hits"]
        hits[saved["attributes"]["title"].removeprefix("Wirespan: ")] = {hit["_source"]["spanId"] for hit in found}
    said = {
        name: {one["spanId"] for one in spans if one.get(field("flow.verdict")) == name} for name in ("refused", "path_loss")
    }
    assert all(said.values())
    assert {name: hits[f"verdict: {name}"] for name in said} == said
    slow = {one["spanId"] for one in spans if one.get(field("flow.response.time_max"), 0) > 150_000_000}
    assert hits["slow server"] == slow
    assert slow


def test_a_trace_is_explained_from_opensearch_as_from_its_file(opensearch: str, spans: list[dict]) -> None:
    """`wirespan explain --backend`: the documents say what the spans said."""
    refused = next(one for one in spans if one.get(field("error.type")) == "connection_refused")
    told = json.loads(wirespan("explain", "--backend", opensearch, "--json", refused["traceId"]))
    assert told["verdict"] == "refused"
    assert told["began_unix_ns"] == refused["began"]


def test_the_service_and_not_its_database(run: ShopRun) -> None:
    """In OpenSearch, one query: traces with a slow `server wait` at the catalog and a quick query of its database, and none
    with a slow one. They are those of the exhausted pool and not those of the slow database.
    """
    waits = {
        "bool": {"filter": [term("operationName", "server wait"), term("process.serviceName", "catalog"), longer(SLOW_NS)]}
    }
    database = [term("process.serviceName", "catalog"), {"exists": {"field": "tag.db@system"}}]
    quick = {"bool": {"filter": database, "must_not": [longer(QUICK_NS)]}}
    slow = {"bool": {"filter": [*database, longer(QUICK_NS)]}}
    script = "params.waits > 0 && params.quick > 0 && params.slow == 0"
    paths = {"waits": "waits._count", "quick": "quick._count", "slow": "slow._count"}
    parts = {"waits": {"filter": waits}, "quick": {"filter": quick}, "slow": {"filter": slow}}
    both = {"both": {"bucket_selector": {"buckets_path": paths, "script": script}}}
    traces = {"terms": {"field": "traceID", "size": 10_000}, "aggs": parts | both}
    answer = got(f"{run.opensearch}/*jaeger-span-*/_search", {"size": 0, "aggs": {"traces": traces}})
    found = {bucket["key"] for bucket in answer["aggregations"]["traces"]["buckets"]}
    products = run.requests()
    pool = {span.trace_id for span in products if run.within("exhausted-pool", span) and span.duration_ns >= SLOW_NS}
    database_was_slow = {span.trace_id for span in products if run.within("slow-database", span)}
    assert pool
    assert pool <= found
    assert found & database_was_slow == set()


def test_the_service_and_not_the_network_to_its_database(run: ShopRun) -> None:
    """The same by what the network says alone: the database is in TLS, so its exchanges were met by its spans."""
    met = [term("tag.flow@exchange@matched", "span"), term("tag.destination@port", "5432")]
    exchange = [term("operationName", "exchange at client"), term("process.serviceName", "catalog"), *met]
    answer = got(f"{run.opensearch}/*jaeger-span-*/_search", {"size": 10_000, "query": {"bool": {"filter": exchange}}})
    exchanges = [hit["_source"] for hit in answer["hits"]["hits"]]
    slow = {each["traceID"] for each in exchanges if each["duration"] * 1000 > QUICK_NS}
    found = {each["traceID"] for each in exchanges} - slow
    products = run.requests()
    pool = {span.trace_id for span in products if run.within("exhausted-pool", span) and span.duration_ns >= SLOW_NS}
    database_was_slow = {span.trace_id for span in products if run.within("slow-database", span)}
    assert found & pool
    assert slow & database_was_slow


def documents(requests: list[dict]) -> Iterator[dict]:
    """The spans as Data Prepper's otel_traces source writes them; `began` is the test's own."""
    for resource in (each for request in requests for each in request["resourceSpans"]):
        of_resource = flat("resource", resource["resource"])
        for span in resource["scopeSpans"][0]["spans"]:
            start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
            same = {name: span.get(name, "") for name in ("traceId", "spanId", "parentSpanId", "name")}
            links = [{"traceId": link["traceId"], "spanId": link["spanId"]} for link in span.get("links", ())]
            times = {"startTime": iso(start), "endTime": iso(end), "durationInNanos": end - start, "began": start}
            yield {**same, **times, "links": links, **of_resource, **flat("span", span)}


def flat(whose: str, holder: dict) -> dict:
    """Attributes as fields of a document."""
    return {
        f"{whose}.attributes.{pair['key'].replace('.', '@')}": plain(pair["value"]) for pair in holder.get("attributes", ())
    }


def plain(value: dict) -> str | int | list:
    """A value of OTLP/JSON as JSON."""
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [plain(each) for each in content.get("values", ())]
    return int(content) if kind == "intValue" else content


def iso(unix_ns: int) -> str:
    """A time to the nanosecond."""
    return f"{datetime.fromtimestamp(unix_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{unix_ns % 10**9:09d}Z"


def bulk(found: list[dict]) -> bytes:
    """Documents in one request, each under its span's ids."""
    lines: list[str] = []
    for one in found:
        lines += [json.dumps({"index": {"_index": INDEX, "_id": f"{one['traceId']}-{one['spanId']}"}}), json.dumps(one)]
    return "".join(f"{line}\n" for line in lines).encode()


def put(url: str, body: bytes, content_type: str = "application/json", method: str = "PUT") -> dict:
    """Give something to OpenSearch."""
    request = urllib.request.Request(url, body, {"Content-Type": content_type}, method=method)
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def wirespan(*arguments: str | Path) -> str:
    """Run the command and return what it says."""
    command = [sys.executable, "-m", "services.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=120).stdout


def term(name: str, value: str) -> dict:
    """A document has this."""
    return {"term": {name: value}}


def longer(nanoseconds: int) -> dict:
    """A span took longer; Jaeger's documents have microseconds."""
    return {"range": {"duration": {"gt": nanoseconds // 1000}}}
