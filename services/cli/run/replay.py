"""`wirespan replay`: capture files in, spans out, and an account of every one of them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from services.cli import interruption
from services.cli.errors import ServiceFailedError, UsageError
from services.cli.interruption import Interruption
from services.cli.options import cluster_name_option, destination_options, kube_snapshot_option, quiet_logs
from services.cli.run.capture_files import as_files, check_capture, content_digest
from services.cli.run.destination import EndpointDestination, FileDestination, choose_destination
from services.cli.run.ledger import Ledger
from services.cli.run.ledger_table import ledger_table
from services.cli.run.pipeline import Pipeline, Plan, running_pipeline
from services.cli.run.progress_view import ProgressView
from services.cli.settings import bus_settings
from services.cli.views.flow_view import printable
from services.cli.waiting import DEFAULT_SECONDS, timeout_option

NOT_READ_WHOLE: Final = 4
"""Exit status where all that could be read is delivered, and not all could be."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@kube_snapshot_option
@destination_options
@click.option(
    "--nats-url",
    metavar="URL",
    help="NATS with JetStream to use instead of starting one. Its streams are shared: the services started here also process "
    "what others put there. Credentials come from WIRESPAN_NATS_*.",
)
@timeout_option
@cluster_name_option
def replay(
    *,
    files: tuple[Path, ...],
    kube_snapshot: Path | None,
    otlp_endpoint: str | None,
    otlp_protocol: str | None,
    output: Path | None,
    nats_url: str | None,
    timeout_seconds: float | None,
    cluster_name: str | None,
) -> None:
    """Turn capture files (pcap, pcapng; also in gzip or zstd) into spans and account for every packet.

    `-` is standard input: `tcpdump -w - | wirespan replay -`, which is kept in a temporary file until it ends (Ctrl-C ends
    tcpdump, and what it captured is replayed); a named pipe likewise. The files are read as one capture, in the order of their
    first packets. The same files always give the same spans.

    Exit status: 0 when the backend has acknowledged every record, 1 when some are lost, 2 when it cannot be done as asked,
    3 when a file is no capture file, 4 when all that could be read is delivered but a file is cut or broken (which, and at
    which packet, is said), 130 on Ctrl-C.
    """
    with as_files(files) as kept:
        for file in kept:
            check_capture(file)
        destination = choose_destination(endpoint=otlp_endpoint, protocol=otlp_protocol, output=output, environ=os.environ)
        bus = bus_settings(nats_url) if nats_url is not None else None
        prepare_output(destination, (*kept, *filter(None, [kube_snapshot])))
        digest = content_digest(kept)
        plan = Plan(
            files=kept,
            destination=destination,
            node=f"replay-{digest[:8]}",
            # A bus that remembers an earlier replay of the same files would take this one for its repetition.
            epoch=digest if bus is None else f"{digest}-{secrets.token_hex(4)}",
            kube_snapshot=kube_snapshot,
            cluster_name=cluster_name,
            bus=bus,
            bus_timeout_seconds=timeout_seconds or DEFAULT_SECONDS,
        )
        quiet_logs()
        raise SystemExit(interruption.run(lambda asked: _replay(plan, asked)))


def prepare_output(destination: EndpointDestination | FileDestination, inputs: Sequence[Path]) -> None:
    """Empty the output file, if there is one. Raises UsageError where it cannot be written or is one of the inputs."""
    if not isinstance(destination, FileDestination):
        return
    path = destination.path
    for each in inputs:
        if path.exists() and each.exists() and path.samefile(each):
            raise UsageError(f"{path}: is read, and cannot be written too")
    destination.clear()


async def _replay(plan: Plan, asked: Interruption) -> int:
    console = Console(stderr=True, highlight=False)
    with ProgressView(console) as view:
        async with running_pipeline(plan, asked, say=view.say) as pipeline:
            try:
                delivered = await asked.unless_asked(pipeline.until_delivered(view.show))
            except ServiceFailedError:
                await _account(pipeline, view, console)
                raise
            status = await _account(pipeline, view, console)
    return status if delivered else asked.exit_status


async def _account(pipeline: Pipeline, view: ProgressView, console: Console) -> int:
    """Print the ledger and what is wrong with it; return the exit status that says the same."""
    ledger = await pipeline.ledger()
    view.close()
    return report(ledger, str(pipeline.plan.destination), console)


def report(ledger: Ledger, destination: str, console: Console) -> int:
    """Print the ledger and what is wrong with it; return the exit status that says the same."""
    Console(highlight=False).print(ledger_table(ledger, destination))
    for fault in ledger.faults():
        console.print(fault, style="red", markup=False, soft_wrap=True)
    for fault in ledger.progress.faults:
        console.print(printable(fault), style="red", markup=False, soft_wrap=True)
    if not ledger.complete:
        return 1
    return NOT_READ_WHOLE if ledger.progress.faults else 0
