"""`wirespan plan`: the arithmetic holds, and what it prints is what it computed."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from proto.subjects import MAX_BATCH_BYTES
from services.cli.plan.command import plan_command
from services.cli.plan.figures import FIGURES, PRESETS, figure
from services.cli.plan.model import Load, Plan, plan
from services.cli.plan.show import costs, rows, values
from services.runtime.settings import StreamSettings

LOADS = st.builds(
    Load,
    nodes=st.integers(1, 20_000),
    flows_per_node=st.floats(0, 5_000),
    open_flows=st.integers(0, 20_000),
    pods_per_node=st.integers(1, 200),
    outage_minutes=st.floats(0, 240),
    preset=st.sampled_from(list(PRESETS)),
    attributes=st.sampled_from(["full", "standard", "lean", None]),
    pairs_per_node=st.none() | st.integers(1, 100_000),
    troubled_ratio=st.none() | st.floats(0, 1),
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
    streams = made.releases * made.partitions
    assert made.raw_stream_bytes * streams >= made.raw_bytes_per_second * seconds
    assert made.enriched_stream_bytes * streams >= made.enriched_bytes_per_second * seconds
    of_a_node = made.batches_per_second / load.nodes * seconds
    share = StreamSettings().raw_node_share * made.raw_stream_bytes / MAX_BATCH_BYTES
    assert share >= of_a_node - 1
    assert made.volume_gib * 2**30 * 0.9 >= made.partitions * (made.raw_stream_bytes + made.enriched_stream_bytes)


@given(LOADS)
def test_nothing_is_planned_beyond_what_it_can_do(load: Load) -> None:
    """No replica uses more of a core than planned, no release's streams more than their leaders have, no node is left out."""
    made = plan(load)
    for service in (made.enricher, made.exporter):
        assert service.replicas >= 2
        assert service.cores / service.replicas <= figure("utilisation") + 1e-9
        assert service.cpu_millicores >= 1000 * service.cores / service.replicas
    assert made.nats.cores / made.nats.replicas <= made.partitions * 2 * figure("stream_cores") + 1e-9
    assert made.nats.cores / made.nats.replicas <= figure("server_cores") + 1e-9
    written = (made.raw_bytes_per_second + made.enriched_bytes_per_second) / made.releases
    assert written <= figure("server_disk_rate") * (1 + 1e-9)
    assert StreamSettings(partitions=made.partitions).kept_partitions == made.partitions <= 16
    assert made.releases * made.nodes_per_release >= load.nodes
    assert made.nats.replicas in {1, 3}
    assert 1 <= made.drain_interval_seconds <= (10 if PRESETS[load.preset].sums_up else 3)


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


@given(LOADS)
def test_a_sum_is_never_more_than_what_it_sums_up(load: Load) -> None:
    """No preset sends more spans than there are records, `everything` as many, `map` summaries alone."""
    made = plan(load)
    assert 0 <= made.summaries_per_second <= made.spans_per_second <= made.records_per_second * (1 + 1e-9)
    if load.preset == "everything":
        assert made.spans_per_second == made.records_per_second
    if load.preset == "map":
        assert made.spans_per_second == made.summaries_per_second


@pytest.mark.parametrize(("nodes", "flows"), [(1, 5), (200, 50), (5_000, 500)])
def test_presets_cost_less_from_one_to_the_next(nodes: int, flows: float) -> None:
    """`everything`, `troubles`, `map`: each sends fewer bytes than the one before, and the more so the busier pairs are."""
    loads = [Load(nodes=nodes, flows_per_node=flows, preset=preset) for preset in PRESETS]
    days = [plan(load).backend_bytes_per_day for load in loads]
    assert days == sorted(days, reverse=True)
    assert len(set(days)) == len(days)
    few = plan(Load(nodes=nodes, flows_per_node=flows, preset="map", pairs_per_node=10))
    assert few.spans_per_second <= plan(loads[-1]).spans_per_second


@given(st.integers(1, 900), st.floats(1, 500))
def test_more_costs_more(nodes: int, flows: float) -> None:
    """More nodes, or more flows on each, never need less of anything."""
    less = cost(plan(Load(nodes=nodes, flows_per_node=flows)))
    for load in (Load(nodes=nodes + 100, flows_per_node=flows), Load(nodes=nodes, flows_per_node=flows * 1.5)):
        assert all(more >= few for more, few in zip(cost(plan(load)), less, strict=True))


def test_large_clusters_need_several_streams_and_releases() -> None:
    """One stream has one leader: what it cannot do is split over partitions, what a server cannot over releases."""
    small = plan(Load(nodes=100, flows_per_node=50))
    assert (small.releases, small.partitions) == (1, 1)
    assert "partitions" not in values(small)["settings"]["streams"]
    large = plan(Load(nodes=10_000, flows_per_node=20))
    assert large.releases == 1
    assert values(large)["settings"]["streams"]["partitions"] == large.partitions > 1
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
    assert shown["presets"].keys() == PRESETS.keys()
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


def test_the_table_says_what_each_preset_costs() -> None:
    """Below the plan stand all presets with their spans and bytes, those of this cluster."""
    shown = " ".join(command("--nodes", "200", "--flows-per-node", "50", "--preset", "troubles").split())
    for name, cost, _ in costs(Load(nodes=200, flows_per_node=50)):
        assert f"{name} {cost}" in shown


def test_values_choose_the_preset() -> None:
    """--preset arrives in the chart's values, with the interval of capture that its sums were planned with."""
    made = yaml.safe_load(command("--nodes", "10", "--flows-per-node", "5", "--preset", "map", "--values"))
    assert made["exporter"]["preset"] == "map"
    assert made["capture"]["settings"]["drain_interval_seconds"] == 10
