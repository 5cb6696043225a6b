"""`wirespan snapshot`: the objects of a live cluster as a file, for a replay elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from services.cli.errors import CliError, UsageError

_USAGE: Final = 2
_SOURCES: Final = str(Path(__file__).parents[2])


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write. Default: standard output."
)
@click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Default: as kubectl finds it.")
@click.option("-n", "--namespace", "namespaces", multiple=True, help="Only this namespace; may be given again. Default: all.")
@click.option("--pseudonymise", is_flag=True, help="Put other names and addresses in the place of the cluster's own.")
@click.option(
    "--pseudonym-key", metavar="TEXT", help="The same key gives the same pseudonyms. Default: one made up for this file."
)
@click.option("--pseudonym-map", type=click.Path(path_type=Path, dir_okay=False), help="File to write what became what to.")
def snapshot(
    output: Path | None,
    kubeconfig: Path | None,
    namespaces: tuple[str, ...],
    *,
    pseudonymise: bool,
    pseudonym_key: str | None,
    pseudonym_map: Path | None,
) -> None:
    """Write the objects of a live cluster as JSON that `wirespan replay --kube-snapshot` reads.

    Only what the index reads is in it: identities, owners, addresses, ports, images. Needs `list` on pods, services,
    nodes, endpointslices and the workloads; what may not be listed is left out and named.
    """
    if (pseudonym_key or pseudonym_map) and not pseudonymise:
        raise UsageError("--pseudonym-key and --pseudonym-map go with --pseudonymise")
    # A process of the enricher's own: commands know the services by what they run, not by what they are made of.
    command = [sys.executable, "-P", "-m", "services.enricher.kubernetes.export"]
    command += ["--output", str(output)] if output else []
    command += ["--kubeconfig", str(kubeconfig)] if kubeconfig else []
    command += [part for namespace in namespaces for part in ("--namespace", namespace)]
    command += ["--pseudonymise"] if pseudonymise else []
    command += ["--pseudonym-key", pseudonym_key] if pseudonym_key is not None else []
    command += ["--pseudonym-map", str(pseudonym_map)] if pseudonym_map else []
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([_SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run(command, env=environ, check=False)  # noqa: S603 - our own module
    if done.returncode:
        error = UsageError if done.returncode == _USAGE else CliError
        raise error("no snapshot was written")
