"""`wirespan replay`: capture files in, spans out, and an account of every one of them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import click

from services.cli.errors import UsageError
from services.cli.options import cluster_name_option, destination_options, kube_snapshot_option, quiet_logs
from services.cli.run.asked_spans import questions_about
from services.cli.run.capture_files import as_files, check_capture, content_digest
from services.cli.run.destination import EndpointDestination, Existing, FileDestination, choose_destination
from services.cli.tap.filter_options import FilterCommand, conditions
from services.cli.waiting import DEFAULT_SECONDS, timeout_option


@click.command(cls=FilterCommand)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@kube_snapshot_option
@click.option(
    "--spans",
    "spans",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Spans of applications (OTLP/JSON, a request a line) that talked in the capture: each meets its exchange, as live. "
    "May be given several times.",
)
@destination_options
@click.option(
    "--nats-url",
    metavar="URL",
    help="NATS with JetStream to use instead of starting one. Its streams are shared: the services started here also process "
    "what others put there. Credentials come from WIRESPAN_NATS_*.",
)
@timeout_option
@cluster_name_option
@click.option(
    "--table",
    is_flag=True,
    help="Make no spans: show at once who talked to whom, troubles first. Filters say what of it.",
)
@click.pass_context
def replay(
    ctx: click.Context,
    /,
    *,
    files: tuple[Path, ...],
    kube_snapshot: Path | None,
    spans: tuple[Path, ...],
    otlp_endpoint: str | None,
    otlp_protocol: str | None,
    output: Path | None,
    existing: Existing | None,
    nats_url: str | None,
    timeout_seconds: float | None,
    cluster_name: str | None,
    table: bool,
    **_filters: object,
) -> None:
    """Turn capture files (pcap, pcapng; also in gzip or zstd) into spans and account for every packet.

    `-` is standard input: `tcpdump -w - | wirespan replay -`, which is kept in a temporary file until it ends (Ctrl-C ends
    tcpdump, and what it captured is replayed); a named pipe likewise. The files are read as one capture, in the order of their
    first packets. The same files always give the same spans.

    Exit status: 0 when the backend has acknowledged every record, 1 when some are lost, 2 when it cannot be done as asked,
    3 when a file is no capture file, 4 when all that could be read is delivered but a file is cut or broken (which, and at
    which packet, is said), 130 on Ctrl-C.
    """
    wanted = conditions(ctx, enriched=True)
    if wanted and not table:
        raise UsageError(f"--{wanted[0].field} says what --table shows; spans are made of everything")
    of_spans = (otlp_endpoint, otlp_protocol, output, existing, nats_url, timeout_seconds, cluster_name, spans or None)
    if table and any(each is not None for each in of_spans):
        raise UsageError("--table makes no spans: it goes with --kube-snapshot and filters only")
    with as_files(files) as kept, contextlib.ExitStack() as asking:
        for file in kept:
            check_capture(file)
        if table:
            from services.cli.run.shown.table import show_table  # noqa: PLC0415 - loaded once there is something to show

            raise SystemExit(show_table(kept, kube_snapshot, wanted))
        destination = choose_destination(
            endpoint=otlp_endpoint, protocol=otlp_protocol, output=output, environ=os.environ, existing=existing or "refuse"
        )
        bus = None
        if nats_url is not None:
            from services.cli.settings import bus_settings  # noqa: PLC0415

            bus = bus_settings(nats_url)
        prepare_output(destination, (*kept, *spans, *filter(None, [kube_snapshot])))
        questions = asking.enter_context(questions_about(spans, kube_snapshot))
        digest = content_digest(kept)
        # Who cannot be served is told so before what runs the services is loaded, and who wants a table does without.
        from services.cli import interruption  # noqa: PLC0415
        from services.cli.run.replaying import Plan, replaying  # noqa: PLC0415

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
            questions=questions,
        )
        quiet_logs()
        raise SystemExit(interruption.run(lambda asked: replaying(plan, asked)))


def prepare_output(destination: EndpointDestination | FileDestination, inputs: Sequence[Path]) -> None:
    """Make the output file ready, if there is one. Raises UsageError where it cannot be, or is one of the inputs."""
    if not isinstance(destination, FileDestination):
        return
    path = destination.path
    for each in inputs:
        if path.exists() and each.exists() and path.samefile(each):
            raise UsageError(f"{path}: is read, and cannot be written too")
    destination.prepare()
