"""Which bus is looked at: the options that say so, the same for all commands that only look, and what they choose."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

from services.cli.waiting import timeout_option

if TYPE_CHECKING:
    from services.cli.settings import BusSettings


def bus_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `nats_url`, `kube_context`, `kube_namespace` and `timeout_seconds`."""
    for option in (
        timeout_option,
        click.option(
            "--kube-namespace", metavar="NAME", help="Namespace of the release there.", default="wirespan", show_default=True
        ),
        click.option(
            "--kube-context",
            metavar="NAME",
            help="Listen on the bus of this context's cluster, through its API server, as reader.",
        ),
        click.option(
            "--nats-url",
            metavar="URL",
            help="NATS to listen on. Default: WIRESPAN_NATS_URL, else that of a `wirespan up` of yours, else "
            "nats://127.0.0.1:4222.",
        ),
    ):
        command = option(command)
    return command


def chosen_bus(nats_url: str | None, kube_context: str | None, kube_namespace: str) -> AbstractContextManager[BusSettings]:
    """Return where to listen: a cluster's bus through its API server, or what `bus_settings` says."""
    if kube_context is None:
        from services.cli.settings import bus_settings  # noqa: PLC0415 - a file is shown without settings

        return contextlib.nullcontext(bus_settings(nats_url))
    if nats_url is not None:
        raise click.UsageError("--nats-url and --kube-context are two places to listen: give one of them")
    from services.cli.tap.cluster_bus import cluster_bus  # noqa: PLC0415 - Kubernetes' client is large

    return cluster_bus(kube_context, kube_namespace)
