"""The shop in Jaeger: for each fault the query that names it finds what the fault did, and nothing else.

What is slow on a busy machine besides is slow in truth: of what is slow, the applications' own spans are the measure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from proto.flow_batch import FlowBatch
from proto.verdicts.names import Verdict
from services.cli.explain.backend import trace_of
from services.cli.explain.command import explained
from services.cli.shop.places import FAULTS
from services.cli.tap.files import FileRecords
from services.cli.view.asked import wanted
from tests.e2e.browser import PATIENCE_MS, WHY_NOT, running_browser, serving
from tests.e2e.shop.shop_run import (
    QUICK_NS,
    QUIET_SECONDS,
    SLOW_NS,
    ShopRun,
    Span,
    shop_in_jaeger,
    skip_where_it_cannot_run,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

VERDICTS = {
    "lossy-path": ("catalog", "path_loss"),
    "slow-reader": ("catalog", "zero_window"),
    "full-accept-queue": ("catalog", "accept_queue"),
    "slow-resolver": ("resolver", "name_resolution"),
}
"""Faults that no slow machine makes: at whose end, and what its spans say."""
FAULT_IN_WORDS = {
    "slow-database": ("server slow", "the server is slow, not the network"),
    "exhausted-pool": ("server slow", "the server is slow, not the network"),
    "lossy-path": ("path loss", "the path loses packets|lost on the (path|way)"),
    "slow-reader": ("zero window", "the client does not read what it asked for"),
    "full-accept-queue": ("accept queue", "the server's accept queue (is|was) full"),
    "slow-resolver": ("name resolution", "the resolver .*connecting waits|a question had no answer|never answered a question"),
}
"""What the page calls it, and the sentence: server, path, client, queue, and what connecting waits for."""
SHOP = " ".join(f"workload {name}" for name in ("load", "frontend", "catalog", "cart", "resolver", "postgres", "redis"))
"""The search for the shop: other tests' connections are on the same machine."""
IN_TRUTH = " ".join(f"not verdict {name}" for name in ("server_slow", "path_or_server", "path_slow", "client_slow"))
"""And without what a busy machine is in truth."""
SERVICES = ("load", "frontend", "catalog", "cart")
IN_TLS = {"catalog": 5432, "cart": 6379, "load": 8443}
"""Who asks in TLS, and where."""
PORTS = ("net.peer.port", "server.port")
SURELY_NS = 1_000_000_000
"""After a fault was made whoever asks has it."""
CLOCK_NS = 2_000_000
"""What one host's clock is read apart."""
ALSO = {"zero_window": {"lossy-path"}}
"""Where else a verdict is true: what comes behind a lost segment fills the receiver's buffer."""

skip_where_it_cannot_run()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[ShopRun]:
    """The shop, each fault once, in a Jaeger."""
    with shop_in_jaeger(tmp_path_factory.mktemp("shop"), FAULTS) as run:
        yield run


@pytest.fixture(scope="module")
def records(run: ShopRun) -> list[FlowBatch]:
    """What passed on the bus."""
    return [*FileRecords([run.records], None).batches()]


@pytest.fixture(scope="module")
def shop_page(run: ShopRun) -> Iterator[Page]:
    """A tab of the page, once that has read what the run left."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with serving(run.records.parent, "view", run.records, "--port", 0) as url, running_browser() as browser:
        page = browser.new_page(base_url=url, viewport={"width": 1280, "height": 800})
        page.goto("/?view=pipeline")
        expect(page.get_by_role("status")).to_have_text("all read", timeout=10 * PATIENCE_MS)
        yield page


@pytest.mark.parametrize("fault", VERDICTS)
def test_a_faults_query_finds_it_and_no_other(run: ShopRun, fault: str) -> None:
    """In Jaeger: service and `flow.verdict`. What it finds was while the fault was made, but for what a busy machine does by
    itself: a reader that gets no processor is slow.
    """
    service, verdict = VERDICTS[fault]
    found = run.matching(service, flow__verdict=verdict, flow__observer="server")
    where = {fault} | ALSO.get(verdict, set())
    assert any(run.within(fault, span) for span in found)
    besides = [span for span in found if not any(run.within(one, span) for one in where)]
    assert len(besides) <= len(found) / 10, besides


@pytest.mark.parametrize(("fault", "service"), [("slow-database", "postgres"), ("exhausted-pool", "catalog")])
def test_a_slow_server_is_the_one_that_is_slow(run: ShopRun, fault: str, service: str) -> None:
    """`server_slow` at the database where it is the database, at the catalog alone where that keeps its connections."""
    assert any(run.within(fault, span) for span in run.matching(service, flow__verdict="server_slow", flow__observer="server"))


def test_a_slow_request_is_found_in_its_own_trace_and_a_quick_one_is_not(run: ShopRun) -> None:
    """Each request for a product that took its own span long has an exchange at the server with `server_slow` in the same
    trace; no trace has one of whose requests the frontend itself, which waited for them, says that they were quick.
    """
    slow = {span.trace_id for span in run.matching("catalog", "exchange at server", flow__verdict="server_slow")}
    assert {one.trace_id for one in run.requests() if one.duration_ns >= SLOW_NS} <= slow
    asked = run.matching("frontend", "GET")
    quick = by_trace(asked, lambda spans: all(span.duration_ns < QUICK_NS for span in spans))
    assert quick
    assert slow & quick == set()


def test_requests_meet_their_network_in_their_own_trace(run: ShopRun) -> None:
    """Those of HTTP/1 and gRPC in clear text, at both ends; what nothing on the wire says, at the client."""
    for name, services in {"exchange at client": SERVICES, "exchange at server": ("catalog", "cart")}.items():
        assert {service for service in SERVICES if run.matching(service, name)} >= set(services)


@pytest.mark.parametrize(("service", "port"), IN_TLS.items())
def test_what_is_in_tls_is_met_by_its_span(run: ShopRun, service: str, port: int) -> None:
    """Postgres, Redis and HTTPS: exchanges under spans of the client's own that ask there and last as long; a slow question has
    a slow one.
    """
    spans = {span.span_id: span for span in run.traces(service) if span.service == service}
    found = run.matching(service, "exchange at client", flow__exchange__matched="span", destination__port=str(port))
    # Of the last moments the intake may have spans that Jaeger has not: each gets its copy when the SDK sends it.
    begin_of_end = max(begin for begin, _ in run.windows.values())
    met = [exchange for exchange in found if exchange.start_ns < begin_of_end]
    assert met
    for exchange in met:
        span = spans[exchange.parent_id]
        assert str(port) in {str(span.tags.get(name)) for name in PORTS} or f":{port}/" in str(span.tags.get("http.url"))
        assert (exchange.trace_id, span.tags["span.kind"]) == (span.trace_id, "client")
        assert span.start_ns <= exchange.start_ns + CLOCK_NS
        assert exchange.start_ns + exchange.duration_ns <= span.start_ns + span.duration_ns + CLOCK_NS
    # A span has what its connection did before, too: the transaction's begin.
    longest: dict[str, int] = {}
    for exchange in met:
        longest[exchange.parent_id] = max(longest.get(exchange.parent_id, 0), exchange.duration_ns)
    begin, end = run.windows["slow-database"]
    slow = [longest[parent] for parent in longest if begin + SURELY_NS <= spans[parent].start_ns <= end]
    assert service != "catalog" or (slow and min(slow) >= QUICK_NS)


def test_explain_says_of_a_trace_what_was_wrong(run: ShopRun) -> None:
    """Of a request that waited for the exhausted pool, out of Jaeger: the server took long, as both ends tell."""
    waited = (span for span in run.requests() if run.within("exhausted-pool", span) and span.duration_ns >= SLOW_NS)
    trace_id = next(waited).trace_id
    told, _ = explained(trace_of(run.jaeger, trace_id), trace_id)
    (slow,) = [one for one in told if one.verdict == Verdict.SERVER_SLOW]
    assert slow.tellers == "both ends"
    assert slow.advice.sentence == "the server took long for this request, not the network"
    assert slow.connection.destination.port == 8080


@pytest.mark.parametrize("fault", FAULT_IN_WORDS)
def test_page_and_explain_name_the_fault(run: ShopRun, records: list[FlowBatch], shop_page: Page, fault: str) -> None:
    """Of the time in which it was made: the first pair of the page has it in words, above it stands its sentence, and that is
    what `explain` says of the worst.
    """
    words, sentence = FAULT_IN_WORDS[fault]
    begin, end = run.windows[fault]
    until = end + int(QUIET_SECONDS * 1e9)
    was_quick = all(span.duration_ns < QUICK_NS for span in run.requests() if run.within(fault, span))
    search = SHOP if words == "server slow" or was_quick else f"{SHOP} {IN_TRUTH}"
    which = wanted({"q": search, "since": str(begin), "until": str(until)})
    found = (batch.take(which.mask(batch)) for batch in records)
    (told,), _ = explained((batch for batch in found if batch.count), "")
    assert re.search(sentence, told.advice.sentence)
    shop_page.goto(f"/?{urlencode({'q': search, 'since': begin, 'until': until})}")
    first = shop_page.get_by_role("table", name="pairs").get_by_role("row").first
    expect(first).to_contain_text(words, timeout=PATIENCE_MS)
    expect(shop_page.get_by_label("the worst")).to_contain_text(told.advice.sentence, timeout=PATIENCE_MS)


def by_trace(spans: list[Span], holds) -> set[str]:
    """The traces of whose spans something holds."""
    traces: dict[str, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    return {trace_id for trace_id, some in traces.items() if holds(some)}
