"""`wirespan plan`: the arithmetic holds, and what it prints is what it computed."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from services.cli.plan.command import plan_command
from services.cli.plan.figures import FIGURES, figure
from services.cli.plan.model import Load, Plan, plan
from services.cli.plan.show import rows, values

LOADS = st.builds(
    Load,
    nodes=st.integers(1, 20_000),
    flows_per_node=st.floats(0, 5_000),
    open_flows=st.integers(0, 20_000),
    pods_per_node=st.integers(1, 200),
    outage_minutes=st.floats(0, 240),
    attributes=st.sampled_from(["full", "standard", "lean"]),
    gzip=st.booleans(),
)


def command(*options: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(plan_command, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@given(LOADS)
def test_streams_hold_the_outage(load: Load) -> None:
    """The streams of all releases together hold what arrives during the outage, and the volume holds the streams."""
    made = plan(load)
    seconds = load.outage_minutes * 60
    assert made.raw_stream_bytes * made.releases >= made.raw_bytes_per_second * seconds
    assert made.enriched_stream_bytes * made.releases >= made.enriched_bytes_per_second * seconds
    assert made.volume_gib * 2**30 * 0.9 >= made.raw_stream_bytes + made.enriched_stream_bytes


@given(LOADS)
def test_nothing_is_planned_beyond_what_it_can_do(load: Load) -> None:
    """No replica uses more of a core than planned, no release's streams more than their leaders have, no node is left out."""
    made = plan(load)
    for service in (made.enricher, made.exporter):
        assert service.replicas >= 2
        assert service.cores / service.replicas <= figure("utilisation") + 1e-9
        assert service.cpu_millicores >= 1000 * service.cores / service.replicas
    assert made.nats.cores / made.nats.replicas <= 2 * figure("stream_cores") + 1e-9
    assert made.releases * made.nodes_per_release >= load.nodes
    assert made.nats.replicas in {1, 3}
    assert 1 <= made.drain_interval_seconds <= 3


def cost(made: Plan) -> tuple[float, ...]:
    """What grows with the load."""
    return (
        made.records_per_second,
        made.raw_bytes_per_second,
        made.enriched_bytes_per_second,
        made.backend_bytes_per_second,
        made.enricher.cores * made.releases,
        made.exporter.cores * made.releases,
    )


@given(st.integers(1, 900), st.floats(1, 500))
def test_more_costs_more(nodes: int, flows: float) -> None:
    """More nodes, or more flows on each, never need less of anything."""
    less = cost(plan(Load(nodes=nodes, flows_per_node=flows)))
    for load in (Load(nodes=nodes + 100, flows_per_node=flows), Load(nodes=nodes, flows_per_node=flows * 1.5)):
        assert all(more >= few for more, few in zip(cost(plan(load)), less, strict=True))


def test_large_clusters_need_several_releases() -> None:
    """One stream has one leader: what its share of a core cannot do is split over releases."""
    assert plan(Load(nodes=100, flows_per_node=50)).releases == 1
    assert plan(Load(nodes=10_000, flows_per_node=50)).releases > 1


def test_spans_cost_the_backend_what_the_profile_says() -> None:
    """Bytes to the backend are spans times the profile's bytes, divided by what gzip saves."""
    plain = plan(Load(nodes=10, flows_per_node=10, attributes="lean", gzip=False))
    assert plain.backend_bytes_per_second == pytest.approx(plain.spans_per_second * figure("span_bytes_lean"))
    zipped = plan(Load(nodes=10, flows_per_node=10, attributes="lean"))
    assert zipped.backend_bytes_per_second == pytest.approx(plain.backend_bytes_per_second / figure("gzip_ratio"))


def test_json_holds_the_plan_its_values_and_its_figures() -> None:
    """--json is one object: the load, every number of the plan, the chart's values, and each figure with its source."""
    shown = json.loads(command("--nodes", "100", "--flows-per-node", "50", "--json"))
    made = plan(Load(nodes=100, flows_per_node=50))
    assert shown["load"]["nodes"] == 100
    assert shown["enricher"]["replicas"] == made.enricher.replicas
    assert shown["values"] == values(made)
    assert shown["figures"].keys() == FIGURES.keys()
    assert all(each["source"] for each in shown["figures"].values())


def test_values_are_yaml() -> None:
    """--values is the same as a file of values, with a comment that says what for."""
    text = command("--nodes", "1000", "--flows-per-node", "80", "--values", "--attributes", "standard")
    assert text.startswith("# wirespan plan --nodes 1000 --flows-per-node 80")
    assert yaml.safe_load(text) == values(plan(Load(nodes=1000, flows_per_node=80, attributes="standard")))


def test_the_table_shows_every_row() -> None:
    """Without options the plan is a table for people."""
    shown = command("--nodes", "10", "--flows-per-node", "5")
    for name, text in rows(plan(Load(nodes=10, flows_per_node=5))):
        assert name in shown
        assert text in shown
