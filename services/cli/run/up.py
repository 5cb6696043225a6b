"""`wirespan up`: the whole path, continuously, with a live view of who talks to whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from services.cli import interruption
from services.cli.doctor.checks import why_not_live
from services.cli.doctor.finding import Finding
from services.cli.errors import UsageError
from services.cli.interruption import Interruption
from services.cli.options import cluster_name_option, destination_options, kube_snapshot_option, quiet_logs
from services.cli.program import program
from services.cli.run.capture_files import check_capture
from services.cli.run.destination import Existing, choose_destination
from services.cli.run.pipeline import Pipeline, Plan, free_port, running_pipeline
from services.cli.run.replay import prepare_output
from services.cli.run.shown.ledger_table import ledger_table
from services.cli.run.shown.live_view import show
from services.cli.settings import bus_settings
from services.cli.shop.places import FAULTS
from services.cli.shop.running import beside_shop, prepared
from services.cli.tap.filter_options import FilterCommand, conditions
from services.cli.tap.filters import FlowFilter
from services.cli.view.assets import why_not_built
from services.cli.view.listening import listener
from services.cli.views.printable import printable
from services.cli.waiting import DEFAULT_SECONDS, timeout_option

_INSTALLED: Final = Path(__file__).parent / "demo"
_DATA: Final = _INSTALLED if _INSTALLED.exists() else Path(__file__).parents[3] / "tests" / "data"
"""A wheel has the bundled capture inside; a checkout has it among the tests' data."""
BUNDLED_CAPTURE: Final = _DATA / "cluster.pcapng"
BUNDLED_SNAPSHOT: Final = _DATA / "cluster.json"

_BUNDLED: Final = "replaying the bundled capture"
_NODE: Final = "replay"
_DRAIN_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where the flows come from, and the line that says so. Without a capture file they are this machine's own."""

    said: str
    capture: Path | None = None
    kube_snapshot: Path | None = None


@click.command(cls=FilterCommand)
@click.option(
    "--capture",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Replay this capture file (pcap, pcapng) in a loop instead of capturing live.",
)
@click.option(
    "--demo",
    type=click.Choice(["cluster", "shop"]),
    is_flag=False,
    flag_value="cluster",
    help="Something to look at: the bundled capture with its cluster, replayed; or `shop`, three small services with their "
    "databases that run on this machine and are captured live.",
)
@click.option(
    "--fault", type=click.Choice(FAULTS), help="Of the shop: what is wrong there. Another can be named while it runs."
)
@click.option(
    "--speed",
    metavar="FACTOR",
    type=click.FloatRange(min=0, min_open=True),
    help="Replay so many times as fast as it was recorded: 10, 0.5. Silences are cut to 10 s of the capture's clock.",
)
@kube_snapshot_option
@click.option(
    "--kubeconfig",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="Live cluster to name workloads from: the file's current context.",
)
@destination_options
@click.option("--nats-url", metavar="URL", help="NATS with JetStream to use instead of starting one.")
@timeout_option
@cluster_name_option
@click.option(
    "--view/--no-view", "viewed", default=True, help="Serve the page of `wirespan view`, on loopback (default), or not."
)
@click.option("--view-port", type=click.IntRange(0, 0xFFFF), help="Where. Default: that of `wirespan view`; 0 is any free one.")
@click.option(
    "--duration",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after so long, counted from when connections are seen.",
)
@click.pass_context
def up(
    ctx: click.Context,
    /,
    *,
    capture: Path | None,
    demo: str | None,
    fault: str | None,
    kube_snapshot: Path | None,
    otlp_endpoint: str | None,
    otlp_protocol: str | None,
    output: Path | None,
    existing: Existing | None,
    nats_url: str | None,
    timeout_seconds: float | None,
    cluster_name: str | None,
    duration: float | None,
    kubeconfig: Path | None,
    speed: float | None,
    viewed: bool,
    view_port: int | None,
    **_filters: object,
) -> None:
    """Run the whole path and show live who talks to whom, with troubles on top; at a terminal ? tells the keys.

    Filters (`--failed`, `--slower-than 100ms`, all those of `wirespan tap`) say what is shown; spans are made of everything.

    Captures the connections of this machine live, those on loopback too, where it can (`wirespan doctor` says what that
    needs). Where it cannot, it says why and replays the bundled capture in a loop, at the speed at which it was recorded.
    """
    if kubeconfig is not None and kube_snapshot is not None:
        raise UsageError("--kubeconfig follows a live cluster and --kube-snapshot is one of another time: give one of them")
    shop = demo == "shop"
    if fault is not None and not shop:
        raise UsageError("--fault is of the shop: give --demo shop")
    if demo and kubeconfig is not None:
        raise UsageError("--demo comes with its cluster: --kubeconfig cannot name another")
    if speed is not None and not ((demo and not shop) or capture):
        raise UsageError("--speed is of a capture file: give --capture FILE, or --demo")
    if demo and capture is not None:
        raise UsageError("--demo replays the bundled capture and --capture another: give one of them")
    if shop and (missing := why_not_live()) is not None:
        raise UsageError(f"the shop is captured live: {'; '.join(filter(None, [missing.found, missing.fix]))}")
    source = choose_source(capture, kube_snapshot, demo=demo == "cluster")
    destination = choose_destination(
        endpoint=otlp_endpoint, protocol=otlp_protocol, output=output, environ=os.environ, existing=existing or "refuse"
    )
    files = [source.capture] if source.capture else []
    prepare_output(destination, [*files, *filter(None, [source.kube_snapshot])])
    replay_node = _NODE if nats_url is None else f"{_NODE}-{secrets.token_hex(4)}"  # others may do the same on that bus
    where = listener("127.0.0.1", view_port) if viewed and not why_not_built() else None
    plan = Plan(
        files=files,
        destination=destination,
        node=replay_node if files else socket.gethostname(),
        loop=bool(files),
        kube_snapshot=source.kube_snapshot,
        kubeconfig=kubeconfig,
        speed=speed,
        cluster_name=cluster_name,
        bus=bus_settings(nats_url) if nats_url is not None else None,
        bus_timeout_seconds=timeout_seconds or DEFAULT_SECONDS,
        intake_port=free_port() if shop else None,
        deny_ports=[where.getsockname()[1]] if where else (),
    )
    quiet_logs()
    wanted = FlowFilter(conditions(ctx, enriched=True))
    console = Console(stderr=True, highlight=False)
    beside = None
    if plan.intake_port is not None:
        say = partial(console.print, markup=False)
        beside = partial(beside_shop, prepared(fault, destination, plan.intake_port, say))
    page = partial(_page, where=where) if viewed else _no_page
    run = partial(_up, plan, source, wanted=wanted, duration=duration, beside=beside, page=page)
    raise SystemExit(interruption.run(run))


def choose_source(
    capture: Path | None,
    kube_snapshot: Path | None,
    *,
    demo: bool,
    why_not: Callable[[], Finding | None] = why_not_live,
) -> Source:
    """Return where the flows come from: the file that was asked for, this machine, or the bundled capture where `why_not`
    finds a reason that it cannot be this machine.

    Raises NotACaptureError, and UsageError where there is no bundled capture.
    """
    if capture is not None:
        check_capture(capture)
        return Source(f"replaying {printable(str(capture))} in a loop", capture, kube_snapshot)
    missing = None if demo else why_not()
    if not demo and missing is None:
        host = printable(socket.gethostname())
        return Source(f"capturing live on {host}: every connection of this machine but our own", kube_snapshot=kube_snapshot)
    reason = "; ".join(filter(None, [missing.found, missing.fix])) if missing else ""
    snapshot = kube_snapshot or BUNDLED_SNAPSHOT
    if not BUNDLED_CAPTURE.exists() or not snapshot.exists():
        lacking = "the bundled capture is not installed here; name one with --capture FILE"
        raise UsageError(f"no live capture: {reason}. And {lacking}" if reason else lacking)
    check_capture(BUNDLED_CAPTURE)
    return Source(f"{_BUNDLED}: {reason}" if reason else f"{_BUNDLED} in a loop", BUNDLED_CAPTURE, snapshot)


async def _up(
    plan: Plan,
    source: Source,
    asked: Interruption,
    *,
    wanted: FlowFilter,
    duration: float | None,
    beside: Callable[..., Coroutine[Any, Any, None]] | None,
    page: Callable[[Pipeline, str], AbstractAsyncContextManager[str]],
) -> int:
    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)

    told: list[str] = []

    def say(line: str) -> None:
        notes.print(line, markup=False, soft_wrap=True)
        told.append(line)

    say("starting: no connection is seen yet ..." if plan.live else source.said)
    async with running_pipeline(plan, asked, say=say) as pipeline, page(pipeline, source.said) as viewed:
        # From here on nothing may take long: what ends before somebody looks is not shown.
        await asked.or_end(pipeline.until_capturing())
        if plan.live:
            say(source.said)
        for line in filter(None, (viewed, *_introduction(pipeline))):
            say(line)

        async def looked_at() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(duration):
                    await pipeline.guard(show(pipeline, wanted, source.said, told))

        await asked.unless_asked(beside(looked_at, say) if beside else looked_at())
        await pipeline.drain(_DRAIN_SECONDS)
        ledger = await pipeline.ledger()
    console.print(ledger_table(ledger, str(plan.destination), live=plan.live))
    for fault in ledger.faults():
        notes.print(fault, style="red", markup=False, soft_wrap=True)
    return 1 if ledger.letters else 0


@contextlib.asynccontextmanager
async def _page(pipeline: Pipeline, said: str, where: socket.socket | None) -> AsyncIterator[str]:
    """Serve the page of the run; yields the line that says where or, where it cannot be served, why. A run goes on without."""
    if where is None:
        yield why_not_built()
        return
    from services.cli.view.running import beside  # noqa: PLC0415 - a run without a page does without its server

    async with beside(pipeline, said, where) as url:
        yield f"the page to look at: {url}"


@contextlib.asynccontextmanager
async def _no_page(_pipeline: Pipeline, _said: str) -> AsyncIterator[str]:
    yield ""


def _introduction(pipeline: Pipeline) -> list[str]:
    url = pipeline.nats.url_with_token
    # A run of one's own is found, unless the environment names another bus.
    found = pipeline.plan.bus is None and not os.environ.get("WIRESPAN_NATS_URL")
    return [
        f"spans go to {pipeline.plan.destination}",
        f"to look at the records from another terminal: {program()} tap{'' if found else f' --nats-url {shlex.quote(url)}'}",
        f"or: nats --server {url} sub 'flows.enriched.>' --translate {shlex.quote(f'{program()} decode')}",
    ]
