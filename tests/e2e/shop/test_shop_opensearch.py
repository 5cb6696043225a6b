"""The shop in OpenSearch, where traces are joined: the service that is slow while its database is quick, in one query."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

skip_where_it_cannot_run()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[ShopRun]:
    """The shop with the two faults that look alike at the catalog, in a Jaeger that keeps its traces in OpenSearch."""
    folder = tmp_path_factory.mktemp("shop")
    try:
        program = tool("opensearch")
    except ToolUnavailableError as error:
        pytest.skip(f"opensearch is not available: {error}")
    faults = ("slow-database", "exhausted-pool")
    with running_opensearch(program, folder) as opensearch, shop_in_jaeger(folder, faults, opensearch) as run:
        got(f"{opensearch}/_refresh", {})
        yield run


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


def term(name: str, value: str) -> dict:
    """A document has this."""
    return {"term": {name: value}}


def longer(nanoseconds: int) -> dict:
    """A span took longer; Jaeger's documents have microseconds."""
    return {"range": {"duration": {"gt": nanoseconds // 1000}}}
