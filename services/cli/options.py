"""Options that several commands share, and the quiet that all of them keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from services.cli.run.destination import DEFAULT_OUTPUT

_existing_file: Final = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)

kube_snapshot_option: Final = click.option(
    "--kube-snapshot",
    metavar="FILE",
    type=_existing_file,
    help="Cluster to name workloads from: what `wirespan snapshot` writes, or what `kubectl get pods,services,nodes,"
    "replicasets,deployments,statefulsets,daemonsets,endpointslices -A -o json` prints.",
)

cluster_name_option: Final = click.option(
    "--cluster-name", metavar="NAME", help="`k8s.cluster.name` of the spans; also seeds their trace ids."
)


def destination_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where spans go."""
    for option in (
        click.option(
            "--output",
            metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            help=f"Write spans to a new file, as OTLP/JSON lines. Default where no endpoint is known: {DEFAULT_OUTPUT}, "
            f"or, where that holds spans, {DEFAULT_OUTPUT.stem}-2{DEFAULT_OUTPUT.suffix} and so on.",
        ),
        click.option("--append", "existing", flag_value="append", help="Add to the spans that the file holds."),
        click.option("--overwrite", "existing", flag_value="overwrite", help="Replace the spans that the file holds."),
        click.option(
            "--otlp-protocol",
            type=click.Choice(["grpc", "http/protobuf"]),
            help="Default: http/protobuf for port 4318, else grpc.",
        ),
        click.option(
            "--otlp-endpoint",
            metavar="URL",
            help="Send spans there, such as http://localhost:4317. Default: OTEL_EXPORTER_OTLP_ENDPOINT. "
            "Headers, TLS and the rest come from the OTEL_EXPORTER_OTLP_* variables.",
        ),
    ):
        command = option(command)
    return command


def quiet_logs() -> None:
    """Let the commands' own code log errors only: what a person should know, a command says itself."""
    # What shows a file has no log, and no time to load one.
    from services.runtime import logs  # noqa: PLC0415
    from services.runtime.settings import LogSettings  # noqa: PLC0415

    logs.configure(LogSettings(level="error", format="console"), service="wirespan")
