"""`wirespan plan`: from nodes and flows to replicas, streams, volumes and what the backend has to take."""

from __future__ import annotations

import dataclasses
import json
from typing import cast

import click
from rich import box
from rich.console import Console
from rich.table import Table

from services.cli.errors import UsageError
from services.cli.plan.figures import FIGURES, PRESETS, Attributes, Preset, figure
from services.cli.plan.model import Load, plan
from services.cli.plan.show import costs, rows, values, yaml_lines


@click.command("plan")
@click.option("--nodes", type=click.IntRange(1, 100_000), required=True, help="Nodes of the cluster.")
@click.option(
    "--flows-per-node",
    type=click.FloatRange(0, 100_000),
    required=True,
    help="New flows a second on each. A connection between two pods is a flow at each of its ends.",
)
@click.option(
    "--open-flows", type=click.IntRange(0, 10_000_000), default=200, show_default=True, help="Long-lived ones on each node."
)
@click.option("--pods-per-node", type=click.IntRange(1, 1000), default=30, show_default=True, help="Pods on each node.")
@click.option(
    "--outage-minutes",
    type=click.FloatRange(0, 1440),
    default=10.0,
    show_default=True,
    help="How long the backend may be away before the streams are full.",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="everything",
    show_default=True,
    help="How much is sent: WIRESPAN_EXPORTER_PRESET, `exporter.preset` of the chart.",
)
@click.option("--attributes", type=click.Choice(["full", "standard", "lean"]), help="Instead of the preset's.")
@click.option(
    "--pairs-per-node",
    type=click.IntRange(1, 1_000_000),
    help=f"Workload pairs that a node sees in a minute, by port. Default: {figure('pairs_of_a_pod'):g} for each pod.",
)
@click.option(
    "--troubled",
    "troubled_percent",
    type=click.FloatRange(0, 100),
    default=100 * figure("troubled_ratio"),
    show_default=True,
    metavar="PERCENT",
    help="Of the flows, those that fail, are slow or lossy.",
)
@click.option("--compression", type=click.Choice(["gzip", "none"]), default="gzip", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object, with the figures it is computed from.")
@click.option("--values", "as_values", is_flag=True, help="Values for the Helm chart, of each release.")
def plan_command(
    *,
    nodes: int,
    flows_per_node: float,
    open_flows: int,
    pods_per_node: int,
    outage_minutes: float,
    preset: str,
    attributes: str | None,
    pairs_per_node: int | None,
    troubled_percent: float,
    compression: str,
    as_json: bool,
    as_values: bool,
) -> None:
    """Say what to run for a cluster: replicas, requests, streams, volumes, and what the backend has to take.

    Computed from measured figures (docs/scale.md lists them), so it is where to start, not what to expect: the `pipeline
    health` dashboard shows what is.
    """
    if as_json and as_values:
        raise UsageError("--json and --values exclude each other")
    load = Load(
        nodes=nodes,
        flows_per_node=flows_per_node,
        open_flows=open_flows,
        pods_per_node=pods_per_node,
        outage_minutes=outage_minutes,
        preset=cast("Preset", preset),
        attributes=cast("Attributes | None", attributes),
        pairs_per_node=pairs_per_node,
        troubled_ratio=troubled_percent / 100,
        gzip=compression == "gzip",
    )
    made = plan(load)
    if as_json:
        figures = {name: figure._asdict() for name, figure in FIGURES.items()}
        presets = {name: cost for name, cost, _ in costs(load)}
        click.echo(
            json.dumps(
                dataclasses.asdict(made) | {"values": values(made), "presets": presets, "figures": figures}, ensure_ascii=False
            )
        )
    elif as_values:
        asked = f"--nodes {nodes} --flows-per-node {flows_per_node:g} --preset {preset}"
        click.echo(f"# wirespan plan {asked}: for each of {made.releases} releases")
        click.echo("\n".join(yaml_lines(values(made))))
    else:
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        for row in rows(made):
            table.add_row(*row)
        console = Console(highlight=False)
        console.print(table)
        console.print("The presets, and what each sends of these connections; choose with --preset:")
        choices = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        for name, cost, what in costs(load):
            choices.add_row(name, cost, what)
        console.print(choices)
