"""`python -m tests.support.documents.shell_files`: the man page and completions that a package installs, from the commands."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from services.cli.__main__ import wirespan
from services.cli.completion import completion

FOLDER = Path(__file__).parents[3] / "deploy" / "shell"
NAMES = {"bash": "wirespan.bash", "zsh": "_wirespan", "fish": "wirespan.fish"}
MAN_PAGE = "wirespan.1"


def files() -> dict[str, str]:
    """Every file by name."""
    scripts = {name: completion(wirespan, shell) + "\n" for shell, name in NAMES.items()}
    return {**scripts, MAN_PAGE: "\n".join(_page()) + "\n"}


def _page() -> Iterator[str]:
    yield from ('.TH WIRESPAN 1 "" "Wirespan" "User Commands"', ".SH NAME")
    yield "wirespan \\- every connection as OpenTelemetry trace spans"
    yield from (".SH SYNOPSIS", ".B wirespan", "COMMAND [OPTION]... [ARGUMENT]...", ".SH COMMANDS")
    root = click.Context(wirespan, info_name="wirespan", **wirespan.context_settings)
    yield from _commands(wirespan, root)
    yield from (".SH ENVIRONMENT", "Settings are variables that begin with WIRESPAN_, those of the backend the standard ones,")
    yield "OTEL_EXPORTER_OTLP_*. docs/configuration.md lists all."
    yield from (".SH EXIT STATUS", "0 done; 1 something failed; 2 it cannot be done as asked; 3 a file is no capture; 4 a file")
    yield "could not be read to its end; 5 the pipeline is in trouble (status); 130 interrupted."


def _commands(group: click.Group, parent: click.Context) -> Iterator[str]:
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent)
        if isinstance(command, click.Group):
            yield from _commands(command, context)
            continue
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        yield from (f'.SS "{_escaped(usage)}"', *_text(command.help or ""))
        for parameter in command.params:
            if record := parameter.get_help_record(context):
                yield from (".TP", f".B {_escaped(record[0])}", _escaped(record[1]) or "\\&")
        # Not from `get_params`: click keeps there the names that the first context of this process gave the option.
        yield from (".TP", f".B {_escaped(', '.join(context.help_option_names))}", "Show this message and exit.")


def _text(text: str) -> Iterator[str]:
    r"""Paragraphs; those that begin with click's \b keep their lines."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.splitlines()
        if lines[0].strip() == "\b":
            yield from (".nf", *(_escaped(line) for line in lines[1:]), ".fi")
        else:
            yield from (".PP", *(_escaped(line.strip()) for line in lines))


def _escaped(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main() -> None:
    """Write what has changed."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content)
        sys.stdout.write(f"{FOLDER.name}/{name}\n")


if __name__ == "__main__":
    main()
