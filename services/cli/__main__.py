"""The `wirespan` command. Each subcommand is imported when it is run, so that `wirespan --help` costs nothing."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from services.cli.errors import CliError
from services.cli.views.printable import printable
from services.runtime.privacy.redaction import guard_standard_error

_COMMANDS: Final = {
    "up": ("services.cli.run.up", "up", "Show live flows; their spans go to a backend or a file."),
    "replay": ("services.cli.run.replay", "replay", "Turn capture files into spans and account for every packet."),
    "tap": ("services.cli.tap.command", "tap", "Print flow records as they pass on the bus, or passed; filters."),
    "explain": (
        "services.cli.explain.command",
        "explain_command",
        "Say what happened on a connection, what was wrong, and how that is known.",
    ),
    "view": ("services.cli.view.command", "view", "Serve a page: map, flows, connections, traces, the pipeline."),
    "status": (
        "services.cli.status.command",
        "status",
        "Say how the pipeline is: nodes, lag, losses, backend; for people and monitoring.",
    ),
    "snapshot": ("services.cli.snapshot", "snapshot", "Write a live cluster's objects to a file for replay."),
    "dead-letters": (
        "services.cli.dead_letters.command",
        "dead_letters",
        "Show what could not be processed, put it back, or delete it.",
    ),
    "doctor": ("services.cli.doctor.command", "doctor", "Say what live capture needs and what of it is here, with the fixes."),
    "plan": ("services.cli.plan.command", "plan_command", "Say what to run for a cluster of so many nodes and flows."),
    "completion": ("services.cli.completion", "completion_command", "Print what a shell reads to complete these commands."),
    "decode": ("services.cli.decode", "decode_command", "Print a FlowBatch from standard input as JSON."),
}
"""Name of each subcommand: module, attribute, one line of help."""


class LazyGroup(click.Group):
    """A group whose commands are in the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


def _print_version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:  # noqa: FBT001  # click calls it so
    if not asked or ctx.resilient_parsing:
        return
    import importlib.metadata  # noqa: PLC0415 - parses e-mail headers, and only this asks for it

    try:
        version = importlib.metadata.version("wirespan")
    except importlib.metadata.PackageNotFoundError:
        version = "(run from a source tree that is not installed)"
    click.echo(f"wirespan {version}")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version.")
def wirespan() -> None:
    """Every connection as OpenTelemetry trace spans."""
    if any(name.startswith("WIRESPAN_") for name in os.environ):
        from services.cli.variables import check_variables  # noqa: PLC0415 - who sets nothing waits for no settings

        check_variables(os.environ)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit; an error of ours is one line on standard error."""
    guard_standard_error()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start a thread for each processor, for nothing
    try:
        wirespan.main(arguments, prog_name="wirespan")
    except CliError as error:
        if str(error):
            print(f"wirespan: {printable(str(error))}", file=sys.stderr)
        for line in error.notes:
            print(f"  {printable(line)}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
