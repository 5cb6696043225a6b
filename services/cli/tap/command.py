"""The `wirespan tap` command."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from services.cli.bus import bus_options, chosen_bus
from services.cli.options import kube_snapshot_option, quiet_logs
from services.cli.run.capture_files import as_files, check_capture
from services.cli.tap.filter_options import FilterCommand, conditions
from services.cli.views import units
from services.cli.waiting import DEFAULT_SECONDS

if TYPE_CHECKING:
    from services.cli.tap.printing import Format


class _Moment(click.ParamType[int]):
    """A moment as a person says it: so long ago, or RFC 3339. Unix nanoseconds."""

    name = "moment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        with contextlib.suppress(ValueError):
            return time.time_ns() - units.nanoseconds(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r}: neither a duration (90s, 10m, 1h30m) nor a time (2026-05-28T07:12:09Z)", param, ctx)
        return int((moment if moment.tzinfo else moment.astimezone(UTC)).timestamp() * 1_000_000) * 1000


@click.command(cls=FilterCommand)
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@bus_options
@click.option(
    "--input-file",
    metavar="FILE",
    type=click.File("rb"),
    help="Read JSON lines instead: records (`-o json`) or spans (OTLP/JSON); - is standard input.",
)
@kube_snapshot_option
@click.option("--raw/--enriched", default=False, help="Records as captured, or with the workloads they belong to (default).")
@click.option("--last", metavar="NUMBER", type=click.IntRange(min=1), help="The latest records of those that passed lately.")
@click.option("--since", metavar="WHEN", type=_Moment(), help="Those since then: 10m, 1h30m, or a time (RFC 3339).")
@click.option("--until", metavar="WHEN", type=_Moment(), help="Those until then.")
@click.option("-f", "--follow", is_flag=True, help="Go on with those that pass from now on. So it is without the three above.")
@click.option("--numeric", is_flag=True, help="Show addresses where there are names.")
@click.option(
    "-o", "--output", "form", type=click.Choice(["compact", "table", "json", "dict"]), default="compact", show_default=True
)
@click.pass_context
def tap(
    ctx: click.Context,
    /,
    *,
    files: tuple[Path, ...],
    kube_snapshot: Path | None,
    nats_url: str | None,
    kube_context: str | None,
    kube_namespace: str,
    timeout_seconds: float | None,
    input_file: BinaryIO | None,
    raw: bool,
    last: int | None,
    since: int | None,
    until: int | None,
    follow: bool,
    numeric: bool,
    form: Format,
    **_filters: object,
) -> None:
    """Print flow records, one line each: those that pass, until Ctrl-C, or those that passed lately, or those of files.

    Only listens: nothing is taken from the pipeline, and what comes faster than it can be printed is left out and counted.
    FILE is a capture file (pcap, pcapng; also in gzip or zstd; - is standard input), shown at once and without a bus.

    Values of one filter are alternatives, different filters must all hold, --not leaves out what the next one accepts:

    \b
      wirespan tap --to-service redis --min-response-time 100ms
      wirespan tap --from-namespace shop --failed --not --port 53 --since 10m
      wirespan tap incident.pcap --slower-than 100ms
    """  # noqa: D301  # \b is click's: leave the lines as they are
    history = last is not None or since is not None or until is not None
    ends = {"--until": until is not None, "--input-file": input_file is not None, "FILE": bool(files)}
    if follow and any(ends.values()):
        raise click.UsageError(f"--follow has no end, {next(name for name, given in ends.items() if given)} has one")
    if files and input_file is not None:
        raise click.UsageError("--input-file and FILE are two places to read from: give one of them")
    if kube_snapshot is not None and not files:
        raise click.UsageError("--kube-snapshot names the workloads of capture files: give FILE")
    if raw and (history or input_file is not None or files):
        raise click.UsageError("--raw is for what passes now: raw records are gone once they are enriched")
    with as_files(files) as kept:
        for file in kept:
            check_capture(file)
        # Loaded once there is something to show: arrays, the terminal.
        from services.cli.tap import showing  # noqa: PLC0415
        from services.cli.tap.printing import Printer  # noqa: PLC0415

        wanted = showing.wanted(conditions(ctx, enriched=not raw), since, until)
        asked = showing.Asked(wanted, Printer(form, numeric=numeric), last, history, follow or not history)
        if input_file is not None:
            showing.show_file(input_file, asked)
            return
        if files:
            raise SystemExit(showing.show_captures(kept, kube_snapshot, asked))
    quiet_logs()
    from services.cli import interruption  # noqa: PLC0415 - a file is shown without it

    patience = timeout_seconds or (None if asked.follow else DEFAULT_SECONDS)
    with chosen_bus(nats_url, kube_context, kube_namespace) as settings:
        raise SystemExit(interruption.run(lambda each: showing.tap(settings, each, asked, raw=raw, timeout_seconds=patience)))
