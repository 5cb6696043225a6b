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
from services.cli.plan.figures import FIGURES
from services.cli.plan.model import Load, Profile, plan
from services.cli.plan.show import rows, values, yaml_lines


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
@click.option("--attributes", type=click.Choice(["full", "standard", "lean"]), default="full", show_default=True)
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
    attributes: str,
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
    made = plan(
        Load(
            nodes=nodes,
            flows_per_node=flows_per_node,
            open_flows=open_flows,
            pods_per_node=pods_per_node,
            outage_minutes=outage_minutes,
            attributes=cast("Profile", attributes),
            gzip=compression == "gzip",
        )
    )
    if as_json:
        figures = {name: figure._asdict() for name, figure in FIGURES.items()}
        click.echo(json.dumps(dataclasses.asdict(made) | {"values": values(made), "figures": figures}, ensure_ascii=False))
    elif as_values:
        click.echo(f"# wirespan plan --nodes {nodes} --flows-per-node {flows_per_node:g}: for each of {made.releases} releases")
        click.echo("\n".join(yaml_lines(values(made))))
    else:
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        for row in rows(made):
            table.add_row(*row)
        Console(highlight=False).print(table)
