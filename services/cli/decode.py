"""`wirespan decode`: one FlowBatch in, JSON lines out."""

from __future__ import annotations

import sys

import click

from proto.errors import DecodeError
from proto.flow_batch import MAX_DECODE_BYTES, decode
from proto.rows import rows
from services.cli.errors import CliError
from services.cli.views.json_line import json_line


@click.command(name="decode")
def decode_command() -> None:
    """Print the FlowBatch on standard input as JSON, one object per record.

    \b
    To look at what passes on the bus:
      nats sub 'flows.raw.>' --translate 'wirespan decode'
    """  # noqa: D301  # \b is click's: leave the lines as they are
    try:
        # One byte more than a batch may have, so that an endless input is an error and not a full memory.
        batch = decode(sys.stdin.buffer.read(MAX_DECODE_BYTES + 1))
    except DecodeError as error:
        raise CliError(f"not a FlowBatch: {error}") from error
    for row in rows(batch):
        sys.stdout.write(json_line(row) + "\n")
    sys.stdout.flush()
