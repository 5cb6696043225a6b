"""Records in files, whatever kind of file each is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from proto.flow_batch import FlowBatch
from services.cli.errors import CliError
from services.cli.run.at_once import CaptureRecords
from services.cli.run.capture_files import as_files, is_capture
from services.cli.tap.input_file import InputLines
from services.cli.views.printable import printable


class FileRecords:
    """The records of captures, then those of files of JSON lines."""

    def __init__(self, files: Sequence[Path], kube_snapshot: Path | None) -> None:
        self._files = files
        self._kube_snapshot = kube_snapshot
        self.faults: list[str] = []
        """What could not be read of the captures, a line for each, once they are read."""
        self.left_out: list[str] = []
        """What was passed over in the others, a line for each, once they are read."""

    def batches(self) -> Iterator[FlowBatch]:
        """Yield the records. Raises CliError for a file that is neither."""
        captures = [file for file in self._files if is_capture(file)]
        if captures:
            with as_files(captures) as kept:
                source = CaptureRecords(kept, self._kube_snapshot)
                yield from source.batches()
                self.faults = source.faults
        for file in self._files:
            if file not in captures:
                with file.open("rb") as lines:
                    held = InputLines(lines)
                    yield from (each.batch for each in held.held())
                if held.refused and held.refused == held.read:
                    name, reason = printable(str(file)), printable(held.first_reason)
                    raise CliError(f"{name}: neither a capture nor records nor spans ({reason})")
                if held.said:
                    self.left_out.append(f"{file}: {held.said}")

    def say(self, notes: Console) -> None:
        """Tell a person what could not be read, and what was passed over."""
        for lines, style in ((self.faults, "red"), (self.left_out, "yellow")):
            for line in lines:
                notes.print(printable(line), style=style, markup=False, soft_wrap=True)
