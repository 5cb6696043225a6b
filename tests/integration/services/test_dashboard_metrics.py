"""Every metric that a dashboard or an alert asks for is one that a running service shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.documents.dashboards import alerts, metrics_of, queries
from tests.support.kubernetes.hostile_kube_api import HostileKubeApi
from tests.support.node.live_capture import reason_to_skip
from tests.support.pipeline.processes import SERVICES, Pipeline, metric_names

pytestmark = pytest.mark.timeout(300)  # for machines that are busy; nothing here is timed

OURS = {metric for query in [*queries(), *alerts()] for metric in metrics_of(query) if metric.startswith("wirespan_")}
LIVE_ONLY = {"wirespan_capture_merged_total", "wirespan_capture_slots", "wirespan_capture_slots_used"}


@pytest.fixture
def of_a_replay(tmp_path: Path) -> set[str]:
    """The metrics of the three services while a capture file is replayed and an API server is asked for names in vain."""
    with HostileKubeApi(lambda request: request.refuse(503)) as kube:
        settings = {
            "WIRESPAN_ENRICHER_KUBE_SNAPSHOT": "",
            "WIRESPAN_KUBE_KUBECONFIG": str(kube.kubeconfig(tmp_path)),
            "WIRESPAN_KUBE_WAIT_SECONDS": "0",
            "WIRESPAN_EXPORTER_FLOW_METRICS": "prometheus",
            "WIRESPAN_EXPORTER_OUTPUT_FILE": str(tmp_path / "spans.jsonl"),
        }
        with Pipeline(tmp_path / "pipeline", **settings) as pipeline:
            pipeline.wait_for("exporter", "wirespan_exporter_spans_accepted_total")
            return {name for service in SERVICES for name in metric_names(pipeline.metrics(service))}


def test_a_replay_shows_every_metric_that_is_not_of_live_capture(of_a_replay: set[str]) -> None:
    """Those that count what never happened here as well: they are there at 0."""
    assert of_a_replay >= OURS - LIVE_ONLY


@pytest.mark.xdist_group("socket_tap")
@pytest.mark.skipif(bool(reason_to_skip()), reason=str(reason_to_skip()))
def test_live_capture_shows_its_own(tmp_path: Path) -> None:
    """Merged records and the flow table's size are there as soon as the tap is."""
    with Pipeline(tmp_path, "capture", WIRESPAN_CAPTURE_REPLAY_FILES="", WIRESPAN_CAPTURE_REPLAY_LOOP="") as pipeline:
        pipeline.wait_for("capture", "wirespan_capture_slots")
        assert metric_names(pipeline.metrics("capture")) >= LIVE_ONLY
