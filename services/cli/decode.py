"""`wirespan decode`: one FlowBatch in, JSON lines out."""

from __future__ import annotations

import json
import sys

import click

from proto.errors import DecodeError
from proto.flow_batch import MAX_DECODE_BYTES, decode
from proto.rows import rows
from services.cli.errors import CliError


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
        sys.stdout.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()
