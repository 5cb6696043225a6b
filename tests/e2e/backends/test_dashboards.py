"""The dashboards, asked of real things: Grafana's schema, the grammar of its TraceQL editor, and a Prometheus with data.

The metrics of spans come from the Collector's span metrics connector, told to make the names and labels of Tempo's generator.
No Tempo can be built for these tests, and nothing else makes the metrics of its service graph: Prometheus parses the queries
for them, and has nothing for them.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.backends.collector import Collector
from tests.e2e.backends.prometheus import Prometheus
from tests.support.documents.dashboards import FILES, ROOT, alerts, queries
from tests.support.pipeline.processes import SERVICES, Pipeline
from tests.support.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]  # the first to ask for a tool may build it

PROMQL = [query for query in queries() if query.language == "promql"]
NOT_ON_THIS_RUN = ("wirespan_capture_merged", "wirespan_capture_slots", "wirespan_enricher_kube", "traces_service_graph")
"""Of live capture, of a live cluster, of Tempo."""


def test_dashboards_are_of_grafanas_schema(dashboard_check: Path) -> None:
    """No field that Grafana does not know, none of another type, none missing: dashboard, panels, options and queries."""
    done = subprocess.run([dashboard_check, *FILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_traceql_query_parses(traceql_check: Path) -> None:
    """Those of the dashboards, and those that the documents print."""
    texts = [query.text for query in queries() if query.language == "traceql"]
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        written = document.read_text()
        texts += re.findall(r"```traceql\n(.*?)\n```", written, re.DOTALL) + re.findall(r"`(\{ .*? \})`", written)
    assert len(texts) > len(FILES)
    broken = "{ span.flow.record = }"
    done = subprocess.run([traceql_check], input=json.dumps([*texts, broken]), capture_output=True, text=True, check=True)
    *errors, of_the_broken = json.loads(done.stdout)
    assert of_the_broken
    assert {text: wrong for text, wrong in zip(texts, errors, strict=True) if wrong} == {}


@pytest.fixture(scope="module")
def asked(otelcol_metrics: Path, prometheus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the services of a replay, and is written the metrics of its spans."""
    folder = tmp_path_factory.mktemp("dashboards")
    otlp = free_port()
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{otlp}",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "WIRESPAN_EXPORTER_FLOW_METRICS": "prometheus,otlp",
    }
    pipeline = Pipeline(folder / "pipeline", **settings)
    receivers = {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{otlp}"}}}}
    with (
        Prometheus(prometheus, folder / "prometheus", pipeline.ports) as found,
        Collector(otelcol_metrics, folder / "collector", receivers, span_metrics(found.url)),
        pipeline,
    ):
        found.wait_for('rate(traces_spanmetrics_calls_total{status_code="STATUS_CODE_ERROR"}[1m])')
        for service in SERVICES:  # scraped twice, so that every counter of its has a rate
            found.wait_for(f"rate(wirespan_{service}_records_total[1m])")
        for metric in ("response_time_seconds_bucket", "reverse_tcp_retransmits_total", "egress_bytes_total"):
            found.wait_for(f"rate(flow_{metric}[1m])")
        found.wait_for('histogram_count(sum(rate(flow_response_time_seconds{job="wirespan-exporter"}[1m])))')
        yield found


def span_metrics(prometheus_url: str) -> dict:
    """What docs/dashboards.md adds to a Collector: the span metrics of deploy/compose/tempo.yaml, for this Prometheus."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "dashboards.md").read_text(), re.DOTALL)
    (written,) = [block for block in blocks if "connectors:" in block]
    documented = yaml.safe_load(written)
    tempo = yaml.safe_load((ROOT / "deploy" / "compose" / "tempo.yaml").read_text())
    made = documented["connectors"]["spanmetrics"]
    dimensions = [dimension["name"] for dimension in made["dimensions"]]
    assert dimensions == tempo["metrics_generator"]["processor"]["span_metrics"]["dimensions"]
    made["metrics_flush_interval"] = "1s"
    documented["exporters"]["prometheusremotewrite"]["endpoint"] = f"{prometheus_url}/api/v1/write"
    metrics = documented["service"]["pipelines"]["metrics"]
    metrics["receivers"].append("otlp")
    return {"connectors": documented["connectors"], "exporters": documented["exporters"], "pipelines": {"metrics": metrics}}


@pytest.mark.parametrize("query", PROMQL, ids=lambda query: f"{query.dashboard}: {query.panel}")
def test_every_promql_query_has_an_answer(asked: Prometheus, query) -> None:
    """Prometheus takes it, and has series for it wherever this run can have made any."""
    found = asked.ask(query.text)
    assert found or any(name in query.text for name in NOT_ON_THIS_RUN)


def test_span_metrics_tell_who_failed_whom(asked: Prometheus) -> None:
    """By the overview's own query: the shop's failed connections, its lookup that was never answered, and no other."""
    (panel,) = [query for query in PROMQL if query.panel == "Failed connections"]
    expected = {("frontend", "legacy"), ("frontend", "payments"), ("frontend", ""), ("frontend", "coredns")}
    asked.wait_for(f"count({panel.text} > 0) >= {len(expected)}")
    found = [labels for labels, per_second in asked.ask(panel.text) if per_second > 0]
    assert {(labels["source_service_name"], labels.get("destination_service_name", "")) for labels in found} == expected


def test_metrics_of_flows_have_one_name_however_they_come(asked: Prometheus) -> None:
    """Over OTLP, through a real Collector, and scraped: docs/metrics.md has the names of both, and both say the same."""
    documented = set(re.findall(r"`flow\.[\w.]+` \| `(flow_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    for job, histogram in (("wirespan-exporter", ""), ("wirespan", "(_bucket|_sum|_count)")):
        found = asked.ask(f'count by (__name__) ({{job="{job}", __name__=~"flow_.*"}})')
        assert {re.sub(f"{histogram}$", "", labels["__name__"]) for labels, _ in found} == documented
    labels = "source_service_name, destination_service_name, network_transport, flow_observer"
    both = asked.ask(f"count by ({labels}) (group by ({labels}, job) (flow_bytes_total))")
    assert both
    assert {series for _, series in both} == {2}


def test_alerts_are_understood_and_quiet_while_all_is_well(asked: Prometheus) -> None:
    """Prometheus evaluates every rule without a complaint. None is about to fire but those of the shop's own failures."""
    found = asked.alerts()
    assert {rule["name"] for rule in found} == {alert.panel for alert in alerts()}
    assert [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"] == []
    failing = {"FlowConnectionsFail", "FlowTrouble", "FlowNamesFail"}
    assert {rule["name"] for rule in found if rule["state"] != "inactive"} <= failing
    asked.wait_for('ALERTS{alertname="FlowConnectionsFail", destination_service_name="legacy"}')
