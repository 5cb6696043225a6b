"""`wirespan doctor`: what this machine can do for Wirespan, before anything is attached."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Before grpc is imported, which reads it then: what is wrong is said in a line of the report, not by a library.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from services.cli.doctor import checks as doctor_checks
from services.cli.doctor.bounds import exit_at_once
from services.cli.doctor.checks import Check, Subject, needed_and_missing
from services.cli.doctor.finding import Status
from services.cli.doctor.kubernetes import KubernetesAccess
from services.cli.run.destination import choose_destination
from services.cli.settings import bus_settings

_STYLES: Final = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.SKIPPED: "dim"}
_NAME_WIDTH: Final = 12


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per check: name, status, found, fix.")
@click.option("--nats-url", metavar="URL", help="NATS to be used. Default: WIRESPAN_NATS_URL, else `wirespan up` starts one.")
@click.option("--otlp-endpoint", metavar="URL", help="Backend to be used. Default: OTEL_EXPORTER_OTLP_ENDPOINT, else a file.")
@click.option(
    "--kubeconfig",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="Default: KUBECONFIG, ~/.kube/config, or the pod's service account.",
)
@click.option("--kube-context", metavar="NAME", help="Context of the kubeconfig. Default: its current one.")
def doctor(
    *, as_json: bool, nats_url: str | None, otlp_endpoint: str | None, kubeconfig: Path | None, kube_context: str | None
) -> None:
    """Say what live capture needs and what of it is here, one line each, with the fix where something is missing.

    Attaches nothing and changes nothing. Exits with 0 where live capture can work, with 1 where something is missing that it
    needs or that was asked for.
    """
    subject = Subject(
        bus=bus_settings(nats_url),
        nats_url=nats_url,
        destination=choose_destination(
            endpoint=otlp_endpoint, protocol=None, output=_output_file(otlp_endpoint), environ=os.environ
        ),
        kubernetes=KubernetesAccess(kubeconfig, kube_context),
    )
    _quieten_libraries()
    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    running = doctor_checks.run(doctor_checks.checks(subject))
    if as_json:
        report = list(_each_as_json(running))
    elif console.is_terminal:
        report = _show_table(running, console)
    else:
        report = list(_each_as_line(running))
    missing = needed_and_missing(report)
    if missing:
        notes.print(f"needed and missing: {', '.join(missing)}", style="red", soft_wrap=True)
        exit_at_once(1)
    notes.print("live capture can work here", style="green", soft_wrap=True)
    exit_at_once(0)


def plain_line(check: Check) -> str:
    """Return a check as one line for a log or a pipe."""
    finding = check.finding
    fix = f" -- fix: {finding.fix}" if finding.fix else ""
    return f"{finding.status:<7} {check.name:<{_NAME_WIDTH}} {finding.found}{fix}"


def json_line(check: Check) -> str:
    """Return a check as one JSON object; `fix` is null where there is nothing to be done."""
    finding = check.finding
    fields = {"name": check.name, "status": finding.status.value, "found": finding.found, "fix": finding.fix or None}
    return json.dumps(fields, ensure_ascii=False)


def _each_as_json(running: Iterator[Check]) -> Iterator[Check]:
    for check in running:
        click.echo(json_line(check))
        yield check


def _each_as_line(running: Iterator[Check]) -> Iterator[Check]:
    for check in running:
        click.echo(plain_line(check))
        yield check


def _show_table(running: Iterator[Check], console: Console) -> list[Check]:
    report: list[Check] = []
    with console.status("looking") as status:
        for check in running:
            report.append(check)
            status.update(f"looking: {check.name} {check.finding.status}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "check", "found"):
        table.add_column(heading, overflow="fold")
    for check in report:
        finding = check.finding
        found = Text(finding.found)
        if finding.fix:
            found.append(f"\nfix: {finding.fix}", style="cyan")
        table.add_row(Text(finding.status, style=_STYLES[finding.status]), check.name, found)
    console.print(table)
    return report


def _output_file(otlp_endpoint: str | None) -> Path | None:
    """The file that the exporter's own setting names, which goes before any endpoint in the environment."""
    named = os.environ.get("WIRESPAN_EXPORTER_OUTPUT_FILE")
    return Path(named) if named and otlp_endpoint is None else None


def _quieten_libraries() -> None:
    """Let no library write between the lines: what it would say is in them."""
    logging.disable()
    warnings.simplefilter("ignore")
