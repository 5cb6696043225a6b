"""The dashboards: what Grafana would stumble over, and what they ask for that nobody records."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import yaml

from deploy.grafana.source.faults import FAULTS
from tests.support.documents.dashboards import FILES, ROOT, load, queries
from tests.support.documents.generated_docs import current

COMPOSE = ROOT / "deploy" / "compose"


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict:
    """Each dashboard."""
    return load(request.param)


def test_every_file_is_a_dashboard_of_its_own() -> None:
    """Uids are those that links lead to; none is there twice, and each names its subject."""
    uids = [load(path)["uid"].removeprefix("wirespan-") for path in FILES]
    assert uids == ["dns", "faults", "overview", "pipeline", "pair"]


def test_panels_have_their_own_id_and_place(dashboard: dict) -> None:
    """No two panels share an id or a cell, and none reaches over the right edge."""
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = set(itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])))
        assert not own & cells
        cells |= own


def test_data_sources_are_variables(dashboard: dict) -> None:
    """A dashboard works wherever there are a Tempo and a Prometheus, whatever they are called there."""
    sources = [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "datasource"]
    assert sources == ["tempo", "prometheus"]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            source = target["datasource"]
            assert source == {"type": source["type"], "uid": f"${{{source['type']}}}"}
            assert ("expr" in target) == (source["type"] == "prometheus")


def test_links_lead_to_a_dashboard_with_these_variables() -> None:
    """What a table's cell leads to is there, and takes what the cell says."""
    variables = {found["uid"]: {each["name"] for each in found["templating"]["list"]} for found in map(load, FILES)}
    links = [link for path in FILES for link in re.findall(r'"/d/([^"]+)"', path.read_text())]
    assert links
    for link in links:
        uid, _, given = link.partition("?")
        assert set(re.findall(r"var-(\w+)=", given)) <= variables[uid]


def test_every_query_has_a_letter_of_its_own(dashboard: dict) -> None:
    """Grafana tells the queries of a panel apart by it."""
    for panel in dashboard["panels"]:
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)


def test_spans_have_every_attribute_that_is_asked_for() -> None:
    """Each attribute in a TraceQL query is one of docs/attributes.md, and those of the far end are there under its name."""
    documented = set(re.findall(r"`([a-z_.0-9]+)`", current("docs/attributes.md")))
    documented |= {name.replace("source.", "destination.", 1) for name in documented}
    asked = {
        name for query in queries() if query.language == "traceql" for name in re.findall(r"span\.([a-z_.0-9]+)", query.text)
    }
    assert asked
    assert asked <= documented


def test_metrics_of_spans_have_every_label_that_is_asked_for() -> None:
    """What a dashboard groups Tempo's span metrics by, Tempo is told to make a label of."""
    tempo = yaml.safe_load((COMPOSE / "tempo.yaml").read_text())
    dimensions = tempo["metrics_generator"]["processor"]["span_metrics"]["dimensions"]
    labels = {name.replace(".", "_") for name in dimensions} | {"span_kind", "status_code"}
    texts = [query.text for query in queries() if "traces_spanmetrics" in query.text]
    asked = {label for text in texts for label in re.findall(r"(\w+)(?:=~|!=|=)\"", text)}
    asked |= {label for text in texts for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(", ")}
    assert asked <= labels


def test_faults_are_looked_for_as_diagnosis_says() -> None:
    """Each query of the faults dashboard stands in docs/diagnosis.md, and so the fault lab checks it."""
    documented = set(re.findall(r"```traceql\n\{ (.*?) \}\n```", (ROOT / "docs" / "diagnosis.md").read_text()))
    assert set(FAULTS.values()) <= documented


def test_the_ways_between_data_sources_lead_somewhere() -> None:
    """The data sources that Grafana is given know each other by the uids that they have."""
    sources = {source["uid"]: source for source in provisioned("datasources")["datasources"]}
    assert {source["type"] for source in sources.values()} == {"tempo", "prometheus"}
    tempo = sources["tempo"]["jsonData"]
    assert tempo["serviceMap"]["datasourceUid"] in sources
    assert tempo["tracesToMetrics"]["datasourceUid"] in sources
    assert sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"][0]["datasourceUid"] in sources


def provisioned(kind: str) -> dict:
    """What Grafana reads at its start."""
    (path,) = Path(COMPOSE / "grafana" / "provisioning" / kind).glob("*.yaml")
    return yaml.safe_load(path.read_text())


def test_compose_gives_prometheus_what_its_settings_name() -> None:
    """Its targets are services of docker-compose.yml at the images' port; the rules are mounted beside the settings."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (port,) = re.findall(r"WIRESPAN_HEALTH_PORT=(\d+)", (ROOT / "deploy" / "docker" / "Dockerfile").read_text())
    settings = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())
    targets = {
        job["job_name"]: [target.split(":") for group in job["static_configs"] for target in group["targets"]]
        for job in settings["scrape_configs"]
    }
    assert targets["wirespan"] == [[service, port] for service in ("capture", "enricher", "exporter")]
    assert {service for found in targets.values() for service, _ in found} <= set(compose)
    mounted = {volume["target"] for volume in compose["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in ("prometheus.yaml", *settings["rule_files"])} <= mounted
