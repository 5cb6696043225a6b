"""`wirespan tap`: the records that pass on the bus, as they pass."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import click
from rich.console import Console

from proto.errors import DecodeError
from proto.flow_batch import FlowBatch, decode
from proto.rows import rows
from proto.subjects import ENRICHED_SUBJECTS, RAW_SUBJECTS
from services.cli import interruption, units
from services.cli.conversations import Tellers
from services.cli.flow_line import flow_line
from services.cli.flow_view import flow_views, printable
from services.cli.interruption import Interruption
from services.cli.options import quiet_logs
from services.cli.settings import BusSettings, bus_settings
from services.runtime import bus as runtime_bus

_SLOW_CONNECT_SECONDS: Final = 1.0


@click.command()
@click.option("--nats-url", metavar="URL", help="NATS to listen on. Default: WIRESPAN_NATS_URL, or nats://127.0.0.1:4222.")
@click.option("--raw/--enriched", default=False, help="Records as captured, or with the workloads they belong to (default).")
@click.option("-o", "--output", type=click.Choice(["compact", "json"]), default="compact", show_default=True)
def tap(nats_url: str | None, *, raw: bool, output: str) -> None:
    """Print flow records live, one line each, until Ctrl-C.

    Only listens: nothing is taken from the pipeline, and what comes faster than it can be printed is left out and counted.
    """
    settings = bus_settings(nats_url)
    quiet_logs()
    raise SystemExit(interruption.run(lambda asked: _tap(settings, asked, raw=raw, as_json=output == "json")))


async def _tap(settings: BusSettings, asked: Interruption, *, raw: bool, as_json: bool) -> int:
    notes = Console(stderr=True, highlight=False)
    async with runtime_bus.connect(settings.nats, name="wirespan-tap") as bus:
        watch = bus.watch(RAW_SUBJECTS if raw else ENRICHED_SUBJECTS)
        listening = _listen(bus, watch, notes, settings.nats.url, as_json=as_json)
        await asked.unless_asked(listening)
        if watch.dropped:
            notes.print(f"{units.counted(watch.dropped, 'message')} came faster than they could be shown", style="yellow")
    return 0 if asked.exit_status else 1


async def _listen(bus: runtime_bus.Bus, watch: runtime_bus.Watch, notes: Console, url: str, *, as_json: bool) -> None:
    await say_while_waiting(bus, notes, url)
    console = Console(highlight=False, soft_wrap=True)
    told, tellers = 0, Tellers()
    async for message in watch:
        if watch.dropped > told:
            notes.print(f"{units.counted(watch.dropped - told, 'message')} left out", style="yellow")
            told = watch.dropped
        try:
            show_batch(decode(message.data), console, tellers, as_json=as_json)
        except DecodeError as error:
            notes.print(f"{message.subject}: not a FlowBatch: {printable(str(error))}", style="red", markup=False)


async def say_while_waiting(bus: runtime_bus.Bus, notes: Console, url: str) -> None:
    """Wait for the connection; say so where it takes longer than a moment."""
    try:
        async with asyncio.timeout(_SLOW_CONNECT_SECONDS):
            await bus.wait_connected()
    except TimeoutError:
        notes.print(f"waiting for NATS at {printable(url.rpartition('@')[2])} ...", markup=False)
        await bus.wait_connected()


def show_batch(batch: FlowBatch, console: Console, tellers: Tellers, *, as_json: bool = False) -> None:
    """Print every record of a batch as one line; what `tellers` heard from the other end of a connection is said to be so."""
    if as_json:
        for row in rows(batch):
            console.out(json.dumps(row, ensure_ascii=False, separators=(",", ":")), highlight=False)
    else:
        for view in flow_views(batch):
            console.print(flow_line(view, again=tellers.heard_from_other_end(view)))
