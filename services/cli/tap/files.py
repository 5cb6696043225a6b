"""Records in files, whatever kind of file each is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from proto.flow_batch import FlowBatch
from services.cli.errors import CliError
from services.cli.run.at_once import CaptureRecords
from services.cli.run.capture_files import as_files, is_capture
from services.cli.tap.input_file import InputLines
from services.cli.views.printable import printable


def records_of(files: Sequence[Path], kube_snapshot: Path | None) -> Iterator[FlowBatch]:
    """Yield the records of captures, then those of files of JSON lines. Raises CliError for what is neither."""
    captures = [file for file in files if is_capture(file)]
    if captures:
        with as_files(captures) as kept:
            yield from CaptureRecords(kept, kube_snapshot).batches()
    for file in files:
        if file not in captures:
            with file.open("rb") as lines:
                source = InputLines(lines)
                yield from (held.batch for held in source.held())
            if source.refused and source.refused == source.read:
                raise CliError(f"{file}: neither a capture nor records nor spans ({printable(source.first_reason)})")
